"""A night's memory does not grow with its areas. Oracle: the kernel's record of a process of its own."""

import os

import pytest

from tests.benchmarks.many_areas import measured, prepare


@pytest.mark.slow
def test_three_times_the_areas_take_no_more_memory(tmp_path, monkeypatch):
    for name, value in {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setitem(os.environ, name, value)
    held = measured(prepare(tmp_path, 9), every=3)["held_mb"]
    assert len(held) == 3
    # What the first areas needed once, such as imports and tables of projections, is there by now.
    assert held[2] - held[0] < 30, held

"""Widths along transects, of strips whose width is known."""

import numpy as np
import pytest

from tests.benchmarks.cover_widths import MOTORWAY, along, run_width, widths_of


@pytest.mark.parametrize("degrees", [0, 30, 45, 75])
@pytest.mark.parametrize("width", [3, 12])
def test_a_strip_of_any_direction_is_as_wide_as_it_is(degrees, width):
    across = (np.cos(np.radians(degrees)), np.sin(np.radians(degrees)))
    rows, cols = np.mgrid[:80, :80] - 40
    mask = np.abs(rows * across[0] + cols * across[1]) < width / 2
    assert run_width(mask, (40, 40), across) == pytest.approx(width, abs=1.5)  # a diagonal step is 1.4 px
    assert run_width(mask, (40, 40), (-across[0], -across[1])) == run_width(mask, (40, 40), across)


def test_the_nearest_run_within_reach_counts_and_no_other():
    mask = np.zeros((5, 30), bool)
    mask[:, 12:15] = mask[:, 20:28] = True
    assert run_width(mask, (2, 10), (0, 1)) == 0
    assert run_width(mask, (2, 10), (0, 1), reach_px=2) == pytest.approx(3, abs=0.2)
    assert run_width(mask, (2, 18.6), (0, 1), reach_px=3) == pytest.approx(8, abs=0.2)
    assert run_width(mask, (2, 29), (0, 1), reach_px=0) == 0


def test_a_run_ends_at_the_edge():
    assert run_width(np.ones((4, 7), bool), (2, 3), (0, 1)) == pytest.approx(7, abs=0.2)


def test_transects_of_a_line_lie_on_it_and_cross_it_at_right_angles():
    placed = along([(0, 0), (0, 20), (30, 20)], 10)
    assert [place for place, _ in placed] == [(0, 0), (0, 10), (0, 20), (10, 20), (20, 20)]
    assert [tuple(np.abs(across)) for _, across in placed] == [(1, 0)] * 2 + [(0, 1)] * 3
    assert all(np.hypot(*across) == pytest.approx(1) for _, across in along(MOTORWAY, 10))


def test_widths_are_in_metres_and_say_how_often_the_class_is_met():
    mask = np.zeros((20, 20), bool)
    mask[5:9, :10] = True
    widths = widths_of(mask, [((7, 2), (1, 0)), ((7, 15), (1, 0))])
    assert widths.across == (pytest.approx(40, abs=2), 0)
    assert widths.found == 0.5
    assert "met by 50 % of 2 transects, median 40 m" in widths.told.replace("50%", "50 %")

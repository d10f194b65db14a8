"""Oracles: the paper's sample sizes, a flat list of all cells, and how often each cell is chosen."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landuse.errors import UsageError
from landuse.pipeline.maps.sampling import SampleDesign, allocate, draw, locate, sample_size, shuffle

PAPER_CELLS = np.array([200_000, 150_000, 3_200_000, 6_450_000])


def test_size_and_allocation_of_the_paper():
    """Section 5.1.1: 641 points; Table 5: proportional allocation 13, 10, 205, 413."""
    assert sample_size(PAPER_CELLS, np.array([0.70, 0.60, 0.90, 0.95]), 0.01) == 641
    proportional = allocate(PAPER_CELLS, SampleDesign(total=641, min_per_class=2))
    np.testing.assert_allclose(proportional, [13, 10, 205, 413], atol=1)
    assert proportional.sum() == 641
    # The example labels 75, 75, 165 and 325: rare classes fixed, the others by area, rounded to fives.
    rare_fixed = allocate(PAPER_CELLS, SampleDesign(total=640, min_per_class=75))
    np.testing.assert_allclose(rare_fixed, [75, 75, 165, 325], atol=3)


def test_a_small_map_needs_no_more_points_than_it_has_cells():
    """All of 0.4^2 = 0.16: eq. 13 with its correction, by hand 0.16 / (0.0001 + 0.16 / 100) = 94.1."""
    assert sample_size(np.array([60, 40]), 0.8, 0.01) == 95


counts = st.lists(st.integers(0, 5000), min_size=1, max_size=6).filter(any).map(np.array)


@given(counts, st.integers(2, 3000), st.integers(2, 60))
def test_allocation_keeps_its_promises(cells, total, least):
    design = SampleDesign(total=total, min_per_class=least)
    fewest = np.minimum(cells, least)
    if total < fewest.sum():
        with pytest.raises(UsageError, match="--min-per-class"):
            allocate(cells, design)
        return
    points = allocate(cells, design)
    assert points.sum() == min(total, cells.sum())
    assert (points >= fewest).all()
    assert (points <= cells).all()
    # A class with more cells never gets fewer points.
    assert (np.diff(points[np.argsort(cells, kind="stable")]) >= -1).all()


def test_standard_error_yields_to_the_minimum():
    points = allocate(np.array([10, 5_000, 20_000]), SampleDesign(standard_error=0.1, min_per_class=50))
    assert points.tolist() == [10, 50, 50]


def test_per_class_takes_all_there_is():
    assert allocate(np.array([3, 0, 900]), SampleDesign(per_class=40)).tolist() == [3, 0, 40]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "Give one of"),
        ({"total": 9, "per_class": 9}, "Give one of"),
        ({"total": 0}, "at least 2"),
        ({"per_class": 1}, "at least 2"),
        ({"per_class": 0}, "at least 2"),
        ({"total": 9, "min_per_class": 1}, "at least 2"),
        ({"standard_error": 0.0}, "--standard-error 0"),
        ({"standard_error": 0.01, "expected_accuracy": 1.0}, "--expected-accuracy 1"),
    ],
)
def test_designs_that_make_no_sense(options, told):
    with pytest.raises(UsageError, match=told):
        SampleDesign(**options)


def in_strips(ids, rows):
    return [(top, ids[top : top + rows]) for top in range(0, len(ids), rows)]


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_cells_found_in_strips_are_those_of_the_whole(seed, rows):
    ids = (
        np.random.default_rng(seed)
        .choice([0, 1, 2, 255], size=(13, 7), p=[0.5, 0.3, 0.1, 0.1])
        .astype(np.uint8)
    )
    cells = np.array([(ids == i).sum() for i in range(4)])
    points = np.minimum(cells, [9, 5, 2, 3])
    chosen = draw(cells, points, seed)
    found = locate(in_strips(ids, rows), chosen)
    expected = [list(zip(*np.nonzero(ids == i), strict=True))[k] for i in range(4) for k in chosen[i]]
    assert found.tolist() == [list(map(int, cell)) for cell in expected]
    assert len({tuple(cell) for cell in found.tolist()}) == points.sum()  # without replacement
    mixed = shuffle(found, seed)
    assert sorted(mixed.tolist()) == sorted(found.tolist())


def test_no_cells_are_no_points():
    ids = np.full((4, 3), 255, np.uint8)
    assert locate(in_strips(ids, 2), draw(np.array([0, 0]), np.array([0, 0]), 0)).shape == (0, 2)


def test_each_cell_is_as_likely_and_each_seed_repeats():
    cells, points = np.array([20, 50]), np.array([5, 10])
    seen = [np.zeros(20), np.zeros(50)]
    for seed in range(2000):
        for hits, chosen in zip(seen, draw(cells, points, seed), strict=True):
            hits[chosen] += 1
    for hits, share in zip(seen, (5 / 20, 10 / 50), strict=True):
        spread = np.sqrt(2000 * share * (1 - share))
        assert abs(hits - 2000 * share).max() < 4.5 * spread
    one, other, again = (draw(cells, points, seed) for seed in (1, 2, 1))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_the_first_points_are_a_random_sample_too():
    """Each of 30 cells is among the first 10 a third of the time."""
    cells = np.stack([np.arange(30), np.zeros(30, int)], 1)
    hits = np.zeros(30)
    for seed in range(900):
        hits[shuffle(cells, seed)[:10, 0]] += 1
    assert abs(hits - 300).max() < 4.5 * np.sqrt(900 * 2 / 9)

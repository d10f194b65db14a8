"""Which cells are worth labelling. Oracles: slow loops over all cells, floats for whole numbers, and for
k-centre the best of all choices there are.
"""

import itertools
import math

import numpy as np
import pytest

from landuse.pipeline.maps.suggesting import (
    FULL_SCORE,
    MAX_SQUARES,
    BestOfSquares,
    chances,
    choose_by_cover,
    choose_by_strata,
    disagreement_scores,
    doubt_scores,
    square_side,
    values_at,
)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def layers(rng, shape=(23, 31)):
    """Classes, confidence, second share and doubt as a map holds them; a tenth of the cells has nothing."""
    classes = rng.integers(0, 4, shape).astype(np.uint8)
    best = rng.integers(90, 251, shape)
    second = rng.integers(0, 251, shape).clip(max=np.minimum(best, 250 - best))
    doubt = rng.integers(0, 251, shape)
    empty = rng.random(shape) < 0.1
    return [np.where(empty, 255, part).astype(np.uint8) for part in (classes, best, second, doubt)]


def test_doubt_is_one_less_the_margin_times_what_doubt_leaves(rng):
    classes, best, second, doubt = layers(rng)
    found = doubt_scores(classes, best, second, doubt)
    for at in np.ndindex(classes.shape):
        if classes[at] == 255:
            assert found[at] == -1
            continue
        margin = best[at] / 250 - second[at] / 250
        assert found[at] / FULL_SCORE == pytest.approx(1 - margin * (1 - doubt[at] / 250))
    alone = doubt_scores(classes, best, None, None)
    there = classes != 255
    np.testing.assert_allclose(alone[there] / FULL_SCORE, 1 - best[there] / 250)


def test_disagreement_is_where_both_are_sure_of_different_classes(rng):
    first, second = layers(rng)[:2], layers(rng)[:2]
    found = disagreement_scores((first[0], first[1]), (second[0], second[1]))
    for at in np.ndindex(found.shape):
        ids = first[0][at], second[0][at]
        if ids[0] == ids[1] or 255 in ids:
            assert found[at] == -1
        else:
            assert found[at] / FULL_SCORE == pytest.approx(first[1][at] / 250 * second[1][at] / 250)


@pytest.mark.parametrize(("side", "rows"), [(1, 5), (4, 3), (4, 23), (7, 1), (40, 9)])
def test_each_square_names_its_best_cell_whatever_the_strips(rng, side, rows):
    scores = rng.integers(-1, 6, (23, 31)).astype(np.int64)  # many are equal: chance decides
    best = BestOfSquares(scores.shape, side, seed=5)
    for top in range(0, 23, rows):
        best.add(top, scores[top : top + rows])
    cells, found = best.cells()
    expected = []
    for top, left in itertools.product(range(0, 23, side), range(0, 31, side)):
        inside = [
            (int(scores[r, c]), int(chances(np.array(r), np.array(c), 5)), r, c)
            for r in range(top, min(top + side, 23))
            for c in range(left, min(left + side, 31))
            if scores[r, c] >= 0
        ]
        if inside:
            expected.append(max(inside))
    assert [(s, r, c) for (r, c), s in zip(cells.tolist(), found.tolist(), strict=True)] == [
        (s, r, c) for s, _, r, c in expected
    ]


def test_chance_is_even_and_of_the_seed():
    rows, cols = np.mgrid[:300, :300]
    values = chances(rows, cols, 0) / 2**32
    assert values.mean() == pytest.approx(0.5, abs=0.01)
    assert np.histogram(values, 10, (0, 1))[0].std() < 3 * math.sqrt(9000)
    assert np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1] == pytest.approx(0, abs=0.02)
    assert len(np.unique(chances(rows, cols, 0))) > 89_990
    assert (chances(rows, cols, 1) != chances(rows, cols, 0)).mean() > 0.999


@pytest.mark.parametrize("distance", [0.0, 1.0, 3.7, 12.0])
@pytest.mark.parametrize("count", [1, 30, 10_000])
def test_strata_are_gone_through_in_turn(rng, distance, count):
    flat = rng.choice(60 * 60, 400, replace=False)
    cells = np.stack(np.divmod(flat, 60), 1)
    scores, strata = rng.integers(0, 20, 400), rng.choice(4, 400, p=[0.7, 0.2, 0.08, 0.02])
    expected = []
    waiting = {
        s: sorted(np.flatnonzero(strata == s), key=lambda i: (-scores[i], *cells[i])) for s in range(4)
    }
    while any(waiting.values()) and len(expected) < count:
        for stratum in range(4):
            while waiting[stratum] and len(expected) < count:
                index = waiting[stratum].pop(0)
                if all(math.dist(cells[index], cells[other]) >= distance for other in expected):
                    expected.append(index)
                    break
    found = choose_by_strata(cells, scores, strata, count, distance)
    assert found.tolist() == expected


def test_no_cells_give_no_points():
    nothing = np.zeros((0, 2), np.int64)
    assert choose_by_strata(nothing, nothing[:, 0], nothing[:, 0], 5, 1.0).tolist() == []
    assert choose_by_cover(nothing, np.zeros((0, 3)), np.zeros((0, 3)), 5, 1.0).tolist() == []


@pytest.mark.parametrize("labelled", [0, 1, 6])
@pytest.mark.parametrize("distance", [0.0, 9.0])
def test_cover_takes_what_is_furthest_from_all_that_is_known(rng, labelled, distance):
    cells, features = rng.integers(0, 60, (80, 2)), rng.random((80, 3))
    known = rng.random((labelled, 3))
    expected = []
    if not labelled:
        expected.append(int(((features - features.mean(0)) ** 2).sum(1).argmin()))
    while len(expected) < 25:
        free = [
            i
            for i in range(80)
            if i not in expected and all(math.dist(cells[i], cells[j]) >= distance for j in expected)
        ]
        if not free:
            break
        centres = [*known, *features[expected]]
        expected.append(max(free, key=lambda i: min(math.dist(features[i], c) for c in centres)))
    assert choose_by_cover(cells, features, known, 25, distance).tolist() == expected


def test_cover_is_at_worst_twice_as_wide_as_the_best_there_is(rng):
    """Gonzalez (1985); the best of all choices of 3 of 12."""
    cells = np.arange(24).reshape(12, 2)
    for _ in range(20):
        features = rng.random((12, 2))

        def width(chosen, features=features):
            return max(min(math.dist(point, features[i]) for i in chosen) for point in features)

        best = min(width(three) for three in itertools.combinations(range(12), 3))
        assert width(choose_by_cover(cells, features, np.zeros((0, 2)), 3, 0.0)) <= 2 * best + 1e-12


def test_squares_are_as_wide_as_the_distance_and_never_too_many():
    assert square_side((100, 100), 3.9) == 3
    assert square_side((100, 100), 0) == 1
    for shape in ((109_800, 109_800), (3, 10**9), (1000, 70_000)):
        side = square_side(shape, 5)
        assert math.ceil(shape[0] / side) * math.ceil(shape[1] / side) <= MAX_SQUARES
    assert square_side((10_980, 10_980), 1) < 60


def test_values_are_found_strip_by_strip(rng):
    values = rng.integers(0, 255, (3, 20, 15)).astype(np.uint8)
    cells = np.stack([rng.integers(0, 20, 50), rng.integers(0, 15, 50)], 1)
    pieces = ((top, values[:, top : top + 6]) for top in range(0, 20, 6))
    np.testing.assert_array_equal(values_at(pieces, cells, 3), values[:, cells[:, 0], cells[:, 1]].T)

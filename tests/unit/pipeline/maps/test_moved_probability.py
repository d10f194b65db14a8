"""Change between probability maps. Oracles: a loop over cells in exact fractions, and counting by hand."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS
from landuse.pipeline.maps.moved_probability import (
    MapCells,
    Verdict,
    change_codes,
    difference,
    from_to,
    judge,
    to_steps,
)


@st.composite
def stacks(draw, maps):
    """Maps of the same few cells, now and then without a class or without probabilities."""
    classes, rows, cols = draw(st.integers(2, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sharpness = draw(st.sampled_from([0.1, 0.5, 3.0]))
    return [some_cells(rng, classes, rows, cols, sharpness) for _ in range(maps)]


def some_cells(rng, classes, rows, cols, sharpness):
    shares = rng.dirichlet(np.full(classes, sharpness), (rows, cols)).transpose(2, 0, 1)
    steps = np.rint(shares * SHARE_STEPS).astype(np.uint8)
    ids = shares.argmax(0).astype(np.uint8)
    ids[rng.random((rows, cols)) < 0.15] = NODATA_ID
    steps[:, rng.random((rows, cols)) < 0.1] = NODATA_ID
    return MapCells(classes=ids, steps=steps)


def one_difference(before, after, row, col):
    """Half the sum of absolute differences, halves of a step rounded up."""
    moved = Fraction(0)
    for one, other in zip(before.steps[:, row, col].tolist(), after.steps[:, row, col].tolist(), strict=True):
        moved += abs(Fraction(one) - Fraction(other))
    return min(int(moved / 2 + Fraction(1, 2)), SHARE_STEPS)


def one_verdict(before, after, later, threshold, row, col):
    """The rule, said once more for a single cell."""

    def sees(cells):
        return cells.classes[row, col] != NODATA_ID and NODATA_ID not in cells.steps[:, row, col]

    def differs(cells):
        share = Fraction(one_difference(before, cells, row, col), SHARE_STEPS)
        return cells.classes[row, col] != before.classes[row, col] and share >= Fraction(str(threshold))

    if not (sees(before) and sees(after)):
        return Verdict.NODATA
    if before.classes[row, col] == after.classes[row, col]:
        return Verdict.SAME
    if not differs(after):
        return Verdict.FLICKER
    agreeing = [differs(cells) for cells in later if sees(cells)]
    if not all(agreeing):
        return Verdict.CONTRADICTED
    return Verdict.CHANGED if agreeing or not later else Verdict.UNCONFIRMED


thresholds = st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.702, 1.0])


@given(stacks(maps=4), st.integers(0, 2), thresholds)
def test_every_cell_is_judged_as_a_loop_does(maps, later_maps, threshold):
    before, after, *later = maps[: 2 + later_maps]
    judged = judge(before, after, later, threshold)
    for row, col in np.ndindex(before.classes.shape):
        verdict = one_verdict(before, after, later, threshold, row, col)
        assert judged.verdict[row, col] == verdict
        expected = one_difference(before, after, row, col) if verdict != Verdict.NODATA else NODATA_ID
        assert judged.difference[row, col] == expected


@given(stacks(maps=2))
def test_without_a_threshold_every_other_class_is_change(maps):
    before, after = maps
    verdict = judge(before, after, [], 0.0).verdict
    naive = before.seen & after.seen & (before.classes != after.classes)
    np.testing.assert_array_equal(verdict == Verdict.CHANGED, naive)


@given(stacks(maps=2), thresholds)
def test_back_in_time_is_the_same_change_the_other_way(maps, threshold):
    before, after = maps
    there, back = judge(before, after, [], threshold), judge(after, before, [], threshold)
    np.testing.assert_array_equal(there.verdict, back.verdict)
    np.testing.assert_array_equal(there.difference, back.difference)
    onward, backward = from_to(before, after, there.verdict), from_to(after, before, back.verdict)
    off = ~np.eye(len(onward), dtype=bool)
    np.testing.assert_array_equal(onward[off], backward.T[off])


@given(stacks(maps=3), thresholds)
def test_the_matrix_counts_each_cell_once(maps, threshold):
    before, after, later = maps
    verdict = judge(before, after, [later], threshold).verdict
    matrix = from_to(before, after, verdict)
    counted = (verdict != Verdict.NODATA) & (verdict != Verdict.UNCONFIRMED)
    np.testing.assert_array_equal(
        matrix.sum(1), np.bincount(before.classes[counted], minlength=len(before.steps))
    )
    assert matrix.sum() - np.trace(matrix) == np.count_nonzero(verdict == Verdict.CHANGED)


@given(stacks(maps=3), thresholds)
def test_a_later_map_takes_change_away_and_never_adds_any(maps, threshold):
    before, after, later = maps
    alone = judge(before, after, [], threshold).verdict == Verdict.CHANGED
    confirmed = judge(before, after, [later], threshold).verdict == Verdict.CHANGED
    assert not (confirmed & ~alone).any()


def test_the_difference_is_the_total_variation():
    """By hand: 0.4 leave the first class, 0.1 the second, and the third gains 0.5."""
    before = to_steps(
        np.array([0.5, 0.3, 0.2]).reshape(3, 1, 1), scales=[1] * 3, offsets=[0] * 3, nodata=None
    )
    after = to_steps(np.array([0.1, 0.2, 0.7]).reshape(3, 1, 1), scales=[1] * 3, offsets=[0] * 3, nodata=None)
    one = MapCells(classes=np.array([[0]], np.uint8), steps=before)
    other = MapCells(classes=np.array([[2]], np.uint8), steps=after)
    assert difference(one, other).tolist() == [[round(0.5 * SHARE_STEPS)]]
    assert judge(one, other, [], 0.5).verdict.tolist() == [[Verdict.CHANGED]]
    assert judge(one, other, [], 0.501).verdict.tolist() == [[Verdict.FLICKER]]


def test_steps_follow_the_scale_of_the_file():
    shares = np.array([[[0.0, 0.25, 1.0]], [[1.0, 0.75, 0.0]]])
    missing = np.array([[False, True, False]])
    expected = np.where(missing, NODATA_ID, np.rint(shares * SHARE_STEPS))
    ways = [
        (np.where(missing, np.nan, shares).astype(np.float32), 1.0, 0.0, float("nan")),
        (np.where(missing, 255, np.rint(shares * 250)).astype(np.uint8), 1 / 250, 0.0, 255),
        (np.where(missing, -9, np.rint(shares * 1000) + 100).astype(np.int16), 0.001, -0.1, -9),
        (np.where(missing, np.nan, shares), 1.0, 0.0, None),
    ]
    for stored, scale, offset, nodata in ways:
        steps = to_steps(stored, scales=[scale] * 2, offsets=[offset] * 2, nodata=nodata)
        np.testing.assert_array_equal(steps, expected)
        assert steps.dtype == np.uint8


@pytest.mark.parametrize("value", [-0.1, 1.1, 250, np.inf])
def test_what_is_no_probability_is_refused(value):
    with pytest.raises(ValueError, match="no probabilities"):
        to_steps(np.full((2, 1, 1), value), scales=[1, 1], offsets=[0, 0], nodata=None)


def test_cells_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match="do not share"):
        MapCells(classes=np.zeros((2, 3), np.uint8), steps=np.zeros((2, 3, 2), np.uint8))
    with pytest.raises(ValueError, match="class 2 is none of the 2 classes"):
        MapCells(classes=np.array([[2, NODATA_ID]], np.uint8), steps=np.zeros((2, 1, 2), np.uint8))


def test_codes_of_few_classes_do_not_depend_on_what_occurs():
    codes = change_codes(10, [(3, 4)])
    assert codes == change_codes(10, [])
    assert codes[3, 4] == 1 + 3 * 10 + 4
    assert len(set(codes.values())) == 90
    assert max(change_codes(15, []).values()) == 1 + 14 * 15 + 13


def test_codes_of_many_classes_number_what_occurs():
    assert change_codes(100, [(7, 99), (7, 2), (7, 99)]) == {(7, 2): 1, (7, 99): 2}
    pairs = [(0, end) for end in range(1, 254)]
    assert max(change_codes(255, pairs).values()) == 253
    with pytest.raises(ValueError, match="254 kinds of change"):
        change_codes(255, [*pairs, (0, 254)])

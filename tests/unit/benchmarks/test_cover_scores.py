"""The scores of the cover benchmark, on arrays small enough to count by hand or by plain loops."""

import numpy as np
import pytest

from landuse.classes import LAND_COVER_NAMES, LAND_USE_NAMES
from tests.benchmarks.cover_scores import (
    NONE_ID,
    cover_of_use,
    ece,
    iou,
    judged,
    near_border,
    pooled,
    recalls,
    share,
    use_ids,
    wrong_confidence,
)


def test_recalls_are_weighted_shares_of_each_label():
    truth = np.array([0, 0, 0, 4, 4, NONE_ID])
    right = np.array([True, True, False, False, True, True])
    assert recalls(truth, right) == {0: pytest.approx(2 / 3), 4: 0.5}
    weight = np.array([1, 1, 2, 0, 0, 9])
    assert recalls(truth, right, weight) == {0: 0.5}  # the other has no weight
    assert share(right[:5], weight[:5]) == 0.5
    assert share(np.array([], bool)) is None


def test_intersection_over_union_counts_valid_pixels_alone():
    found = np.array([[1, 1, 0, 0]], bool)
    truth = np.array([[1, 0, 1, 0]], bool)
    assert iou(found, truth, np.ones((1, 4), bool)) == pytest.approx(1 / 3)
    assert iou(found, truth, np.array([[1, 1, 0, 1]], bool)) == 0.5
    assert iou(found, truth, np.array([[0, 0, 0, 1]], bool)) is None


def test_calibration_error_against_a_loop_over_the_bins():
    rng = np.random.default_rng(0)
    confidence, weight = rng.random(500), rng.random(500)
    right = rng.random(500) < confidence**2
    expected = 0.0
    for low in range(15):
        here = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if here.any():
            gap = np.average(right[here], weights=weight[here]) - np.average(
                confidence[here], weights=weight[here]
            )
            expected += abs(gap) * weight[here].sum() / weight.sum()
    assert ece(judged(confidence, right, weight)) == pytest.approx(expected, abs=1e-6)
    assert ece(judged(np.array([]), np.array([], bool))) is None


def test_sure_and_right_is_calibrated_and_sure_and_wrong_is_not():
    sure = np.ones(10)
    assert ece(judged(sure, sure > 0)) == 0
    assert ece(judged(sure, sure < 0)) == 1
    assert wrong_confidence(
        judged(np.array([0.9, 0.5, 0.7]), np.array([True, False, False]))
    ) == pytest.approx(0.6)
    assert wrong_confidence(judged(sure, sure > 0)) is None


def test_references_count_alike_when_pooled():
    many, few = judged(np.ones(1000), np.ones(1000)), judged(np.ones(2), np.zeros(2))
    assert ece(pooled([many, few])) == pytest.approx(0.5)


@pytest.mark.parametrize("px", [0, 1, 2])
def test_near_a_border_is_within_so_many_rows_and_columns(px):
    classes = np.random.default_rng(1).integers(0, 3, (12, 9)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    expected = np.zeros(classes.shape, bool)
    for row, col in np.ndindex(classes.shape):
        around = classes[max(row - px, 0) : row + px + 1, max(col - px, 0) : col + px + 1]
        expected[row, col] = (around != classes[row, col]).any()
    np.testing.assert_array_equal(near_border(classes, px), expected)


def test_covers_are_the_sums_of_what_they_can_be():
    uses = np.random.default_rng(2).random((14, 3, 2)).astype(np.float32)
    covers = cover_of_use(uses)
    names = dict(zip(LAND_USE_NAMES, uses, strict=True))
    np.testing.assert_allclose(covers[LAND_COVER_NAMES.index("Water")], names["River"] + names["SeaLake"])
    np.testing.assert_allclose(covers[LAND_COVER_NAMES.index("ShrubScrub")], names["Shrubland"])
    np.testing.assert_allclose(covers.sum(0), uses.sum(0), rtol=1e-6)


def test_an_unknown_class_is_refused():
    with pytest.raises(ValueError, match="Motorway: no such class"):
        use_ids("Forest", "Motorway")

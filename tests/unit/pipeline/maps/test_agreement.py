"""Figures of agreement. Oracles: scikit-learn, each hectare a sample; a published table; slow loops."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, jaccard_score, precision_score, recall_score

from landuse.pipeline.maps.agreement import Agreement


def test_figures_are_scikit_learns():
    rng = np.random.default_rng(4)
    ours, theirs = rng.integers(0, 4, (2, 3000))
    theirs = np.where(rng.random(3000) < 0.5, ours, theirs)
    counts = np.zeros((5, 5))
    np.add.at(counts, (ours, theirs), 1)
    found = Agreement(names=("a", "b", "c", "d", "none"), hectares=counts)
    assert found.present == [0, 1, 2, 3]
    assert found.overall == pytest.approx(accuracy_score(theirs, ours))
    for figure, score in (
        ("users", precision_score),
        ("producers", recall_score),
        ("f1", f1_score),
        ("iou", jaccard_score),
    ):
        expected = score(theirs, ours, average=None)
        assert [getattr(entry, figure) for entry in found.classes] == pytest.approx(expected.tolist())


def test_quantity_and_allocation_are_those_of_pontius_and_millones():
    """Quantity by its definition in a loop, and two maps that differ in one of them alone."""
    counts = np.array([[40.0, 5, 2], [10, 20, 3], [0, 8, 12]])
    found = Agreement(names=("a", "b", "c"), hectares=counts)
    quantity = sum(abs(counts[i].sum() - counts[:, i].sum()) for i in range(3)) / 2 / 100
    allocation = sum(
        2 * min(counts[i].sum() - counts[i, i], counts[:, i].sum() - counts[i, i]) for i in range(3)
    )
    assert found.quantity == pytest.approx(quantity)
    assert found.allocation == pytest.approx(allocation / 2 / 100)
    assert found.overall + found.quantity + found.allocation == pytest.approx(1)
    swapped = Agreement(names=("a", "b"), hectares=np.array([[5.0, 5], [5, 5]]))
    assert (swapped.quantity, swapped.allocation) == pytest.approx((0, 0.5))
    more = Agreement(names=("a", "b"), hectares=np.array([[5.0, 5], [0, 0]]))
    assert (more.quantity, more.allocation) == pytest.approx((0.5, 0))
    assert more.classes[1].users is None


def test_nothing_compared_is_an_error_of_the_caller():
    with pytest.raises(ValueError, match="some above"):
        Agreement(names=("a", "b"), hectares=np.zeros((2, 2)))

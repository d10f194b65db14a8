"""Blocks, scores, intervals and likely errors. Oracles: scikit-learn, slow loops, figures by hand."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from landuse.errors import UsageError
from landuse.model.training.class_head import Rows
from landuse.workflows.learn.validate import (
    Blocks,
    calibration_error,
    gain,
    likely_errors,
    make_blocks,
    out_of_fold,
    relabelled,
    score,
)

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 4, 500)
TOLD = np.where(RNG.random(500) < 0.7, LABELS, RNG.integers(0, 4, 500))
GROUPS = RNG.integers(0, 25, 500)
BLOCKS = Blocks(side_m=5000.0, group=GROUPS, fold=GROUPS % 5)
NAMES = ("a", "b", "c", "d")


def test_scores_are_scikit_learn_s():
    found = score(TOLD, LABELS, BLOCKS, NAMES)
    precision, recall, f1, support = precision_recall_fscore_support(LABELS, TOLD)
    assert found.accuracy.value == pytest.approx(accuracy_score(LABELS, TOLD))
    assert found.macro_f1.value == pytest.approx(f1_score(LABELS, TOLD, average="macro"))
    for i, entry in enumerate(found.classes):
        told = entry.recall.value, entry.precision.value, entry.f1.value
        assert told == pytest.approx((recall[i], precision[i], f1[i]))
        assert (entry.samples, entry.blocks) == (support[i], len(set(GROUPS[i == LABELS])))
        assert entry.f1.low <= entry.f1.value <= entry.f1.high


def test_intervals_are_those_of_blocks_drawn_again_and_again():
    """Oracle: the samples of drawn blocks, put together one block after the other."""
    rng = np.random.default_rng(7)
    values = []
    for _ in range(300):
        drawn = np.concatenate([np.flatnonzero(g == GROUPS) for g in rng.integers(0, 25, 25)])
        values.append(accuracy_score(LABELS[drawn], TOLD[drawn]))
    low, high = np.quantile(values, [0.025, 0.975])
    wrong = (LABELS + 1) % 4
    found = gain(TOLD, wrong, LABELS, BLOCKS, 4)["accuracy"]
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.015)
    wider = score(TOLD, LABELS, BLOCKS, NAMES).accuracy
    assert wider.low <= found.low <= found.high <= wider.high


def test_an_interval_is_no_narrower_than_wilson_s_of_as_many_blocks():
    """Oracle: Wilson's low end of n of n is n / (n + z^2), worked out by hand."""
    group = np.repeat(np.arange(12), 5)
    labels = (group >= 8).astype(np.int64)
    found = score(labels, labels, Blocks(side_m=320.0, group=group, fold=group % 5), ("a", "b"))
    lows = [n / (n + 1.96**2) for n in (12, 8, 4)]
    assert [found.accuracy.low, *(c.recall.low for c in found.classes)] == pytest.approx(lows)
    assert [c.f1.low for c in found.classes] == pytest.approx(lows[1:])
    assert found.accuracy.high == found.macro_f1.high == 1


def test_a_gain_is_paired():
    better = gain(LABELS, TOLD, LABELS, BLOCKS, 4)["accuracy"]
    assert better.value == pytest.approx(1 - accuracy_score(LABELS, TOLD))
    same = gain(TOLD, TOLD, LABELS, BLOCKS, 4)["macro_f1"]
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_a_class_that_is_nowhere_told_has_no_precision():
    found = score(
        np.zeros(4, np.int64),
        np.array([0, 0, 1, 1]),
        Blocks(side_m=None, group=np.arange(4), fold=np.arange(4)),
        ("a", "b"),
    )
    assert found.classes[1].precision is None
    assert found.classes[1].recall.value == 0


@pytest.mark.parametrize(("width_px", "side_m"), [(8000, 5000), (1300, 2500), (650, 1250), (330, 640)])
def test_blocks_are_5_km_wide_or_as_wide_as_the_land_allows(width_px, side_m):
    rng = np.random.default_rng(1)
    rows, cols = rng.integers(-534_000, -534_000 + width_px, (1, 800))[0], rng.integers(0, width_px, 800)
    labels = rng.integers(0, 3, 800)
    found = make_blocks(rows, cols, labels, np.full(800, -1), 3)
    assert found.side_m == side_m
    place = np.stack([rows * 10 // side_m, cols * 10 // side_m], 1)
    for fold in range(5):
        held = found.fold == fold
        inside = {tuple(p) for p in place[held]}
        assert not inside & {tuple(p) for p in place[~held]}
        assert (np.bincount(labels[held], minlength=3) > 0).all()
        assert held.mean() < 0.4


def test_shapes_of_one_place_are_held_out_together():
    """Four places of 100 m, 500 m apart, of points and of shapes that are there twice."""
    rng = np.random.default_rng(2)
    corner = np.array([(0, 0), (0, 60), (60, 0), (60, 60)])
    place = np.repeat(np.arange(4), 40)
    rows, cols = (corner[place] + rng.integers(0, 10, (160, 2))).T
    points, twice = np.arange(160), np.repeat(np.arange(8), 20)
    for shapes in (points, twice):
        found = make_blocks(rows, cols, place // 2, shapes, 2)
        assert (found.side_m, found.count) == (None, 4)
        assert all(len(set(found.fold[place == p])) == 1 for p in range(4))
        with pytest.raises(UsageError, match=r"lie in 2 places, and fewer than two classes .* 320 m apart"):
            make_blocks(rows[:80], cols[:80], place[:80], shapes[:80], 2)


def test_a_long_shape_joins_what_lies_near_its_ends():
    rows = np.array([0, 0, 0, 0, 0, 100, 100, 100])
    cols = np.array([0, 20, 30, 40, 60, 0, 0, 60])
    labels = np.array([0, 0, 0, 0, 0, 1, 0, 1])
    found = make_blocks(rows, cols, labels, np.array([0, 1, 1, 1, 2, 3, 4, 5]), 2)
    assert (found.side_m, found.count) == (None, 4)
    assert len(set(found.group[:5].tolist())) == 1  # the class beside the other is a place of its own


def test_nothing_is_held_out_of_one_place_a_class():
    with pytest.raises(UsageError, match="fewer than two classes lie in more than one of them"):
        make_blocks(np.zeros(9, int), np.zeros(9, int), np.arange(9) % 3, np.arange(9) % 3, 3)


def test_a_head_is_tried_on_what_it_did_not_learn_from():
    """Features that name the block alone tell all of the blocks learned from and nothing of others."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(30), 20)
    labels = rng.integers(0, 2, 30)[group]
    features = np.eye(30, dtype=np.float32)[group]
    rows = Rows(features=features, sample=np.arange(600), weight=np.ones(600))
    blocks = Blocks(side_m=640.0, group=group, fold=group % 5)
    logits = out_of_fold(rows, features, labels, np.ones(600), blocks, 2)
    assert np.abs(logits[:, 0] - logits[:, 1]).max() < 0.6
    assert abs((logits.argmax(1) == labels).mean() - 0.5) < 0.25


def test_the_best_legend_is_made_of_other_land():
    trunk = np.array([0, 0, 1, 1, 2, 2])
    labels = np.array([1, 1, 0, 0, 1, 0])
    blocks = Blocks(side_m=None, group=np.arange(6), fold=np.array([0, 1, 0, 1, 0, 1]))
    # Fold 1 says of class 2 that it is 0, fold 0 that it is 1.
    assert relabelled(trunk, labels, blocks, 2).tolist() == [1, 1, 0, 0, 0, 1]


def test_likely_errors_are_those_of_a_slow_loop():
    rng = np.random.default_rng(4)
    shares = rng.dirichlet(np.ones(3), 200)
    labels = rng.integers(0, 3, 200)
    thresholds = [shares[labels == k, k].mean() for k in range(3)]
    expected = []
    for i in range(200):
        confident = [k for k in range(3) if shares[i, k] >= thresholds[k]]
        if confident:
            best = max(confident, key=lambda k: shares[i, k])
            if best != labels[i]:
                expected.append((shares[i, labels[i]], i, best))
    found = likely_errors(shares, labels)
    assert list(zip(found.items.tolist(), found.suggested.tolist(), strict=True)) == [
        (i, k) for _, i, k in sorted(expected)
    ]


def test_the_calibration_error_is_that_of_training():
    import torch

    from landuse.model.training.evaluate import score as score_patches

    shares = RNG.dirichlet(np.ones(4), 500)
    expected = score_patches(torch.from_numpy(shares), torch.from_numpy(LABELS), NAMES).ece
    assert calibration_error(shares, LABELS) == pytest.approx(expected, abs=1e-9)

"""Scores, curves, thresholds and temperature of labels. Oracle: scikit-learn, and slow obvious searches."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import (
    auc,
    average_precision_score,
    f1_score,
    hamming_loss,
    precision_recall_curve,
    precision_score,
    recall_score,
)

from landuse.model.training.labels.measure import (
    curve_points,
    fit_label_temperature,
    fit_thresholds,
    mean_average_precision,
    score_labels,
)

LABELS = ("airplane", "sand", "sea", "trees")


@pytest.fixture
def drawn():
    """Probabilities in steps, so that many are equal, and targets that they say something of."""
    rng = np.random.default_rng(3)
    targets = (rng.random((200, 4)) < (0.05, 0.2, 0.5, 0.8)).astype(np.uint8)
    probabilities = (0.5 * rng.random((200, 4)) + 0.4 * targets).round(2)
    return probabilities, targets


def test_scores_are_scikit_learns(drawn):
    probabilities, targets = drawn
    thresholds = (0.5, 0.4, 0.6, 0.5)
    got = score_labels(probabilities, targets, LABELS, thresholds, draws=10)
    answers = probabilities >= thresholds
    aps = [average_precision_score(targets[:, i], probabilities[:, i]) for i in range(4)]
    areas = []
    for i in range(4):
        precision, recall, _ = precision_recall_curve(targets[:, i], probabilities[:, i])
        areas.append(auc(recall, precision))
    assert got.n == 200
    assert got.map == pytest.approx(np.mean(aps))
    assert mean_average_precision(probabilities, targets) == pytest.approx(np.mean(aps))
    assert got.pr_auc == pytest.approx(np.mean(areas))
    assert got.micro_f1 == pytest.approx(f1_score(targets, answers, average="micro"))
    assert got.macro_f1 == pytest.approx(f1_score(targets, answers, average="macro"))
    assert got.hamming == pytest.approx(hamming_loss(targets, answers))
    for i, (name, one) in enumerate(got.per_label.items()):
        assert name == LABELS[i]
        assert one.positives == targets[:, i].sum()
        assert one.ap == pytest.approx(aps[i])
        assert one.pr_auc == pytest.approx(areas[i])
        assert one.threshold == thresholds[i]
        assert one.precision == pytest.approx(precision_score(targets[:, i], answers[:, i]))
        assert one.recall == pytest.approx(recall_score(targets[:, i], answers[:, i]))
        assert one.f1 == pytest.approx(f1_score(targets[:, i], answers[:, i]))


def test_a_label_that_occurs_nowhere_is_left_out_of_means(drawn):
    probabilities, targets = drawn
    targets[:, 1] = 0
    got = score_labels(probabilities, targets, LABELS, (2.0, 1.0, 0.5, 0.5), draws=10)
    assert got.per_label["sand"].ap is None
    assert got.per_label["sand"].f1 is None  # neither there nor answered
    assert got.per_label["airplane"].precision is None  # never answered
    others = [0, 2, 3]
    aps = [average_precision_score(targets[:, i], probabilities[:, i]) for i in others]
    assert got.map == pytest.approx(np.mean(aps))
    with pytest.raises(ValueError, match="no image has any"):
        score_labels(probabilities, targets * 0, LABELS, (0.5,) * 4)


def test_intervals_are_those_of_scores_of_drawn_images(drawn):
    """Oracle: scikit-learn on images drawn with replacement, another sequence of draws."""
    probabilities, targets = drawn
    got = score_labels(probabilities, targets, LABELS, (0.5,) * 4)
    rng = np.random.default_rng(11)
    found = []
    for _ in range(150):
        rows = rng.integers(0, 200, 200)
        y, p = targets[rows], probabilities[rows]
        held = [i for i in range(4) if y[:, i].any()]
        found.append(
            (
                np.mean([average_precision_score(y[:, i], p[:, i]) for i in held]),
                f1_score(y, p >= 0.5, average="micro"),
                f1_score(y, p >= 0.5, average="macro", zero_division=np.nan),
            )
        )
    expected = np.nanquantile(np.array(found), (0.025, 0.975), axis=0).T
    told = (got.interval, got.micro_f1_interval, got.macro_f1_interval)
    assert np.abs(np.array(told) - expected).max() < 0.03
    assert got.interval[0] < got.map < got.interval[1]


def test_points_of_the_curve_are_scikit_learns(drawn):
    probabilities, targets = drawn
    recall, precision = curve_points(probabilities[:, 1], targets[:, 1])
    expected = precision_recall_curve(targets[:, 1], probabilities[:, 1])
    assert precision == pytest.approx(expected[0][:-1][::-1])
    assert recall == pytest.approx(expected[1][:-1][::-1])


def test_thresholds_have_the_best_f1_of_all(drawn):
    probabilities, targets = drawn
    targets[:, 0] = 0
    found = fit_thresholds(probabilities, targets)
    assert found[0] == 0.5
    for i in range(1, 4):
        best = max(f1_score(targets[:, i], probabilities[:, i] >= t) for t in np.unique(probabilities[:, i]))
        assert f1_score(targets[:, i], probabilities[:, i] >= found[i]) == pytest.approx(best)
        assert found[i] not in probabilities[:, i]  # between two: no rounding turns an answer


def test_the_temperature_is_the_best_of_a_fine_grid():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn((300, 5), generator=rng)
    targets = (torch.rand((300, 5), generator=rng) < logits.sigmoid()).float()
    got = fit_label_temperature(logits * 3, targets)  # three times too certain
    smoothed = targets.double() * (1 - 2 / 302) + 1 / 302

    def loss(temperature):
        return float(F.binary_cross_entropy_with_logits(3 * logits.double() / temperature, smoothed))

    grid = [math.exp(step / 100) for step in range(-100, 250)]
    assert got == pytest.approx(min(grid, key=loss), rel=0.02)
    assert 2.5 < got < 3.6

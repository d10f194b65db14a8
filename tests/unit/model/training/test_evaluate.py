"""Oracles: scikit-learn, numpy loops, and a search over a grid."""

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
)

from landuse.model.normalize import bring_to_input, standardize
from landuse.model.training.evaluate import DIHEDRAL, fit_temperature, logits_of, score

CLASSES = ("a", "b", "c", "d")


def sample(count=500, sharpness=1.5, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (count, len(CLASSES)))
    labels = rng.integers(0, len(CLASSES), count)
    logits[np.arange(count), labels] += 1.0
    return torch.from_numpy(logits).float(), torch.from_numpy(labels)


def test_scores_are_scikit_learn_s():
    logits, labels = sample()
    probabilities = logits.softmax(1)
    scores = score(probabilities, labels, CLASSES)
    predicted = probabilities.argmax(1).numpy()
    assert scores.n == 500
    assert scores.accuracy == accuracy_score(labels, predicted)
    assert scores.kappa == pytest.approx(cohen_kappa_score(labels, predicted))
    assert scores.macro_f1 == pytest.approx(f1_score(labels, predicted, average="macro"))
    assert list(scores.per_class) == list(CLASSES)
    assert list(scores.per_class.values()) == pytest.approx(recall_score(labels, predicted, average=None))
    # Rows true, columns predicted; the matrix is not symmetric, so a transpose would show.
    expected = confusion_matrix(labels, predicted)
    assert (expected != expected.T).any()
    assert [list(row) for row in scores.confusion] == expected.tolist()


def test_calibration_error_and_confidence_gap_by_loops():
    logits, labels = sample(seed=1)
    probabilities = logits.softmax(1).double().numpy()
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    ece = 0.0
    for lower in range(15):
        inside = [
            i for i, c in enumerate(confidence) if lower / 15 <= c < (lower + 1) / 15 or c == lower + 1 == 15
        ]
        if inside:
            accuracy = sum(predicted[i] == int(labels[i]) for i in inside) / len(inside)
            mean_confidence = sum(confidence[i] for i in inside) / len(inside)
            ece += len(inside) / len(labels) * abs(accuracy - mean_confidence)
    right = [c for c, p, t in zip(confidence, predicted, labels.tolist(), strict=True) if p == t]
    wrong = [c for c, p, t in zip(confidence, predicted, labels.tolist(), strict=True) if p != t]
    scores = score(logits.softmax(1), labels, CLASSES)
    assert scores.ece == pytest.approx(ece, abs=1e-6)
    assert ece > 0.01
    assert scores.confidence_gap == pytest.approx(np.mean(right) - np.mean(wrong), abs=1e-6)


def test_the_interval_is_that_of_resampled_patches():
    logits, labels = sample(seed=2)
    right = (logits.argmax(1) == labels).numpy()
    rng = np.random.default_rng(0)
    means = [right[rng.integers(0, len(right), len(right))].mean() for _ in range(4000)]
    low, high = score(logits.softmax(1), labels, CLASSES).interval
    assert (low, high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.005)
    assert low < right.mean() < high


def test_certain_answers_fall_into_the_last_bin():
    probabilities = torch.eye(4)
    scores = score(probabilities, torch.arange(4), CLASSES)
    assert (scores.accuracy, scores.ece) == (1.0, 0.0)
    assert scores.confidence_gap is None  # no wrong answer to compare with
    assert score(probabilities, torch.tensor([1, 2, 3, 0]), CLASSES).ece == pytest.approx(1.0)


def test_a_class_that_does_not_occur_has_no_recall():
    logits, labels = sample()
    kept = labels != 2
    scores = score(logits[kept].softmax(1), labels[kept], CLASSES)
    assert list(scores.per_class) == ["a", "b", "d"]
    assert sum(scores.confusion[2]) == 0
    assert scores.macro_f1 == pytest.approx(f1_score(labels[kept], logits[kept].argmax(1), average="macro"))


def test_temperature_is_the_best_of_a_grid_and_lowers_the_loss():
    logits, labels = sample(2000, sharpness=3.0)
    temperature = fit_temperature(logits, labels)

    def loss(t):
        return log_loss(labels, (logits.double() / t).softmax(1).numpy())

    grid = np.exp(np.linspace(-2, 3, 501))
    best = grid[np.argmin([loss(t) for t in grid])]
    assert temperature == pytest.approx(best, rel=0.01)
    assert loss(temperature) < loss(1.0) - 0.1


def test_temperature_recovers_how_much_calibrated_logits_were_sharpened():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(0, 1.5, (20_000, 4))).float()
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(1.0, rel=0.05)
    assert fit_temperature(logits * 3, labels) == pytest.approx(3.0, rel=0.05)


def test_temperature_stays_finite_whatever_the_answers():
    labels = torch.arange(40) % 4
    right = torch.nn.functional.one_hot(labels, 4).float()
    assert fit_temperature(-1000 * right, labels) == pytest.approx(20, rel=1e-3)  # worse than chance
    assert fit_temperature(torch.zeros(40, 4), labels) < 20.1  # says nothing, at any temperature
    assert 0.05 <= fit_temperature(1e-3 * right, labels) < 0.051


def test_temperature_of_a_few_right_answers_leaves_them_uncertain():
    """Platt's targets: of n right answers, one in n + 2 is expected to be wrong."""
    labels = torch.arange(57) % 4
    logits = 8.0 * torch.nn.functional.one_hot(labels, 4).float()
    confidence = (logits / fit_temperature(logits, labels)).softmax(1).max(1).values
    assert confidence.mean() == pytest.approx(58 / 59, abs=1e-3)


def test_temperature_takes_logits_of_inference_mode(network, contract, patches):
    logits = logits_of(network, contract, patches)
    assert logits.is_inference()
    assert fit_temperature(logits, patches.labels) > 0


def test_logits_by_hand_for_any_batch_size(network, contract, patches):
    with torch.inference_mode():
        x = standardize(bring_to_input(patches.dn(slice(None)), contract, "L1C"), contract)
        expected = torch.stack([network(x[i : i + 1])[0] for i in range(len(x))])
    for batch_size in (7, 256):
        got = logits_of(network, contract, patches, batch_size=batch_size)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_symmetries_average_the_turned_and_mirrored_patches(network, contract, patches):
    with torch.inference_mode():
        x = standardize(bring_to_input(patches.dn(slice(None)), contract, "L1C"), contract)
        turned = [torch.rot90(m, k, (2, 3)) for m in (x, x.flip(3)) for k in range(4)]
        expected = sum(network(t) for t in turned) / 8
    got = logits_of(network, contract, patches, symmetries=DIHEDRAL)
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(got, logits_of(network, contract, patches), atol=1e-3)


def test_path_shift_is_added_before_clipping(network, contract, patches):
    shift = torch.tensor([-150.0, -200.0, -350.0])
    with torch.inference_mode():
        dn = bring_to_input(patches.dn(slice(None)), contract, "L1C") + shift.view(1, 3, 1, 1)
        expected = network(standardize(dn, contract))
    got = logits_of(network, contract, patches, path_shift_dn=shift)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)

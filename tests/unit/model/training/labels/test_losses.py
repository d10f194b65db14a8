"""Losses of labels against torch's own, the papers' formulas in numpy, and numeric gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landuse.model.training.labels.losses import LOSSES, asymmetric, bce, focal, loss_of

LOGITS = torch.tensor([[2.0, -1.0, 0.3], [-3.0, 4.0, 0.0]], dtype=torch.float64)
TARGETS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.25]], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)


def test_bce_is_torchs_summed_over_labels():
    expected = F.binary_cross_entropy_with_logits(LOGITS, TARGETS, pos_weight=WEIGHTS, reduction="sum") / 2
    assert float(bce(LOGITS, TARGETS, WEIGHTS)) == pytest.approx(float(expected))
    assert float(focal(LOGITS, TARGETS, WEIGHTS, gamma=0)) == pytest.approx(float(expected))


def test_focal_is_the_papers_formula():
    """Lin et al. 2017: -(1 - p_t) ** gamma log(p_t), p_t being the probability of the truth."""
    hard = (TARGETS > 0.5).double()
    p = 1 / (1 + np.exp(-LOGITS.numpy()))
    truth = np.where(hard.numpy() == 1, p, 1 - p)
    expected = (-((1 - truth) ** 2) * np.log(truth)).sum(1).mean()
    assert float(focal(LOGITS, hard)) == pytest.approx(expected)


def test_asymmetric_is_the_papers_formula():
    p = 1 / (1 + np.exp(-LOGITS.numpy()))
    q = np.maximum(p - 0.05, 0)
    y = TARGETS.numpy()
    there = WEIGHTS.numpy() * (1 - p) * np.log(p)
    absent = q**4 * np.log(1 - q)
    expected = -(y * there + (1 - y) * absent).sum(1).mean()
    assert float(asymmetric(LOGITS, TARGETS, WEIGHTS)) == pytest.approx(expected)


def test_without_gammas_and_margin_asymmetric_is_bce():
    got = asymmetric(LOGITS, TARGETS, None, gamma_negative=0, gamma_positive=0, margin=0)
    assert float(got) == pytest.approx(float(bce(LOGITS, TARGETS)))


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_certain_and_wrong_has_a_finite_gradient(name):
    logits = torch.tensor([[80.0, -80.0]], requires_grad=True)
    loss_of(name, logits, torch.tensor([[0.0, 1.0]]), None).backward()
    assert bool(torch.isfinite(logits.grad).all())
    assert float(logits.grad[0, 1]) < 0  # the label that is there is pulled up
    assert float(logits.grad[0, 0]) >= 0

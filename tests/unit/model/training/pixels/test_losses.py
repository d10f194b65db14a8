"""What is asked of the network. Oracles: closed forms, and slow loops over pixels."""

import math

import numpy as np
import pytest
import torch

from landuse.classes import LAND_COVER_NAMES, USES_OF_COVERS
from landuse.model.training.pixels import losses


def test_weighted_cross_entropy_is_the_weighted_mean_of_log_losses():
    logits, label = torch.randn(2, 5, 4, 3), torch.randint(5, (2, 4, 3))
    weight = torch.rand(2, 4, 3) * 2
    weight[0, 0] = 0
    p = logits.double().softmax(1).numpy()
    total = mass = 0.0
    for index in np.ndindex(2, 4, 3):
        image, row, col = index
        total += -float(weight[index]) * math.log(p[image, int(label[index]), row, col])
        mass += float(weight[index])
    got = losses.weighted_cross_entropy(logits, label, weight)
    assert float(got) == pytest.approx(total / mass, rel=1e-5)
    # What weighs nothing says nothing.
    other = torch.where(weight > 0, label, (label + 1) % 5)
    assert torch.equal(losses.weighted_cross_entropy(logits, other, weight), got)
    assert float(losses.weighted_cross_entropy(logits, label, torch.zeros_like(weight))) == 0


@pytest.mark.parametrize("q", [0.0, 0.3, 0.7, 1.0])
def test_generalised_cross_entropy_lies_between_log_loss_and_absolute_error(q):
    p = torch.tensor([0.01, 0.2, 0.5, 0.9, 1.0])
    expected = -p.log() if q == 0 else (1 - p**q) / q
    torch.testing.assert_close(losses.generalised_cross_entropy(p, q), expected)
    if q == 1:
        torch.testing.assert_close(expected, 1 - p)
    torch.testing.assert_close(losses.generalised_cross_entropy(p, 1e-4), -p.log(), rtol=1e-2, atol=1e-3)
    assert torch.isfinite(losses.generalised_cross_entropy(torch.zeros(1), q)).all()


def bag_by_hand(probability, region, least, most):
    inside = sorted((float(p) for p, there in zip(probability, region, strict=True) if there), reverse=True)
    if not inside:
        return 0.0
    count = max(math.ceil(len(inside) * least), 1)
    top = sum(inside[:count]) / count
    return -math.log(max(top, 1e-4)) + 4 * max(sum(inside) / len(inside) - most, 0)


def test_a_bag_asks_for_some_strong_pixels_and_not_for_all():
    probability, region = (
        torch.rand(6, 40),
        torch.rand(6, 40) < torch.tensor([0, 0.03, 0.2, 0.5, 0.9, 1.0])[:, None],
    )
    region[0] = False
    probability[5] = 0.95
    for least, most in ((0.05, 0.5), (0.125, 0.9), (1.0, 0.2)):
        got = losses.bag(probability, region, least, most)
        expected = [bag_by_hand(*bag, least, most) for bag in zip(probability, region, strict=True)]
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert float(losses.bag(probability, region, 0.05)[0]) == 0  # an empty bag
    line = torch.zeros(1, 64)
    line[0, :4] = 1
    everything = torch.ones(1, 64, dtype=torch.bool)
    assert float(losses.bag(line, everything, 1 / 20)) == pytest.approx(0, abs=1e-6)
    assert float(losses.bag(torch.ones(1, 64), everything, 1 / 20)) == pytest.approx(2)  # 4 (1 - 0.5)


def test_a_bag_s_gradient_reaches_its_strongest_pixels_alone():
    probability = torch.rand(1, 50).mul(0.4).requires_grad_()
    region = torch.zeros(1, 50, dtype=torch.bool)
    region[0, :40] = True
    losses.bag(probability, region, 0.1).sum().backward()
    moved = set(probability.grad[0].nonzero().flatten().tolist())
    assert moved == set(probability.detach()[0, :40].topk(4).indices.tolist())


def test_divergence_is_the_log_loss_against_targets_that_are_sure():
    logits, target = torch.randn(2, 3, 4, 4), (3 * torch.randn(2, 3, 4, 4)).softmax(1)
    target[0, :, 0, 0] = torch.tensor([0.4, 0.3, 0.3])  # not sure at all
    logp = logits.double().log_softmax(1).numpy()
    total = mass = 0.0
    for image, row, col in np.ndindex(2, 4, 4):
        t = target[image, :, row, col].double().numpy()
        weight = min(max((t.max() - 0.5) / 0.4, 0), 1)
        total += weight * -(t * logp[image, :, row, col]).sum()
        mass += weight
    assert float(losses.divergence(logits, target)) == pytest.approx(total / max(mass, 1), rel=1e-4)
    assert float(losses.divergence(logits, torch.full_like(target, 1 / 3))) == 0


def test_the_tables_name_covers_and_uses_that_exist():
    uses = {use for row in USES_OF_COVERS for use in row}
    assert set(losses.COVERS_OF_USE) | set(losses.COVER_OF_LINE) <= uses
    assert {cover for row in losses.COVERS_OF_USE.values() for cover in row} <= set(LAND_COVER_NAMES)
    assert set(losses.COVER_OF_LINE) == set(losses.LINE_SHARE)
    covered = dict(zip(LAND_COVER_NAMES, USES_OF_COVERS, strict=True))
    for use, cover in losses.COVER_OF_LINE.items():
        assert use in covered[cover]
    for use, covers in losses.COVERS_OF_USE.items():
        assert any(use in covered[cover] for cover in covers)  # a use can be what it is

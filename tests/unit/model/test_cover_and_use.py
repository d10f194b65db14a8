"""Cover and use as one class. Oracles: sums over a cover's classes, flat fields, a slow loop."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from landuse.classes import USES_OF_COVERS
from landuse.model.cover_and_use import USE_AROUND_PX, combine, with_prior
from tests.workflows.pixel_models import pixel_contract

CONTRACT = pixel_contract()


def plane(name):
    return CONTRACT.classes.index(name)


def logits(height=64, width=96, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return (
        2 * torch.randn(2, 9, height, width, generator=rng),
        2 * torch.randn(2, 10, height // 2, width // 2, generator=rng),
    )


def test_probabilities_sum_to_one():
    classes, covers = combine(*logits(), CONTRACT)
    assert (classes.shape, covers.shape) == ((2, 14, 64, 96), (2, 9, 64, 96))
    for values in (classes, covers):
        assert float(values.min()) >= 0
        torch.testing.assert_close(values.sum(1), torch.ones(2, 64, 96))


def test_a_use_never_lies_outside_its_cover():
    """The classes of a cover share out its probability, at each pixel, whatever lies around."""
    classes, covers = combine(*logits(), CONTRACT)
    for index, uses in enumerate(USES_OF_COVERS):
        together = classes[:, [plane(use) for use in uses]].sum(1)
        torch.testing.assert_close(together, covers[:, index])


def test_the_cover_is_the_softmax_at_its_temperature():
    cover, use = logits()
    warm = replace(CONTRACT, pixels=replace(CONTRACT.pixels, cover_temperature=2.5))
    torch.testing.assert_close(combine(cover, use, warm)[1], (cover / 2.5).softmax(1))


def test_without_infrared_the_covers_bias_is_added():
    cover, _ = logits()
    bias = tuple(float(n - 4) / 2 for n in range(9))
    biased = replace(
        CONTRACT, pixels=replace(CONTRACT.pixels, visible_cover_bias=bias, cover_temperature=2.0)
    )
    present = torch.zeros(len(cover), 7)
    present[1, 3] = 1
    got = with_prior(cover, present, biased)
    torch.testing.assert_close(got[0], cover[0] + torch.tensor(bias)[:, None, None])
    assert torch.equal(got[1], cover[1])
    assert torch.equal(with_prior(cover, torch.zeros(1, 7), CONTRACT), cover)
    assert torch.equal(with_prior(cover, torch.zeros(1, 7), biased)[0], got[0])


def test_a_flat_field_shares_its_cover_as_the_uses_softmax():
    cover, use = (torch.randn(1, n, 1, 1).expand(1, n, side, side) for n, side in ((9, 64), (10, 32)))
    warm = replace(CONTRACT, pixels=replace(CONTRACT.pixels, use_temperature=1.7))
    classes, covers = combine(cover, use, warm)
    for index, uses in enumerate(USES_OF_COVERS):
        if len(uses) > 1:
            rows = [CONTRACT.pixels.uses.index(name) for name in uses]
            shares = (use[:, rows, :1, :1] / 1.7).softmax(1)
            got = classes[:, [plane(name) for name in uses]]
            torch.testing.assert_close(got, covers[:, index : index + 1] * shares, rtol=1e-4, atol=1e-6)


def test_a_highway_is_decided_at_each_pixel():
    cover = torch.zeros(1, 9, 64, 64)
    cover[:, 6] = 20  # all is built
    use = torch.zeros(1, 10, 32, 32)
    before = combine(cover, use, CONTRACT)[0]
    line = torch.zeros(64, 64, dtype=torch.bool)
    line[20:22] = True
    use[:, 3, 10] = 8
    after = combine(cover, use, CONTRACT)[0]
    assert float(after[0, plane("Highway"), line].min()) > 0.99
    torch.testing.assert_close(after[0, plane("Highway"), ~line], before[0, plane("Highway"), ~line])
    # An industry of one pixel is nothing, among houses.
    use = torch.zeros(1, 10, 32, 32)
    use[:, 7] = 3
    use[0, 4, 16, 16] = 12
    shares = combine(cover, use, CONTRACT)[0]
    assert float(shares[0, plane("Residential"), 32, 32]) > float(shares[0, plane("Industrial"), 32, 32])


def test_the_use_is_that_of_the_cover_around_the_pixel():
    """A slow mean over the window of cells of four pixels, weighted by how probable the cover is there."""
    cover, use = logits(48, 64, seed=1)
    classes, covers = combine(cover, use, CONTRACT)
    rows = [CONTRACT.pixels.uses.index(name) for name in ("Pasture", "HerbaceousVegetation")]
    grass = covers[0, 2].double().numpy()
    pasture = use[0, rows].double().softmax(0)[0].numpy().repeat(2, 0).repeat(2, 1)
    cells = lambda x: x.reshape(12, 4, 16, 4).mean((1, 3))  # noqa: E731  # short and used here alone
    weighted, weight = cells(pasture * grass), cells(grass)
    half = USE_AROUND_PX // 4 // 2
    share = np.zeros((12, 16))
    for row in range(12):
        for col in range(16):
            around = np.s_[max(row - half, 0) : row + half + 1, max(col - half, 0) : col + half + 1]
            share[row, col] = weighted[around].sum() / weight[around].sum()
    got = (classes[0, plane("Pasture")] / covers[0, 2]).double().numpy()
    # Between the centres of cells it is interpolated: at two pixels of four beside a centre, by 1/8 each.
    centre = cells(got)[1:-1, 1:-1]
    smooth = share.copy()
    for axis in (0, 1):
        before, after = np.roll(smooth, 1, axis), np.roll(smooth, -1, axis)
        smooth = 0.75 * smooth + 0.125 * (before + after)
    np.testing.assert_allclose(centre, smooth[1:-1, 1:-1], atol=2e-3)


def test_a_model_of_patches_has_no_covers():
    with pytest.raises(ValueError, match="classifies patches, not pixels"):
        combine(*logits(), replace(CONTRACT, pixels=None))

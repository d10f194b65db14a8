"""Augmentation of many bands: what it says it changes is changed, and nothing else."""

import math

import numpy as np
import pytest
import torch

from landuse.model.training.pixels import spectra

BANDS = ("B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
VISIBLE = [0, 1, 2]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def land(count=64, side=8):
    return 300 + 3000 * torch.rand(count, len(BANDS), side, side, generator=generator(9))


def test_gains_are_one_factor_a_band_and_image():
    dn = land(4000, 1)
    factor = (spectra.gains(dn, BANDS, 0.08, 0.2, generator()) / dn).log()[:, :, 0, 0].double().numpy()
    many = land(3)
    wide = spectra.gains(many, BANDS, 0.08, 0.2, generator()) / many
    torch.testing.assert_close(wide, wide[:, :, :1, :1].expand_as(wide))  # one for all its pixels
    np.testing.assert_allclose(factor.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(factor.std(0)[VISIBLE], 0.08, rtol=0.06)
    plateau = math.hypot(0.75, 0.25) * 0.2
    np.testing.assert_allclose(factor.std(0)[[3, 5, 6, 7, 8, 9]], plateau, rtol=0.06)
    assert factor.std(0)[4] == pytest.approx(0.1, rel=0.06)
    together = np.corrcoef(factor.T)
    near = [3, 5, 6, 7]
    assert together[np.ix_(near, near)].min() > 0.85
    assert together[8, 9] > 0.85
    apart = together - np.eye(len(BANDS))
    assert abs(apart[np.ix_(VISIBLE, range(10))]).max() < 0.08
    assert abs(together[np.ix_(near, [4, 8, 9])]).max() < 0.08


def test_gains_of_the_visible_alone_leave_the_infrared():
    dn = land()
    changed = spectra.gains(dn, BANDS, 0.1, 0.0, generator())
    assert torch.equal(changed[:, 3:], dn[:, 3:])
    assert not torch.equal(changed[:, :3], dn[:, :3])
    assert torch.equal(spectra.gains(dn, BANDS, 0.0, 0.0, generator()), dn)


def test_season_changes_vegetation_and_leaves_the_rest():
    dn = torch.full((200, len(BANDS), 4, 4), 1000.0)
    dn[:, 0, :2] = 300  # a meadow above bare ground
    dn[:, 3, :2] = 4000
    changed = spectra.season(dn, BANDS, 1.0, generator())
    bare = (changed / dn - 1)[:, :, 2:]
    assert float(bare.abs().max()) < 0.03
    meadow = (changed / dn - 1)[:, :, :2]
    assert float(meadow[:, 0].std()) > 0.1
    # Red rises where the near infrared falls.
    assert float(torch.corrcoef(torch.stack([meadow[:, 0, 0, 0], meadow[:, 3, 0, 0]]))[0, 1]) < -0.7
    assert float(meadow[:, 0].mean()) > 0 > float(meadow[:, 3].mean())  # autumn more than spring
    assert torch.equal(spectra.season(dn, BANDS, 0.0, generator()), dn)
    assert torch.equal(spectra.season(dn[:, :3], BANDS[:3], 1.0, generator()), dn[:, :3])


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_blobs_are_smooth_and_of_the_share_asked_for(share):
    found = spectra.blobs(20, 64, torch.full((20,), share), generator())
    np.testing.assert_allclose(found.float().mean((1, 2)).numpy(), share, atol=0.01)
    edges = (found[:, 1:] != found[:, :-1]).float().mean()
    assert float(edges) < 0.1  # of noise it would be 2 share (1 - share)
    assert torch.equal(found, spectra.blobs(20, 64, torch.full((20,), share), generator()))


def test_a_flood_touches_what_it_is_told_to_and_darkens_it():
    dn = land(30, 16) + 500
    where = torch.zeros(30, 16, 16, dtype=torch.bool)
    where[:, 4:10, 3:12] = True
    base = torch.full((len(BANDS),), 100.0)
    water = spectra.flood(dn, BANDS, where, base, generator())
    outside = ~where[:, None].expand_as(dn)
    assert torch.equal(water[outside], dn[outside])
    inside = water.movedim(1, -1)[where] - base
    before = dn.movedim(1, -1)[where] - base
    ratio = (inside.mean(0) / before.mean(0)).tolist()
    assert 0.45 < min(ratio[:3]) <= max(ratio[:3]) < 0.75  # turbid
    assert max(ratio[3:]) < 0.5
    assert max(ratio[8:]) < 0.25  # nearly black in the short-wave infrared
    assert float(inside.min()) >= 0
    assert torch.equal(spectra.flood(dn, BANDS, torch.zeros_like(where), base, generator()), dn)

"""What a step is shown. Oracles: the stored pixels, the geometry of borders, and the same step again."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from landuse.classes import LAND_COVER_NAMES
from landuse.model.normalize import bring_to_input, path_dn, standardize
from landuse.model.training.pixels.batches import MOSAIC_PATCHES, Batches, _laid_over, borders
from landuse.model.training.pixels.config import PixelTrainConfig
from landuse.model.training.pixels.train import make_pixel_contract
from landuse.model.training.teach import PixelLessons

from .conftest import INFRARED, SIDE, VISIBLE, covered

PLAIN = PixelTrainConfig(
    steps=100, patches=12, mosaics=6, pixels=16, brightness=0, atmosphere=0, visible_gain=0, infrared_gain=0,
    season=0, flood=0, cutmix=0, without_infrared=0, near_infrared_alone=0,
)  # fmt: skip


def made(config, patches, sets, lessons=None):
    contract = make_pixel_contract("tiny", patches, sets)
    path = torch.tensor(path_dn(contract.bands))
    return Batches(config, contract, patches, sets, path, torch.device("cpu"), lessons)


def tensors(value):
    """All tensors of a batch, its views' too."""
    if isinstance(value, torch.Tensor):
        return [value]
    if hasattr(value, "__slots__"):
        return [tensor for name in value.__slots__ for tensor in tensors(getattr(value, name))]
    return []


def drawn(batches, step):
    rng = batches.generator(step)
    return [batches.patch_batch(step, rng), batches.mosaic_batch(rng), batches.pixel_batch(rng)]


def test_a_step_draws_the_same_whatever_was_drawn_before(patches, sets):
    config = PixelTrainConfig(steps=100, patches=12, mosaics=6, pixels=16, cutmix=1.0, flood=0.5)
    batches = made(config, patches, sets)
    first = [tensors(batch) for batch in drawn(batches, 3)]
    drawn(batches, 4)
    torch.rand(5)
    again = [tensors(batch) for batch in drawn(made(config, patches, sets), 3)]
    assert sum(map(len, first)) > 15
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    other_seed = drawn(made(replace(config, seed=1), patches, sets), 3)
    assert not torch.equal(other_seed[0].view.x, first[0][0])
    assert not torch.equal(drawn(batches, 4)[0].view.x, first[0][0])


def test_borders_are_cells_around_points_or_a_band():
    found = borders(60, 32, 3, torch.Generator().manual_seed(0))
    assert torch.equal(found, borders(60, 32, 3, torch.Generator().manual_seed(0)))
    assert (found.shape, found.dtype) == ((60, 32, 32), torch.int64)
    assert set(found.unique().tolist()) == {0, 1, 2}
    bands = 0
    for region in found.numpy():
        # Cells around points and bands are convex: no row or column enters one twice.
        twice = set()
        for part in range(3):
            inside = np.pad((region == part).astype(int), 1)
            entered = [np.count_nonzero(np.diff(inside, axis=axis) == 1, axis=axis) for axis in (0, 1)]
            if max(counts.max() for counts in entered) > 1:
                twice.add(part)
        assert twice <= {0}  # what lies to both sides of a band
        if twice:
            bands += 1
            assert region.max() == 1
    assert 0.1 < bands / 60 < 0.4  # three in ten are bands


def test_a_mosaic_is_of_its_patches_up_to_its_borders(patches, sets):
    batches = made(PLAIN, patches, sets)
    batch = batches.mosaic_batch(batches.generator(0))
    assert batch.view.x.shape == (6, 10, SIDE, SIDE)
    assert batch.label.shape == (6, MOSAIC_PATCHES)
    contract = batches.contract
    colors = torch.stack([patches.dn(patches.labels == use).mean((0, 2, 3)) for use in range(10)])
    whole = torch.zeros(10, 10, 1, 1)
    whole[:, :3, 0, 0] = colors
    expected = standardize(bring_to_input(whole, contract, "L1C"), contract)[:, :3, 0, 0]
    for image in range(6):
        for part in range(MOSAIC_PATCHES):
            inside = batch.region[image] == part
            if inside.sum() > 100:
                mean = batch.view.x[image, :3, inside].mean(1)
                nearest = (mean[None] - expected).abs().sum(1).argmin()
                assert nearest == batch.label[image, part]
    assert not batch.view.present.any()  # patches of RGB have no infrared


def test_patches_keep_their_label_and_their_plain_view(patches, sets):
    batches = made(PLAIN, patches, sets)
    batch = batches.patch_batch(0, batches.generator(0))
    assert not batch.is_mixed
    assert torch.equal(batch.mixed.argmax(1), batch.label)
    # But for one amount a band and image, the views differ by noise: 12 DN of 2,750, over a deviation.
    difference = (batch.view.x - batch.plain.x)[:, :3]
    difference = difference - difference.median(3, keepdim=True).values.median(2, keepdim=True).values
    std = torch.tensor(batches.contract.std[:3])[:, None, None]
    assert float((difference * std).std()) == pytest.approx(12 / 2750, rel=0.15)
    mixed = made(replace(PLAIN, cutmix=1.0), patches, sets).patch_batch(0, batches.generator(0))
    assert mixed.is_mixed
    torch.testing.assert_close(mixed.mixed.sum(1), torch.ones(12))
    late = made(replace(PLAIN, cutmix=1.0), patches, sets).patch_batch(80, batches.generator(80))
    assert not late.is_mixed  # the last fifth is of whole patches


def test_answers_stay_with_their_patches(patches, sets):
    """A label and a teacher's answer of use 3 weigh as the share says; a patch that is two has no answer."""
    answers = torch.eye(10)[3].expand(len(patches), -1)
    # Each patch with pixel labels has an answer of its own, by which it is known again.
    own = torch.rand(len(sets[0]), 10, generator=torch.Generator().manual_seed(1))
    lessons = PixelLessons(patches=answers, sets=(own, torch.zeros(len(sets[1]), 10)))
    batches = made(replace(PLAIN, teacher_share=0.25), patches, sets, lessons)
    batch = batches.patch_batch(0, batches.generator(0))
    expected = 0.75 * torch.eye(10)[batch.label] + 0.25 * torch.eye(10)[3]
    torch.testing.assert_close(batch.mixed, expected)
    silent = made(PLAIN, patches, sets)
    assert not silent.pixel_batch(silent.generator(0)).answer.any()

    found = batches.pixel_batch(batches.generator(0))
    of_first = batches.counts[0]
    assert not found.answer[of_first:].any()
    whole = found.answer[:of_first].any(1)
    assert 0.2 < float(whole.float().mean()) < 0.8  # half of them have a rectangle of another
    means = standardize(bring_to_input(sets[0].dn.float(), batches.contract, "L2A"), batches.contract).mean(
        (2, 3)
    )
    for row in whole.nonzero()[:, 0].tolist():
        (patch,) = (own == found.answer[row]).all(1).nonzero()[:, 0].tolist()
        nearest = (means - found.plain.x[row].mean((1, 2))).abs().sum(1).argmin()
        assert int(nearest) == patch


def test_gains_are_of_the_ground_and_not_of_the_atmosphere(patches, sets):
    """Ground without any light of its own looks the same under every gain."""
    batches = made(replace(PLAIN, visible_gain=0.5, infrared_gain=0.5), patches, sets)
    base = (batches.path_dn / 2)[None, :, None, None]
    black = base.expand(200, -1, SIDE, SIDE)
    rng = torch.Generator().manual_seed(0)
    drift = (batches._spoilt(black, infrared=True, rng=rng) - base).mean((2, 3))
    # What is left is a band's own atmosphere, 4 % of the path radiance.
    assert torch.allclose(drift.std(0), 0.04 * batches.path_dn, rtol=0.25, atol=1.0)
    white = batches._spoilt(black + 1000, infrared=True, rng=rng)
    assert float(((white - base) / 1000).mean((2, 3)).log().std()) > 0.3


def test_pixel_labels_stay_on_their_pixels(patches, sets):
    """Each labelled pixel still has the spectrum of its cover, wherever it was turned or laid."""
    batches = made(PLAIN, patches, sets[:1])
    contract = batches.contract
    batch = batches.pixel_batch(batches.generator(5))
    from .conftest import SPECTRA

    expected = standardize(bring_to_input(SPECTRA[:, :, None, None], contract, "L2A"), contract)[:, :, 0, 0]
    known = batch.weight > 0
    assert 0.6 < float(known.float().mean()) < 0.9  # one row in four is not labelled
    x = batch.plain.x.movedim(1, -1)[known]
    nearest = torch.cdist(x, expected).argmin(1)
    assert float((nearest == batch.label[known]).float().mean()) > 0.99
    assert float(batch.weight.max()) <= 1
    assert torch.equal(batch.plain.present, torch.ones(16, 7))
    assert not batch.plain_visible.present.any()


def test_each_set_has_its_bands_and_its_share(patches, sets):
    batches = made(PLAIN, patches, sets)
    assert sum(batches.counts) == 16
    assert batches.counts[0] > batches.counts[1] > 0  # by the root of their sizes
    present = batches.pixel_batch(batches.generator(0)).plain.present
    alone = torch.tensor([float(band == "B08") for band in INFRARED])
    assert torch.equal(present[-batches.counts[1] :], alone.expand(batches.counts[1], -1))
    assert present[: batches.counts[0]].all()


def test_bands_are_hidden_in_the_shares_asked_for(patches, sets):
    config = replace(PLAIN, pixels=2000, without_infrared=0.25, near_infrared_alone=0.35)
    batches = made(config, patches, sets[:1])
    shown = batches._shown(20_000, batches.generator(0))
    none, first = shown.sum(1) == 0, (shown[:, 0] == 1) & (shown.sum(1) == 1)
    assert float(none.float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(first.float().mean()) == pytest.approx(0.35, abs=0.02)
    assert float((shown.sum(1) == 7).float().mean()) == pytest.approx(0.4 * 2 / 3, abs=0.02)
    assert set(shown.unique().tolist()) == {0, 1}


def test_a_flood_turns_fields_into_water_and_nothing_else(patches, sets):
    batches = made(replace(PLAIN, flood=1.0), patches, sets[:1])
    rng = torch.Generator().manual_seed(0)
    dn, weight = 2000 * torch.rand(20, 10, SIDE, SIDE) + 500, torch.rand(20, SIDE, SIDE)
    weight[:, 0] = 0
    label = torch.randint(9, (20, SIDE, SIDE)).float()
    floodable = torch.arange(20) != 3
    water, labels, weights = batches._flooded(dn, label, weight, floodable, rng)
    assert torch.equal(water[3], dn[3])
    assert torch.equal(labels[3], label[3])
    changed = (water != dn).any(1)
    fields = torch.isin(
        label, torch.tensor([float(LAND_COVER_NAMES.index(n)) for n in ("Crops", "Grass", "Bare")])
    )
    assert changed.any()
    assert not (changed & ~(fields & (weight > 0))).any()
    assert (labels[changed] == 0).all()
    assert (weights[changed] == 1).all()
    assert torch.equal(labels[~changed], label[~changed])
    assert torch.equal(weights[~changed], weight[~changed])
    dry = made(PLAIN, patches, sets[:1])._flooded(dn, label, weight, floodable, rng)
    assert all(torch.equal(a, b) for a, b in zip(dry, (dn, label, weight), strict=True))


def test_a_rectangle_of_the_image_before_is_laid_over_some():
    rng = torch.Generator().manual_seed(0)
    stack = torch.arange(40.0)[:, None, None, None].expand(-1, 3, 16, 16).clone()
    before = stack.clone()
    present = torch.ones(40, 2)
    present[20:, 1] = 0
    where = _laid_over(stack, present, rng)
    assert torch.equal(stack, torch.where(where, before.roll(1, 0), before))
    laid = where.flatten(1).any(1)
    assert 0.2 < float(laid.float().mean()) < 0.8
    assert not laid[0]  # the image before has other bands, and so has that of 20
    assert not laid[20]


def test_rare_covers_are_drawn_more_often_and_weigh_more(patches):
    entry = covered(40, 0)
    label = torch.full_like(entry.label, 1)
    label[:2] = 0
    rare = replace(entry, label=label, weight=torch.full_like(entry.weight, 255))
    batches = made(replace(PLAIN, balance=1.0, cover_balance=0.5), patches, [rare])
    chance = batches.sets[0].chance
    assert float(chance[0] / chance[5]) == pytest.approx(0.95 / 0.05, rel=1e-4)
    weight = batches.cover_weight
    assert float(weight[0] / weight[1]) == pytest.approx((0.95 / 0.05) ** 0.5, rel=1e-4)
    assert float(0.05 * weight[0] + 0.95 * weight[1]) == pytest.approx(1, rel=1e-4)
    assert float(weight[255]) == 0
    even = made(replace(PLAIN, balance=0, cover_balance=0), patches, [rare])
    assert len(set(even.sets[0].chance.tolist())) == 1
    assert even.cover_weight[:2].tolist() == [1, 1]


def test_bands_the_network_does_not_take_are_an_error_of_the_caller(patches):
    assert made(PLAIN, patches, [covered(4, 0, (*VISIBLE, "B11"))]).sets[0].present.tolist() == [0] * 5 + [
        1,
        0,
    ]

"""Augmentation of images with labels. Oracles: Pillow, numpy's loops, the operations' own definitions."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from landuse.model.training.labels import augment


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(5)


@pytest.fixture
def images():
    return torch.rand((6, 3, 24, 24), generator=torch.Generator().manual_seed(1))


def test_whole_images_stay_as_they_are(images, rng):
    assert torch.equal(augment.random_resized_crop(images, 1.0, 24, rng), images)


def test_a_crop_shows_a_part_of_the_image_that_is_large_enough(rng):
    """On a ramp of rows and columns a crop tells where it lies: its ends are its sides."""
    ramp = torch.linspace(0, 1, 101)
    image = torch.stack([ramp[:, None].expand(101, 101), ramp[None, :].expand(101, 101)])
    crops = augment.random_resized_crop(image.repeat(200, 1, 1, 1), 0.5, 101, rng)
    height = (crops[:, 0, -1, 50] - crops[:, 0, 0, 50]).double() * 101 / 100
    width = (crops[:, 1, 50, -1] - crops[:, 1, 50, 0]).double() * 101 / 100
    area = (height * width).numpy()
    assert area.min() > 0.48
    assert area.max() < 1.03
    assert area.std() > 0.1
    ratio = (height / width).numpy()
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35
    # No mirrored border is seen: rows grow downwards everywhere.
    assert bool((crops[:, 0].diff(dim=1) > -1e-4).all())
    assert float(crops[:, 0, 0, 0].std()) > 0.05  # they lie in different places


def test_a_smaller_size_averages_as_pillow_does(rng):
    values = np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)
    image = torch.from_numpy(values).float()[None, None] / 255
    got = augment.random_resized_crop(image, 1.0, 20, rng)[0, 0] * 255
    expected = np.asarray(Image.fromarray(values).resize((20, 20), Image.Resampling.BILINEAR), float)
    assert np.abs(got.numpy() - expected).max() < 1.5


def test_randaugment_keeps_range_and_draws_by_the_generator(images):
    first = augment.randaugment(images, 2, 0.7, torch.Generator().manual_seed(2))
    again = augment.randaugment(images, 2, 0.7, torch.Generator().manual_seed(2))
    other = augment.randaugment(images, 2, 0.7, torch.Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (float(first.min()), float(first.max())) >= (0.0, 0.0)
    assert float(first.max()) <= 1
    assert torch.equal(augment.randaugment(images, 0, 0.7, torch.Generator()), images)


def test_operations_without_strength_change_nothing_or_what_they_must(images, rng):
    strengthless = [op for op in augment.OPERATIONS if op is not augment._autocontrast]
    for operation in strengthless:
        got = operation(images, 0.0, rng)
        # Posterising to 8 bits cuts to whole 255ths; sampling is exact but for rounding.
        assert float((got - images).abs().max()) < 1 / 255 + 1e-5, operation.__name__


def test_tone_operations_are_pillows(rng):
    values = np.random.default_rng(1).integers(20, 200, (3, 16, 16), np.uint8)
    image = Image.fromarray(values.transpose(1, 2, 0))
    unit = torch.from_numpy(values).float()[None] / 255

    def same(got, expected, within=1.01):
        assert np.abs(got[0].numpy() * 255 - np.asarray(expected).transpose(2, 0, 1)).max() <= within

    same(augment._autocontrast(unit, 0.5, rng), ImageOps.autocontrast(image))
    same(augment._posterize(unit, 1.0, rng), ImageOps.posterize(image, 4))
    same(augment._solarize(unit, 1.0, rng), ImageOps.solarize(image, 128))


def test_mixup_blends_images_and_targets_by_one_share(images):
    shares = []
    for seed in range(200):
        # Targets that name each image by itself tell what was blended with what.
        mixed, targets = augment.mixup(images, torch.eye(6), torch.Generator().manual_seed(seed))
        expected = torch.einsum("bi,ichw->bchw", targets, images)
        assert float((mixed - expected).abs().max()) < 1e-5
        assert torch.allclose(targets.sum(1), torch.ones(6))
        shares.append(float(targets[0, 0]))
    drawn = np.array(shares)[np.array(shares) < 1]
    # A beta distribution with 0.4 twice: mean 1/2, variance 1 / (4 (2 * 0.4 + 1)).
    assert drawn.mean() == pytest.approx(0.5, abs=0.08)
    assert drawn.var() == pytest.approx(1 / 7.2, abs=0.03)

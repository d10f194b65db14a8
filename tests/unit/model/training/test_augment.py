"""Oracles: numpy's rotations and padding, exhaustive search, and counted pixels."""

import numpy as np
import pytest
import torch

from landuse.model.training import augment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def key(array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def test_dihedral_is_the_symmetry_group_of_the_square():
    square = np.arange(25).reshape(5, 5)
    # Every rotation, each as it is and mirrored: the group by its definition.
    expected = {key(np.rot90(face, k)) for face in (square, square[:, ::-1]) for k in range(4)}
    assert len(expected) == 8

    def act(element, array):
        return augment.dihedral(torch.tensor(array.copy())[None, None], element)[0, 0].numpy()

    orbit = [act(element, square) for element in range(8)]
    assert {key(a) for a in orbit} == expected
    assert key(orbit[0]) == key(square)
    for first in orbit:  # closed, and every element has an inverse
        products = {key(act(element, first)) for element in range(8)}
        assert products == expected


def test_dihedral_moves_every_band_and_image_alike():
    images = torch.randn(3, 4, 6, 6)
    for element in range(8):
        moved = augment.dihedral(images, element)
        for b in range(3):
            for c in range(4):
                single = augment.dihedral(images[b : b + 1, c : c + 1], element)[0, 0]
                assert torch.equal(moved[b, c], single)


def test_random_dihedral_draws_each_symmetry_for_each_image():
    images = torch.arange(400 * 9).view(400, 1, 3, 3)
    moved = augment.random_dihedral(images, generator())
    drawn = [
        next(e for e in range(8) if torch.equal(augment.dihedral(images[i : i + 1], e)[0], moved[i]))
        for i in range(400)
    ]
    counts = np.bincount(drawn, minlength=8)
    assert counts.min() > 400 / 8 * 0.5


def test_random_shift_crops_the_reflect_padded_image():
    margin, height, width = 2, 5, 7
    images = torch.randn(200, 3, height, width)
    shifted = augment.random_shift(images, margin, generator()).numpy()
    seen = set()
    for image, got in zip(images.numpy(), shifted, strict=True):
        padded = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        crops = {
            (row, col): padded[:, row : row + height, col : col + width]
            for row in range(2 * margin + 1)
            for col in range(2 * margin + 1)
        }
        matches = [offset for offset, crop in crops.items() if np.array_equal(crop, got)]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 25  # every offset is drawn, the unshifted one among them


def test_random_shift_of_nothing_is_the_image():
    images = torch.randn(4, 2, 6, 6)
    assert torch.equal(augment.random_shift(images, 0, generator()), images)


def test_random_crop_is_a_slice_of_the_image():
    height, width, crop_height, crop_width = 7, 9, 4, 5
    images = torch.randn(300, 3, height, width)
    cropped = augment.random_crop(images, crop_height, crop_width, generator()).numpy()
    assert cropped.shape == (300, 3, crop_height, crop_width)
    seen = []
    for image, got in zip(images.numpy(), cropped, strict=True):
        matches = [
            (row, col)
            for row in range(height - crop_height + 1)
            for col in range(width - crop_width + 1)
            if np.array_equal(image[:, row : row + crop_height, col : col + crop_width], got)
        ]
        assert len(matches) == 1
        seen += matches
    offsets, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(offsets) == 4 * 5  # the first and the last slice among them
    assert counts.min() > 300 / 20 * 0.3


def test_random_crop_of_the_whole_is_the_image():
    images = torch.randn(4, 2, 6, 5)
    assert torch.equal(augment.random_crop(images, 6, 5, generator()), images)


GROUPS = ((0, 3), (1,), (2, 4, 5))


def test_drop_groups_takes_one_whole_group_or_none():
    count, probability = 6000, 0.3
    x = torch.rand(count, 6, 2, 3) + 1  # nothing is 0 of itself
    before = x.clone()
    out = augment.drop_groups(x, GROUPS, probability, generator())
    assert torch.equal(x, before)
    drawn = []
    for image, got in zip(x.numpy(), out.numpy(), strict=True):
        gone = tuple(c for c in range(6) if (got[c] == 0).all())
        assert gone in ((), *GROUPS)
        kept = [c for c in range(6) if c not in gone]
        assert np.array_equal(got[kept], image[kept])
        drawn.append(gone)
    counts = {group: drawn.count(group) for group in ((), *GROUPS)}
    # Binomial: three standard deviations of 6000 draws are below 0.02.
    assert counts[()] / count == pytest.approx(1 - probability, abs=0.02)
    for group in GROUPS:
        assert counts[group] / count == pytest.approx(probability / 3, abs=0.02)


@pytest.mark.parametrize(("probability", "dropped"), [(0.0, 0), (1.0, 50)])
def test_drop_groups_never_and_always(probability, dropped):
    x = torch.rand(50, 6, 2, 2) + 1
    out = augment.drop_groups(x, GROUPS, probability, generator())
    assert int((out == 0).any((1, 2, 3)).sum()) == dropped


def test_a_dropped_group_is_at_its_mean():
    """Oracle: the bands' mean over many standardised images, which 0 stands for."""
    dn = torch.randn(400, 6, 4, 4) * 300 + 1500
    x = (dn - dn.mean((0, 2, 3), keepdim=True)) / dn.std((0, 2, 3), keepdim=True)
    out = augment.drop_groups(x, GROUPS, 1.0, generator())
    restored = out * dn.std((0, 2, 3), keepdim=True) + dn.mean((0, 2, 3), keepdim=True)
    gone = (out == 0).all(3).all(2)  # (image, band)
    assert 0.2 < float(gone.float().mean()) < 0.5
    for band in range(6):
        mean = float(dn[:, band].mean())
        torch.testing.assert_close(
            restored[gone[:, band], band], torch.full_like(restored[gone[:, band], band], mean)
        )


def test_cutmix_label_share_is_the_pixel_share():
    count, height, width = 6, 12, 9
    images = torch.arange(count).float()[:, None, None, None].expand(count, 2, height, width)
    targets = torch.eye(count)
    shares = []
    for seed in range(60):
        mixed, mixed_targets = augment.cutmix(images, targets, generator(seed))
        for b in range(count):
            # Each image is one constant, so its pixels say whose they are.
            pixels = np.bincount(mixed[b, 0].long().flatten().numpy(), minlength=count) / (height * width)
            np.testing.assert_allclose(mixed_targets[b].numpy(), pixels, atol=1e-6)
            assert torch.equal(mixed[b, 0], mixed[b, 1])
            foreign = (mixed[b, 0] != b).nonzero()
            if len(foreign):
                box = foreign.max(0).values - foreign.min(0).values + 1
                assert int(box.prod()) == len(foreign)  # one rectangle
                shares.append(len(foreign) / (height * width))
    # Yun et al. 2019: the share is uniform in 0..1.
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    assert min(shares) < 0.1
    assert max(shares) > 0.9


def test_cutmix_leaves_its_input_alone():
    images, targets = torch.randn(4, 1, 8, 8), torch.eye(4)
    before = images.clone(), targets.clone()
    augment.cutmix(images, targets, generator())
    assert torch.equal(images, before[0])
    assert torch.equal(targets, before[1])


def test_atmosphere_adds_one_constant_to_each_band_of_each_image():
    path = torch.tensor([300.0, 700.0])
    images = torch.randn(4000, 2, 3, 3) * 100 + 1000
    added = augment.atmosphere(images, path, 0.7, generator()) - images
    spread_within = added.amax((2, 3)) - added.amin((2, 3))
    assert float(spread_within.max()) < 1e-2
    amount = added.mean((2, 3)) / path
    # uniform(-.7, .7) common to the bands, plus a normal of 0.12 for each
    common = 0.7**2 / 3
    covariance = np.cov(amount.T.numpy())
    np.testing.assert_allclose(np.diag(covariance), common + 0.12**2, rtol=0.08)
    assert covariance[0, 1] == pytest.approx(common, rel=0.08)
    assert float(amount.mean()) == pytest.approx(0.0, abs=0.03)


def test_brightness_is_a_gain_and_a_contrast_about_the_mean():
    images = torch.rand(500, 3, 4, 4) * 2000 + 100
    out = augment.brightness(images, 0.1, generator())
    gain = out.mean((2, 3)) / images.mean((2, 3))
    deviation = (out - out.mean((2, 3), keepdim=True)) / (images - images.mean((2, 3), keepdim=True))
    contrast = deviation.mean((2, 3)) / gain
    torch.testing.assert_close(
        out, deviation.mean((2, 3), keepdim=True) * (images - images.mean((2, 3), keepdim=True))
        + (gain * images.mean((2, 3)))[:, :, None, None], rtol=1e-3, atol=0.5,
    )  # fmt: skip
    low, high = 0.9 * (1 - 0.1 / 3), 1.1 * (1 + 0.1 / 3)
    assert low - 1e-4 <= float(gain.min()) < 0.92
    assert 1.08 < float(gain.max()) <= high + 1e-4
    assert float((contrast - contrast[:, :1]).abs().max()) < 1e-3  # one contrast an image
    assert 0.9 - 1e-3 <= float(contrast.min()) < 0.91
    assert 1.09 < float(contrast.max()) <= 1.1 + 1e-3


def test_augmentation_of_no_strength_changes_nothing():
    images = torch.rand(3, 2, 5, 5) * 1000
    torch.testing.assert_close(augment.brightness(images, 0.0, generator()), images)
    assert torch.equal(augment.atmosphere(images, torch.zeros(2), 0.7, generator()), images)


def test_the_generator_alone_decides():
    images, targets = torch.rand(8, 2, 6, 6), torch.eye(8)
    path = torch.tensor([1.0, 2.0])

    def run(seed):
        rng = generator(seed)
        x = augment.random_shift(augment.random_dihedral(images, rng), 2, rng)
        x = augment.brightness(augment.atmosphere(x, path, 0.5, rng), 0.1, rng)
        return augment.cutmix(x, targets, rng)[0]

    first = run(1)
    torch.manual_seed(99)
    assert torch.equal(first, run(1))
    assert not torch.equal(first, run(2))

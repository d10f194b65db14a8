"""Mosaics of patches whose pixels tell which patch and which place they are from."""

import numpy as np
import pytest
from scipy import ndimage

from tests.benchmarks.cover_mosaics import band_regions, mosaic, mosaics, voronoi_regions


def patches_that_tell(count: int, size: int = 64) -> np.ndarray:
    """(count, 3, size, size): patch, row and column as DN."""
    rows, cols = np.mgrid[:size, :size]
    return np.stack([np.stack([np.full((size, size), i), rows, cols]) for i in range(count)]).astype(
        np.uint16
    )


@pytest.mark.parametrize("regions_of", [voronoi_regions, band_regions])
def test_each_region_is_one_patch_and_each_pixel_has_its_label(regions_of):
    rng = np.random.default_rng(3)
    regions = regions_of(rng, 160)
    patches, labels = patches_that_tell(50), (np.arange(50) % 7).astype(np.uint8)
    made = mosaic(patches, labels, regions, rng)
    np.testing.assert_array_equal(made.classes, labels[made.dn[0]])
    for region in np.unique(regions):
        assert len(np.unique(made.dn[0][regions == region])) == 1
    inside = (regions == np.roll(regions, 1, 0))[1:]  # neighbours of one region
    steps = np.abs(np.diff(made.dn[1].astype(int), axis=0))
    assert set(steps[inside].tolist()) <= {0, 1}  # goes on in the patch; 0 where it is mirrored


def test_regions_are_connected_and_mostly_fit_into_a_patch():
    rng = np.random.default_rng(4)
    for regions in (voronoi_regions(rng, 256), band_regions(rng, 256)):
        spans = []
        for region in np.unique(regions):
            assert ndimage.label(regions == region, np.ones((3, 3)))[1] == 1
            rows, cols = np.nonzero(regions == region)
            spans.append(max(np.ptp(rows), np.ptp(cols)) + 1)
        assert len(spans) >= 16
        assert np.mean(np.array(spans) <= 64) >= 0.7


def test_the_same_seed_makes_the_same_canvases():
    patches, labels = patches_that_tell(20), np.arange(20).astype(np.uint8)
    first, again, other = (mosaics(patches, labels, count=2, side_px=96, seed=seed) for seed in (1, 1, 2))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.dn, two.dn)
    assert any((one.classes != two.classes).any() for one, two in zip(first, other, strict=True))

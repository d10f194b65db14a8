"""The simulated landscape and the agreement with its truth.

Oracles: the class statistics that colours are drawn from, Sentinel-2's offset rule, slow loops.
"""

import shutil

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.warp
from affine import Affine

from landuse.classes import EUROSAT_NAMES
from landuse.model.normalize import PATH_DN, TRANSMITTANCE
from landuse.sentinel2 import STORED_OFFSET_DN
from landuse.workflows.demo.landscape import (
    BANDS,
    BANDS_10M,
    CLASS_MEAN_L1C_DN,
    CLASS_STD_L1C_DN,
    SCL_CLOUD,
    SCL_CLOUD_MEDIUM,
    SCL_NODATA,
    SCL_SHADOW,
    SIZE_PX,
    simulate,
)
from landuse.workflows.demo.run_demo import DEMO_SEED, agreement, make_demo_catalog, stored_dn


@pytest.fixture(scope="module")
def land():
    return simulate(DEMO_SEED)


def to_10m(scl):
    return scl.repeat(2, axis=0).repeat(2, axis=1)


def clear(date):
    return ~np.isin(to_10m(date.scl), (SCL_NODATA, SCL_SHADOW, SCL_CLOUD_MEDIUM, SCL_CLOUD))


@pytest.mark.slow
def test_a_seed_gives_the_same_pixels_and_another_seed_others(land):
    again, other = simulate(DEMO_SEED), simulate(DEMO_SEED + 1)
    np.testing.assert_array_equal(land.truth, again.truth)
    for one, two, three in zip(land.dates, again.dates, other.dates, strict=True):
        np.testing.assert_array_equal(one.reflectance_10m, two.reflectance_10m)
        np.testing.assert_array_equal(one.reflectance_20m, two.reflectance_20m)
        np.testing.assert_array_equal(one.scl, two.scl)
        assert not np.array_equal(one.reflectance_10m, three.reflectance_10m)


def test_every_class_is_there_in_room_for_a_patch(land):
    assert land.truth.shape == (SIZE_PX, SIZE_PX)
    share = np.bincount(land.truth.ravel(), minlength=10) / land.truth.size
    assert len(share) == len(EUROSAT_NAMES)
    assert share.min() > 64 * 64 / land.truth.size


@pytest.mark.parametrize("name", EUROSAT_NAMES)
def test_each_class_has_the_mean_colour_it_is_drawn_from(land, name):
    where = (land.truth == EUROSAT_NAMES.index(name)) & clear(land.dates[0])
    mean, std = (np.array(table[name], float) for table in (CLASS_MEAN_L1C_DN, CLASS_STD_L1C_DN))
    for band, reflectance in zip(BANDS_10M, land.dates[0].reflectance_10m, strict=True):
        l1c_dn = TRANSMITTANCE[band] * 10_000 * reflectance[where] + PATH_DN[band]
        index = BANDS.index(band)
        # The std is that within one 640 m patch; a zone's mean may be off by as much, or by 15 %.
        assert l1c_dn.mean() == pytest.approx(mean[index], abs=max(std[index], 0.15 * mean[index])), band


def test_clouds_are_bright_differ_by_date_and_are_marked(land):
    clouds = [np.isin(date.scl, (SCL_CLOUD_MEDIUM, SCL_CLOUD)) for date in land.dates]
    for date, cloud in zip(land.dates, clouds, strict=True):
        seen = date.scl != SCL_NODATA
        assert date.cloud_percent == pytest.approx(100 * cloud[seen].mean())
        assert 1 < date.cloud_percent < 25
        blue = date.reflectance_10m[BANDS_10M.index("B02")]
        sure = to_10m(date.scl == SCL_CLOUD)
        assert blue[sure].min() > 2 * np.median(blue[clear(date)])
        nir = date.reflectance_10m[BANDS_10M.index("B08")]
        assert np.median(nir[to_10m(date.scl == SCL_SHADOW)]) < np.median(nir[clear(date)])
    assert (clouds[0] & clouds[1]).sum() < 0.5 * min(cloud.sum() for cloud in clouds)
    assert (clear(land.dates[0]) | clear(land.dates[1])).mean() > 0.97
    assert [bool((date.scl == SCL_NODATA).any()) for date in land.dates] == [False, True]


def test_stored_dn_follow_the_offset_of_baseline_04():
    reflectance = np.array([[0.0, 0.0001, 0.25, -0.2, 9.0, 0.3]], np.float32)
    observed = np.array([[True, True, True, True, True, False]])
    np.testing.assert_array_equal(stored_dn(reflectance, observed), [[1000, 1001, 3500, 1, 65535, 0]])


def test_the_catalogue_decodes_to_the_reflectance_that_was_drawn(demo_catalog, land):
    items = {item.id: item for item in pystac.Catalog.from_file(str(demo_catalog.catalog)).get_items()}
    assert tuple(items) == demo_catalog.item_ids
    for item_id, date in zip(demo_catalog.item_ids, land.dates, strict=True):
        item = items[item_id]
        assert item.properties["processing:level"] == "L2A"
        assert item.properties["eo:cloud_cover"] == pytest.approx(date.cloud_percent, abs=0.01)
        seen = to_10m(date.scl) != SCL_NODATA
        for band, reflectance in zip(BANDS_10M, date.reflectance_10m, strict=True):
            fields = item.assets[band].extra_fields
            with rasterio.open(item.assets[band].get_absolute_href()) as dataset:
                stored = dataset.read(1)
            assert stored[seen].min() > STORED_OFFSET_DN
            np.testing.assert_array_equal(stored == fields["nodata"], ~seen)
            decoded = fields["raster:scale"] * stored[seen] + fields["raster:offset"]
            np.testing.assert_allclose(decoded, reflectance[seen], atol=0.51e-4)
        with rasterio.open(item.assets["SCL"].get_absolute_href()) as dataset:
            np.testing.assert_array_equal(dataset.read(1), date.scl)


def test_the_truth_lies_on_the_scenes_and_the_box_inside_them(demo_catalog, land):
    item = next(pystac.Catalog.from_file(str(demo_catalog.catalog)).get_items())
    red = item.assets["B04"].get_absolute_href()
    with rasterio.open(demo_catalog.truth) as truth, rasterio.open(red) as band:
        np.testing.assert_array_equal(truth.read(1), land.truth)
        assert (truth.transform, truth.crs, truth.shape) == (band.transform, band.crs, band.shape)
        assert (truth.bounds.left % 10, truth.bounds.top % 10) == (0, 0)
        left, bottom, right, top = rasterio.warp.transform_bounds("EPSG:4326", truth.crs, *demo_catalog.bbox)
        assert truth.bounds.left <= left < right <= truth.bounds.right
        assert truth.bounds.bottom <= bottom < top <= truth.bounds.top
        assert right - left > 5000


@pytest.mark.slow
def test_making_it_twice_gives_the_same_files(demo_catalog, tmp_path):
    """In a folder that holds them already, and which is not the one in which they were made first."""
    first = demo_catalog.truth.parent
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    again = make_demo_catalog(tmp_path)
    assert (again.item_ids, again.bbox) == (demo_catalog.item_ids, demo_catalog.bbox)
    made = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*.*")}
        for root in (tmp_path, first)
    )
    assert next(made) == next(made)


def test_agreement_is_that_of_a_slow_loop(tmp_path):
    rng = np.random.default_rng(3)
    cell, rows, cols = 16, 5, 7
    truth = rng.integers(0, 10, (rows, cols), np.uint8).repeat(cell, 0).repeat(cell, 1)
    noisy = rng.random(truth.shape) < rng.uniform(0, 0.6, (rows, cols)).repeat(cell, 0).repeat(cell, 1)
    truth[noisy] = rng.integers(0, 10, int(noisy.sum()), np.uint8)
    mapped = truth[cell // 2 :: cell, cell // 2 :: cell].copy()
    mapped[0, :3] = 255
    for name, image, size in (("truth.tif", truth, 10), ("map.tif", mapped, 160)):
        grid = Affine(size, 0, 430_000, 0, -size, 5_340_000)
        with rasterio.open(
            tmp_path / name,
            "w",
            driver="GTiff",
            dtype="uint8",
            count=1,
            height=len(image),
            width=image.shape[1],
            crs="EPSG:32633",
            transform=grid,
            nodata=255,
        ) as target:
            target.write(image, 1)

    counted = {k: [0, 0] for k in range(10)}
    mixed = 0
    for row in range(rows):
        for col in range(cols):
            if mapped[row, col] == 255:
                continue
            pixels = truth[row * cell : (row + 1) * cell, col * cell : (col + 1) * cell]
            shares = [(pixels == k).mean() for k in range(10)]
            if max(shares) < 0.6:
                mixed += 1
                continue
            major = int(np.argmax(shares))
            counted[major][0] += 1
            counted[major][1] += int(mapped[row, col] == major)
    assert 0 < mixed < rows * cols

    result = agreement(tmp_path / "truth.tif", tmp_path / "map.tif")
    assert result.mixed_cells == mixed
    assert {k: [c.cells, c.agreeing] for k, c in enumerate(result.classes)} == counted
    assert result.cells == sum(c[0] for c in counted.values())
    assert result.percent == pytest.approx(100 * sum(c[1] for c in counted.values()) / result.cells)

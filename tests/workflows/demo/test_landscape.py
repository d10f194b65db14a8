"""The simulated landscape and its truth.

Oracles: the class statistics that colours are drawn from, Sentinel-2's offset rule, geometry, slow loops.
"""

import datetime
import json
import shutil
from collections import Counter

import numpy as np
import pystac
import pytest
import rasterio
import rasterio.warp
from scipy import ndimage

from landuse.classes import EUROSAT_NAMES, LAND_COVER_NAMES, LAND_USE_NAMES, USES_OF_COVERS
from landuse.errors import UsageError
from landuse.model.normalize import PATH_DN, TRANSMITTANCE
from landuse.pipeline.cells import NODATA_ID
from landuse.sentinel2 import STORED_OFFSET_DN
from landuse.workflows.demo.acquisition import (
    SCL_CLOUD,
    SCL_CLOUD_MEDIUM,
    SCL_NODATA,
    SCL_SHADOW,
    sunlight,
)
from landuse.workflows.demo.landscape import SIZE_PX, _Canvas, simulate
from landuse.workflows.demo.run_demo import DEMO_SEED, make_demo_catalog, stored_dn
from landuse.workflows.demo.spectra import (
    BANDS,
    BANDS_10M,
    BANDS_20M,
    CLASS_MEAN_L1C_DN,
    CLASS_STD_L1C_DN,
)


@pytest.fixture(scope="module")
def land():
    return simulate(DEMO_SEED)


def to_10m(scl):
    return scl.repeat(2, axis=0).repeat(2, axis=1)


def clear(date):
    return ~np.isin(to_10m(date.scl), (SCL_NODATA, SCL_SHADOW, SCL_CLOUD_MEDIUM, SCL_CLOUD))


def band_of(date, name):
    """Surface reflectance of a band at 10 m."""
    if name in BANDS_10M:
        return date.reflectance_10m[BANDS_10M.index(name)]
    return to_10m(date.reflectance_20m[BANDS_20M.index(name)])


def within(mask, pixels):
    """Where all is ``mask`` up to so many pixels away."""
    return ndimage.binary_erosion(mask, iterations=pixels)


@pytest.mark.slow
def test_another_seed_gives_other_pixels(land):
    """That the same one gives the same is seen in the files, below."""
    other = simulate(DEMO_SEED + 1)
    assert not np.array_equal(land.landuse, other.landuse)
    for one, two in zip(land.dates, other.dates, strict=True):
        assert not np.array_equal(one.reflectance_10m, two.reflectance_10m)


def test_every_use_and_cover_is_there_but_snow_and_each_use_suits_its_cover(land):
    assert land.landuse.shape == land.cover.shape == (SIZE_PX, SIZE_PX)
    uses = np.bincount(land.landuse.ravel(), minlength=256)
    assert uses[: len(EUROSAT_NAMES)].min() > 64 * 64
    present = {LAND_USE_NAMES[k] for k in range(len(LAND_USE_NAMES)) if uses[k] > 400}
    assert present == set(LAND_USE_NAMES) - {"SnowIce"}
    for cover, of_cover in enumerate(USES_OF_COVERS):
        found = np.unique(land.landuse[land.cover == cover])
        lawn = {NODATA_ID} if LAND_COVER_NAMES[cover] == "Grass" else set()
        assert set(found) - lawn <= {LAND_USE_NAMES.index(name) for name in of_cover}
    assert uses[NODATA_ID] < 0.02 * land.landuse.size


def test_lines_are_as_wide_as_they_are(land):
    """The widest circle that fits into a road is one of 10 to 30 m; the river is 140 m wide."""
    road = land.landuse == LAND_USE_NAMES.index("Highway")
    # Wider only where roads meet.
    assert np.percentile(ndimage.distance_transform_edt(road)[road], 99) <= 2.0
    river = land.landuse == LAND_USE_NAMES.index("River")
    rows = [run_lengths(row).max(initial=0) for row in river[:130]]  # no brook and no bridge up there
    assert np.median(rows) == pytest.approx(15, abs=2)
    brooks = river[300:345, :140]
    assert np.percentile(ndimage.distance_transform_edt(brooks)[brooks], 95) <= 1.5


def run_lengths(row):
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
    return edges[1::2] - edges[::2]


def test_woods_hamlets_and_hedges_are_many_and_small(land):
    for cover, smallest in (("Trees", 60), ("Built", 10)):
        labels, count = ndimage.label(land.cover == LAND_COVER_NAMES.index(cover), np.ones((3, 3)))
        sizes = ndimage.sum_labels(np.ones_like(labels), labels, range(1, count + 1))
        assert (sizes < 300).sum() >= smallest, cover


def test_the_truth_of_a_pixel_is_what_fills_most_of_it():
    """Oracle: a slow loop over the fine pixels."""
    rng = np.random.default_rng(4)
    kind = rng.integers(0, 5, (12, 8), np.uint8)
    material = rng.permutation(kind.size).reshape(kind.shape).astype(np.int32)
    blank = np.zeros(kind.shape, np.float32)
    canvas = _Canvas(rng=rng, season="summer", x=blank, y=blank, material=material, kind=kind, pattern=blank)
    found = canvas.major_kind()
    for row in range(6):
        for col in range(4):
            part = np.s_[2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            votes = Counter(kind[part].ravel().tolist())
            latest = {k: material[part][kind[part] == k].max() for k in votes}
            assert found[row, col] == max(votes, key=lambda k: (votes[k], latest[k]))


@pytest.mark.parametrize("name", ["AnnualCrop", "Pasture", "PermanentCrop", "SeaLake"])
def test_each_class_has_the_mean_colour_it_is_drawn_from(land, name):
    second = land.dates[1]  # with the thinner haze
    where = within(land.landuse == LAND_USE_NAMES.index(name), 2) & clear(second)
    mean, std = (np.array(table[name], float) for table in (CLASS_MEAN_L1C_DN, CLASS_STD_L1C_DN))
    for index, band in enumerate(BANDS):
        l1c_dn = TRANSMITTANCE[band] * 10_000 * band_of(second, band)[where].mean() + PATH_DN[band]
        # The std is that within one 640 m patch; a zone's mean may be off by as much, or by 15 %.
        assert l1c_dn == pytest.approx(mean[index], abs=max(std[index], 0.15 * mean[index])), band


def test_covers_differ_as_they_do_in_nature(land):
    """Water is dark in the infrared, vegetation bright there and dark in the red, bare ground bright."""
    second = land.dates[1]
    red, nir, swir = (band_of(second, name) for name in ("B04", "B08", "B11"))
    usable = clear(second)

    def median(cover, image):
        where = within(land.cover == LAND_COVER_NAMES.index(cover), 2) & usable
        return np.median(image[where])

    for image in (nir, swir):
        assert median("Water", image) < 0.06
    for cover in ("Trees", "Grass", "Crops"):
        assert median(cover, nir) > 2 * median(cover, red)
    assert median("Trees", swir) < median("Grass", swir) < median("Bare", swir)
    assert median("Bare", red) > 2 * median("Grass", red)


def test_slopes_that_face_away_from_the_sun_are_darker():
    """Oracle: the cosine of the angle between a plane's normal and the sun, by hand."""
    x, y = np.meshgrid(np.arange(20.0), np.arange(30.0))
    rise = np.tan(np.deg2rad(20)) * 10  # a plane of 20 degrees, per pixel
    elevation, azimuth = np.deg2rad(62), np.deg2rad(145)
    to_sun = np.array(  # east, north, up
        [np.cos(elevation) * np.sin(azimuth), np.cos(elevation) * np.cos(azimuth), np.sin(elevation)]
    )
    for heights, downhill in (
        (-rise * x, (1, 0)),
        (rise * x, (-1, 0)),
        (-rise * y, (0, -1)),
        (rise * y, (0, 1)),
    ):
        normal = np.array([*(np.sin(np.deg2rad(20)) * np.array(downhill)), np.cos(np.deg2rad(20))])
        expected = max(normal @ to_sun, 0) / to_sun[2]
        np.testing.assert_allclose(sunlight(heights.astype(np.float32), "summer"), expected, rtol=1e-5)
    np.testing.assert_allclose(sunlight(np.zeros((4, 5), np.float32), "autumn"), 1)


def test_haze_brightens_the_visible_and_stays_out_of_the_scene_classification(land):
    hazy, clearer = land.dates
    both = clear(hazy) & clear(clearer)
    added = {band: np.median((band_of(hazy, band) - band_of(clearer, band))[both]) for band in BANDS}
    assert added["B02"] > 0.004
    assert added["B02"] > added["B04"] > added["B11"]
    assert both.mean() > 0.7


@pytest.mark.slow
def test_seasons_change_the_vegetation_and_not_the_land(land):
    autumn = simulate(DEMO_SEED, "autumn")
    np.testing.assert_array_equal(autumn.landuse, land.landuse)
    np.testing.assert_array_equal(autumn.cover, land.cover)
    woods = within(land.cover == LAND_COVER_NAMES.index("Trees"), 1)
    red = {}
    for season, seen in (("summer", land.dates[1]), ("autumn", autumn.dates[1])):
        red[season] = np.quantile(band_of(seen, "B04")[woods & clear(seen)], 0.75)
    assert red["autumn"] > 1.4 * red["summer"]


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
    for path, ids in ((demo_catalog.truth, land.landuse), (demo_catalog.truth_cover, land.cover)):
        with rasterio.open(path) as truth, rasterio.open(red) as band:
            np.testing.assert_array_equal(truth.read(1), ids)
            assert (truth.transform, truth.crs, truth.shape) == (band.transform, band.crs, band.shape)
            assert (truth.bounds.left % 10, truth.bounds.top % 10) == (0, 0)
            assert tuple(json.loads(truth.tags()["classes"])) == LAND_USE_NAMES
            assert tuple(json.loads(truth.tags()["covers"])) == LAND_COVER_NAMES
            box = rasterio.warp.transform_bounds("EPSG:4326", truth.crs, *demo_catalog.bbox)
            left, bottom, right, top = box
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


def test_an_unknown_season_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(UsageError, match=r"--season 'winter' is unknown. Choose spring, summer, autumn"):
        make_demo_catalog(tmp_path / "new", season="winter")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_the_scenes_of_a_season_are_of_that_season(tmp_path):
    made = make_demo_catalog(tmp_path, season="spring")
    assert made.dates == (datetime.date(2024, 4, 12), datetime.date(2024, 4, 17))

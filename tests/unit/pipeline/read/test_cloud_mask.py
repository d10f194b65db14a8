"""Cloud masks against slow loops, s2cloudless called directly, and scenes whose clouds one can see."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st

from landuse.pipeline.read.cloud_mask import (
    AVERAGED_M,
    CLOUD_PROBABILITY,
    GROWN_M,
    MASK_LATTICE_PX,
    MASK_MARGIN_PX,
    SCL_GROWING,
    SCL_MARGIN_M,
    SCL_USABLE,
    clear_by_coarse_spectrum,
    clear_by_scl,
    clear_by_spectrum,
)
from landuse.pipeline.scene import L1C_CLOUD_BANDS, mask_bands
from landuse.sentinel2 import BANDS

EUROSAT_BANDS = (*(band for band in BANDS if band != "B8A"), "B8A")  # the order in its files

# TOA reflectance x 10000 in L1C_CLOUD_BANDS' order: EuroSAT's forest, and thick water cloud.
LAND_DN = np.array([1131, 829, 426, 770, 2770, 3153, 862, 10, 1357, 554])
CLOUD_DN = np.array([5200, 5100, 5300, 5500, 5900, 5900, 2600, 90, 3900, 2900])


def blobs(seed, rows, cols, fill):
    """Smooth random patches covering about ``fill`` of (rows, cols), as booleans."""
    rng = np.random.default_rng(seed)
    field = np.zeros((rows, cols))
    y, x = np.mgrid[:rows, :cols]
    for _ in range(6):
        reach = rng.uniform(2, 15)
        field += rng.uniform(0.3, 1) * np.exp(
            -((y - rng.uniform(0, rows)) ** 2 + (x - rng.uniform(0, cols)) ** 2) / reach**2
        )
    return field > np.quantile(field, 1 - fill)


def random_scl(seed, rows, cols):
    """Land with patches and single pixels of every class."""
    rng = np.random.default_rng(seed)
    scl = np.full((rows, cols), 4, np.uint8)
    for value in (0, 11, 3, 8, 10, 9):
        scl[blobs(rng.integers(1 << 30), rows, cols, 0.05)] = value
    specks = rng.random((rows, cols)) < 0.01
    scl[specks] = rng.integers(0, 12, specks.sum())
    return scl


def cloudy_scene(seed, rows, cols):
    """(band, y, x) DN of land under patches of cloud of any thickness, and what of it is observed."""
    rng = np.random.default_rng(seed)
    thickness = blobs(rng.integers(1 << 30), rows, cols, 0.2) * rng.uniform(0.2, 1, (rows, cols))
    dn = LAND_DN[:, None, None] * (1 - thickness) + CLOUD_DN[:, None, None] * thickness
    dn *= rng.uniform(0.8, 1.2, (1, rows, cols))
    observed = ~blobs(rng.integers(1 << 30), rows, cols, 0.1)
    return np.where(observed, dn, 0).astype(np.uint16), observed


def test_scl_values_that_are_not_mapped():
    scl = np.arange(12, dtype=np.uint8)[None]
    assert np.nonzero(clear_by_scl(scl, 20)[0])[0].tolist() == [2, 4, 5, 6, 7]


@pytest.mark.parametrize(("pixel_m", "side_px"), [(20, 3), (10, 6), (60, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_scl_mask_equals_a_loop(seed, pixel_m, side_px):
    scl = random_scl(seed, 41, 33)
    rows, cols = scl.shape
    grows = np.isin(scl, SCL_GROWING)
    # A pixel is no speck if it lies in any square of cloud or shadow of 60 m.
    sources = {
        (row + down, col + right)
        for row in range(rows - side_px + 1)
        for col in range(cols - side_px + 1)
        if grows[row : row + side_px, col : col + side_px].all()
        for down in range(side_px)
        for right in range(side_px)
    }
    assert sources
    clear = clear_by_scl(scl, pixel_m)
    for row in range(rows):
        for col in range(cols):
            metres = min(np.hypot(row - r, col - c) for r, c in sources) * pixel_m
            assert clear[row, col] == (int(scl[row, col]) in SCL_USABLE and metres > SCL_MARGIN_M)


@pytest.mark.parametrize("value", sorted({*range(14), 255} - set(SCL_USABLE)))
def test_only_clouds_and_shadows_grow(value):
    scl = np.full((31, 37), 5, np.uint8)
    scl[10:20, 12:22] = value
    grown = (~clear_by_scl(scl, 10)).sum() > 100
    assert grown == (value in (3, 8, 9, 10))


def test_a_speck_is_masked_and_does_not_grow():
    scl = np.full((40, 50), 4, np.uint8)
    scl[10:15, 5:45] = 9  # 50 m wide, however long
    np.testing.assert_array_equal(clear_by_scl(scl, 10), scl == 4)
    scl[10:16, 5:11] = 9  # one square of 60 m
    assert not clear_by_scl(scl, 10)[20, 5]
    assert clear_by_scl(scl, 10)[20, 30]


@given(
    seed=st.integers(0, 1 << 30),
    row=st.integers(0, 90),
    col=st.integers(0, 70),
    rows=st.integers(1, 60),
    cols=st.integers(1, 60),
    pixel_m=st.sampled_from([10, 20]),
)
@settings(max_examples=60)
def test_scl_mask_does_not_depend_on_the_window(seed, row, col, rows, cols, pixel_m):
    scl = random_scl(seed, 100, 80)
    top, left = max(row - MASK_MARGIN_PX, 0), max(col - MASK_MARGIN_PX, 0)
    part = scl[top : row + rows + MASK_MARGIN_PX, left : col + cols + MASK_MARGIN_PX]
    whole = clear_by_scl(scl, pixel_m)[row : row + rows, col : col + cols]
    window = clear_by_scl(part, pixel_m)[row - top :, col - left :][: whole.shape[0], : whole.shape[1]]
    np.testing.assert_array_equal(window, whole)


def test_bands_are_those_of_s2cloudless():
    from s2cloudless.utils import MODEL_BANDS

    assert list(L1C_CLOUD_BANDS) == MODEL_BANDS


@pytest.mark.parametrize("seed", range(4))
def test_spectral_mask_equals_s2cloudless_on_the_60_m_array(seed):
    from s2cloudless import S2PixelCloudDetector

    dn, _ = cloudy_scene(seed, 240, 300)
    reflectance = dn.reshape(10, 40, 6, 50, 6).mean((2, 4)) / 10_000
    detector = S2PixelCloudDetector(
        threshold=CLOUD_PROBABILITY, average_over=AVERAGED_M // 60, dilation_size=GROWN_M // 60
    )
    theirs = detector.get_cloud_masks(np.moveaxis(reflectance, 0, -1)[None])[0] > 0
    ours = ~clear_by_spectrum(dn, np.ones(dn.shape[1:], np.bool_))
    np.testing.assert_array_equal(ours, ours[::6, ::6].repeat(6, 0).repeat(6, 1))
    # They mirror the array at its edge: only what is further away than that reaches is the same.
    inside = np.s_[4:-4, 4:-4]
    assert 0.05 < theirs[inside].mean() < 0.95
    np.testing.assert_array_equal(ours[::6, ::6][inside], theirs[inside])


@pytest.mark.parametrize(("pixel_m", "averaged_px", "grown_px"), [(60, 2, 2), (120, 1, 1), (480, None, None)])
def test_coarse_spectral_mask_equals_s2cloudless(pixel_m, averaged_px, grown_px):
    from s2cloudless import S2PixelCloudDetector

    dn, observed = cloudy_scene(3, 60, 50)
    seen = np.ones_like(observed)
    dn[:, ~observed] = LAND_DN[:, None]
    detector = S2PixelCloudDetector(
        threshold=CLOUD_PROBABILITY, average_over=averaged_px, dilation_size=grown_px
    )
    theirs = detector.get_cloud_masks(np.moveaxis(dn / 10_000, 0, -1)[None])[0] > 0
    inside = np.s_[4:-4, 4:-4]
    assert 0.05 < theirs[inside].mean() < 0.95
    np.testing.assert_array_equal(~clear_by_coarse_spectrum(dn, seen, pixel_m)[inside], theirs[inside])
    assert not clear_by_coarse_spectrum(dn, observed, pixel_m)[~observed].any()


@pytest.mark.parametrize(
    ("level", "bands", "needed"),
    [
        ("L2A", ("B04", "SCL"), ("SCL",)),
        ("L2A", BANDS, ()),
        ("L1C", BANDS, L1C_CLOUD_BANDS),
        ("L1C", [band for band in BANDS if band != "B10"], ()),
    ],
)
def test_what_a_mask_is_made_of(level, bands, needed):
    assert mask_bands(level, bands) == needed


@given(
    seed=st.integers(0, 1 << 30),
    row=st.integers(0, 30),
    col=st.integers(0, 20),
    rows=st.integers(1, 15),
    cols=st.integers(1, 15),
)
@settings(max_examples=40)
def test_spectral_mask_does_not_depend_on_the_window(seed, row, col, rows, cols):
    assert MASK_MARGIN_PX % MASK_LATTICE_PX == 0
    dn, observed = cloudy_scene(seed, 31 * MASK_LATTICE_PX, 21 * MASK_LATTICE_PX)
    row, col, rows, cols = (MASK_LATTICE_PX * cells for cells in (row, col, rows, cols))
    top, left = max(row - MASK_MARGIN_PX, 0), max(col - MASK_MARGIN_PX, 0)
    part = np.s_[top : row + rows + MASK_MARGIN_PX, left : col + cols + MASK_MARGIN_PX]
    whole = clear_by_spectrum(dn, observed)[row : row + rows, col : col + cols]
    window = clear_by_spectrum(dn[:, *part], observed[part])[row - top :, col - left :]
    np.testing.assert_array_equal(window[: whole.shape[0], : whole.shape[1]], whole)


def test_what_was_not_observed_is_not_clear_and_does_not_matter():
    dn, observed = cloudy_scene(5, 120, 180)
    clear = clear_by_spectrum(dn, observed)
    assert not clear[~observed].any()
    bright = np.where(observed, dn, 60_000).astype(np.uint16)
    np.testing.assert_array_equal(clear_by_spectrum(bright, observed), clear)
    assert not clear_by_spectrum(dn, np.zeros_like(observed)).any()


def test_beyond_the_array_is_like_not_observed():
    dn, _ = cloudy_scene(6, 120, 180)
    observed = np.zeros((120, 180), np.bool_)
    observed[30:90, 60:] = True
    part = clear_by_spectrum(dn[:, 30:90, 60:], observed[30:90, 60:])
    np.testing.assert_array_equal(clear_by_spectrum(dn, observed)[30:90, 60:], part)
    assert 0 < part.mean() < 1


def test_spectral_mask_is_the_same_in_threads():
    dn, observed = cloudy_scene(7, 300, 240)
    alone = clear_by_spectrum(dn, observed)
    with ThreadPoolExecutor(4) as pool:
        for mask in pool.map(lambda _: clear_by_spectrum(dn, observed), range(8)):
            np.testing.assert_array_equal(mask, alone)


@pytest.mark.parametrize(
    ("dn_shape", "observed_shape", "message"),
    [
        ((9, 12, 12), (12, 12), "9 bands; the cloud test needs B01, "),
        ((10, 12, 12), (12, 18), "do not share whole cells of 6 x 6 px"),
        ((10, 13, 12), (13, 12), "do not share whole cells of 6 x 6 px"),
        ((10, 12, 20), (12, 20), "do not share whole cells of 6 x 6 px"),
    ],
)
def test_shapes_that_are_no_cells(dn_shape, observed_shape, message):
    with pytest.raises(ValueError, match=message):
        clear_by_spectrum(np.ones(dn_shape, np.uint16), np.ones(observed_shape, np.bool_))


def test_the_module_loads_nothing_heavy():
    module = "landuse.pipeline.read.cloud_mask"
    code = f"import sys, {module}; print({{'scipy', 's2cloudless', 'cv2'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def l1c_clear(path, bands):
    """Clear pixels of a real L1C image, (y, x), its bands in the order given; padded to whole cells."""
    with rasterio.open(path) as image:
        dn = image.read([bands.index(band) + 1 for band in L1C_CLOUD_BANDS])
    _, rows, cols = dn.shape
    padded = np.pad(dn, ((0, 0), (0, -rows % MASK_LATTICE_PX), (0, -cols % MASK_LATTICE_PX)))
    return clear_by_spectrum(padded, (padded > 0).all(axis=0))[:rows, :cols]


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("slovenia_L1C_20150830_13b_utm33n.tif", 0.99, 1),
        ("orihuela_es_L1C_20190918_13b_utm30n.tif", 0.99, 1),  # towns, industry, bare soil, water
        ("slovenia_L1C_20150820_cloudy_13b_utm33n.tif", 0, 0.01),
        ("slovenia_L1C_20150731_cloudy_13b_utm33n.tif", 0, 0.03),  # thinner, with darker gaps
    ],
)
def test_clear_share_of_real_l1c_scenes(data_dir, name, least, most):
    assert least <= l1c_clear(data_dir / "scenes" / name, BANDS).mean() <= most


def test_clear_patches_stay_clear(data_dir):
    """EuroSAT's patches were chosen by hand: cloud is rare, and what is masked is mostly a mistake."""
    masked = {}
    for folder in sorted((data_dir / "eurosat" / "EuroSAT_MS").iterdir()):
        shares = [1 - l1c_clear(path, EUROSAT_BANDS).mean() for path in sorted(folder.glob("*.tif"))]
        masked[folder.name] = np.mean(shares)
    assert len(masked) == 10
    assert np.mean(list(masked.values())) < 0.012
    assert max(masked.values()) < 0.05, masked


@pytest.mark.parametrize(("date", "across_m"), [("20150820", 240), ("20150731", 360)])
def test_small_clouds_are_found(data_dir, date, across_m):
    """A disc of a real cloud set into the clear scene of the same place."""

    def scene(name):
        with rasterio.open(data_dir / "scenes" / name) as image:
            return image.read([BANDS.index(band) + 1 for band in L1C_CLOUD_BANDS])[:, :96, :96]

    cloudy, clear = (
        scene(f"slovenia_L1C_{date}_cloudy_13b_utm33n.tif"),
        scene("slovenia_L1C_20150830_13b_utm33n.tif"),
    )
    y, x = np.mgrid[:96, :96]
    metres = np.hypot(y - 46, x - 51) * 10
    disc = metres <= across_m / 2
    found = ~clear_by_spectrum(np.where(disc, cloudy, clear), np.ones((96, 96), np.bool_))
    assert found[disc].mean() > 0.95
    assert not found[metres > across_m / 2 + 300].any()


@pytest.mark.parametrize(
    ("name", "raw_most", "least", "most"),
    [
        ("exe_2024-06-02_12-21-19_EPSG27700.tif", 0.005, 0, 0.005),  # no cloud, only specks of SCL's
        ("exe_2024-08-01_12-21-19.tif", 0.04, 0.05, 0.08),
        ("exe_2024-06-17_12-21-21_UTM.tif", 0.75, 0.76, 0.80),
        ("exe_2024-08-16_12-21-11.tif", 0.62, 0.74, 0.79),
        ("exe_2024-08-26_12-21-11.tif", 0.70, 0.76, 0.81),
    ],
)
def test_masked_share_of_real_scl(data_dir, name, raw_most, least, most):
    with rasterio.open(data_dir / "scenes" / "exeter_gb_2024_cloudy" / name) as image:
        scl = image.read(5).astype(np.uint8)
        masked = ~clear_by_scl(scl, image.res[0])
    unusable, seen = ~np.isin(scl, list(SCL_USABLE)), scl != 0
    assert masked[unusable].all()
    assert unusable[seen].mean() <= raw_most
    assert least <= masked[seen].mean() <= most

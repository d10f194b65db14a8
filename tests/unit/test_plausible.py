"""What pixels say against what is stated. Oracles: real scenes whose units and band order are known, true and
falsified. No real scene may be refused, whatever it shows."""

import numpy as np
import pytest
import rasterio

from landuse.plausible import likely_order, likely_units, offset_doubt, order_fault, unit_fault
from landuse.sentinel2 import BANDS

INN = "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif"
SLOVENIA = "scenes/slovenia_L1C_20150830_13b_utm33n.tif"
DENMARK = "cover/terramesh/S2L1C/637U_59R_1_3.tif"
CHILE = "cover/terramesh/S2L2A/433D_629L_3_1.tif"
CARRIES_1000 = ("exe_", "S2L1C/282D", "S2L1C/433D", "S2L1C/609U", "S2L2A/433D")
"""Scenes whose stored values carry +1000."""


def stored(path):
    """DN of each band at no more than 110 x 110 places; level."""
    with rasterio.open(path) as file:
        values = file.read(out_shape=(file.count, min(file.height, 110), min(file.width, 110)))
        names = [(text or "").upper() for text in file.descriptions]
    if not any(names):
        names = [band for band in BANDS if band != "B10" or len(values) == 13]
    seen = (np.isfinite(values) & (values != 0)).all(0)
    bands = {
        name: layer[seen].astype(float) for name, layer in zip(names, values, strict=True) if name in BANDS
    }
    return bands, "L1C" if "L1C" in str(path) else "L2A"


def reflectance(path):
    bands, level = stored(path)
    offset = 1000 if any(part in str(path) for part in CARRIES_1000) else 0
    return {band: (values - offset) / 10_000 for band, values in bands.items()}, level


def test_no_real_scene_is_refused(data_dir):
    """Forest, fields, towns, savanna, desert, snow, a flood, haze and full cloud, at both levels."""
    paths = [
        path for folder in ("scenes", "cover/terramesh/S2L?") for path in data_dir.glob(f"{folder}*/**/*.tif")
    ]
    paths += list((data_dir / "scenes").glob("*.tif"))
    assert len(paths) >= 23
    for path in paths:
        bands, level = reflectance(path)
        visible = {band: bands[band] for band in ("B04", "B03", "B02")}
        for chosen in (bands, visible, visible | {"B08": bands["B08"]}):
            found = unit_fault(chosen, level), order_fault(chosen, level), offset_doubt(chosen, level)
            assert found == (None, None, None), path


@pytest.mark.parametrize(
    ("name", "scale", "offset", "told", "likely"),
    [
        (INN, 0.1, 0, "too dark", (0.001, 0)),  # x 1000, read as x 10000
        (INN, 1e-4, 0, "too dark", (1.0, 0)),  # 0..1
        (INN, 10, 0, "too bright", None),
        (INN, 1, -0.1, "below zero", None),
        (SLOVENIA, 0.1, 0, "too dark", (0.001, 0)),
        (CHILE, 1, 0.1, "carry ESA's +1000", (1e-4, -0.1)),
        (SLOVENIA, 1, 0.1, "carry ESA's +1000", (1e-4, -0.1)),
    ],
)
def test_units_that_are_not_the_stated_ones_are_told(data_dir, name, scale, offset, told, likely):
    true, level = reflectance(data_dir / name)
    wrong = {band: scale * values + offset for band, values in true.items()}
    assert told in unit_fault(wrong, level)
    if likely is not None:  # as if they had been read as x 10000
        assert likely_units({b: values * 10_000 for b, values in wrong.items()}, level) == likely


def test_leaves_too_bright_in_red_are_doubtful(data_dir):
    true, level = reflectance(data_dir / INN)
    lifted = {band: values + 0.1 for band, values in true.items()}
    assert unit_fault(lifted, level) is None  # haze could look the same
    assert "+1000" in offset_doubt(lifted, level)
    assert "+1000" in offset_doubt({band: lifted[band] for band in ("B04", "B08")}, level)


def test_visible_bands_that_all_begin_at_a_tenth_are_doubtful_in_l2a(data_dir):
    """Red, green and blue alone: in L1C the air is as bright, and in L2A another band may prove haze."""
    true, level = reflectance(data_dir / INN)
    lifted = {band: true[band] + 0.1 for band in ("B04", "B03", "B02")}
    assert unit_fault(lifted, level) is None
    assert "every band is above 0.107" in offset_doubt(lifted, level)
    assert offset_doubt(lifted, "L1C") is None
    assert offset_doubt(lifted | {"B11": true["B02"]}, level) is None  # dark: it carries nothing


def test_haze_that_begins_at_a_tenth_is_a_doubt_and_no_fault(data_dir):
    """A real scene under haze, its air taken off as to L2A. If it were refused, it could not be mapped."""
    true, _ = reflectance(data_dir / "scenes/slovenia_L1C_20150820_cloudy_13b_utm33n.tif")
    air = {"B02": 0.075, "B03": 0.045, "B04": 0.03}
    hazy = {band: true[band] - value for band, value in air.items()}
    assert unit_fault(hazy, "L2A") is None
    assert "+1000" in offset_doubt(hazy, "L2A")


def test_no_clear_patch_of_l2a_is_doubtful_and_all_are_that_carry_the_offset(data_dir):
    with np.load(data_dir / "cover/l2a_patches/bands_10m.npz") as patches:
        codes = patches["bands_10m"][::10, :3]
    for patch in (codes * 1.3 / 255) ** 2:
        clear = dict(zip(("B02", "B03", "B04"), patch.reshape(3, -1), strict=True))
        assert offset_doubt(clear, "L2A") is None
        assert offset_doubt({band: values + 0.1 for band, values in clear.items()}, "L2A")


@pytest.mark.parametrize(
    ("name", "exchanged"),
    [
        (INN, ("B02", "B04")),
        (INN, ("B04", "B08")),
        (INN, ("B03", "B08")),
        (SLOVENIA, ("B02", "B04")),
        (DENMARK, ("B05", "B06")),
        (DENMARK, ("B06", "B07")),
        (SLOVENIA, ("B11", "B12")),
        (SLOVENIA, ("B8A", "B09")),
        (SLOVENIA, ("B10", "B11")),
        (CHILE, ("B02", "B04")),
        (CHILE, ("B11", "B12")),
    ],
)
def test_exchanged_bands_are_told(data_dir, name, exchanged):
    true, level = reflectance(data_dir / name)
    one, other = exchanged
    names = [{one: other, other: one}.get(band, band) for band in true]
    assert order_fault(dict(zip(names, true.values(), strict=True)), level)


@pytest.mark.parametrize("bands", [("B04", "B03", "B02"), ("B04", "B03", "B02", "B08")])
def test_the_order_that_fits_is_named(data_dir, bands):
    true, level = reflectance(data_dir / INN)
    in_file = [true[band] for band in ("B02", "B03", "B04", "B08")[: len(bands)]]
    assert (
        likely_order(dict(zip(bands, in_file, strict=True)), level)
        == ("B02", "B03", "B04", "B08")[: len(bands)]
    )


def test_eurosat_s_order_is_told_from_that_of_the_wavelengths(data_dir):
    true, level = reflectance(data_dir / SLOVENIA)
    b8a_last = [true[band] for band in true if band != "B8A"] + [true["B8A"]]
    assert "B10" in order_fault(dict(zip(BANDS, b8a_last, strict=True)), level)


def test_few_pixels_prove_nothing(data_dir):
    true, level = reflectance(data_dir / INN)
    few = {band: values[:999] * 0.1 for band, values in true.items()}
    assert unit_fault(few, level) is None
    assert order_fault({"B04": few["B02"], "B03": few["B03"], "B02": few["B04"]}, level) is None

"""Oracles: the radiative model written out in numpy, and EuroSAT's own pairs of TIFF and JPEG."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from landuse.contract import ModelContract
from landuse.errors import ModelError
from landuse.model.bands import EUROSAT_JPEG_MAX_DN, EUROSAT_TIFF, RGB
from landuse.model.normalize import PATH_DN, TRANSMITTANCE, bring_to_input, level_inputs, path_dn, standardize
from landuse.sentinel2 import BANDS, CENTER_WAVELENGTH_UM

CONTRACT = ModelContract(
    name="rgb",
    bands=RGB,
    levels=level_inputs(RGB),
    saturation_dn=(2750.0,) * 3,
    mean=(0.3, 0.35, 0.4),
    std=(0.2, 0.15, 0.1),
    classes=("a", "b"),
    patch_size_px=2,
    resolution_m=10.0,
)


def pixel(values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1)


@given(st.tuples(*[st.floats(1, 12_000)] * 3))
def test_one_ground_reaches_the_network_alike_through_both_levels(l2a):
    l1c = [TRANSMITTANCE[band] * dn + PATH_DN[band] for dn, band in zip(l2a, RGB, strict=True)]
    from_l1c = bring_to_input(pixel(l1c), CONTRACT, "L1C")
    from_l2a = bring_to_input(pixel(l2a), CONTRACT, "L2A")
    torch.testing.assert_close(from_l1c, from_l2a, rtol=1e-5, atol=0.02)
    # Half-way between the two: half the path, half the transmittance.
    middle = [
        (1 + TRANSMITTANCE[band]) / 2 * dn + PATH_DN[band] / 2 for dn, band in zip(l2a, RGB, strict=True)
    ]
    torch.testing.assert_close(from_l2a.double(), pixel(middle), rtol=1e-5, atol=0.02)


def test_transform_and_standardisation_by_numpy():
    rng = np.random.default_rng(0)
    dn = rng.integers(1, 4000, (3, 3, 4, 5)).astype(np.uint16)
    got = standardize(bring_to_input(torch.from_numpy(dn), CONTRACT, "L2A"), CONTRACT)
    for c, band in enumerate(("B04", "B03", "B02")):
        path = {"B04": 300, "B03": 400, "B02": 700}[band]
        value = np.clip((dn[:, c] * 0.975 + path / 2) / 2750, 0, 1)
        expected = (value - CONTRACT.mean[c]) / CONTRACT.std[c]
        np.testing.assert_allclose(got[:, c].numpy(), expected, rtol=1e-4, atol=1e-4)
    assert got.dtype == torch.float32


def test_a_level_the_model_does_not_read_is_refused():
    with pytest.raises(ModelError, match=r"reads L1C, L2A; the imagery is L1B\. Choose another --model"):
        bring_to_input(torch.ones(1, 3, 2, 2), CONTRACT, "L1B")


@pytest.mark.parametrize("shape", [(1, 4, 2, 2), (3, 2, 2)])
def test_another_number_of_bands_is_refused(shape):
    with pytest.raises(ModelError, match="B04, B03, B02"):
        bring_to_input(torch.ones(shape), CONTRACT, "L2A")


def test_path_radiance_is_never_guessed():
    assert path_dn(RGB) == (300.0, 400.0, 700.0)
    with pytest.raises(ModelError, match=r"known for B8, SCL; known: B01, B02, .*B12\. Train on those"):
        path_dn(("B04", "B8", "SCL"))


def test_path_radiance_is_the_formula_of_its_table():
    """Oracle: the Rayleigh optical depth of Hansen and Travis 1974, at the bands' centres."""

    def formula(wavelength_um):
        inverse = wavelength_um**-2
        depth = 0.008569 * inverse**2 * (1 + 0.0113 * inverse + 0.00013 * inverse**2)
        return 2950 * depth + 98 * wavelength_um**-1.3

    assert set(PATH_DN) == set(BANDS)
    for band in ("B02", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"):
        assert PATH_DN[band] == pytest.approx(formula(CENTER_WAVELENGTH_UM[band]), abs=3), band
    assert PATH_DN["B10"] == 0  # sees no ground
    by_wavelength = [PATH_DN[band] for band in BANDS if band != "B10"]
    assert by_wavelength == sorted(by_wavelength, reverse=True)


def test_water_vapour_darkens_b09_alone():
    """Oracle: EuroSAT's published L1C means of B09 and of its neighbour B8A, over the same ground."""
    assert {band for band, value in TRANSMITTANCE.items() if value != 0.95} == {"B09"}
    ground = (2594.1 - PATH_DN["B8A"]) / TRANSMITTANCE["B8A"]
    assert TRANSMITTANCE["B09"] * ground + PATH_DN["B09"] == pytest.approx(732.1, rel=0.05)


def test_a_model_of_cirrus_reads_l1c_alone():
    assert [entry.level for entry in level_inputs(BANDS)] == ["L1C"]
    without = tuple(band for band in BANDS if band != "B10")
    assert [entry.level for entry in level_inputs(without)] == ["L1C", "L2A"]
    assert all(len(entry.gain) == len(entry.offset_dn) == 12 for entry in level_inputs(without))


def test_each_band_has_its_own_saturation():
    contract = replace(CONTRACT, saturation_dn=(1000.0, 2000.0, 4000.0), mean=(0.0,) * 3, std=(1.0,) * 3)
    x = standardize(torch.tensor([-5.0, 500.0, 3000.0]).repeat(3, 1).view(1, 3, 1, 3), contract)
    assert x[0, :, 0].tolist() == [[0, 0.5, 1], [0, 0.25, 1], [0, 0.125, 0.75]]


def read_pairs(data_dir):
    """Class, 13-band DN (13, 64, 64) and JPEG (3, 64, 64) of every patch that has both."""
    folder = data_dir / "eurosat"
    for tiff in sorted((folder / "EuroSAT_MS").glob("*/*.tif")):
        jpeg = folder / "EuroSAT_RGB" / tiff.parent.name / f"{tiff.stem}.jpg"
        if not jpeg.exists():
            continue  # one of the patches kept apart
        with rasterio.open(tiff) as source:
            dn = source.read()
        with Image.open(jpeg) as image:
            yield tiff.parent.name, dn, np.asarray(image).transpose(2, 0, 1)


def test_eurosat_s_jpegs_are_its_tiffs_by_our_bands_and_constant(data_dir):
    order = [EUROSAT_TIFF.index(band) for band in RGB]
    errors, reversed_errors = [], []
    for _, dn, jpeg in read_pairs(data_dir):
        expected = np.clip(dn[order] / EUROSAT_JPEG_MAX_DN * 255, 0, 255)
        errors.append(np.abs(expected - jpeg).ravel())
        reversed_errors.append(np.abs(expected[::-1] - jpeg).ravel())
    assert len(errors) >= 200
    assert np.median(np.concatenate(errors)) <= 2
    # The check can fail: blue for red is far off.
    assert np.median(np.concatenate(reversed_errors)) > 10


def test_eurosat_s_tiffs_have_cirrus_and_the_narrow_infrared_where_we_say(data_dir):
    stacks = {band: [] for band in EUROSAT_TIFF}
    for _, dn, _ in read_pairs(data_dir):
        for band, values in zip(EUROSAT_TIFF, dn, strict=True):
            stacks[band].append(values.mean())
    means = {band: float(np.mean(values)) for band, values in stacks.items()}
    # Published means over all 27,000 patches (Helber et al. 2019), in the files' order.
    published = (
        1354.4,
        1118.2,
        1042.9,
        947.6,
        1199.5,
        1999.8,
        2369.2,
        2296.8,
        732.1,
        12.1,
        1819.0,
        1118.9,
        2594.1,
    )
    for band, value in zip(EUROSAT_TIFF, published, strict=True):
        assert means[band] == pytest.approx(value, rel=0.15), band
    # Narrow and broad near infrared see the same ground; water vapour (B09) much less.
    assert np.corrcoef(stacks["B8A"], stacks["B08"])[0, 1] > 0.95

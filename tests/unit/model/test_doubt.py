"""Doubt: scikit-learn's and scipy's densities are the oracles; and real land against what it is not."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import rasterio
import torch
from scipy.special import expit
from scipy.stats import multivariate_normal

from landuse.model.checkpoint import contract_from_dict, load_contract
from landuse.model.doubt import DoubtMeter, draw, factors_of, spectra_of
from landuse.model.normalize import bring_to_input
from landuse.model.predict_pixels import PixelPredictor
from landuse.model.training.pixels import known_spectra
from landuse.model.training.pixels.known_spectra import fit_known_spectra
from tests.workflows.pixel_models import INFRARED, VISIBLE, pixel_contract, save_pixel_model

BANDS = (*VISIBLE, *INFRARED)
CPU = torch.device("cpu")


def land(rng, count=60, side=32, bands=BANDS):
    """Patches of fields and woods: few spectra, varied."""
    field = np.array([1300, 1000, 700, 3000, 1500, 2400, 2800, 3100, 2700, 1900])
    wood = np.array([300, 450, 300, 2600, 700, 2000, 2500, 2700, 1200, 550])
    shade = rng.uniform(0.7, 1.3, (count, 1, 1, 1))
    share = np.kron(rng.random((count, 1, side // 8, side // 8)) < 0.5, np.ones((8, 8)))
    dn = np.where(share, field[:, None, None], wood[:, None, None]) * shade
    dn = dn * rng.normal(1, 0.05, (count, len(BANDS), side, side))
    return torch.tensor(dn.clip(1, 20_000))[:, [BANDS.index(band) for band in bands]]


@pytest.fixture(scope="module")
def contract():
    rng = np.random.default_rng(3)
    plain = pixel_contract()
    with pytest.MonkeyPatch.context() as patched:  # the same, of fewer patches
        patched.setattr(known_spectra, "PATCHES_A_LEVEL", 60)
        patched.setattr(known_spectra, "PARTS", 4)
        spectra = fit_known_spectra([(land(rng), BANDS, "L2A")], plain)
    return replace(plain, spectra=spectra)


def doubt_of(contract, dn, bands=BANDS):
    """Of patches laid side by side, as a block."""
    whole = torch.zeros((1, len(BANDS), *dn.shape[2:]))
    whole[:, [BANDS.index(band) for band in bands]] = dn.float()
    return DoubtMeter(contract, bands, CPU)(bring_to_input(whole, contract, "L2A")).numpy()


@pytest.mark.parametrize("bands", [VISIBLE, BANDS[:4], (*BANDS[:4], "B11"), BANDS])
def test_land_as_in_training_is_not_doubted_and_what_it_is_not_is(contract, bands):
    rng = np.random.default_rng(4)
    columns = [BANDS.index(band) for band in bands]
    known = land(rng, 1, 128, bands)
    assert (doubt_of(contract, known, bands) >= 0.5).mean() < 0.02
    desert = torch.tensor([3400.0, 2300, 1500, 4200, 3700, 3900, 4000, 4300, 5300, 4900])[columns]
    strange = {
        "desert": desert[:, None, None].expand(-1, 64, 64)[None],
        "noise": torch.tensor(rng.integers(1, 6000, (1, len(bands), 64, 64))),
        "constant": torch.full((1, len(bands), 64, 64), 2500),
        "cloud": torch.full((1, len(bands), 64, 64), 9000),
        "a tenth of the unit": known[..., :64, :64] / 10,
        "an offset left in": known[..., :64, :64] + 1000,
    }
    for name, dn in strange.items():
        assert (doubt_of(contract, dn, bands) >= 0.5).mean() > 0.8, name


@pytest.mark.parametrize("bands", [VISIBLE, BANDS])
def test_doubt_is_the_rarity_of_the_strangest_view(contract, bands):
    """Oracle: scipy's densities of each part over each choice of bands, one square at a time."""
    known = contract.spectra
    rng = np.random.default_rng(5)
    dn = torch.tensor(rng.integers(200, 4000, (1, len(bands), 24, 24)))
    whole = torch.zeros((1, len(BANDS), 24, 24))
    whole[:, : len(bands)] = dn
    spectra = spectra_of(bring_to_input(whole, contract, "L2A"))[0].numpy()  # (band, 6, 6)
    covariances = factors_of(known) @ factors_of(known).transpose(0, 2, 1)

    def density(values, columns):
        parts = [
            weight * multivariate_normal(np.array(mean)[columns], cov[np.ix_(columns, columns)]).pdf(values)
            for weight, mean, cov in zip(known.weights, known.means, covariances, strict=True)
        ]
        return np.log(np.sum(parts, axis=0) + 1e-300)

    rarity = []
    for count in {3, min(4, len(bands)), len(bands)}:
        columns = np.arange(count)
        least = np.quantile(density(draw(known, 20_000)[:, columns], columns), known.rare)
        rarity.append(least - density(np.moveaxis(spectra[columns], 0, -1), columns))
    each = expit(np.max(rarity, axis=0))
    found = doubt_of(contract, dn, bands)
    for row, col in np.ndindex(6, 6):
        near = each[max(row - 2, 0) : row + 3, max(col - 2, 0) : col + 3].mean()
        np.testing.assert_allclose(found[row * 4 : row * 4 + 4, col * 4 : col * 4 + 4], near, atol=2e-3)


def test_a_mixture_finds_the_parts_that_were_drawn_from():
    rng = np.random.default_rng(6)
    true = np.array([[0.2, 0.2, 0.2], [0.5, 0.3, 0.6]])
    cells = np.concatenate([rng.normal(mean, 0.03, (4000 * n, 3)) for n, mean in enumerate(true, 1)])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(known_spectra, "PARTS", 2)
        weights, means, factors = known_spectra._mixture(cells, rng)
    order = np.argsort(weights)
    np.testing.assert_allclose(weights[order], [1 / 3, 2 / 3], atol=0.01)
    np.testing.assert_allclose(means[order], true, atol=0.003)
    np.testing.assert_allclose(
        factors @ factors.transpose(0, 2, 1), np.stack([np.eye(3) * 0.0011] * 2), atol=1e-4
    )


def test_a_model_carries_its_spectra_and_an_older_one_tells_no_doubt(contract, tmp_path):
    dn = land(np.random.default_rng(7), 1, 64)[0].numpy().astype(np.uint16)
    told, silent = (
        PixelPredictor.load(str(save_pixel_model(tmp_path / f"{n}.safetensors", spectra=spectra)), "cpu")
        for n, spectra in enumerate((contract.spectra, None))
    )
    assert load_contract(tmp_path / "0.safetensors").spectra == contract.spectra
    assert silent.pixel_scores(dn, BANDS, "L2A").doubt is None
    np.testing.assert_array_equal(
        told.pixel_scores(dn, BANDS, "L2A").doubt, doubt_of(contract, torch.tensor(dn[None].astype(float)))
    )
    assert "spectra" in asdict(told.contract)


def test_real_land_ice_and_cloud(data_dir):
    """A mixture of real patches of both levels; scenes that it was not fitted to, in red, green and blue."""

    folder = data_dir / "cover" / "l2a_patches"
    fine, coarse = (np.load(folder / f"{name}.npz")[name] for name in ("bands_10m", "bands_20m"))

    def l2a(rows):
        codes = np.concatenate([fine[rows], coarse[rows].repeat(2, 2).repeat(2, 3)], 1)
        held = ("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
        return torch.tensor((codes * 1.3 / 255) ** 2 * 10_000)[:, [held.index(band) for band in BANDS]]

    def l1c(path):
        with rasterio.open(path) as file:  # EuroSAT's B8A comes last
            order = [f"B{n:02}" for n in range(1, 13)]
            order = [*order, "B8A"] if "EuroSAT" in str(path) else file.descriptions
            return file.read([order.index(band) + 1 for band in BANDS]).astype(float)

    def share(contract, dn, level):
        rows, cols = (side // 4 * 4 for side in dn.shape[1:])
        whole = torch.tensor(dn[None, :, :rows, :cols]).float()
        doubt = DoubtMeter(contract, VISIBLE, CPU)(bring_to_input(whole, contract, level))
        return float((doubt >= 0.5).float().mean())

    plain = pixel_contract()
    patches = np.stack([l1c(path) for path in sorted((data_dir / "eurosat/EuroSAT_MS").glob("*/*.tif"))[::4]])
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("PATCHES_A_LEVEL", 300), ("CELLS", 6000), ("ROUNDS", 15)):
            patched.setattr(known_spectra, name, value)
        parts = [(l2a(np.s_[:900:3]), BANDS, "L2A"), (torch.tensor(patches), BANDS, "L1C")]
        contract = replace(plain, spectra=fit_known_spectra(parts, plain))
    scenes = data_dir / "scenes"
    assert share(contract, l1c(scenes / "orihuela_es_L1C_20190918_13b_utm30n.tif"), "L1C") < 0.05
    assert share(contract, l1c(scenes / "slovenia_L1C_20150830_13b_utm33n.tif"), "L1C") < 0.05
    assert share(contract, l1c(scenes / "slovenia_L1C_20150820_cloudy_13b_utm33n.tif"), "L1C") > 0.6
    held_back = torch.cat(list(l2a(np.s_[2000::100])), -1).numpy()
    assert share(contract, held_back, "L2A") < 0.05
    ice = data_dir / "cover/terramesh/S2L1C/609U_541L_3_0.tif"
    with rasterio.open(ice) as file:
        stored = file.read([4, 3, 2]).astype(float) - 1000  # its offset
    assert share(contract, np.concatenate([stored, np.zeros((7, *stored.shape[1:]))]), "L1C") > 0.9


def test_patches_without_all_bands_tell_no_spectra():
    visible = land(np.random.default_rng(8), 4, 16, VISIBLE)
    assert fit_known_spectra([(visible, VISIBLE, "L1C")], pixel_contract()) is None


@pytest.mark.parametrize(
    "spoil",
    [
        {"weights": []},
        {"weights": [0.5]},
        {"means": [[0.1] * 9] * 4},
        {"factors": [[[1.0]]] * 4},
        {"rare": 2.0},
        {"weights": [float("nan")] * 4},
        {"factors": [[[0.0] * (n + 1) for n in range(10)]] * 4},
        {"means": [[1e300] * 10] * 4},
        {"more": 1},
    ],
)
def test_a_hostile_mixture_is_refused(contract, spoil):
    values = json.loads(json.dumps(asdict(contract)))
    assert contract_from_dict(values) == contract
    values["spectra"] |= spoil
    with pytest.raises((ValueError, TypeError)):
        contract_from_dict(values)

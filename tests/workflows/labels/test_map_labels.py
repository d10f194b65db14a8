"""Maps of a model that tells labels. Oracles: the patches scored one by one, numpy, rasterio's polygons."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from rasterio.features import rasterize

from landuse.contract import IMAGE_BANDS, LabelOutputs, LevelInput, ModelContract
from landuse.errors import ModelError, UsageError
from landuse.model.checkpoint import load_checkpoint, save_checkpoint
from landuse.model.predict import Predictor
from landuse.pipeline.blocks.votes import label_bits
from landuse.pipeline.write.vector_layers import VectorOptions
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.model_card import model_item
from tests.stac_schemas import stac_errors as schema_errors
from tests.workflows.patch_models import save_patch_model
from tests.workflows.small_maps import catalog_of, read, red_raster, request

LABELS = ("dark", "bright", "even")


class ByBrightness:
    """Labels of patches of 16 px, so that the map can be computed by hand; any number of them is there."""

    weights_sha256 = "1" * 64
    weights_path = None
    contract = ModelContract(
        name="brightness", bands=("B04",), saturation_dn=(10_000.0,), mean=(0.0,), std=(1.0,),
        levels=(LevelInput(level="L2A", gain=(1.0,), offset_dn=(0.0,)),),
        classes=LABELS, patch_size_px=16, resolution_m=10.0,
        labels=LabelOutputs(thresholds=(0.6, 0.3, 0.5)),
    )  # fmt: skip

    def cell_probabilities(self, dn, level, cells):
        mean = dn.mean((1, 2, 3)) / 10_000
        even = np.exp(-dn.std((1, 2, 3)) / 1000)
        told = np.stack([1 - mean, mean, even], 1).astype(np.float32)
        return np.tile(told[:, :, None, None], (1, 1, cells, cells))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    values = rng.integers(500, 9500, (8, 6)).repeat(16, 0).repeat(16, 1) + rng.normal(0, 300, (128, 96))
    values[:, 48:] += rng.normal(0, 900, (128, 48))
    source = catalog_of(folder, red_raster(folder / "red.tif", values.clip(1, 10_000).astype(np.uint16)))
    asked = request(folder, source, stride_px=16, vectors=VectorOptions(whole_cells=True))
    return map_area(asked, ByBrightness()), asked.out, source


def test_each_label_has_a_band_of_probabilities_and_a_bit(made):
    report, out, _ = made
    assert {"labels.tif", "label_bits.tif", "landuse.tif"} <= {path.name for path in out.iterdir()}
    assert not (out / "probabilities.tif").exists()
    with rasterio.open(out / "labels.tif") as file:
        assert file.descriptions == LABELS
        shares = file.read()
    with rasterio.open(out / "label_bits.tif") as file:
        assert file.dtypes == ("uint32",)
        assert file.descriptions == ("bits of dark, bright, even",)
        bits = file.read(1)
    mapped = shares[0] != 255
    assert mapped.sum() > 20
    there = [shares[i] / 250 >= threshold for i, threshold in enumerate((0.6, 0.3, 0.5))]
    expected = sum(row.astype(np.uint32) << i for i, row in enumerate(there))
    assert (bits[mapped] == expected[mapped]).all()
    assert (bits[~mapped] == 2**32 - 1).all()
    # Labels do not exclude each other: sums are not 1, and 1 - mean and mean are both kept as they are.
    sums = shares[:2, mapped].sum(0, dtype=int)
    assert (abs(sums - 250) <= 1).all()
    assert shares[:, mapped].sum(0, dtype=int).max() > 300
    assert (read(out / "landuse.tif")[mapped] == shares[:, mapped].argmax(0)).all()
    assert (read(out / "confidence.tif")[mapped] == shares[:, mapped].max(0)).all()
    item = json.loads((out / "item.json").read_text())
    assert [band["name"] for band in item["assets"]["labels"]["bands"]] == list(LABELS)
    assert item["assets"]["label_bits"]["nodata"] == 2**32 - 1
    assert report.plan.thresholds == (0.6, 0.3, 0.5)


def test_polygons_of_each_label_are_where_its_bits_are(made):
    """Oracle: GDAL's rasterizer puts each label's polygons back into cells."""
    _, out, _ = made
    polygons = gpd.read_file(out / "landuse.gpkg", layer="labels")
    with rasterio.open(out / "label_bits.tif") as file:
        bits, transform = file.read(1), file.transform
    with rasterio.open(out / "labels.tif") as file:
        shares = file.read().astype(float) / 250
    assert set(polygons.label) <= set(LABELS)
    for i, label in enumerate(LABELS):
        own = polygons[polygons.label == label]
        assert (own.label_id == i).all()
        drawn = rasterize([(shape, 1) for shape in own.geometry], bits.shape, transform=transform)
        there = (bits >> i & 1 == 1) & (bits != 2**32 - 1)
        assert (drawn.astype(bool) == there).all()
        assert own.area_ha.sum() == pytest.approx(there.sum() * 160**2 / 10_000)
        total = (own.probability * own.area_ha).sum() / own.area_ha.sum()
        assert total == pytest.approx(shares[i][there].mean(), abs=1e-3)


def test_no_legend_fits_labels(made, tmp_path):
    from landuse.legends.legend import load_legend

    _, _, source = made
    with pytest.raises(UsageError, match="tells labels that do not"):
        map_area(request(tmp_path, source, legend=load_legend("ipcc", "legend")), ByBrightness())


def test_bits_go_on_in_further_bands():
    """Oracle: Python's own whole numbers."""
    rng = np.random.default_rng(1)
    shares = rng.integers(0, 251, (70, 5, 4)).astype(np.uint8)
    thresholds = tuple(rng.random(70).round(3).tolist())
    got = label_bits(shares, thresholds)
    assert got.shape == (3, 5, 4)
    for row in range(5):
        for col in range(4):
            number = sum(int(got[band, row, col]) << 31 * band for band in range(3))
            expected = sum(1 << i for i in range(70) if shares[i, row, col] / 250 >= thresholds[i])
            assert number == expected


def label_model(path, **changes):
    """A small network of patches with random weights, whose classes do not exclude each other."""
    network, contract = load_checkpoint(save_patch_model(path))
    thresholds = LabelOutputs(thresholds=(0.5,) * len(contract.classes))
    save_checkpoint(path, network, replace(contract, labels=thresholds, **changes))
    return path


def test_cells_of_patches_are_told_by_the_sigmoid(tmp_path):
    path = label_model(tmp_path / "m.safetensors", preprocess="sharpen", temperature=1.5)
    predictor = Predictor.load(str(path), "cpu", batch_size=2)
    dn = np.random.default_rng(2).integers(0, 3000, (2, 3, 64, 64)).astype(np.uint16)
    whole = predictor.probabilities(dn, "L2A")
    cells = predictor.cell_probabilities(dn, "L2A", 1)[:, :, 0, 0]
    assert whole == pytest.approx(cells, abs=0.35)  # near: a cell weighs the positions of a patch
    network, contract = load_checkpoint(path)
    level = contract.level_input("L2A")
    per_band = [np.array(v)[:, None, None] for v in (level.gain, level.offset_dn, contract.saturation_dn)]
    unit = ((dn * per_band[0] + per_band[1]) / per_band[2]).clip(0, 1)
    around = np.pad(unit, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    sharp = (
        5 * unit
        - around[..., :-2, 1:-1]
        - around[..., 2:, 1:-1]
        - around[..., 1:-1, :-2]
        - around[..., 1:-1, 2:]
    ).clip(0, 1)
    mean, std = (np.array(v)[:, None, None] for v in (contract.mean, contract.std))
    with torch.inference_mode():
        logits = network(torch.from_numpy((sharp - mean) / std).float()).numpy()
    assert whole == pytest.approx(1 / (1 + np.exp(-logits / 1.5)), abs=1e-4)


def test_a_model_of_images_makes_no_map(run, tmp_path, made):
    network, contract = load_checkpoint(save_patch_model(tmp_path / "m.safetensors"))
    images = replace(
        contract, bands=IMAGE_BANDS, levels=(), resolution_m=0.0, saturation_dn=(255.0,) * 3,
        input_kind="rgb8", name="photos",
    )  # fmt: skip
    save_checkpoint(tmp_path / "m.safetensors", network, images)
    shown = run("map", "--source", made[2], "--model", tmp_path / "m.safetensors", "--out", tmp_path / "map")
    assert shown.code == 2
    assert "photos reads 8-bit RGB images, and Sentinel-2's scenes are reflectance" in shown.error
    assert issubclass(ModelError, UsageError)


def test_a_model_of_labels_is_described_to_the_schemas(tmp_path):
    """Oracle: the published schemas of STAC and of its MLM extension."""
    path = label_model(tmp_path / "scenes.safetensors", preprocess="grey")
    network, contract = load_checkpoint(path)
    images = replace(
        contract, bands=IMAGE_BANDS, levels=(), resolution_m=0.0, saturation_dn=(255.0,) * 3,
        input_kind="rgb8", name="photos",
    )  # fmt: skip
    save_checkpoint(tmp_path / "photos.safetensors", network, images)
    for name in ("scenes", "photos"):
        weights = tmp_path / f"{name}.safetensors"
        own = load_checkpoint(weights)[1]
        item = model_item(
            own, "0" * 64, weights=weights, folder=None, created_utc=datetime(2026, 1, 2, tzinfo=UTC)
        ).to_dict()
        assert schema_errors(item) == []
        (output,) = item["properties"]["mlm:output"]
        expression = output["post_processing_function"]["expression"]
        assert expression["formula"] == "sigmoid(logits / temperature)"
        assert expression["thresholds"] == [0.5] * len(own.classes)
        assert "0.299 red" in json.dumps(item["properties"]["mlm:input"])
    assert "constellation" not in item["properties"]  # photos are nobody's satellite's

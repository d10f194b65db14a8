"""A map's STAC documents, from imagery to catalogue and back. Oracles: published JSON schemas, rasterio's
counts of what the map holds, pystac's and rustac's readers, numpy over what ``model.json`` says."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pystac
import pytest
import rasterio
import rustac
import torch

from landuse.model import WEIGHTS, shipped_models
from landuse.model.checkpoint import load_contract, model_path, save_checkpoint
from landuse.model.networks import BalancedNet, NetworkConfig
from landuse.model.normalize import bring_to_input, standardize
from landuse.pipeline.search.find_scenes import SceneQuery, search
from landuse.pipeline.write.stac_catalog import add_to_catalog
from landuse.workflows.mapping.map_area import map_area
from landuse.workflows.model_card import MLM, model_item
from tests.stac_schemas import stac_errors
from tests.workflows.patch_models import patch_predictor
from tests.workflows.small_maps import SCENES, BrightnessClassifier, catalog_of, red_raster, request

CREATED = datetime(2024, 7, 1, tzinfo=UTC)


def mapped(tmp_path, source, classifier, out="map", **options):
    """A map's report and its folder."""
    return map_area(request(tmp_path, source, out=tmp_path / out, **options), classifier), tmp_path / out


def read_json(path):
    return json.loads(path.read_text("utf-8"))


def dumped(item):
    values = item.to_dict(include_self_link=False, transform_hrefs=False)
    return json.loads(json.dumps(values, allow_nan=False))


def model_of(contract, sha256, weights=None, folder=None):
    return dumped(model_item(contract, sha256, weights=weights, folder=folder, created_utc=CREATED))


@pytest.mark.parametrize("scene", SCENES)
def test_a_real_scene_and_back_from_its_map(scene, data_dir, tmp_path):
    name, level, acquired = SCENES[scene]
    classifier = patch_predictor(tmp_path)
    source = catalog_of(tmp_path, data_dir / name, level=level, acquired=acquired)
    report, folder = mapped(tmp_path, source, classifier, out="maps/first", stride_px=64)
    catalog = add_to_catalog(tmp_path / "maps", folder)
    item, model = read_json(folder / "item.json"), read_json(folder / "model.json")
    assert stac_errors(item) == stac_errors(model) == stac_errors(read_json(catalog)) == []

    # What the map holds, counted by another reader.
    with rasterio.open(folder / "landuse.tif") as file:
        values, counts = np.unique(file.read(1), return_counts=True)
        assert file.crs.to_string() == item["properties"]["proj:code"]
        assert list(file.shape) == item["properties"]["proj:shape"]
        assert list(file.transform)[:6] == item["properties"]["proj:transform"]
        assert list(file.bounds) == item["properties"]["proj:bbox"]
        cell_ha = file.res[0] * file.res[1] / 10_000
    counted = {int(value): int(count) for value, count in zip(values, counts, strict=True) if value != 255}
    told = {entry["id"]: entry for entry in item["properties"]["landuse:areas"]}
    assert {key: entry["cells"] for key, entry in told.items()} == counted
    # A cell at the edge counts as far as it lies on the imagery.
    assert all(entry["area_ha"] <= counted[key] * cell_ha for key, entry in told.items())
    with rasterio.open(data_dir / name) as file:
        imagery_ha = file.height * file.width * 0.01
    assert sum(entry["area_ha"] for entry in told.values()) == pytest.approx(imagery_ha, rel=1e-3)
    classes = item["assets"]["landuse"]["classification:classes"]
    assert {entry["value"]: entry["count"] for entry in classes if entry.get("count")} == counted
    run = read_json(folder / "run.json")["classes"]
    assert [entry["area_m2"] for entry in run] == [entry["area_m2"] for entry in told.values()]
    for asset in item["assets"].values():
        path = folder / asset["href"]
        assert asset["file:checksum"] == "1220" + hashlib.sha256(path.read_bytes()).hexdigest()
        assert asset["file:size"] == path.stat().st_size
        if path.suffix == ".tif":
            with rasterio.open(path) as file:
                assert list(file.shape) == asset.get("proj:shape", item["properties"]["proj:shape"])
                assert set(file.dtypes) == {asset["data_type"]}
                assert set(file.nodatavals) == {asset["nodata"]}
                assert set(file.scales) == {asset.get("raster:scale", 1)}

    # Others read all of it, and find the scenes.
    for document in (folder / "item.json", folder / "model.json"):
        assert pystac.Item.from_file(str(document)).id == rustac.read_sync(str(document))["id"]
    (listed,) = pystac.Catalog.from_file(str(catalog)).get_items(recursive=True)
    linked = [link.get_absolute_href() for link in listed.links if link.rel == "derived_from"]
    assert [Path(href).exists() for href in linked] == [True, True]
    assert pystac.Item.from_file(linked[1]).id == report.plan.scenes[0].id

    # The maps are a source: of the same scenes, here by another model and stride.
    (first,), (again,) = (search(one, SceneQuery(area=None)) for one in (source, str(catalog)))
    assert replace(again, provider=first.provider) == first
    second, _ = mapped(tmp_path, str(catalog), BrightnessOf(level), out="maps/second", stride_px=32)
    assert [one.id for one in second.plan.scenes] == [first.id]
    add_to_catalog(tmp_path / "maps", tmp_path / "maps" / "second")
    assert len(list(pystac.Catalog.from_file(str(catalog)).get_items())) == 2
    assert [one.id for one in search(str(catalog), SceneQuery(area=None))] == [first.id]


class BrightnessOf(BrightnessClassifier):
    """For imagery of any level."""

    def __init__(self, level):
        super().__init__(32)
        self.contract = replace(self.contract, levels=(replace(self.contract.levels[0], level=level),))


def test_a_map_by_an_unknown_model_says_no_more_than_is_known(tmp_path):
    source = catalog_of(tmp_path, red_raster(tmp_path / "red.tif", np.full((64, 96), 3000, np.uint16)))
    _, folder = mapped(tmp_path, source, BrightnessClassifier(32))
    item, model = read_json(folder / "item.json"), read_json(folder / "model.json")
    assert stac_errors(item) == stac_errors(model) == []
    assert model["properties"]["mlm:architecture"] == "unknown"
    assert model["bbox"] == [-180, -90, 180, 90]
    assert not {"license", "mlm:hyperparameters", "landuse:metrics"} & model["properties"].keys()
    assert model["assets"]["weights"]["href"] == "ni:///sha-256;" + "A" * 43  # 32 bytes of 0 in base64


@pytest.mark.parametrize(
    "name", [name for name in shipped_models() if load_contract(model_path(name)).levels]
)
def test_a_shipped_model_is_told_whole(name):
    weights = WEIGHTS / f"{name}.safetensors"
    contract, sha256 = load_contract(weights), hashlib.sha256(weights.read_bytes()).hexdigest()
    values = model_of(contract, sha256)
    assert stac_errors(values) == []
    properties = values["properties"]
    assert values["id"] == properties["mlm:name"] == name
    assert MLM in values["stac_extensions"]
    card = read_json(WEIGHTS / f"{name}.json")["properties"]
    for key in (
        "license",
        "mlm:hyperparameters",
        "mlm:total_parameters",
        "landuse:metrics",
        "landuse:limits",
    ):
        assert properties[key] == card[key]
    described, *masks = properties["mlm:input"]
    # A model of pixels takes blocks of any size, and is told which of the optional bands are there.
    sides = [64, 64] if contract.pixels is None else [-1, -1]
    assert described["input"]["shape"] == [-1, len(contract.bands), *sides]
    optional = [[-1, len(contract.optional_bands)]] if contract.optional_bands else []
    assert [mask["input"]["shape"] for mask in masks] == optional
    assert described["bands"] == list(contract.bands)
    # The network's input rebuilt by numpy from nothing but what is told.
    dn = np.random.default_rng(0).integers(1, 9000, (2, len(contract.bands), 64, 64), dtype=np.uint16)
    steps = described["pre_processing_function"]["expression"]
    column = lambda values: np.array(values).reshape(1, -1, 1, 1)  # noqa: E731 - shorter than its name
    for entry in contract.levels:
        level = steps["levels"][entry.level]
        x = np.clip(
            column(level["gain"]) * dn + column(level["offset_dn"]), 0, column(steps["saturation_dn"])
        )
        scaling = described["value_scaling"]
        x = (x - column([s["mean"] for s in scaling])) / column([s["stddev"] for s in scaling])
        tensor = torch.from_numpy(dn.astype(np.float32))
        expected = standardize(bring_to_input(tensor, contract, entry.level), contract).numpy()
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-4)
    # The weights of that name and another digest are another model.
    assert model_of(contract, "0" * 64)["properties"]["mlm:architecture"] == "unknown"


@pytest.mark.parametrize("name", ["own", "x y (2)", "ü", "9"])
def test_an_own_model_is_told_by_its_checkpoint(name, tmp_path):
    contract = replace(BrightnessClassifier(16).contract, name=name, bands=("B04",))
    config = NetworkConfig(
        name="balanced-fast",
        attention="last",
        bands=1,
        classes=2,
        unshuffle=2,
        widths=(8, 16),
        depths=(1, 1),
        dropblock=(0.0, 0.1),
    )
    network = BalancedNet(config)
    weights = tmp_path / "models" / "mine.safetensors"
    weights.parent.mkdir()
    save_checkpoint(weights, network, contract)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    values = model_of(contract, sha256, weights, tmp_path / "maps" / "one")
    assert stac_errors(values) == []
    properties = values["properties"]
    assert properties["mlm:architecture"] == "balanced-fast"
    assert properties["mlm:total_parameters"] == sum(p.numel() for p in network.parameters())
    assert properties["mlm:hyperparameters"]["widths"] == [8, 16]
    assert values["assets"]["weights"]["href"] == "../../models/mine.safetensors"
    assert values["assets"]["weights"]["file:checksum"] == "1220" + sha256
    # Another file by now is not the one that made the map.
    weights.write_bytes(weights.read_bytes() + b"\0")
    changed = model_of(contract, sha256, weights, tmp_path)
    assert changed["properties"]["mlm:architecture"] == "unknown"
    assert changed["assets"]["weights"]["href"].startswith("ni:///sha-256;")

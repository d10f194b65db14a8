"""Model cards: complete enough to rebuild a network's input, true to the file, valid STAC.

Oracles: plain numpy over what the card says against ``landuse.model.normalize``; the tensors and the
bytes of the file as safetensors and hashlib read them; STAC 1.1's own JSON schema, which comes with
pystac; MLM v1.5.0's rules, written out below from its README; pystac's readers.
"""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pystac
import pytest
import torch
from jsonschema import Draft7Validator
from pydantic import ValidationError
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import AssetGeneralMLMExtension, MLMExtension
from safetensors import safe_open

from landuse.classes import LAND_COVER, LAND_USE
from landuse.contract import LevelInput, ModelContract
from landuse.errors import ModelError, UsageError
from landuse.model import WEIGHTS, shipped_models
from landuse.model.checkpoint import load_checkpoint, load_contract, save_checkpoint
from landuse.model.cover_and_use import combine
from landuse.model.networks import BalancedNet, NetworkConfig
from landuse.model.normalize import bring_to_input, level_inputs, standardize
from landuse.model.predict import DEFAULT_BATCH_SIZE, Predictor
from landuse.model.training.config import TrainConfig
from landuse.sentinel2 import BANDS
from landuse.workflows import model_card
from landuse.workflows.model_card import CardFacts, CardMetric, load_facts, write_card
from tests.stac_schemas import stac_errors as schema_errors
from tests.workflows.pixel_models import INFRARED, VISIBLE, save_pixel_model

FACTS_FOLDER = Path(__file__).parents[2] / "examples" / "model_cards"
SIDE_PX = 16

FACTS = CardFacts(
    training_data="Patches of clay, MIT licence",
    split="half and half",
    patches=120,
    lineage=("landuse train --data clay", "temperature fitted on the other half"),
    metrics=(
        CardMetric(name="accuracy", value=0.5, interval=(0.25, 0.75), measured="on the other half"),
        CardMetric(name="kappa", value=-0.1, interval=None, measured="the same"),
    ),
    limits=("Knows clay only.",),
    license="MIT",
    created_utc=datetime(2025, 1, 31, 12, tzinfo=UTC),
    bbox_lonlat=(-10.5, 35, 30, 60.25),
)

MLM_RULES = {
    # https://github.com/stac-extensions/mlm/tree/v1.5.0: required fields and the types of all we write.
    "type": "object",
    "required": ["stac_extensions", "properties", "assets"],
    "properties": {
        "stac_extensions": {
            "contains": {"const": "https://stac-extensions.github.io/mlm/v1.5.0/schema.json"}
        },
        "properties": {
            "required": ["mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output", "bands"],
            "properties": {
                "mlm:name": {"type": "string", "pattern": r"^[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]$"},
                "mlm:architecture": {"type": "string", "minLength": 1},
                "mlm:tasks": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/task"}},
                "mlm:framework": {"const": "PyTorch"},
                "mlm:framework_version": {"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
                "mlm:total_parameters": {"type": "integer", "minimum": 0},
                "mlm:pretrained": {"type": "boolean"},
                "mlm:pretrained_source": {"type": ["string", "null"]},
                "mlm:batch_size_suggestion": {"type": "integer", "minimum": 0},
                "mlm:accelerator": {"type": ["string", "null"]},
                "mlm:accelerator_constrained": {"type": "boolean"},
                "mlm:hyperparameters": {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": {"pattern": "^[0-9a-zA-Z_.-]+$"},
                },
                "mlm:input": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "required": ["name", "bands", "input"],
                        "properties": {
                            "name": {"type": "string", "minLength": 1},
                            "bands": {"type": "array", "items": {"type": "string", "minLength": 1}},
                            "input": {"$ref": "#/$defs/structure"},
                            "description": {"type": "string", "minLength": 1},
                            "value_scaling": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "required": ["type", "mean", "stddev"],
                                    "properties": {
                                        "type": {"const": "z-score"},
                                        "mean": {"type": "number"},
                                        "stddev": {"type": "number"},
                                    },
                                },
                            },
                            "resize_type": {"enum": [None, "interpolation-linear"]},
                            "pre_processing_function": {"$ref": "#/$defs/processing"},
                        },
                        "additionalProperties": False,
                    },
                },
                "mlm:output": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "required": ["name", "tasks", "result"],
                        "properties": {
                            "name": {"type": "string", "minLength": 1},
                            "tasks": {"type": "array", "items": {"$ref": "#/$defs/task"}},
                            "result": {"$ref": "#/$defs/structure"},
                            "description": {"type": "string", "minLength": 1},
                            "classification:classes": {
                                "type": "array",
                                "minItems": 1,
                                "uniqueItems": True,
                                "items": {
                                    # Both versions of the classification extension at once.
                                    "required": ["value", "name", "description"],
                                    "properties": {
                                        "value": {"type": "integer"},
                                        "name": {"type": "string", "pattern": "^[0-9A-Za-z_-]+$"},
                                        "description": {"type": "string", "minLength": 1},
                                        "color_hint": {"type": "string", "pattern": "^[0-9A-F]{6}$"},
                                    },
                                    "additionalProperties": False,
                                },
                            },
                            "post_processing_function": {"$ref": "#/$defs/processing"},
                        },
                        "additionalProperties": False,
                    },
                },
            },
            "patternProperties": {"^(?!mlm:)": {}},
            "additionalProperties": False,
        },
        "assets": {
            "minProperties": 1,
            "additionalProperties": {
                "required": ["href", "roles", "mlm:artifact_type", "file:checksum", "file:size"],
                "properties": {
                    "roles": {"contains": {"const": "mlm:model"}},
                    "mlm:artifact_type": {"type": "string", "minLength": 1},
                    # These describe the model as a whole: an item's properties, never an asset's.
                    "mlm:name": False,
                    "mlm:input": False,
                    "mlm:output": False,
                    "mlm:hyperparameters": False,
                },
            },
        },
    },
    "$defs": {
        "task": {"enum": ["scene-classification", "semantic-segmentation", "classification"]},
        "processing": {"required": ["format", "expression"], "properties": {"format": {"type": "string"}}},
        "structure": {
            "required": ["shape", "dim_order", "data_type"],
            "properties": {
                "shape": {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": -1}},
                "dim_order": {"type": "array", "uniqueItems": True, "items": {"pattern": "^[a-z-_]+$"}},
                "data_type": {"const": "float32"},
            },
            "additionalProperties": False,
        },
    },
}


def contract_of(bands=("B04", "B03", "B02"), **changed):
    """No two bands alike, so that no mix-up goes unseen."""
    rng = np.random.default_rng(7)
    count = len(bands)
    values = {
        "name": "clay-1",
        "bands": bands,
        "levels": tuple(
            LevelInput(
                level=entry.level,
                gain=tuple(rng.uniform(0.8, 1.2, count)),
                offset_dn=tuple(rng.uniform(-400, 400, count)),
            )
            for entry in level_inputs(bands)
        ),
        "saturation_dn": tuple(rng.uniform(2000, 9000, count)),
        "mean": tuple(rng.uniform(0.2, 0.5, count)),
        "std": tuple(rng.uniform(0.05, 0.3, count)),
        "classes": ("Brick", "Grass", "SeaLake"),
        "patch_size_px": SIDE_PX,
        "resolution_m": 10.0,
        "temperature": 1.5,
    }
    return ModelContract(**values | changed)


def checkpoint_of(folder, contract, file_name="clay.safetensors", **network):
    config = {
        "name": "tiny",
        "bands": len(contract.bands),
        "classes": len(contract.classes),
        "unshuffle": 2,
        "widths": (8, 16),
        "depths": (1, 1),
        "attention": "last",
        "dropblock": (0.0, 0.1),
    }
    path = folder / file_name
    save_checkpoint(path, BalancedNet(NetworkConfig(**config | network)), contract)
    return path


def card_of(folder, contract, facts=FACTS, **options):
    checkpoint = checkpoint_of(folder, contract, **options)
    write_card(checkpoint, facts, checkpoint.with_suffix(".json"))
    return json.loads(checkpoint.with_suffix(".json").read_text("utf-8"))


def stac_errors(card):
    """What the schemas of STAC and its extensions, and MLM's rules, have against a card."""
    found = schema_errors(card)
    found += [f"{e.json_path}: {e.message[:200]}" for e in Draft7Validator(MLM_RULES).iter_errors(card)]
    return found


def input_from(card, dn, level):
    """The network's input by plain numpy from nothing but the card, as its description says."""
    description = card["properties"]["mlm:input"][0]
    steps = description["pre_processing_function"]["expression"]

    def column(values):
        return np.array(values).reshape(1, -1, 1, 1)

    gain, offset = (column(steps["levels"][level][key]) for key in ("gain", "offset_dn"))
    x = np.clip(gain * dn + offset, 0, column(steps["saturation_dn"]))
    scaling = description["value_scaling"]
    return (x - column([s["mean"] for s in scaling])) / column([s["stddev"] for s in scaling])


@pytest.mark.parametrize("bands", [("B04", "B03", "B02"), BANDS, tuple(b for b in BANDS if b != "B10")])
def test_the_input_can_be_rebuilt_from_the_card_alone(tmp_path, bands):
    contract = contract_of(bands)
    card = card_of(tmp_path, contract)
    (description,) = card["properties"]["mlm:input"]
    assert description["bands"] == list(bands)
    assert description["input"]["shape"] == [-1, len(bands), SIDE_PX, SIDE_PX]
    assert description["input"]["dim_order"] == ["batch", "bands", "height", "width"]
    dn = np.random.default_rng(0).integers(1, 12_000, (5, len(bands), SIDE_PX, SIDE_PX), dtype=np.uint16)
    levels = description["pre_processing_function"]["expression"]["levels"]
    assert list(levels) == [entry.level for entry in contract.levels]
    assert set(levels) == ({"L1C"} if "B10" in bands else {"L1C", "L2A"})
    for level in levels:
        tensor = torch.from_numpy(dn.astype(np.float32))
        expected = standardize(bring_to_input(tensor, contract, level), contract).numpy()
        rebuilt = input_from(card, dn, level)
        np.testing.assert_allclose(rebuilt, expected, rtol=1e-4, atol=1e-4)
        clipped = (expected == expected.max((0, 2, 3), keepdims=True)).mean()
        assert 0.05 < clipped < 0.9  # the clip is part of what was compared


def test_probabilities_follow_from_logits_as_the_card_says(tmp_path):
    contract = contract_of(("B04", "B03", "B02"), patch_size_px=SIDE_PX)
    checkpoint = checkpoint_of(tmp_path, contract)
    write_card(checkpoint, FACTS, tmp_path / "clay.json")
    card = json.loads((tmp_path / "clay.json").read_text())
    predictor = Predictor.load(str(checkpoint), "cpu")
    dn = np.random.default_rng(0).integers(1, 6000, (4, 3, SIDE_PX, SIDE_PX), dtype=np.uint16)
    with torch.inference_mode():
        x = torch.from_numpy(input_from(card, dn, "L2A").astype(np.float32))
        logits = predictor._network(x).numpy().astype(float)
    (output,) = card["properties"]["mlm:output"]
    scaled = np.exp(logits / output["post_processing_function"]["expression"]["temperature"])
    expected = predictor.probabilities(dn, "L2A")
    np.testing.assert_allclose(scaled / scaled.sum(1, keepdims=True), expected, rtol=1e-3, atol=1e-4)
    assert output["result"] == {"shape": [-1, 3], "dim_order": ["batch", "class"], "data_type": "float32"}


def test_a_card_is_valid_stac_and_says_what_it_was_given(tmp_path):
    card = card_of(tmp_path, contract_of())
    assert stac_errors(card) == []
    properties = card["properties"]
    assert card["id"] == properties["mlm:name"] == "clay-1"
    assert properties["mlm:architecture"] == "tiny"
    assert properties["mlm:tasks"] == ["scene-classification", "classification"]
    assert (properties["mlm:pretrained"], properties["mlm:pretrained_source"]) == (False, None)
    assert properties["mlm:accelerator"] is None
    assert properties["mlm:batch_size_suggestion"] == DEFAULT_BATCH_SIZE
    assert properties["mlm:framework_version"] == torch.__version__.split("+")[0]
    assert properties["license"] == "MIT"
    assert properties["datetime"] == "2025-01-31T12:00:00Z"
    assert card["bbox"] == [-10.5, 35, 30, 60.25]
    assert card["geometry"]["coordinates"] == [
        [[-10.5, 35], [30, 35], [30, 60.25], [-10.5, 60.25], [-10.5, 35]]
    ]
    assert properties["landuse:training_data"] == FACTS.training_data
    assert properties["landuse:split"] == FACTS.split
    assert properties["landuse:training_patches"] == 120
    assert properties["landuse:patch_size_px"] == SIDE_PX
    assert properties["gsd"] == 10
    assert properties["landuse:limits"] == ["Knows clay only."]
    assert properties["landuse:metrics"] == [
        {"name": "accuracy", "value": 0.5, "interval": [0.25, 0.75], "measured": "on the other half"},
        {"name": "kappa", "value": -0.1, "interval": None, "measured": "the same"},
    ]
    assert properties["processing:lineage"] == (
        "1. landuse train --data clay\n2. temperature fitted on the other half"
    )
    assert [band["name"] for band in properties["bands"]] == ["B04", "B03", "B02"]
    assert [band["eo:common_name"] for band in properties["bands"]] == ["red", "green", "blue"]
    # Reflectance as the bands' scale and offset give it is what the description calls dn.
    assert {(band["raster:scale"], band["raster:offset"]) for band in properties["bands"]} == {(1e-4, 0)}
    assert {band["raster:spatial_resolution"] for band in properties["bands"]} == {10}
    assert card["assets"]["weights"]["href"] == "./clay.safetensors"
    assert card["links"] == []
    assert str(tmp_path) not in json.dumps(card)


def pixel_card_of(folder, **changed):
    checkpoint = save_pixel_model(folder / "random-pixel.safetensors")
    write_card(checkpoint, replace(FACTS, **changed), checkpoint.with_suffix(".json"))
    return json.loads(checkpoint.with_suffix(".json").read_text("utf-8")), checkpoint


def test_a_card_of_a_model_of_pixels_says_what_it_takes_and_gives(tmp_path):
    card, checkpoint = pixel_card_of(tmp_path)
    assert stac_errors(card) == []
    properties, contract = card["properties"], load_contract(checkpoint)
    assert properties["mlm:tasks"] == ["semantic-segmentation", "classification"]
    assert properties["mlm:architecture"] == "balanced-pixel"
    assert "B04, B03, B02 and, where there, B08, B05" in properties["description"]
    assert properties["description"].endswith("Its training began at random weights.")
    assert properties["landuse:optional_bands"] == list(INFRARED)
    assert properties["mlm:pretrained"] is False
    block, present = properties["mlm:input"]
    assert block["input"]["shape"] == [-1, 10, -1, -1]
    assert block["bands"] == [*VISIBLE, *INFRARED]
    assert present["input"]["shape"] == [-1, 7]
    assert ", ".join(INFRARED) in present["description"]
    landuse, cover = properties["mlm:output"]
    assert (landuse["name"], landuse["result"]["shape"]) == ("landuse", [-1, 14, -1, -1])
    assert (cover["name"], cover["result"]["shape"]) == ("cover", [-1, 9, -1, -1])
    assert [entry["name"] for entry in landuse["classification:classes"]] == list(contract.classes)
    assert [entry["name"] for entry in cover["classification:classes"]] == list(contract.pixels.covers)
    for output, legend in ((landuse, LAND_USE), (cover, LAND_COVER)):
        colors = ["{:02X}{:02X}{:02X}".format(*entry.color) for entry in legend]
        assert [entry["color_hint"] for entry in output["classification:classes"]] == colors
    started = pixel_card_of(tmp_path, pretrained_source="balanced-pixel")[0]["properties"]
    assert started["mlm:pretrained"] is True
    assert "random" not in started["description"]


def test_what_a_model_of_pixels_gives_follows_from_its_card(tmp_path):
    """Flat blocks, on which averages over windows are the values themselves: plain numpy over the card."""
    card, checkpoint = pixel_card_of(tmp_path)
    block, _ = card["properties"]["mlm:input"]
    landuse, cover = card["properties"]["mlm:output"]
    dn = np.random.default_rng(0).integers(1, 6000, (1, 10, 64, 64), dtype=np.uint16)
    contract = load_contract(checkpoint)
    for level in ("L1C", "L2A"):
        tensor = torch.from_numpy(dn.astype(np.float32))
        expected = standardize(bring_to_input(tensor, contract, level), contract).numpy()
        np.testing.assert_allclose(input_from(card, dn, level), expected, rtol=1e-4, atol=1e-4)
    logits = np.random.default_rng(1).normal(0, 2, 9), np.random.default_rng(2).normal(0, 2, 10)

    def softmax(values):
        return np.exp(values) / np.exp(values).sum()

    told = landuse["post_processing_function"]["expression"]
    assert cover["post_processing_function"]["expression"]["cover_temperature"] == told["cover_temperature"]
    p_cover = softmax(logits[0] / told["cover_temperature"])
    by_class = {}
    for share, (_, uses) in zip(p_cover, told["uses_of_covers"].items(), strict=True):
        of_uses = [logits[1][told["uses"].index(use)] if len(uses) > 1 else 0 for use in uses]
        within = softmax(np.array(of_uses) / told["use_temperature"])
        by_class |= dict(zip(uses, share * within, strict=True))
    flat = [
        torch.from_numpy(v.astype(np.float32))[None, :, None, None].expand(1, -1, side, side)
        for v, side in zip(logits, (64, 32), strict=True)
    ]
    got, covers = combine(*flat, contract)
    np.testing.assert_allclose(covers[0, :, 30, 30], p_cover, rtol=1e-4)
    names = [entry["name"] for entry in landuse["classification:classes"]]
    np.testing.assert_allclose(got[0, :, 30, 30], [by_class[name] for name in names], rtol=1e-3)
    assert block["name"] == "block"


def test_a_shipped_model_of_pixels_names_what_its_labels_were_made_with(tmp_path, monkeypatch):
    """The card beside it is told again with the publications that it rests on, Dynamic World's among them."""
    card, checkpoint = pixel_card_of(tmp_path)
    monkeypatch.setattr(model_card, "WEIGHTS", tmp_path)
    monkeypatch.setattr(model_card, "shipped_models", lambda: ("random-pixel",))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    now = datetime(2026, 1, 1, tzinfo=UTC)
    item = model_card.model_item(
        load_contract(checkpoint), digest, weights=None, folder=None, created_utc=now
    )
    told = [entry["citation"] for entry in item.properties["sci:publications"]]
    assert any(
        "Dynamic World" in citation and "cover labels were made with it" in citation for citation in told
    )
    assert item.properties["end_datetime"] == card["properties"]["datetime"]


def test_the_facts_of_balanced_pixel_say_where_its_labels_come_from():
    facts = load_facts(FACTS_FOLDER / "balanced-pixel.json")
    assert "labels were made with Dynamic World (Brown et al. 2022" in facts.training_data
    assert facts.pretrained_source is None
    assert facts.lineage[0] == "random weights"


def test_pystac_reads_back_what_was_written(tmp_path):
    card = card_of(tmp_path, contract_of())
    item = pystac.Item.from_file(str(tmp_path / "clay.json"))
    assert item.to_dict(include_self_link=False, transform_hrefs=False) == card
    model = MLMExtension.ext(item)
    assert model.input[0].bands == ["B04", "B03", "B02"]
    assert [entry.name for entry in model.output[0].classes] == ["Brick", "Grass", "SeaLake"]
    assert model.hyperparameters.to_dict()["widths"] == [8, 16]
    asset = item.assets["weights"]
    assert AssetGeneralMLMExtension.ext(asset).artifact_type == "safetensors.torch.save_file"
    assert FileExtension.ext(asset).size == (tmp_path / "clay.safetensors").stat().st_size
    assert Path(asset.get_absolute_href()).samefile(tmp_path / "clay.safetensors")


def test_weights_that_were_started_from_others_say_so(tmp_path):
    card = card_of(tmp_path, contract_of(), replace(FACTS, pretrained_source="balanced-fast-rgb"))
    assert card["properties"]["mlm:pretrained"] is True
    assert card["properties"]["mlm:pretrained_source"] == "balanced-fast-rgb"
    assert stac_errors(card) == []


def test_the_batch_size_is_what_prediction_takes():
    model = Predictor.load("balanced-fast-rgb", "cpu")
    assert model.batch_size == DEFAULT_BATCH_SIZE  # until there are patches enough to try others out


def test_hostile_names_in_a_checkpoint_stay_harmless(tmp_path):
    """Class names become names of the extension's kind, the file's name part of a URL, the rest text."""
    contract = contract_of(classes=("a, b & (c)", "Ödland", "x.y"))
    card = card_of(tmp_path, contract, file_name="a b#c?.safetensors", **{"name": "x\x1b[2J<script>"})
    assert stac_errors(card) == []
    (output,) = card["properties"]["mlm:output"]
    assert [entry["name"] for entry in output["classification:classes"]] == ["a--b----c-", "-dland", "x-y"]
    assert [entry["value"] for entry in output["classification:classes"]] == [0, 1, 2]
    assert [entry["description"] for entry in output["classification:classes"]] == list(contract.classes)
    assert card["assets"]["weights"]["href"] == "./a%20b%23c%3F.safetensors"
    assert card["properties"]["mlm:architecture"] == "x?[2J<script>"


def test_a_config_that_json_cannot_hold_is_told_as_text(tmp_path):
    card = card_of(tmp_path, contract_of(), name="\ud800", dropblock=(0.0, float("nan")))
    assert stac_errors(card) == []
    assert card["properties"]["mlm:architecture"] == "?"
    assert card["properties"]["mlm:hyperparameters"]["dropblock"] == [0.0, "NaN"]


def test_a_card_tells_the_recipe_that_the_weights_hold(tmp_path):
    """What they were started from and taught by, and what JSON cannot hold as text."""
    checkpoint = checkpoint_of(tmp_path, contract_of())
    recipe = TrainConfig(teacher_sha256=("ab" * 32,), init_sha256="cd" * 32)
    network, contract = load_checkpoint(checkpoint)
    save_checkpoint(checkpoint, network, contract, recipe=recipe)
    write_card(checkpoint, FACTS, checkpoint.with_suffix(".json"))
    card = json.loads(checkpoint.with_suffix(".json").read_text("utf-8"))
    assert stac_errors(card) == []
    told = card["properties"]["landuse:recipe"]
    assert (told["teacher_sha256"], told["init_sha256"]) == (["ab" * 32], "cd" * 32)
    assert "landuse:recipe" not in card_of(tmp_path, contract_of())["properties"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "../clay"}, "is no name"),
        ({"name": "x"}, "at least three"),
        ({"name": "clay (2)"}, "cannot be a STAC id"),
        ({"name": "clay\n"}, "is no name"),
    ],
)
def test_a_checkpoint_that_no_card_can_describe_is_refused(tmp_path, changed, message):
    checkpoint = checkpoint_of(tmp_path, replace(contract_of(), **changed))
    with pytest.raises(ModelError, match=message):
        write_card(checkpoint, FACTS, tmp_path / "clay.json")
    assert [path.name for path in tmp_path.iterdir()] == ["clay.safetensors"]


def test_a_card_lies_beside_its_weights(tmp_path):
    checkpoint = checkpoint_of(tmp_path, contract_of())
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="beside its weights"):
        write_card(checkpoint, FACTS, tmp_path / "other" / "clay.json")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        write_card(tmp_path / "none.safetensors", FACTS, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"training_data": " "}, "training_data"),
        ({"split": "two\nlines"}, "one line"),
        ({"training_data": "x" * 2001}, "at most 2000"),
        ({"training_data": "\ud800"}, "unicode"),
        ({"patches": 0}, "greater than or equal to 1"),
        ({"lineage": ()}, "at least 1 item"),
        ({"limits": ()}, "at least 1 item"),
        ({"limits": ("fine", "\x1b[31m")}, "limits"),
        ({"metrics": ()}, "at least 1 item"),
        ({"license": "MIT or so"}, "match pattern"),
        ({"license": ""}, "match pattern"),
        ({"created_utc": datetime(2025, 1, 31)}, "not in UTC"),
        ({"created_utc": datetime(2025, 1, 31, tzinfo=timezone(timedelta(hours=1)))}, "not in UTC"),
        ({"bbox_lonlat": (10, 35, -10, 60)}, "west < east"),
        ({"bbox_lonlat": (-10, 35, 10, 91)}, "bbox_lonlat"),
        ({"bbox_lonlat": (-10, float("nan"), 10, 60)}, "bbox_lonlat"),
        ({"pretrained_source": ""}, "pretrained_source"),
    ],
)
def test_facts_are_checked_where_they_are_born(changed, message):
    with pytest.raises(ValidationError, match=message):
        replace(FACTS, **changed)


@pytest.mark.parametrize(
    "changed",
    [
        {"value": float("nan")},
        {"interval": (0.6, 0.7)},
        {"interval": (0.75, 0.25)},
        {"interval": (0.0, float("inf"))},
        {"name": ""},
        {"measured": "a\tb"},
    ],
)
def test_metrics_are_checked_where_they_are_born(changed):
    with pytest.raises(ValidationError):
        replace(FACTS.metrics[0], **changed)


def facts_json(**changed):
    values = {
        "training_data": FACTS.training_data,
        "split": FACTS.split,
        "patches": 120,
        "lineage": list(FACTS.lineage),
        "metrics": [
            {"name": "accuracy", "value": 0.5, "interval": [0.25, 0.75], "measured": "on the other half"},
            {"name": "kappa", "value": -0.1, "interval": None, "measured": "the same"},
        ],
        "limits": list(FACTS.limits),
        "license": "MIT",
        "created_utc": "2025-01-31T12:00:00Z",
        "bbox_lonlat": [-10.5, 35, 30, 60.25],
    }
    return {key: value for key, value in (values | changed).items() if value is not ...}


def test_facts_come_from_json_as_they_are_written_there(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(facts_json()))
    assert load_facts(path) == FACTS
    path.write_text(json.dumps(facts_json(pretrained_source="elsewhere")))
    assert load_facts(path) == replace(FACTS, pretrained_source="elsewhere")


METRIC = {"name": "accuracy", "value": 0.5, "interval": None, "measured": "so"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "should be an object"),
        (facts_json(contact="me@example.com"), "contact: Unexpected keyword argument"),
        (facts_json(split=...), "split: Field required"),
        (facts_json(metrics=[METRIC | {"unit": "%"}]), "unit: Unexpected keyword argument"),
        (facts_json(metrics=[{"name": "accuracy"}]), "value: Field required"),
        (facts_json(metrics={"accuracy": 1}), "metrics: Input should be a valid array"),
        (facts_json(metrics=[METRIC | {"value": "0.5"}]), "value: Input should be a valid number"),
        (facts_json(metrics=[METRIC | {"value": True}]), "value: Input should be a valid number"),
        (facts_json(metrics=[METRIC | {"value": 10**400}]), "value: "),
        (facts_json(metrics=[METRIC | {"interval": [0.4]}]), "interval.1: Field required"),
        (facts_json(patches=1.5), "patches: Input should be a valid integer"),
        (facts_json(patches=True), "patches: Input should be a valid integer"),
        (facts_json(lineage="landuse train"), "lineage: Input should be a valid array"),
        (facts_json(limits=[None]), "limits.0: Input should be a valid string"),
        (facts_json(created_utc="yesterday"), "created_utc: Input should be a valid datetime"),
        (facts_json(created_utc="2025-01-31T12:00:00"), "not in UTC"),
        (facts_json(bbox_lonlat=[1, 2, 3]), "bbox_lonlat.3: Field required"),
        (facts_json(training_data="\x1b[31m"), "printable"),
    ],
)
def test_facts_that_are_none_are_refused_with_the_file_named(tmp_path, values, message):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match=message) as caught:
        load_facts(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"patches": NaN}'])
def test_facts_that_are_no_json_are_refused(tmp_path, content):
    path = tmp_path / "facts.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"facts\.json"):
        load_facts(path)
    with pytest.raises(UsageError, match="cannot be read"):
        load_facts(tmp_path / "missing.json")


def tensors_of(path):
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118  # safe_open is no mapping


@pytest.mark.parametrize("name", shipped_models())
def test_every_shipped_weight_has_a_card_that_agrees_with_it(name):
    """After training: ``python examples/write_model_card.py WEIGHTS examples/model_cards/NAME.json``."""
    weights, path = WEIGHTS / f"{name}.safetensors", WEIGHTS / f"{name}.json"
    assert path.is_file(), f"no card: write {FACTS_FOLDER.name}/{name}.json and its card"
    card = json.loads(path.read_text("utf-8"))
    assert stac_errors(card) == []
    properties, (asset,) = card["properties"], card["assets"].values()

    content = weights.read_bytes()
    assert asset["href"] == f"./{weights.name}"
    assert asset["file:size"] == len(content)
    assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    tensors, header = tensors_of(weights)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert properties["mlm:total_parameters"] == sum(
        tensor.size for key, tensor in tensors.items() if not key.endswith(statistics)
    )
    assert properties["mlm:hyperparameters"] == json.loads(header["network"])

    contract = load_contract(weights)
    assert card["id"] == properties["mlm:name"] == contract.name == name
    described, output = properties["mlm:input"][0], properties["mlm:output"][0]
    size = side = contract.patch_size_px
    if contract.pixels is not None:
        size, side = -1, 64
    assert described["bands"] == [band["name"] for band in properties["bands"]] == list(contract.bands)
    assert described["input"]["shape"] == [-1, len(contract.bands), size, size]
    assert properties.get("gsd") == (contract.resolution_m if contract.levels else None)
    assert properties["landuse:levels"] == [entry.level for entry in contract.levels]
    assert [entry["name"] for entry in output["classification:classes"]] == list(contract.classes)
    told = output["post_processing_function"]["expression"]
    if contract.pixels is None:
        assert told["temperature"] == contract.temperature
    else:
        assert told["cover_temperature"] == contract.pixels.cover_temperature
        assert told["use_temperature"] == contract.pixels.use_temperature
        assert told["visible_cover_bias"] == list(contract.pixels.visible_cover_bias)
    dn = np.random.default_rng(0).integers(1, 9000, (2, len(contract.bands), side, side), dtype=np.uint16)
    for entry in contract.levels:
        tensor = torch.from_numpy(dn.astype(np.float32))
        expected = standardize(bring_to_input(tensor, contract, entry.level), contract).numpy()
        np.testing.assert_allclose(input_from(card, dn, entry.level), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", shipped_models())
def test_every_shipped_card_can_be_made_again(name, tmp_path):
    weights = tmp_path / f"{name}.safetensors"
    weights.symlink_to(WEIGHTS / weights.name)
    write_card(weights, load_facts(FACTS_FOLDER / f"{name}.json"), tmp_path / f"{name}.json")
    made, shipped = (
        json.loads((folder / f"{name}.json").read_text("utf-8")) for folder in (tmp_path, WEIGHTS)
    )
    for card in (made, shipped):
        del card["properties"]["mlm:framework_version"]  # of the machine that writes
    assert made == shipped


def test_there_are_no_facts_or_cards_without_weights():
    assert {path.stem for path in FACTS_FOLDER.iterdir()} == set(shipped_models())
    assert {path.stem for path in WEIGHTS.glob("*.json")} == set(shipped_models())

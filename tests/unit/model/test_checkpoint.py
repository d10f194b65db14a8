"""Oracles: bit-equal tensors, and a trap that leaves a file behind if anything executes it."""

import json
import pickle
import resource
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from landuse.contract import LevelInput, ModelContract
from landuse.errors import ModelError, OutputError
from landuse.model import checkpoint as module
from landuse.model import shipped_models
from landuse.model.checkpoint import (
    FORMAT,
    contract_from_dict,
    load_checkpoint,
    load_contract,
    load_pixel_checkpoint,
    load_recipe,
    model_path,
    save_checkpoint,
)
from landuse.model.training.config import TrainConfig
from landuse.sentinel2 import BANDS
from tests.workflows.pixel_models import pixel_contract, save_pixel_model

from .conftest import Trap


def rewrite(path: Path, *, header=None, drop=(), tensors=None) -> Path:
    """The checkpoint at ``path`` with parts of it replaced."""
    with safe_open(path, framework="pt") as file:
        kept = {k: file.get_tensor(k) for k in file.keys() if k not in drop}  # noqa: SIM118  # no mapping
        metadata = {**file.metadata(), **(header or {})}
    save_file({**kept, **(tensors or {})}, path, metadata=metadata)
    return path


def test_round_trip_keeps_every_bit_and_the_contract(tmp_path, network, contract):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, contract)
    loaded, loaded_contract = load_checkpoint(path)
    assert loaded_contract == contract
    assert load_contract(path) == contract
    assert loaded.config == network.config
    assert not loaded.training
    expected = network.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name]), name
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(x), network(x))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_loaded_weights_do_not_depend_on_the_file_any_more(checkpoint):
    loaded, _ = load_checkpoint(checkpoint)
    x = torch.randn(1, 3, 16, 16)
    before = loaded(x)
    checkpoint.write_bytes(b"\0" * checkpoint.stat().st_size)
    assert torch.equal(loaded(x), before)


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,10}[a-z]", fullmatch=True)


@st.composite
def contracts(draw) -> ModelContract:
    bands = tuple(draw(st.lists(st.sampled_from(BANDS), min_size=1, max_size=13, unique=True)))

    def each(elements):
        return tuple(draw(st.lists(elements, min_size=len(bands), max_size=len(bands))))

    return ModelContract(
        name=draw(names),
        bands=bands,
        levels=tuple(
            LevelInput(level=level, gain=each(st.floats(1e-3, 1e3)), offset_dn=each(st.floats(-1e5, 1e5)))
            for level in draw(st.lists(st.sampled_from(["L1C", "L2A"]), min_size=1, max_size=2, unique=True))
        ),
        saturation_dn=each(st.floats(1, 1e5)),
        mean=each(st.floats(0, 1)),
        std=each(st.floats(1e-6, 1)),
        classes=tuple(draw(st.lists(names, min_size=2, max_size=12, unique=True))),
        patch_size_px=draw(st.integers(1, 512)),
        resolution_m=draw(st.floats(1, 1000)),
        temperature=draw(st.floats(1e-2, 1e2)),
    )


@given(contracts())
def test_contract_survives_json(contract):
    assert contract_from_dict(json.loads(json.dumps(asdict(contract)))) == contract


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt", "model.pkl"])
@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_a_pickle_is_refused_and_nothing_in_it_runs(tmp_path, name, write):
    sprung = tmp_path / "sprung"
    path = tmp_path / name
    write({"weights": Trap(sprung)}, path)
    with pytest.raises(ModelError, match="is not a readable safetensors file"):
        load_checkpoint(path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))  # the trap works
    assert sprung.exists()


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused(checkpoint, share):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(len(whole) * share)])
    for load in (load_contract, load_checkpoint):
        with pytest.raises(ModelError, match="safetensors"):
            load(checkpoint)


def test_a_foreign_safetensors_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ModelError, match=r"carries no landuse-checkpoint-2 contract \(format: None\)"):
        load_checkpoint(path)


def test_other_garbage_is_refused(tmp_path):
    for content in (b"", b"\xff" * 64, b"II*\0 a tiff", b"{}"):
        path = tmp_path / "garbage.safetensors"
        path.write_bytes(content)
        with pytest.raises(ModelError, match="landuse train"):
            load_contract(path)
    with pytest.raises(ModelError, match="is not a readable"):
        load_contract(tmp_path)  # a folder


def damaged(contract: ModelContract, **values) -> str:
    return json.dumps({**asdict(contract), **values})


@pytest.mark.parametrize(
    "values",
    [
        {"bands": None},
        {"levels": [{"level": "L1C"}]},
        {"levels": 3},
        {"levels": []},
        {"std": [0.2, 0.0, 0.1]},
        {"std": [0.2, float("nan"), 0.1]},
        {"mean": [0.1]},
        {"mean": "abc"},
        {"saturation_dn": [float("inf")] * 3},
        {"temperature": -1},
        {"patch_size_px": 1e400},
        {"patch_size_px": 0},
        {"classes": ["one"]},
        {"classes": ["same", "same", "other"]},
        {"surprise": 1},
    ],
)
def test_a_damaged_contract_is_refused(checkpoint, contract, values):
    rewrite(checkpoint, header={"contract": damaged(contract, **values)})
    for load in (load_contract, load_checkpoint):
        with pytest.raises(ModelError, match="contract is damaged"):
            load(checkpoint)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '{"name": "x"}'])
@pytest.mark.parametrize("part", ["contract", "network"])
def test_a_header_of_other_json_is_refused(checkpoint, part, text):
    rewrite(checkpoint, header={part: text})
    with pytest.raises(ModelError, match="is damaged"):
        load_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "values",
    [
        {"depths": [1, 10**9]},
        {"widths": [8, -1]},
        {"widths": [8, 10**12]},
        {"widths": [8, "16"]},
        {"bands": 4},
        {"classes": 7},
        {"bands": "3"},
        {"attention": "none"},
        {"surprise": 1},
    ],
)
def test_a_network_config_that_does_not_fit_is_refused_without_allocating(checkpoint, network, values):
    config = json.dumps({**network.config.to_dict(), **values})
    rewrite(checkpoint, header={"network": config})
    with pytest.raises(ModelError, match=r"(config is damaged|do not fit its network)"):
        load_checkpoint(checkpoint)


def test_weights_of_another_shape_are_refused_by_name(checkpoint):
    rewrite(checkpoint, tensors={"head.bias": torch.zeros(5)})
    with pytest.raises(ModelError, match=r"head\.bias is \(5,\), the network has \(3,\)"):
        load_checkpoint(checkpoint)


def test_missing_surplus_and_broken_weights_are_refused(tmp_path, network, contract):
    for change, message in (
        ({"drop": ("head.bias",)}, r"head\.bias is missing"),
        ({"tensors": {"extra": torch.zeros(1)}}, "no such tensor"),
        ({"tensors": {"head.bias": torch.tensor([0.0, torch.nan, 0.0])}}, "not finite"),
    ):
        path = tmp_path / "model.safetensors"
        save_checkpoint(path, network, contract)
        rewrite(path, **change)
        with pytest.raises(ModelError, match=message):
            load_checkpoint(path)


def test_a_larger_file_than_any_model_is_refused_unread(checkpoint, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(ModelError, match="larger than 100 bytes"):
        load_checkpoint(checkpoint)


def test_an_unknown_model_names_the_mend(tmp_path, checkpoint):
    assert model_path(str(checkpoint)) == checkpoint
    with pytest.raises(ModelError, match=r"No model 'nonsense'.*landuse models"):
        model_path("nonsense")
    with pytest.raises(ModelError, match="No model"):
        model_path(str(tmp_path))


def test_every_shipped_model_loads_and_fits_its_limit():
    for name in shipped_models():
        path = model_path(name)
        assert path.stat().st_size <= 12_000_000
        pixels = load_contract(path).pixels is not None
        network, contract = load_pixel_checkpoint(path) if pixels else load_checkpoint(path)
        assert contract.name == name
        assert network.config.bands == len(contract.bands)


def test_what_cannot_be_written_leaves_nothing_and_spares_the_old_file(tmp_path, network, contract):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, network, contract)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A real write error part-way: no file of this process may grow beyond half of what is needed.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            save_checkpoint(path, network, replace(contract, name="other"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(OutputError, match="rights"):
        save_checkpoint(tmp_path / "missing" / "model.safetensors", network, contract)


def test_the_header_says_what_it_is(checkpoint):
    with safe_open(checkpoint, framework="pt") as file:
        header = file.metadata()
    assert header["format"] == FORMAT
    assert json.loads(header["contract"])["bands"] == ["B04", "B03", "B02"]


# Networks that classify each pixel.


@pytest.fixture
def pixel_checkpoint(tmp_path) -> Path:
    return save_pixel_model(tmp_path / "pixel.safetensors")


def test_the_header_holds_the_recipe_where_there_is_one(tmp_path, checkpoint, network, contract):
    assert load_recipe(checkpoint) is None
    taught = tmp_path / "taught.safetensors"
    save_checkpoint(taught, network, contract, recipe=TrainConfig(teacher_sha256=("ab" * 32,)))
    assert load_recipe(taught)["teacher_sha256"] == ["ab" * 32]
    assert load_checkpoint(taught)[1] == contract
    for text, message in (("{", "its recipe is damaged"), ("[]", "its recipe is no object")):
        with pytest.raises(ModelError, match=message):
            load_recipe(rewrite(taught, header={"recipe": text}))


def test_a_network_of_pixels_makes_the_round_trip(tmp_path, pixel_checkpoint):
    network, contract = load_pixel_checkpoint(pixel_checkpoint)
    assert not network.training
    assert contract == pixel_contract() == load_contract(pixel_checkpoint)
    again = tmp_path / "again.safetensors"
    save_checkpoint(again, network, contract)
    loaded, same = load_pixel_checkpoint(again)
    assert same == contract
    assert (loaded.config, loaded.state_dict().keys()) == (network.config, network.state_dict().keys())
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_each_kind_of_network_is_loaded_as_what_it_is(checkpoint, pixel_checkpoint):
    with pytest.raises(ModelError, match="classifies each pixel, and patches are to be classified"):
        load_checkpoint(pixel_checkpoint)
    with pytest.raises(ModelError, match="classifies patches, and pixels are to be classified"):
        load_pixel_checkpoint(checkpoint)


OUTPUTS = asdict(pixel_contract().pixels)


@pytest.mark.parametrize(
    "values",
    [
        {"pixels": 3},
        {"pixels": []},
        {"pixels": {}},
        {"pixels": OUTPUTS | {"surprise": 1}},
        {"pixels": OUTPUTS | {"covers": ["Water"]}},
        {"pixels": OUTPUTS | {"covers": None}},
        {"pixels": OUTPUTS | {"uses": ["River"]}},
        {"pixels": OUTPUTS | {"uses_of_covers": ["ab"] * 9}},
        {"pixels": OUTPUTS | {"uses_of_covers": [["Forest"]] * 9}},
        {"pixels": OUTPUTS | {"cover_temperature": 0}},
        {"pixels": OUTPUTS | {"use_temperature": float("nan")}},
        {"pixels": OUTPUTS | {"use_temperature": "x"}},
        {"pixels": OUTPUTS | {"visible_cover_bias": [0.5]}},
        {"pixels": OUTPUTS | {"visible_cover_bias": [float("inf")] * 9}},
        {"pixels": OUTPUTS | {"visible_cover_bias": 3}},
        {"optional_bands": ["B99"]},
        {"optional_bands": 3},
        {"classes": ["Forest", "River"]},
    ],
)
def test_a_damaged_contract_of_pixels_is_refused(pixel_checkpoint, values):
    rewrite(pixel_checkpoint, header={"contract": damaged(pixel_contract(), **values)})
    for load in (load_contract, load_pixel_checkpoint):
        with pytest.raises(ModelError, match="contract is damaged"):
            load(pixel_checkpoint)


@pytest.mark.parametrize(
    "values",
    [
        {"visible": 4},
        {"infrared": 6},
        {"covers": 8},
        {"uses": 11},
        {"branch": 10**9},
        {"widths": [16, 24]},
        {"widths": [16, 24, "32"]},
        {"depths": [1, 1, 10**9]},
        {"window_px": 64.0},
        {"window_px": "64"},
        {"name": "balanced-fast"},
        {"surprise": 1},
    ],
)
def test_a_network_of_pixels_that_does_not_fit_is_refused_without_allocating(pixel_checkpoint, values):
    network = load_pixel_checkpoint(pixel_checkpoint)[0]
    rewrite(pixel_checkpoint, header={"network": json.dumps({**network.config.to_dict(), **values})})
    with pytest.raises(ModelError, match=r"(config is damaged|do not fit its network)"):
        load_pixel_checkpoint(pixel_checkpoint)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000])
@pytest.mark.parametrize("part", ["contract", "network"])
def test_a_header_of_pixels_of_other_json_is_refused(pixel_checkpoint, part, text):
    rewrite(pixel_checkpoint, header={part: text})
    with pytest.raises(ModelError, match="is damaged"):
        load_pixel_checkpoint(pixel_checkpoint)


def test_weights_of_pixels_that_do_not_fit_are_refused_by_name(pixel_checkpoint):
    rewrite(pixel_checkpoint, tensors={"covers.bias": torch.zeros(5)})
    with pytest.raises(ModelError, match=r"covers\.bias is \(5,\), the network has \(36,\)"):
        load_pixel_checkpoint(pixel_checkpoint)

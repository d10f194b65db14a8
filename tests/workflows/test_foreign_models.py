"""Models that landuse did not train. Oracles: their weights applied by hand in double precision, pixel by
pixel; the same model as ONNX, TorchScript, module and function; whole blocks against windows.
"""

import hashlib
import json
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import landuse
from landuse.errors import ModelError, UsageError
from landuse.model.foreign.contract import contract_of
from landuse.model.foreign.predict import load_file, windows
from landuse.workflows.mapping.map_area import load_classifier, map_area
from tests import foreign
from tests.foreign import BANDS, CLASSES, PX, WEIGHTS, contract, needs_onnxruntime, save, shares_by_hand
from tests.stac_schemas import stac_errors
from tests.workflows.pixel_models import small_scene
from tests.workflows.small_maps import read, request


def network(weights=WEIGHTS):
    net = torch.nn.Conv2d(weights.shape[1], len(weights), 1, bias=False)
    net.weight.data[:] = torch.from_numpy(weights)[:, :, None, None]
    return net


def save_script(path, net=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch advises another format
        torch.jit.save(torch.jit.script(net or network()), path)
    return path


def by_function(values):
    return np.einsum("kc,nchw->nkhw", WEIGHTS, values)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The catalogue of a small scene, and its DN of ``BANDS``."""
    import rasterio

    folder = tmp_path_factory.mktemp("scene")
    source = small_scene(folder)[0]
    with rasterio.open(folder / "fields.tif") as file:
        return source, file.read()[:3]


def script_at(folder, **changes):
    path = save_script(folder / "model.pt")
    path.with_suffix(".json").write_text(json.dumps(contract(**changes)))
    return str(path)


def onnx_at(folder):
    needs_onnxruntime()
    return str(save(folder, foreign.dense_onnx(WEIGHTS), contract(context_px=3, batch_size=3)))


MODELS = {
    "onnx": onnx_at,
    "torchscript": script_at,
    "module": lambda folder: landuse.ForeignModel(network(), contract()),
    "function": lambda folder: landuse.ForeignModel(by_function, contract(), version="1"),
    "channels last": lambda folder: landuse.ForeignModel(
        lambda values: np.moveaxis(by_function(np.moveaxis(values, -1, 1)), 1, -1),
        contract(layout="channels-last"),
        version="1",
    ),
}


@pytest.mark.parametrize("kind", MODELS)
def test_a_dense_model_says_of_each_pixel_what_its_weights_mean(tmp_path, kind):
    dn = np.random.default_rng(1).integers(0, 6000, (3, 41, 50)).astype(np.uint16)
    scores = load_classifier(MODELS[kind](tmp_path), "cpu").pixel_scores(dn, BANDS, "L2A")
    np.testing.assert_allclose(scores.landuse, shares_by_hand(dn), atol=2e-6)
    assert scores.cover is scores.landuse
    assert scores.doubt is None


def test_patches_say_what_their_means_mean(tmp_path):
    needs_onnxruntime()
    path = save(tmp_path, foreign.patch_onnx(WEIGHTS), contract("patch", batch_size=8))
    dn = np.random.default_rng(2).integers(0, 6000, (21, 3, PX, PX)).astype(np.uint16)
    found = load_classifier(str(path)).cell_probabilities(dn, "L2A", 2)
    expected = shares_by_hand(dn.mean((2, 3)).T).T
    assert found.shape == (21, 3, 2, 2)
    for cell in found.reshape(21, 3, 4).T:
        np.testing.assert_allclose(cell.T, expected, atol=2e-6)
    assert load_classifier(str(path)).cell_probabilities(dn[:0], "L2A", 2).shape == (0, 3, 2, 2)


def test_levels_saturation_temperature_and_probabilities_enter_as_stated(tmp_path):
    """Oracle: the formula of the documentation, written out."""
    values = contract(
        levels={"L1C": {"gain": 0.9, "offset_dn": [-700, -400, -300]}, "L2A": {}},
        saturation_dn=3000,
        temperature=2.0,
    )
    dn = np.random.default_rng(3).integers(0, 6000, (3, PX, PX)).astype(np.uint16)
    found = load_classifier(landuse.ForeignModel(network(), values)).pixel_scores(dn, BANDS, "L1C").landuse
    offset = np.array([-700.0, -400, -300])[:, None, None]
    expected = shares_by_hand((0.9 * dn + offset).clip(0, 3000), WEIGHTS / 2)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    soft = torch.nn.Sequential(network(), torch.nn.Softmax(1))
    model = landuse.ForeignModel(soft, contract(output="probabilities"))
    found = load_classifier(model).pixel_scores(dn, BANDS, "L2A").landuse
    np.testing.assert_allclose(found, shares_by_hand(dn), atol=2e-6)


def test_windows_keep_only_what_saw_its_context():
    """A 5 x 5 mean sees 2 pixels around: with 2 of context windows are as good as the whole."""
    blur = torch.nn.Conv2d(3, 3, 5, padding=2, groups=3, bias=False)
    blur.weight.data[:] = 1 / 25
    net = torch.nn.Sequential(blur, network())
    dn = np.random.default_rng(4).integers(0, 6000, (3, 60, 76)).astype(np.uint16)

    def scores(context, size=20):
        model = landuse.ForeignModel(net, contract(size_px=size, context_px=context, multiple_px=4))
        return load_classifier(model).pixel_scores(dn, BANDS, "L2A").landuse

    x = (torch.from_numpy(dn.astype(np.float32)) - torch.tensor([1000.0, 900, 800])[:, None, None]) / (
        torch.tensor([500.0, 400, 300])[:, None, None]
    )
    with torch.inference_mode():
        whole = net(x[None]).softmax(1)[0].numpy()
    np.testing.assert_allclose(scores(2), whole, atol=1e-5)
    assert np.abs(scores(0) - whole).max() > 0.01


@pytest.mark.parametrize(
    ("length", "size", "context", "multiple"),
    [(64, 64, 8, 1), (65, 64, 8, 1), (200, 64, 20, 4), (512, 96, 17, 8), (96, 32, 0, 32)],
)
def test_windows_cover_an_axis_once(length, size, context, multiple):
    kept = np.zeros(length, int)
    for window in windows(length, size, context, multiple):
        assert window.start % multiple == 0
        assert 0 <= window.start <= window.first < window.last <= window.start + size <= length
        kept[window.first : window.last] += 1
        assert window.first - window.start >= context or window.first == 0
        assert window.start + size - window.last >= context or window.last == length
    assert (kept == 1).all()


def test_maps_of_pixels_and_of_patches_are_what_the_weights_mean(tmp_path, scene):
    """From a file to a map; blocks do not show, and the model's description fits MLM's schema."""
    source, dn = scene
    path = script_at(tmp_path, size_px=64, context_px=2, multiple_px=4, batch_size=4)
    report = map_area(
        request(tmp_path, source, block_px=128, probabilities=True), load_classifier(path, "cpu")
    )
    best = shares_by_hand(dn)
    ranked = np.sort(best, 0)
    clear = ranked[-1] - ranked[-2] > 1e-4
    found = read(tmp_path / "map" / "landuse.tif")[: dn.shape[1], : dn.shape[2]]
    assert (found == best.argmax(0))[clear].all()
    assert clear.mean() > 0.99
    assert (read(tmp_path / "map" / "cover.tif") == read(tmp_path / "map" / "landuse.tif")).all()
    assert report.plan.classes == CLASSES
    assert report.plan.engine == "pixels"
    item = json.loads((tmp_path / "map" / "model.json").read_text())
    assert stac_errors(item) == []
    assert "safetensors" not in json.dumps(item)
    assert item["properties"]["mlm:output"][0]["result"]["shape"] == [-1, 3, 64, 64]

    half = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), network(), torch.nn.Flatten())
    model = landuse.ForeignModel(half, contract("patch"))
    held = landuse.map(source=source, model=model, stride_px=PX)
    corner = dn[:, 32:48, 32:48].mean((1, 2))
    cell = held.isel(y=2, x=2)
    assert int(cell["class"]) == shares_by_hand(corner).argmax()


def test_a_module_s_digest_is_of_its_weights_contract_and_version():
    def digest(net, **changes):
        return load_classifier(landuse.ForeignModel(net, contract(**changes))).weights_sha256

    assert digest(network()) == digest(network())
    versioned = load_classifier(landuse.ForeignModel(network(), contract(), version="2")).weights_sha256
    others = {digest(network(WEIGHTS + 1)), digest(network(), mean_dn=1), versioned, digest(network())}
    assert len(others) == 4


def test_the_digest_is_of_file_and_contract(tmp_path):
    path = Path(script_at(tmp_path))
    first = load_file(path, "cpu").weights_sha256
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps(contract(sha256=digest, mean_dn=[1000, 900, 801])))
    assert load_file(path, "cpu").weights_sha256 != first
    path.with_suffix(".json").write_text(json.dumps(contract(sha256="0" * 64)))
    with pytest.raises(ModelError, match=f"has the digest {digest}, and .*model.json is the contract of 000"):
        load_file(path, "cpu")


class Trap:
    """A pickle that leaves a mark where it is opened."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_pickles_are_refused_unopened(tmp_path, run):
    mark = tmp_path / "opened"
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(Trap(mark)))
    torch.save({"w": Trap(mark)}, tmp_path / "new.pt")
    torch.save({"w": Trap(mark)}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "disguised.onnx").write_bytes((tmp_path / "new.pt").read_bytes())
    for name in ("old.pkl", "new.pt", "legacy.pth", "disguised.onnx"):
        (tmp_path / name).with_suffix(".json").write_text(json.dumps(contract()))
        done = run(
            "map", "--source", tmp_path / "nothing", "--model", tmp_path / name, "--out", tmp_path / "m"
        )
        assert done.code == 2
        assert "which is a program: it is not opened" in done.err
        assert "Traceback" not in done.err
    assert not mark.exists()
    assert not (tmp_path / "m").exists()


def outer_weights():
    """A tensor that says its values are in a file of the system."""
    entry = foreign._field(1, "location") + foreign._field(2, "../../../etc/passwd")
    return foreign._field(13, entry) + foreign._field(14, 1)


BAD_FILES = {
    "no model": (lambda: b"hello", {}, "is neither safetensors nor whole ONNX nor TorchScript"),
    "empty": (lambda: b"", {}, "is neither safetensors nor whole ONNX nor TorchScript"),
    "cut off": (lambda: foreign.dense_onnx(WEIGHTS)[:-30], {}, "is neither safetensors nor whole"),
    "an archive": (lambda: b"PK\x03\x04" + bytes(50), {}, "is a damaged archive"),
    "weights elsewhere": (
        lambda: foreign.dense_onnx(WEIGHTS, extra=outer_weights()),
        {},
        "keeps weights in other files, which are not followed",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_files_that_are_no_models_are_refused(tmp_path, case):
    content, changes, message = BAD_FILES[case]
    path = save(tmp_path, content(), contract(**changes))
    with pytest.raises(ModelError, match=message):
        load_classifier(str(path))


BAD_GRAPHS = {
    "bands": (
        lambda: foreign.dense_onnx(WEIGHTS),
        {"bands": ["B04", "B03"], "mean_dn": 0, "std_dn": 1},
        r"takes an array of \(n, 3, size, size\), and its contract means \(1, 2, 16, 16\)",
    ),
    "classes": (
        lambda: foreign.dense_onnx(WEIGHTS),
        {"classes": ["a", "b"]},
        "gives an array of .*3.*means .*2",
    ),
    "size": (lambda: foreign.dense_onnx(WEIGHTS, size=32), {}, r"\(n, 3, 32, 32\).* \(1, 3, 16, 16\)"),
    "batch": (lambda: foreign.dense_onnx(WEIGHTS, batch=4), {}, r"\(4, 3, .*means \(1, 3"),
    "kind": (
        lambda: foreign.dense_onnx(WEIGHTS),
        {"kind": "patch"},
        r"gives an array of \(n, 3, size, size\).*means \(64, 3\)",
    ),
    "type": (lambda: foreign.dense_onnx(WEIGHTS, kind=11), {}, "no ONNX file that can run|takes dn of"),
    "output": (lambda: foreign.dense_onnx(WEIGHTS), {"output_name": "x"}, "has no output 'x'. It has scores"),
    "NaN": (lambda: foreign.dense_onnx(WEIGHTS * np.nan), {}, "values that are not finite"),
    "logits": (lambda: foreign.dense_onnx(WEIGHTS), {"output": "probabilities"}, "no probabilities. Say"),
}


@pytest.mark.parametrize("case", BAD_GRAPHS)
def test_graphs_that_are_not_their_contract_are_refused_before_a_map(tmp_path, case):
    needs_onnxruntime()
    content, changes, message = BAD_GRAPHS[case]
    path = save(tmp_path, content(), contract(**changes))
    with pytest.raises(ModelError, match=message):
        load_classifier(str(path))


def test_an_onnx_file_without_its_runtime_is_told_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = save(tmp_path, foreign.dense_onnx(WEIGHTS), contract())
    with pytest.raises(ModelError, match=r"pip install 'landuse\[onnx\]'"):
        load_classifier(str(path))


BAD_NETWORKS = {
    "a tuple": (lambda x: (by_function(x),), "gives tuple, and its contract means floats of"),
    "whole numbers": (lambda x: by_function(x).astype(int), r"gives int64 of \(1, 3, 16, 16\)"),
    "too small": (lambda x: by_function(x)[..., :-2], r"float\d+ of \(1, 3, 16, 14\)"),
    "infinite": (lambda x: by_function(x) / 0, "values that are not finite"),
    "raises": (lambda x: x @ np.ones((3, 3)), r"failed on an array of \(1, 3, 16, 16\) \(matmul"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("case", BAD_NETWORKS)
def test_networks_that_are_not_their_contract_are_refused_before_a_map(case):
    function, message = BAD_NETWORKS[case]
    with pytest.raises(ModelError, match=message):
        landuse.map(source="nothing", model=landuse.ForeignModel(function, contract(), version="1"))


def test_what_is_no_network_is_told_so(tmp_path):
    with pytest.raises(ModelError, match="nothing tells which version"):
        load_classifier(landuse.ForeignModel(by_function, contract()))
    with pytest.raises(ModelError, match=r"of str is neither a torch.nn.Module nor a function"):
        load_classifier(landuse.ForeignModel("model.onnx", contract()))
    (tmp_path / "c.json").write_text('{"mean_dn": NaN}')
    with pytest.raises(ModelError, match="no readable JSON"):
        load_classifier(landuse.ForeignModel(network(), tmp_path / "c.json"))
    with pytest.raises(ModelError, match=r"No contract .*gone.json"):
        load_classifier(landuse.ForeignModel(network(), str(tmp_path / "gone.json")))
    with pytest.raises(UsageError, match="--device 'tpu' is unknown"):
        load_classifier(landuse.ForeignModel(network(), contract()), "tpu")
    path = save_script(tmp_path / "alone.pt")
    with pytest.raises(ModelError, match=r"No contract .*alone.json. Beside a model's file must lie"):
        load_classifier(str(path))
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ModelError, match="damaged archive"):
        load_classifier(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "x"}, "format is 'x', not 'landuse-foreign-model-1'"),
        ({"classes": None}, "missing keys classes"),
        ({"clases": 1}, "unknown keys clases"),
        ({"kind": "whole"}, "kind is 'whole', not one of patch, dense"),
        ({"output": "argmax"}, "output is 'argmax'"),
        ({"layout": 3}, "layout is 3"),
        ({"bands": ["B04", "B03", "red"]}, r"bands \['red'\] are not among"),
        ({"bands": ["B04", "B04", "B02"]}, "must be unique"),
        ({"bands": "B04"}, "bands 'B04' is no list"),
        ({"classes": ["a", "a", "b"]}, "3 classes"),
        ({"classes": ["a", "../b", "c"]}, r"class '../b' is no name"),
        ({"name": "<script>"}, "is no name"),
        ({"levels": {}}, "at least one processing level"),
        ({"levels": {"L3": {}}}, "levels .* must be different ones of"),
        ({"levels": {"L2A": {"gain": 1e9}}}, "gain of L2A 1e.09 is not in"),
        ({"levels": {"L2A": {"scale": 1}}}, "is no object of gain and offset_dn"),
        ({"levels": ["L2A"]}, "levels is no object"),
        ({"mean_dn": [1, 2]}, "mean_dn has 2 numbers, not one for each of the 3 bands"),
        ({"mean_dn": "1"}, "mean_dn '1' is no number"),
        ({"std_dn": 0}, "must be above 0"),
        ({"std_dn": True}, "std_dn True is no number"),
        ({"std_dn": 10**400}, "too large"),
        ({"saturation_dn": 1e7}, "must be within 1 to 100000"),
        ({"size_px": 4096}, "size_px 4096 is no whole number of 1 to 512"),
        ({"size_px": 16.0}, "size_px 16.0 is no whole number"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"context_px": 8}, "a window of size_px 16"),
        ({"context_px": 100}, "context_px 100 is no whole number of 0 to 72"),
        ({"multiple_px": 5}, "must be a multiple of multiple_px 5"),
        ({"kind": "patch", "context_px": 1}, "is for dense models"),
        ({"temperature": 0}, "must be above 0"),
        ({"resolution_m": float("nan")}, "finite"),
        ({"sha256": "abc"}, "sha256 is not 64 digits"),
        ({"output_name": ""}, "output_name '' is no text"),
    ],
)
def test_contracts_are_checked(changes, message):
    with pytest.raises(ModelError, match=message):
        contract_of(contract(**changes))


@pytest.mark.parametrize("values", [None, [], "x", {}, {1: 2}])
def test_what_is_no_contract_is_refused(values):
    with pytest.raises(ModelError, match="The contract cannot be used"):
        contract_of(values)

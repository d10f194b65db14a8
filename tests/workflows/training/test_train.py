"""``landuse train`` and ``evaluate`` as a user meets them: real patches, refusals, kills, two processes.

Oracles: an uninterrupted run, the network fed by numpy from the contract's numbers, the folder's own
counts, and the same patches in another file order.
"""

import json
import os
import pickle
import signal
import subprocess
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from landuse.cli import app
from landuse.model.checkpoint import load_checkpoint, load_recipe, model_path
from landuse.model.training.config import TrainConfig
from landuse.workflows.training.train import fitted, split_names
from tests import warm
from tests.commands import Ran
from tests.patches import EUROSAT, HUES, NATURAL, make_jpegs, make_tiffs, write_split, write_tiff
from tests.servers import free_port

NO_B10 = tuple(band for band in NATURAL if band != "B10")
# bfloat16, the default, takes ten times as long on a processor that does not compute in it: one test uses it.
FAST = ("--device", "cpu", "--precision", "fp32")
RECIPE = ("--epochs", "4", "--batch-size", "12", "--peak-rate", "0.02", *FAST)
KEYS = {"n", "accuracy", "kappa", "macro_f1", "per_class", "ece", "confidence_gap", "confusion", "interval"}
EACH = 16


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # Tensors this small gain nothing from threads and lose seconds to them on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``jpg``, ``eurosat`` and ``natural``: three folders of patches, the TIFFs' bands without names."""
    root = tmp_path_factory.mktemp("patches")
    make_jpegs(root / "jpg", EACH)
    make_tiffs(root / "eurosat", EUROSAT, each=EACH)
    make_tiffs(root / "natural", NATURAL, each=EACH)
    return root


@pytest.fixture(scope="module")
def split(folder):
    """A quarter to measure on; names of JPEGs, as EuroSAT's splits have them."""
    return write_split(folder, [f"{name}/{name}_{i}.jpg" for name in HUES for i in range(EACH)])


def trained(out, *options):
    """The checkpoint that ``landuse train`` writes."""
    with pytest.raises(SystemExit) as ended:
        app(["train", "--out", str(out), *map(str, options)], prog_name="landuse")
    assert not ended.value.code
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def rgb_model(folder, split, tmp_path_factory):
    out = tmp_path_factory.mktemp("rgb")
    return trained(out, "--data", folder / "jpg", "--split", split, *RECIPE)


@pytest.fixture(scope="module")
def all_model(folder, split, tmp_path_factory):
    out = tmp_path_factory.mktemp("all")
    return trained(out, "--data", folder / "eurosat", "--split", split, "--bands", "all", *RECIPE)


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_prints_one_path_and_leaves_what_it_says(run, folder, split, tmp_path):
    out = tmp_path / "run"
    options = ("train", "--data", folder / "jpg", "--split", split, "--out", out, *RECIPE)
    shown = run(*options)
    assert (shown.code, shown.out) == (0, f"{out / 'model.safetensors'}\n")
    lines = shown.err.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", str(n)] for n in (1, 2, 3, 4)]
    assert all("patches/s" in line and line.endswith(" left") for line in lines)
    assert lines[-1].endswith(" 0:00:00 left")
    names = {"model.safetensors", "state.safetensors", "metrics.jsonl", "curves.png"}
    assert {path.name for path in out.iterdir()} == names
    with Image.open(out / "curves.png") as curves:
        assert curves.format == "PNG"
    contract = load_checkpoint(out / "model.safetensors")[1]
    assert contract.name == "balanced-fast-rgb"
    assert contract.classes == ("Brick", "Grass", "Water")
    again = run(*options)  # nothing is left to train
    assert again == Ran(0, shown.out, "")

    val = split.split(",")[1]
    model = ("--model", out / "model.safetensors")
    scored = run("evaluate", "--data", folder / "jpg", "--split", val, *model, "--json")
    assert (scored.code, scored.err) == (0, "")
    scores = json.loads(scored.out)
    assert set(scores) == KEYS
    assert scores["n"] == len(Path(val).read_text().split()) == 12
    assert scores["accuracy"] == lines_of(out)[-1]["val_accuracy"] >= 0.9  # chance is 0.33


def test_real_patches_of_all_bands_are_trained_on_and_scored(run, data_dir, tmp_path):
    """Oracle: the folder's own counts; the figures of one confusion matrix by numpy."""
    data = data_dir / "eurosat" / "EuroSAT_MS"
    files = {folder.name: sorted(path.name for path in folder.iterdir()) for folder in sorted(data.iterdir())}
    learn, measure = tmp_path / "learn.txt", tmp_path / "measure.txt"
    learn.write_text("".join(f"{name}/{file}\n" for name, own in files.items() for file in own[:2]))
    # As in EuroSAT's splits the names are those of the JPEGs.
    measure.write_text("".join(f"{name}/{own[2].replace('.tif', '.jpg')}\n" for name, own in files.items()))
    shown = run(
        "train", "--data", data, "--bands", "all", "--split", f"{learn},{measure}", "--out", tmp_path / "run",
        "--epochs", "1", "--batch-size", "10", *FAST,
    )  # fmt: skip
    assert shown.code == 0, shown.err
    weights = shown.out.strip()
    contract = load_checkpoint(Path(weights))[1]
    assert (contract.name, contract.bands, contract.patch_size_px) == ("balanced-fast-all", NATURAL, 64)
    assert contract.classes == tuple(files)
    assert len(lines_of(tmp_path / "run")) == 1

    scored = run("evaluate", "--data", data, "--model", weights, "--json")
    assert scored.code == 0, scored.err
    scores = json.loads(scored.out)
    assert set(scores) == KEYS
    confusion = np.array(scores["confusion"])
    assert confusion.sum(1).tolist() == [len(own) for own in files.values()]
    assert scores["n"] == confusion.sum()
    assert scores["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    recall = dict(zip(files, np.diag(confusion) / confusion.sum(1), strict=True))
    assert scores["per_class"] == pytest.approx(recall)


def test_another_file_order_is_the_same_data_once_it_is_stated(run, folder, split, all_model, tmp_path):
    val = split.split(",")[1]
    options = ("evaluate", "--split", val, "--model", all_model, "--json", "--data")
    first = run(*options, folder / "eurosat")
    assert json.loads(first.out)["accuracy"] >= 0.9
    stated = run(*options, folder / "natural", "--band-order", ", ".join(NATURAL))
    assert (stated.code, stated.out) == (0, first.out)
    named = tmp_path / "named"
    make_tiffs(named, NATURAL[::-1], named=True, each=EACH)
    assert run(*options, named).out == first.out


def by_numpy(weights, folder, val, l2a_error):
    """Predicted class of each patch: DN from the TIFF, scaled by the contract's own numbers."""
    network, contract = load_checkpoint(weights)
    # The path radiance of the model's bands in order of wavelength; B10 sees no ground.
    path = [950, 700, 400, 300, 260, 230, 205, 180, 165, 140, 0, 55, 35]
    level = contract.levels[0]
    per_band = (level.gain, level.offset_dn, contract.saturation_dn, contract.mean, contract.std, path)
    gain, offset, saturation, mean, std, path = (np.array(values)[:, None, None] for values in per_band)
    answers = []
    for name in Path(val).read_text().split():
        with rasterio.open(folder / "eurosat" / name.replace(".jpg", ".tif")) as source:
            dn = source.read().astype(float)[[EUROSAT.index(band) for band in NATURAL]]
        x = (np.clip((dn * gain + offset - l2a_error * path) / saturation, 0, 1) - mean) / std
        with torch.inference_mode():
            answers.append(int(network(torch.from_numpy(x[None]).float()).argmax()))
    return answers


@pytest.mark.parametrize("error", [0.0, 0.5, -0.8, 2.5])
def test_the_simulated_atmosphere_is_the_path_radiance_missed(run, folder, split, all_model, error):
    val = split.split(",")[1]
    options = ("evaluate", "--data", folder / "eurosat", "--split", val, "--model", all_model, "--json")
    shown = run(*options, "--l2a-error", error)
    assert shown.code == 0, shown.err
    truth = [sorted(HUES).index(name.split("/")[0]) for name in Path(val).read_text().split()]
    confusion = np.zeros((3, 3), int)
    for label, answer in zip(truth, by_numpy(all_model, folder, val, error), strict=True):
        confusion[label, answer] += 1
    assert json.loads(shown.out)["confusion"] == confusion.tolist()
    assert (shown.out == run(*options).out) == (error == 0)


def test_a_model_without_cirrus_reads_one_ground_through_both_levels(run, folder, split, tmp_path):
    """Oracle: L1C = t L2A + path radiance, so L2A patches of the same ground can be made."""
    options = ("--data", folder / "eurosat", "--split", split, "--bands", "no-b10", *RECIPE)
    weights = trained(tmp_path / "run", *options)
    path = np.array([950, 700, 400, 300, 260, 230, 205, 180, 165, 140, 55, 35])[:, None, None]
    transmittance = np.where(np.array(NO_B10) == "B09", 0.23, 0.95)[:, None, None]  # water vapour
    val = split.split(",")[1]
    for name in Path(val).read_text().split():
        source = (folder / "eurosat" / name).with_suffix(".tif")
        with rasterio.open(source) as image:
            l1c = image.read()[[EUROSAT.index(band) for band in NO_B10]].astype(float)
        l2a = np.rint((l1c - path) / transmittance).clip(1, None).astype(np.uint16)
        write_tiff((tmp_path / "l2a" / name).with_suffix(".tif"), l2a, NO_B10)
    scored = ("evaluate", "--split", val, "--model", weights, "--json", "--data")
    l1c = json.loads(run(*scored, folder / "eurosat").out)
    l2a = json.loads(run(*scored, tmp_path / "l2a", "--level", "L2A").out)
    assert l1c["accuracy"] >= 0.9
    assert l2a["confusion"] == l1c["confusion"]
    assert l2a["ece"] == pytest.approx(l1c["ece"], abs=0.01)


def test_symmetries_are_averaged_on_request(run, folder, split, all_model):
    options = ("evaluate", "--data", folder / "eurosat", "--model", all_model, "--json")
    plain, averaged = (json.loads(run(*options, *extra).out) for extra in ((), ("--tta",)))
    assert plain["n"] == averaged["n"] == 3 * EACH
    assert plain["ece"] != averaged["ece"]


# What is refused, with the mend, before anything is written.


@pytest.fixture
def refused(run, tmp_path):
    """A command's one message; it ends with code 2 and leaves nothing behind."""

    def call(*options):
        before = sorted(tmp_path.rglob("*"))
        shown = run(*options)
        assert shown.code == 2, shown
        assert sorted(tmp_path.rglob("*")) == before
        return shown.error

    return call


def test_all_bands_of_jpegs_are_refused(refused, folder, split, all_model, tmp_path):
    for bands in ("all", "no-b10"):
        message = refused(
            "train", "--data", folder / "jpg", "--split", split, "--bands", bands, "--out", tmp_path / "run"
        )
        assert "is an RGB image" in message
        assert "folder of multi-band TIFFs, or use --bands rgb" in message
    message = refused("evaluate", "--data", folder / "jpg", "--model", all_model)
    assert "bands B01, B02" in message
    assert "an RGB model" in message


def test_a_wrong_order_of_bands_is_refused(refused, folder, split, all_model, tmp_path):
    for command in (
        ("train", "--split", split, "--bands", "all", "--out", tmp_path / "run"),
        ("train", "--split", split, "--bands", "rgb", "--out", tmp_path / "run"),
        ("evaluate", "--model", all_model),
    ):
        message = refused(*command, "--data", folder / "natural")
        assert "are not in the order B01" in message
        assert "Say the files' order with --band-order" in message
        wrong = ("--data", folder / "eurosat", "--band-order", ",".join(NATURAL))
        assert "are not in the order B01" in refused(*command, *wrong)
        misspelt = ("--data", folder / "eurosat", "--band-order", "B1,B2,B3")
        assert "unknown: B1, B2, B3" in refused(*command, *misspelt)


def test_a_wrong_number_of_bands_is_refused(refused, split, all_model, tmp_path):
    make_tiffs(tmp_path / "twelve", NO_B10, each=EACH)
    data = ("--data", tmp_path / "twelve")
    for command in (
        ("train", *data, "--split", split, "--bands", "all", "--out", tmp_path / "run"),
        ("evaluate", *data, "--model", all_model),
    ):
        assert "has 12 bands without names" in refused(*command)
        message = refused(*command, "--band-order", ",".join(NO_B10))
        assert "B10 is wanted too" in message
        assert "Choose other --bands or another model" in message
        assert "--band-order names 13" in refused(*command, "--band-order", ",".join(EUROSAT))


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_wrong_type_is_refused(refused, split, all_model, tmp_path, dtype):
    for name in HUES:
        for number in range(EACH):
            values = np.full((13, 16, 16), 7, dtype)
            write_tiff(tmp_path / "odd" / name / f"{name}_{number}.tif", values)
    for command in (
        ("train", "--split", split, "--bands", "all", "--out", tmp_path / "run"),
        ("evaluate", "--model", all_model),
    ):
        message = refused(*command, "--data", tmp_path / "odd")
        assert f"is {dtype}; TIFF patches are uint16 DN" in message
        assert "Convert them" in message


def test_a_wrong_level_is_refused(run, refused, folder, split, all_model, tmp_path):
    eurosat = ("--data", folder / "eurosat")
    train = ("train", *eurosat, "--split", split, "--out", tmp_path / "run")
    message = refused(*train, "--bands", "all", "--level", "L2A")
    assert "L2A has no B10" in message
    assert "--bands no-b10" in message
    for bands in ("no-b10", "rgb"):  # the files hold B10, so they are not L2A
        message = refused(*train, "--bands", bands, "--level", "L2A")
        assert "L2A has no B10" in message
        assert "Name the level it is" in message
    assert "--level 'L3' is unknown. Use L1C or L2A." in refused(*train, "--level", "L3")
    message = refused("evaluate", *eurosat, "--model", all_model, "--level", "L2A")
    assert "balanced-fast-all reads L1C; the patches are L2A" in message
    assert "Choose another --model, or correct --level" in message

    scene = np.random.default_rng(0).integers(300, 1500, (12, 64, 64)).astype(np.uint16)
    raster = write_tiff(tmp_path / "scene.tif", scene, NO_B10)
    facts = ("--level", "L2A", "--datetime", "2024-06-15", "--baseline", "03.00")
    assert run("catalog", raster, *facts, "--out", tmp_path / "catalog").code == 0
    source = ("--source", tmp_path / "catalog", "--stride-px", 16, "--out", tmp_path / "map")
    message = refused("map", *source, "--model", all_model)
    assert "are L2A; L1C is needed. Choose another --model or --source." in message


def test_other_classes_and_sizes_than_the_model_s_are_refused(refused, folder, rgb_model, tmp_path):
    other = tmp_path / "other"
    for name in ("Brick", "Grass", "Sand"):
        (other / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(other / name / "1.png")
    message = refused("evaluate", "--data", other, "--model", rgb_model)
    assert "knows Brick, Grass, Water" in message
    assert "holds Brick, Grass, Sand" in message
    larger = tmp_path / "larger"
    for name in HUES:
        (larger / name).mkdir(parents=True)
        Image.new("RGB", (24, 24)).save(larger / name / "1.png")
    message = refused("evaluate", "--data", larger, "--model", rgb_model)
    assert "patches of 16 px" in message
    assert "have 24" in message


def test_learning_and_measuring_on_one_patch_is_refused(refused, folder, tmp_path):
    learn, measure = tmp_path / "learn.txt", tmp_path / "measure.txt"
    learn.write_text("Brick/Brick_0.tif\nGrass/Grass_0.tif\nWater/Water_0.tif\n")
    measure.write_text("Grass/Grass_0.jpg\nWater/Water_1.jpg\n")  # one patch under two suffixes
    message = refused(
        "train", "--data", folder / "eurosat", "--split", f"{learn},{measure}", "--out", tmp_path / "run"
    )
    assert "1 patches are in both" in message
    assert "Grass/Grass_0" in message


def test_any_folder_of_folders_is_learned_from(run, tmp_path):
    data, out = make_jpegs(tmp_path / "data", 11), tmp_path / "run"
    options = ("train", "--data", data, "--out", out, "--epochs", "1", "--device", "cpu")
    shown = run(*options)
    assert shown.code == 0, shown.err
    learned, measured = ((out / name).read_text().split() for name in ("train.txt", "val.txt"))
    assert sorted(learned + measured) == sorted(
        f"{path.parent.name}/{path.name}" for path in data.rglob("*.jpg")
    )
    assert [sum(name.startswith(f"{label}/") for name in measured) for label in HUES] == [2, 2, 2]
    again = tmp_path / "again"
    assert run(*options[:3], "--out", again, *options[5:], "--split", "random").code == 0
    assert (again / "val.txt").read_text().split() == measured  # drawn by the seed alone
    weights, repeated = (load_file(folder / "model.safetensors") for folder in (out, again))
    assert all(torch.equal(weights[name], repeated[name]) for name in weights)
    scored = run(
        "evaluate", "--data", data, "--split", out / "val.txt", "--model", out / "model.safetensors", "--json"
    )
    assert json.loads(scored.out)["n"] == 6


def test_a_class_of_one_patch_cannot_be_parted(refused, tmp_path):
    data = make_jpegs(tmp_path / "data", 2)
    (data / "Grass" / "Grass_1.jpg").unlink()
    message = refused("train", "--data", data, "--out", tmp_path / "run")
    assert "1 patches of class Grass" in message
    assert not (tmp_path / "run").exists()


def test_files_of_one_patch_are_not_parted(tmp_path):
    data = make_jpegs(tmp_path / "data", 10)
    for path in sorted(data.rglob("*.jpg")):
        with Image.open(path) as image:
            image.save(path.with_suffix(".png"))
    learned, measured = split_names(data, None, seed=3)
    assert (len(learned), len(measured)) == (48, 12)


@pytest.mark.parametrize(
    ("patches", "processes", "batch"),
    [(27_000, 1, 128), (1_024, 1, 128), (1_023, 1, 64), (36, 1, 4), (3, 1, 2), (3, 4, 8), (100, 3, 128)],
)
def test_a_batch_fits_a_small_set(monkeypatch, patches, processes, batch):
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    config = fitted(TrainConfig(peak_rate=0.16), patches)
    assert (config.batch_size, config.peak_rate) == (batch, pytest.approx(0.16 * batch / 128))


def test_a_missing_split_names_where_it_was_looked_for(refused, folder, tmp_path):
    message = refused("train", "--data", folder / "jpg", "--split", "spatial", "--out", tmp_path / "run")
    assert "no spatial-train.txt and spatial-val.txt" in message
    assert "--split TRAIN.txt,VAL.txt" in message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--network", "vgg"], ["--network 'vgg'", "baseline, cbam, balanced, balanced-fast, resnet50"]),
        (["--network", "baseline"], ["64 x 64 px", "16 x 16 px", "another network"]),
        (["--bands", "nir"], ["--bands 'nir'", "rgb, all, no-b10"]),
        (["--epochs", "0"], ["--epochs 0", "at least"]),
        (["--batch-size", "37"], ["36 patches are fewer than one batch of 37"]),
        (["--peak-rate", "nan"], ["--peak-rate nan", "above 0"]),
        (["--class-balance", "1"], ["--class-balance 1.0", "0.999"]),
        (["--group-dropout", "0.2"], ["--group-dropout 0.2", "one spectral group", "Leave it out"]),
        (["--early-crop-px", "20"], ["--early-crop-px 20", "1..16"]),
        (["--early-crop-px", "8,x"], ["--early-crop-px 8,x", "whole numbers"]),
        (["--optimizer", "adam"], ["--optimizer 'adam'", "sgd or adamw"]),
        (
            ["--teacher", "balanced-fast-rgb"],
            ["balanced-fast-rgb knows AnnualCrop", "Brick, Grass"],
        ),
        (["--teacher", "balanced-pixel"], ["--teacher balanced-pixel is no model of Sentinel-2 patches"]),
        (["--unlabelled", "."], ["--unlabelled needs --teacher"]),
        (["--unlabelled-level", "L2A"], ["--unlabelled-level is of --unlabelled"]),
        (["--precision", "fp16"], ["--precision 'fp16'", "bf16 or fp32"]),
        (["--device", "tpu"], ["--device 'tpu'", "auto, cpu, cuda"]),
        (["--init", "nonsense"], ["'nonsense'", "landuse models"]),
        (["--init", "balanced-fast-rgb", "--network", "cbam"], ["is balanced-fast; the run trains cbam"]),
    ],
    ids=lambda value: " ".join(value) if value[0].startswith("--") else "",
)
def test_a_wrong_request_gets_one_message_with_the_mend(run, folder, split, tmp_path, options, says):
    out = tmp_path / "run"
    shown = run(
        "train", "--data", folder / "jpg", "--split", split, "--out", out, "--batch-size", "12", *options
    )
    assert shown.code == 2
    assert all(part in shown.error for part in says), shown.error
    assert not list(out.rglob("*.safetensors"))


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def truncated(path):
    path.write_bytes(model_path("balanced-fast-rgb").read_bytes()[:-1000])


def foreign(path):
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)


def pickled(path):
    path.write_bytes(pickle.dumps({"stem.weight": Trap(path.with_name("sprung"))}))


def saved_by_torch(path):
    torch.save({"stem.weight": Trap(path.with_name("sprung"))}, path)


@pytest.mark.parametrize("spoil", [truncated, foreign, pickled, saved_by_torch])
def test_weights_that_are_none_are_refused_and_nothing_in_them_runs(refused, folder, split, tmp_path, spoil):
    weights = tmp_path / "model.safetensors"
    spoil(weights)
    data = ("--data", folder / "jpg")
    train = ("train", *data, "--split", split, "--out", tmp_path / "run", "--batch-size", "12")
    for command in (
        ("evaluate", *data, "--model", weights),
        (*train, "--init", weights),
        (*train, "--init", weights, "--network", "resnet50"),
    ):
        assert str(weights) in refused(*command)
    assert not (tmp_path / "sprung").exists()
    if spoil is pickled:
        pickle.loads(weights.read_bytes())  # the trap works
        assert (tmp_path / "sprung").exists()


def test_a_network_of_more_bands_learns_from_one_of_the_visible(run, folder, split, rgb_model, tmp_path):
    """Labelled patches of 12 bands, and unlabelled L2A ones that lack two of them."""
    bands = ("B04", "B03", "B02", "B08", "B05", "B06", "B07", "B8A", "B11", "B12")
    with_names = make_tiffs(tmp_path / "further", bands, named=True, each=3)
    (tmp_path / "further" / "folder.json").write_text('{"level": "L2A"}')
    taught = ("--teacher", rgb_model, "--unlabelled", tmp_path / "further", "--unlabelled-ratio", "0.75")
    data = ("--data", folder / "eurosat", "--split", split, "--bands", "no-b10")
    options = ("--epochs", "2", "--batch-size", "12", "--peak-rate", "0.02", "--device", "cpu")
    shown = run("train", *data, *taught, *options, "--out", tmp_path / "run")
    assert shown.code == 0, shown.err
    assert len(with_names) == 9
    weights = tmp_path / "run" / "model.safetensors"
    assert load_recipe(weights)["teacher_sha256"] == [sha256(rgb_model.read_bytes()).hexdigest()]
    assert load_checkpoint(weights)[1].bands == NO_B10
    wrong = run("train", *data, *taught, "--unlabelled-level", "L1C", *options, "--out", tmp_path / "second")
    assert wrong.code == 2
    assert "says that the patches are L2A; --unlabelled-level says L1C" in wrong.error


# Kills and processes.

LOCKSTEP = """
import sys
from pathlib import Path
import torch
from landuse.model.training.config import TrainConfig
from landuse.workflows.training.train import TrainRequest, patch_source, train_model

torch.set_num_threads(1)
data, split, out = sys.argv[1:]
request = TrainRequest(
    data=patch_source(Path(data), "L1C", None),
    split=split,
    out=Path(out),
    device="cpu",
    config=TrainConfig(
        epochs=3, batch_size=9, peak_rate=0.02, warmup_epochs=1, shift_px=2, precision="fp32"
    ),
)


def on_step(progress):
    print(progress.epoch, progress.step, flush=True)
    sys.stdin.readline()  # the next step waits for a word from outside


train_model(request, on_step=on_step)
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(folder, split, tmp_path):
    """SIGKILL leaves a process no moment to tidy up; the same command goes on to the same weights."""

    def command(out):
        return ["-c", LOCKSTEP, folder / "jpg", split, out]

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    with warm.Warm(command(broken), stdin=subprocess.PIPE) as process:
        for step in range(1, 7):  # four steps an epoch: after the sixth, two of the second are done
            assert process.stdout.readline() == f"{(step - 1) // 4 + 1} {step}\n"
            if step < 6:
                process.stdin.write("go\n")
                process.stdin.flush()
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert process.returncode == -signal.SIGKILL
    assert not (broken / "model.safetensors").exists()
    with safe_open(broken / "state.safetensors", framework="pt") as file:
        assert (file.metadata()["epoch"], file.metadata()["step"]) == ("1", "4")  # the last whole epoch

    steps = {}
    for out in (broken, whole):
        done = warm.run(command(out), input="go\n" * 12)
        assert (done.returncode, done.stderr) == (0, "")
        steps[out] = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert steps == {broken: list(range(5, 13)), whole: list(range(1, 13))}
    for name in ("model.safetensors", "state.safetensors"):
        expected, got = load_file(whole / name), load_file(broken / name)
        assert expected.keys() == got.keys()
        assert all(torch.equal(tensor, got[key]) for key, tensor in expected.items())
    told = [[(m["epoch"], m["loss"], m["val_accuracy"]) for m in lines_of(out)] for out in (broken, whole)]
    assert told[0] == told[1]
    assert {path.name for path in broken.iterdir()} == {path.name for path in whole.iterdir()}


@pytest.fixture
def torchrun(tmp_path_factory):
    """Two processes that train together; each computes on one thread."""
    with warm.python_of_others(tmp_path_factory.mktemp("python")) as python:

        def start(*options):
            launcher = ("torch.distributed.run", "--nproc-per-node", 2, "--master-port", free_port())
            environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON_EXEC": str(python)}
            command = ["-m", *launcher, "-m", "landuse", *options]
            return warm.run(command, env=environ, needs=["torch.distributed.run"])

        yield start


@pytest.mark.slow
def test_two_processes_train_one_model(run, torchrun, folder, split, tmp_path):
    out = tmp_path / "run"
    done = torchrun("train", "--data", folder / "jpg", "--split", split, "--out", out, *RECIPE)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {str(out / "model.safetensors")}
    assert "Traceback" not in done.stderr
    epochs = [line.split()[1] for line in done.stderr.splitlines() if line.startswith("epoch ")]
    assert epochs == ["1", "2", "3", "4"]  # told once
    lines = lines_of(out)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert lines[-1]["loss"] < lines[0]["loss"]
    names = {"model.safetensors", "state.safetensors", "metrics.jsonl", "curves.png"}
    assert {path.name for path in out.iterdir()} == names
    with safe_open(out / "state.safetensors", framework="pt") as file:
        assert (file.metadata()["epoch"], file.metadata()["step"]) == ("4", "12")  # 36 patches, 12 a step
    val = split.split(",")[1]
    model = ("--model", out / "model.safetensors")
    scored = run("evaluate", "--data", folder / "jpg", "--split", val, *model, "--json")
    assert json.loads(scored.out)["accuracy"] == lines[-1]["val_accuracy"] >= 0.9  # chance is 0.33


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--batch-size", "15"], "--batch-size 15 cannot be shared by 2 processes. Use a multiple."),
        (
            ["--device", "cuda:0"],
            "--device cuda:0 under torchrun would put every process on it. Use cuda or cpu.",
        ),
    ],
)
def test_what_two_processes_cannot_share_is_one_clear_error(torchrun, folder, split, tmp_path, options, says):
    out = tmp_path / "run"
    done = torchrun("train", "--data", folder / "jpg", "--split", split, "--out", out, *RECIPE, *options)
    assert done.returncode != 0
    errors = {line for line in done.stderr.splitlines() if line.startswith("Error: ")}
    assert errors == {f"Error: {says}"}
    assert "exitcode  : 2 " in done.stderr  # torchrun's own report of each process, which ends itself with 1
    assert f"{os.sep}landuse{os.sep}" not in done.stderr.replace(str(tmp_path), "")  # no traceback of ours
    assert done.stdout == ""
    assert not out.exists()

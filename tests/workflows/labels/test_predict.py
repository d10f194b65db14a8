"""``landuse predict``, ``evaluate --labels`` and ``thresholds`` as a user meets them.

Oracles: the network called by hand on what the contract says, scikit-learn, an uninterrupted run.
"""

import csv
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from landuse.contract import IMAGE_BANDS, LabelOutputs, ModelContract
from landuse.model.checkpoint import load_checkpoint, save_checkpoint
from landuse.model.networks import NetworkConfig, build_network
from landuse.workflows.labels.table import read_table
from tests.labels import LABELS, make_images, write_table
from tests.patches import write_tiff
from tests.warm import Warm
from tests.workflows.patch_models import save_patch_model

KEYS = {"n", "map", "pr_auc", "micro_f1", "macro_f1", "per_label", "interval"}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def image_model(path, seed=0, labels=LABELS, size=32, exclusive=False):
    """A tiny network with random weights that tells labels of 8-bit images."""
    torch.manual_seed(seed)
    config = NetworkConfig(
        name="balanced-fast", bands=3, classes=len(labels), unshuffle=2, widths=(8, 12), depths=(1, 1),
        attention="last", dropblock=(0.0, 0.0),
    )  # fmt: skip
    network = build_network(config)
    with torch.no_grad():
        network.output_layer.weight *= 20
    contract = ModelContract(
        name=path.stem, bands=IMAGE_BANDS, levels=(), saturation_dn=(255.0,) * 3, mean=(0.4, 0.5, 0.45),
        std=(0.2, 0.25, 0.3), classes=labels, patch_size_px=size, resolution_m=0.0, temperature=1.3,
        input_kind="rgb8", preprocess="grey" if seed % 2 else "raw",
        labels=None if exclusive else LabelOutputs(thresholds=(0.5,) * len(labels)),
    )  # fmt: skip
    save_checkpoint(path, network.eval(), contract)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = make_images(tmp_path_factory.mktemp("images"))
    image_model(root / "a.safetensors")
    image_model(root / "b.safetensors", seed=1, labels=LABELS[::-1], size=24)
    return root


def rows_of(path):
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    return rows[0], {row[0]: np.array(row[1:], float) for row in rows[1:]}, [row[0] for row in rows[1:]]


def by_hand(path, image_file, tta=False):
    """A model's probabilities of an image, by Pillow, numpy and the bare network."""
    network, contract = load_checkpoint(path)
    with Image.open(image_file) as image:
        side = contract.patch_size_px
        pixels = (
            np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), float).transpose(2, 0, 1) / 255
        )
    if contract.preprocess == "grey":
        pixels = np.tile(np.tensordot((0.299, 0.587, 0.114), pixels, 1), (3, 1, 1))
    mean, std = (np.array(values)[:, None, None] for values in (contract.mean, contract.std))
    x = (pixels - mean) / std
    turned = [np.rot90(x[:, :, ::flip], k, (1, 2)) for flip in (1, -1) for k in range(4)] if tta else [x]
    with torch.inference_mode():
        logits = network(torch.from_numpy(np.stack(turned)).float()).mean(0).double().numpy()
    told = 1 / (1 + np.exp(-logits / contract.temperature))
    return dict(zip(contract.classes, told, strict=True))


def test_an_ensemble_is_the_weighted_mean_of_its_members(run, folder, tmp_path):
    out = tmp_path / "p.csv"
    models = f"{folder / 'a.safetensors'},{folder / 'b.safetensors'}"
    shown = run(
        "predict", folder / "images", "--model", models, "--weights", "1,3", "--tta", "--out", out,
        "--device", "cpu",
    )  # fmt: skip
    assert (shown.code, shown.out) == (0, f"{out}\n")
    header, rows, order = rows_of(out)
    assert header == ["image", *LABELS]
    assert order == sorted(path.name for path in (folder / "images").iterdir())
    for name in order[:10]:
        a, b = (by_hand(folder / f"{m}.safetensors", folder / "images" / name, tta=True) for m in "ab")
        expected = [0.25 * a[label] + 0.75 * b[label] for label in LABELS]
        assert rows[name] == pytest.approx(expected, abs=2e-5)
    assert not list(tmp_path.glob(".*"))
    about = json.loads((tmp_path / "p.csv.json").read_text())
    assert about["shares"] == [0.25, 0.75]
    again = run(
        "predict", folder / "images", "--model", models, "--weights", "1,3", "--tta", "--out", out, "--json"
    )
    assert json.loads(again.out) == {"out": str(out), "images": 48, "new": 0, "columns": list(LABELS)}


def test_geotiffs_of_any_size_are_told_by_a_model_of_classes(run, tmp_path):
    """Bands by name, in the model's order; oracle: the bare network on DN that numpy scales."""
    model = save_patch_model(tmp_path / "m.safetensors")
    network, contract = load_checkpoint(model)
    rng = np.random.default_rng(0)
    images = {}
    for name, shape in (("small", (40, 52)), ("usual", (64, 64)), ("large", (90, 70))):
        images[name] = rng.integers(200, 2600, (4, *shape)).astype(np.uint16)
        write_tiff(tmp_path / "in" / f"{name}.tif", images[name], ("B02", "B03", "B04", "B08"))
    out = tmp_path / "p.csv"
    shown = run(
        "predict", tmp_path / "in", "--model", model, "--level", "L2A", "--out", out, "--device", "cpu"
    )
    assert shown.code == 0, shown.err
    header, rows, _ = rows_of(out)
    assert header == ["image", *contract.classes]
    level = contract.level_input("L2A")
    for name, dn in images.items():
        chosen = dn[[2, 1, 0]].astype(float)
        gain, offset, full, mean, std = (
            np.array(v)[:, None, None]
            for v in (level.gain, level.offset_dn, contract.saturation_dn, contract.mean, contract.std)
        )
        x = (((chosen * gain + offset) / full).clip(0, 1) - mean) / std
        with torch.inference_mode():
            expected = (
                network(torch.from_numpy(x[None]).float())[0].double() / contract.temperature
            ).softmax(0)
        assert rows[f"{name}.tif"] == pytest.approx(expected.numpy(), abs=2e-5)
        assert rows[f"{name}.tif"].sum() == pytest.approx(1, abs=1e-5)


def test_a_broken_image_is_told_and_nothing_else_is_lost(run, folder, tmp_path):
    place = tmp_path / "in"
    place.mkdir()
    names = [f"image{i:03}.jpg" for i in range(5)]
    for name in names:
        (place / name).write_bytes((folder / "images" / name).read_bytes())
    whole = (place / names[1]).read_bytes()
    (place / names[1]).write_bytes(whole[:300])
    out, options = tmp_path / "p.csv", ("--model", folder / "a.safetensors", "--device", "cpu", "--quiet")
    shown = run("predict", place, "--out", out, *options)
    assert shown.code == 4
    assert "1 of 5 images could not be read" in shown.err
    assert names[1] in shown.err
    before = rows_of(out)
    assert before[2] == [names[0], *names[2:]]
    (place / names[1]).write_bytes(whole)
    told = run("predict", place, "--out", out, *options, "--json")
    assert json.loads(told.out)["new"] == 1
    after = rows_of(out)
    assert after[2] == names  # in order, none twice
    assert all((after[1][name] == before[1][name]).all() for name in before[1])
    assert after[1][names[1]] == pytest.approx(
        list(by_hand(folder / "a.safetensors", place / names[1]).values()), abs=2e-5
    )


def test_a_row_is_of_the_image_that_is_there_now(run, folder, tmp_path):
    """Oracle: a table made from nothing."""
    places = [tmp_path / name for name in ("one", "two")]
    for place, first in zip(places, (0, 10), strict=True):
        place.mkdir()
        for i in range(4):
            shutil.copy2(folder / "images" / f"image{first + i:03}.jpg", place / f"a, {i}.jpg")
    out, options = tmp_path / "p.csv", ("--model", folder / "a.safetensors", "--device", "cpu")

    def new(place):
        shown = run("predict", place, "--out", out, *options, "--json")
        fresh = tmp_path / "fresh.csv"
        assert run("predict", place, "--out", fresh, *options, "--overwrite").code == 0
        assert out.read_bytes() == fresh.read_bytes()
        assert (tmp_path / "p.csv.json").read_bytes() == (tmp_path / "fresh.csv.json").read_bytes()
        return json.loads(shown.out)["new"]

    assert [new(places[0]), new(places[0])] == [4, 0]
    shutil.copyfile(folder / "images" / "image020.jpg", places[0] / "a, 2.jpg")
    assert [new(places[0]), new(places[0])] == [1, 0]
    assert [new(places[1]), new(places[1])] == [4, 0]
    (places[1] / "a, 0.jpg").write_bytes(b"no image")
    assert run("predict", places[1], "--out", out, *options).code == 4
    assert rows_of(out)[2] == ["a, 1.jpg", "a, 2.jpg", "a, 3.jpg"]


STEPWISE = """
import sys
from pathlib import Path
from landuse.workflows.labels import predict, stream
stream.AT_ONCE = 8
root, out = map(Path, sys.argv[1:])
def step(done, total):
    print(done, flush=True)
    input()
predict.predict_images(predict.PredictRequest(images=(root / "images",),
    models=(str(root / "a.safetensors"),), out=out, device="cpu"), step)
"""


def test_a_run_that_was_killed_goes_on_to_the_same_table(run, folder, tmp_path):
    whole, out = tmp_path / "whole.csv", tmp_path / "p.csv"
    options = ("predict", folder / "images", "--model", folder / "a.safetensors", "--device", "cpu")
    assert run(*options, "--out", whole).code == 0
    with Warm(["-c", STEPWISE, folder, out], stdin=subprocess.PIPE) as process:
        for done in (0, 8, 16, 24):
            assert process.stdout.readline() == f"{done}\n"
            if done < 24:
                process.stdin.write("go\n")
                process.stdin.flush()
        busy = run(*options, "--out", out)
        assert busy.code == 1
        assert "Another run is at work on" in busy.error
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    assert not out.exists()  # nothing half-written where the table will be
    part = tmp_path / ".p.csv.part"
    with part.open("ab") as file:
        file.write(b"0123456789abcdef,image024.jpg,0.1,0.")  # as a kill in the middle of a write leaves it
    replaced = folder / "images" / "image003.jpg"
    replaced.touch()
    shown = run(*options, "--out", out, "--json")
    assert json.loads(shown.out)["new"] == 25
    assert out.read_bytes() == whole.read_bytes()
    assert not part.exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("I", "--model", "A", "--out", "p.txt"), "End its name in .csv"),
        (("N", "--model", "A", "--out", "p.csv"), "There is no image and no folder"),
        (("E", "--model", "A", "--out", "p.csv"), "holds no image"),
        (("I", "--model", "A,C", "--out", "p.csv"), "tell different things"),
        (("I", "--model", "A,B", "--weights", "1", "--out", "p.csv"), "1 numbers for 2 models"),
        (("I", "--model", "A", "--weights", "x", "--out", "p.csv"), "are no numbers"),
        (("I", "--model", "A", "--weights", "0", "--out", "p.csv"), "one of them above"),
        (("I", "--model", "balanced-pixel", "--out", "p.csv"), "classifies each pixel"),
        (("I", "--model", "balanced-fast-all", "--out", "p.csv"), "which no 8-bit image has"),
        (("I", "--model", "A", "--level", "L3", "--out", "p.csv"), "--level 'L3' is unknown"),
    ],
)
def test_what_does_not_fit_is_refused(run, folder, tmp_path, options, told):
    (tmp_path / "empty").mkdir()
    image_model(tmp_path / "c.safetensors", labels=("x", "y"))
    places = {
        "I": folder / "images", "N": tmp_path / "no", "E": tmp_path / "empty", "A": folder / "a.safetensors",
        "A,B": f"{folder / 'a.safetensors'},{folder / 'b.safetensors'}",
        "A,C": f"{folder / 'a.safetensors'},{tmp_path / 'c.safetensors'}",
        "p.csv": tmp_path / "p.csv", "p.txt": tmp_path / "p.txt",
    }  # fmt: skip
    shown = run("predict", *(places.get(option, option) for option in options), "--device", "cpu")
    assert shown.code == 2
    assert told in shown.error
    assert not (tmp_path / "p.csv").exists()


def test_reflectance_is_no_image_and_an_image_keeps_its_size_as_reflectance(run, folder, tmp_path):
    dn = np.full((3, 32, 32), 900, np.uint16)
    write_tiff(tmp_path / "in" / "a.tif", dn, ("B04", "B03", "B02"))
    options = ("--out", tmp_path / "p.csv", "--device", "cpu")
    shown = run("predict", tmp_path / "in", "--model", folder / "a.safetensors", *options)
    assert "is reflectance, and model a reads 8-bit RGB images" in shown.err
    assert shown.code == 2
    # An 8-bit image is taken for EuroSAT's: as DN of its own 32 px it tells the same.
    model = save_patch_model(tmp_path / "m.safetensors")
    image = np.random.default_rng(3).integers(0, 256, (32, 32, 3), np.uint8)
    (tmp_path / "two").mkdir()
    Image.fromarray(image).save(tmp_path / "two" / "a.png")
    dn = np.rint(image.transpose(2, 0, 1) * (2750 / 255)).astype(np.uint16)
    write_tiff(tmp_path / "two" / "b.tif", dn, ("B04", "B03", "B02"))
    assert run("predict", tmp_path / "two", "--model", model, *options).code == 0
    _, rows, _ = rows_of(tmp_path / "p.csv")
    assert rows["a.png"] == pytest.approx(rows["b.tif"], abs=2e-3)


def test_a_table_of_other_settings_is_not_touched(run, folder, tmp_path):
    out = tmp_path / "p.csv"
    options = ("predict", folder / "images", "--out", out, "--device", "cpu", "--quiet")
    assert run(*options, "--model", folder / "a.safetensors").code == 0
    before = out.read_bytes()
    shown = run(*options, "--model", folder / "b.safetensors")
    assert "is there already, and not of these models and settings" in shown.error
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    fewer = ("predict", folder / "images" / "image000.jpg", "--out", out, "--device", "cpu")
    assert (
        "has rows of 48 images that are not given now"
        in run(*fewer, "--model", folder / "a.safetensors").error
    )
    assert run(*options, "--model", folder / "b.safetensors", "--overwrite").code == 0
    assert rows_of(out)[0] == ["image", *LABELS[::-1]]


def test_scores_are_scikit_learns_of_what_predict_says(run, folder, tmp_path):
    val, out = folder / "val.csv", tmp_path / "p.csv"
    model = ("--model", folder / "a.safetensors", "--tta", "--device", "cpu")
    run("predict", folder / "images", "--out", out, *model)
    curves = tmp_path / "curves.png"
    given = ("evaluate", "--images", folder / "images", "--labels", val, *model)
    shown = run(*given, "--json", "--curves", curves)
    assert shown.code == 0, shown.err
    told = json.loads(shown.out)
    assert set(told) >= KEYS
    with Image.open(curves) as image:
        assert image.format == "PNG"
    table, (_, rows, _) = read_table(val), rows_of(out)
    probabilities = np.stack([rows[name] for name in table.names])
    assert told["n"] == len(table.names) == 16
    assert told["map"] == pytest.approx(average_precision_score(table.targets, probabilities), abs=1e-4)
    answers = probabilities >= 0.5
    assert told["micro_f1"] == pytest.approx(f1_score(table.targets, answers, average="micro"), abs=1e-6)
    assert list(told["per_label"]) == list(LABELS)
    assert told["interval"][0] <= told["map"] <= told["interval"][1]
    text = run(*given)
    assert "mAP" in text.out
    assert all(label in text.out for label in LABELS)


def test_thresholds_are_fitted_and_kept(run, folder, tmp_path):
    out = tmp_path / "new.safetensors"
    given = ("--images", folder / "images", "--labels", folder / "val.csv", "--device", "cpu")
    shown = run("thresholds", *given, "--model", folder / "a.safetensors", "--out", out, "--json")
    assert shown.code == 0, shown.err
    told = json.loads(shown.out)["thresholds"]
    network, contract = load_checkpoint(out)
    assert contract.labels.thresholds == tuple(told[name] for name in contract.classes)
    before, old = load_checkpoint(folder / "a.safetensors")
    assert contract == replace(old, labels=contract.labels)
    weights, kept = before.state_dict(), network.state_dict()
    assert all(torch.equal(weights[name], kept[name]) for name in weights)
    scores = [
        json.loads(run("evaluate", *given, "--model", model, "--json").out)["per_label"]
        for model in (folder / "a.safetensors", out)
    ]
    assert all(scores[1][name]["f1"] >= (scores[0][name]["f1"] or 0) for name in LABELS)
    assert "is there already" in run("thresholds", *given, "--model", out, "--out", out).error


def test_what_cannot_be_scored_is_told(run, folder, tmp_path):
    given = (
        "evaluate",
        "--images",
        folder / "images",
        "--model",
        folder / "a.safetensors",
        "--device",
        "cpu",
    )
    strange = write_table(tmp_path / "t.csv", [("image000.jpg", [1, 0, 0, 1])], (*LABELS, "yacht"))
    assert "has the labels yacht, which model" in run(*given, "--labels", strange).error
    missing = write_table(tmp_path / "m.csv", [("no.jpg", [1, 0, 0])])
    assert "no.jpg cannot be read" in run(*given, "--labels", missing).error
    nothing = write_table(tmp_path / "n.csv", [("image000.jpg", [0, 0, 0])])
    assert "no image has any of the labels" in run(*given, "--labels", nothing).error
    classes = image_model(tmp_path / "x.safetensors", exclusive=True)
    shown = run(*given[:3], "--model", classes, "--labels", folder / "val.csv")
    assert "tells classes that exclude each other" in shown.error
    assert "--split does not apply to --labels" in run(*given, "--labels", missing, "--split", "x").error
    shown = run("evaluate", "--data", tmp_path, "--model", folder / "a.safetensors")
    assert "tells labels, or reads 8-bit images of any origin, and --data holds patches" in shown.error
    assert (
        "--curves does not apply without --labels"
        in run("evaluate", "--data", tmp_path, "--curves", "x.png").error
    )


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(folder, tmp_path):
    """Oracle: the process's own peak, of 100 and of 1,200 images; links to the same files."""
    peaks = []
    for count in (100, 1200):
        place = tmp_path / f"in{count}"
        place.mkdir()
        for i in range(count):
            (place / f"{i:05}.jpg").symlink_to(folder / "images" / f"image{i % 48:03}.jpg")
        code = (
            "import sys\nfrom pathlib import Path\nfrom landuse.workflows.labels import predict\n"
            "from landuse.workflows.mapping.calibrate import peak_bytes\n"
            "import torch; torch.set_num_threads(1)\n"
            "predict.predict_images(predict.PredictRequest(images=(Path(sys.argv[1]),), "
            "models=(sys.argv[2],), out=Path(sys.argv[3]), device='cpu'))\n"
            "print(peak_bytes() // 1024)"
        )
        command = [sys.executable, "-c", code, place, folder / "a.safetensors", tmp_path / f"{count}.csv"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300, check=True)
        peaks.append(int(done.stdout))
    assert len(rows_of(tmp_path / "1200.csv")[2]) == 1200
    assert peaks[1] < peaks[0] + 20_000  # kB

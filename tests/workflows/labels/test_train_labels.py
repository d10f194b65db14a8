"""``landuse train --labels`` as a user meets it: images and reflectance, refusals, a kill.

Oracles: an uninterrupted run, the network fed by numpy from the contract's numbers, scikit-learn.
"""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, f1_score

from landuse.model.checkpoint import load_checkpoint, load_contract
from landuse.workflows.labels.table import read_table
from tests import warm
from tests.commands import Ran
from tests.labels import LABELS, make_images, make_reflectance

# bfloat16, the default, takes ten times as long on a processor that does not compute in it: one test uses it.
RECIPE = ("--size", 32, "--epochs", 8, "--batch-size", 9, "--peak-rate", 0.03, "--crop-area", 0.9,
          "--cutmix", 0, "--precision", "fp32",
          "--ema", 0.9, "--device", "cpu", "--warmup-epochs", 1)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("images"))


def options_of(folder):
    return (
        "--labels",
        folder / "train.csv",
        "--val-labels",
        folder / "val.csv",
        "--images",
        folder / "images",
    )


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_learns_labels_and_keeps_how_to_tell_them(run, folder, tmp_path):
    out = tmp_path / "run"
    options = (
        "train",
        *options_of(folder),
        "--out",
        out,
        *RECIPE,
        "--preprocess",
        "sharpen",
        "--name",
        "toys",
    )
    shown = run(*options)
    assert (shown.code, shown.out) == (0, f"{out / 'model.safetensors'}\n")
    assert all("val mAP" in line and "images/s" in line for line in shown.err.splitlines())
    assert {path.name for path in out.iterdir()} == {
        "model.safetensors", "state.safetensors", "metrics.jsonl", "curves.png",
    }  # fmt: skip
    network, contract = load_checkpoint(out / "model.safetensors")
    assert (contract.name, contract.input_kind, contract.preprocess) == ("toys", "rgb8", "sharpen")
    assert (contract.classes, contract.patch_size_px, contract.levels) == (LABELS, 32, ())
    measured = lines_of(out)
    assert [entry["epoch"] for entry in measured] == list(range(1, 9))
    assert measured[-1]["val_map"] > 0.9  # chance is about 0.5
    assert run(*options) == Ran(0, shown.out, "")  # nothing is left to train

    # The contract's numbers alone say what the network is fed: by numpy.
    table = read_table(folder / "val.csv")
    logits = []
    for name in table.names:
        with Image.open(folder / "images" / name) as image:
            unit = np.asarray(image).transpose(2, 0, 1).astype(np.float64) / 255
        padded = np.pad(unit, ((0, 0), (1, 1), (1, 1)), mode="reflect")
        sharp = (
            5 * unit - padded[:, :-2, 1:-1] - padded[:, 2:, 1:-1] - padded[:, 1:-1, :-2] - padded[:, 1:-1, 2:]
        )
        mean, std = (np.array(values)[:, None, None] for values in (contract.mean, contract.std))
        x = torch.from_numpy((sharp.clip(0, 1) - mean) / std).float()[None]
        with torch.inference_mode():
            logits.append(network(x)[0].numpy())
    probabilities = 1 / (1 + np.exp(-np.array(logits) / contract.temperature))
    ap = average_precision_score(table.targets, probabilities, average="macro")
    assert ap == pytest.approx(measured[-1]["val_map"], abs=1e-4)
    for label in range(3):
        truth = table.targets[:, label]
        best = max(f1_score(truth, probabilities[:, label] >= t) for t in probabilities[:, label])
        kept = f1_score(truth, probabilities[:, label] >= contract.labels.thresholds[label])
        assert kept == pytest.approx(best)


def test_reflectance_is_learned_from_by_band_and_level(run, tmp_path):
    folder = make_reflectance(tmp_path / "data")
    out = tmp_path / "run"
    extra = ("--loss", "asymmetric", "--pos-weight", "balanced", "--atmosphere", 0.2, "--keep", "best")
    shown = run("train", *options_of(folder), "--out", out, *RECIPE, *extra)
    assert shown.code == 0, shown.err
    contract = load_contract(out / "model.safetensors")
    assert contract.bands == ("B04", "B03", "B02")
    assert contract.input_kind == "reflectance"
    assert [entry.level for entry in contract.levels] == ["L1C", "L2A"]
    assert (contract.resolution_m, contract.patch_size_px) == (10.0, 32)
    best = max(entry["val_map"] for entry in lines_of(out))
    assert best > 0.9
    # The kept weights are those of the epoch that measured best.
    kept, averages = load_file(out / "model.safetensors"), load_file(out / "best.safetensors")
    assert all(torch.equal(kept[name], averages[name]) for name in averages)


LOCKSTEP = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from landuse.model.training.labels.config import LabelTrainConfig
from landuse.workflows.labels.train import LabelTrainRequest, image_source, train_label_model
root, out = map(Path, sys.argv[1:])
config = LabelTrainConfig(size_px=32, early_size_px=24, epochs=3, batch_size=10, peak_rate=0.02, mixup=0.5,
    cutmix=0.5, randaugment=1, keep="best", precision="fp32")
def step(progress):
    print(progress.epoch, progress.step, flush=True)
    input()
train_label_model(LabelTrainRequest(labels=root / "train.csv", val_labels=root / "val.csv",
    images=image_source(root / "images"), out=out, config=config, device="cpu"), on_step=step)
"""


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_ends_with_the_same_bits(folder, tmp_path):
    def command(out):
        return ["-c", LOCKSTEP, folder, out]

    broken, whole = tmp_path / "broken", tmp_path / "whole"
    with warm.Warm(command(broken), stdin=subprocess.PIPE) as process:
        for step in range(1, 6):  # three steps an epoch: after the fifth, two of the second are done
            assert process.stdout.readline() == f"{(step - 1) // 3 + 1} {step}\n"
            if step < 5:
                process.stdin.write("go\n")
                process.stdin.flush()
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    steps = {}
    # Who goes on is a new process, with another order of hashes than those before and after it.
    cold = {"capture_output": True, "timeout": 300, "encoding": "utf-8"}
    for out in (broken, whole):
        if out == broken:
            done = subprocess.run([sys.executable, *command(out)], input="go\n" * 9, **cold)
        else:
            done = warm.run(command(out), input="go\n" * 9)
        assert (done.returncode, done.stderr) == (0, "")
        steps[out] = [int(line.split()[1]) for line in done.stdout.splitlines()]
    assert steps == {broken: list(range(4, 10)), whole: list(range(1, 10))}
    for name in ("model.safetensors", "state.safetensors", "best.safetensors"):
        expected, got = load_file(whole / name), load_file(broken / name)
        assert expected.keys() == got.keys()
        assert all(torch.equal(tensor, got[key]) for key, tensor in expected.items())
    told = [[(m["epoch"], m["loss"], m["val_map"]) for m in lines_of(out)] for out in (broken, whole)]
    assert told[0] == told[1]


def test_a_trunk_that_was_trained_on_reflectance_is_a_start_for_images(run, folder, tmp_path):
    out = tmp_path / "run"
    short = ("--size", 16, "--epochs", 1, "--batch-size", 32, "--device", "cpu", "--peak-rate", 1e-6)
    shown = run("train", *options_of(folder), "--out", out, *short, "--start-from", "balanced-fast-rgb")
    assert shown.code == 0, shown.err
    from landuse.model.checkpoint import model_path

    given, got = load_file(model_path("balanced-fast-rgb")), load_file(out / "model.safetensors")
    convolutions = [name for name, value in given.items() if value.ndim == 4]
    assert len(convolutions) > 10
    assert all(torch.allclose(given[name], got[name], atol=1e-4) for name in convolutions)
    contract = load_contract(out / "model.safetensors")
    assert contract.classes == LABELS
    assert contract.saturation_dn == (255.0,) * 3  # the images' own scale


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--labels", "T", "--data", "D"), "--data does not apply to --labels"),
        ((), "There is nothing to learn from"),
        (("--data", "D", "--size", "64"), "--size does not apply without --labels"),
        (("--labels", "T"), "--labels needs --images DIR and --val-labels"),
        (
            ("--labels", "T", "--images", "I", "--val-labels", "V", "--loss", "huber"),
            "--loss 'huber' is unknown",
        ),
        (("--labels", "T", "--images", "I", "--val-labels", "V", "--pos-weight", "-1"), "--pos-weight '-1'"),
        (
            ("--labels", "T", "--images", "I", "--val-labels", "V", "--preprocess", "blur"),
            "--preprocess 'blur'",
        ),
        (
            ("--labels", "T", "--images", "I", "--val-labels", "V", "--mixup", "2"),
            "--mixup 2.0 must lie in 0..1",
        ),
        (("--labels", "T", "--images", "I", "--val-labels", "T"), "32 images are in both"),
        (("--labels", "T", "--images", "M", "--val-labels", "V"), "is not a folder"),
        (("--labels", "T", "--images", "D", "--val-labels", "V"), "image008.jpg cannot be read"),
    ],
)
def test_what_does_not_fit_is_refused_with_one_message(run, folder, tmp_path, options, told):
    places = {
        "T": folder / "train.csv",
        "V": folder / "val.csv",
        "I": folder / "images",
        "D": folder,
        "M": folder / "no",
    }
    shown = run("train", *(places.get(option, option) for option in options), "--out", tmp_path / "out")
    assert shown.code == 2
    assert shown.out == ""
    assert told in shown.err
    assert len(shown.err.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "model.safetensors").exists()

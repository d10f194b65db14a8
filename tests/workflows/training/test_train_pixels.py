"""``landuse train --network balanced-pixel`` and ``evaluate`` of its models, on real patches.

Oracles: the folders that were given, the split's lists, and the network fed by hand.
"""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from landuse.classes import EUROSAT_NAMES, LAND_COVER_NAMES, LAND_USE_NAMES
from landuse.errors import UsageError
from landuse.model.checkpoint import load_pixel_checkpoint, model_path
from landuse.model.normalize import path_dn
from landuse.model.pixel_network import PixelNetConfig
from landuse.model.predict import file_sha256
from landuse.model.predict_pixels import PixelPredictor
from landuse.model.training.pixels.batches import Batches
from landuse.model.training.pixels.config import PixelTrainConfig
from landuse.model.training.pixels.train import PixelRun, make_pixel_contract, step_losses
from landuse.workflows.training import train_pixels
from landuse.workflows.training.figures import draw_losses
from landuse.workflows.training.logs import read_losses
from landuse.workflows.training.train import patch_source
from landuse.workflows.training.train_pixels import PixelTrainRequest, train_pixel_model
from tests.patches import EUROSAT, write_tiff
from tests.workflows.pixel_models import save_pixel_model

BANDS = ("B04", "B03", "B02", "B08", "B11")
SMALL = (
    "--set",
    "steps=2",
    "--set",
    "patches=4",
    "--set",
    "mosaics=2",
    "--set",
    "pixels=4",
    "--device",
    "cpu",
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # Tensors this small gain nothing from threads and lose seconds to them on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def names_of(folder: Path, first: int, last: int) -> list[str]:
    return [
        f"{use.name}/{path.stem}.jpg"
        for use in sorted(folder.iterdir())
        for path in sorted(use.iterdir())[first:last]
    ]


@pytest.fixture(scope="module")
def tiffs(data_dir):
    return data_dir / "eurosat" / "EuroSAT_MS"


@pytest.fixture(scope="module")
def split(tiffs, tmp_path_factory):
    """Two patches of each use to learn from, one to measure on."""
    folder = tmp_path_factory.mktemp("split")
    for name, (first, last) in {"learn": (0, 2), "measure": (2, 3)}.items():
        (folder / f"{name}.txt").write_text("\n".join(names_of(tiffs, first, last)))
    return f"{folder / 'learn.txt'},{folder / 'measure.txt'}"


def make_pixels(folder: Path, names, side=64, uses=None) -> Path:
    """Patches of random pixels in five bands, each half of one cover."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in names:
        label = np.repeat(rng.integers(0, 9, 2), side // 2)[:, None].repeat(side, 1).astype(np.uint8)
        dn = 300 * label[None].astype(int) + rng.integers(300, 900, (len(BANDS), side, side))
        write_tiff(folder / f"{name}.tif", dn.astype(np.uint16), BANDS)
        write_tiff(folder / f"{name}.label.tif", label[None])
    about = {"level": "L2A", "covers": LAND_COVER_NAMES, "uses": uses or {}}
    (folder / "folder.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    return make_pixels(tmp_path_factory.mktemp("pixels") / "p", [f"patch_{i}" for i in range(20)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_pixel_model(tmp_path_factory.mktemp("model") / "pixel.safetensors")


TRAIN = ("train", "--network", "balanced-pixel")


def test_training_prints_one_path_and_leaves_what_it_says(run, tiffs, split, pixels, tmp_path):
    out = tmp_path / "run"
    options = ("train", "--network", "balanced-pixel", "--data", tiffs, "--split", split, "--out", out)
    shown = run(*options, "--pixels", pixels, *SMALL, "--seed", 3, "--precision", "fp32")
    assert (shown.code, shown.out) == (0, f"{out / 'model.safetensors'}\n"), shown.err
    assert re.fullmatch(r"step 2 of 2  patch \d.*  cover \d.*  0:00:00 left\n", shown.err)
    names = {"model.safetensors", "state.safetensors", "metrics.json", "losses.jsonl", "curves.png"}
    assert {path.name for path in out.iterdir()} == names
    with Image.open(out / "curves.png") as curves:
        assert curves.format == "PNG"
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"patch_accuracy", "cover_accuracy", "cover_recall"}
    contract = load_pixel_checkpoint(out / "model.safetensors")[1]
    assert (contract.name, contract.classes) == ("balanced-pixel", LAND_USE_NAMES)
    assert contract.patch_classes == EUROSAT_NAMES
    first = (out / "model.safetensors").rename(tmp_path / "first.safetensors")
    again = run(*options, "--pixels", pixels, *SMALL, "--seed", 3, "--precision", "fp32")
    assert (again.code, again.err) == (0, "")  # nothing is left to train
    one, other = load_file(first), load_file(out / "model.safetensors")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_levelled_gradients_are_logged_each_step(run, monkeypatch, tiffs, split, pixels, tmp_path):
    monkeypatch.setattr("landuse.model.training.pixels.train.balanced_pixel", narrow)
    out = tmp_path / "run"
    options = ("train", "--network", "balanced-pixel", "--data", tiffs, "--split", split, "--out", out)
    shown = run(*options, "--pixels", pixels, *SMALL, "--precision", "fp32", "--set", "gradients=both")
    assert shown.code == 0, shown.err
    steps = [json.loads(line) for line in (out / "gradients.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps] == [1, 2]
    for step in steps:
        for kind, names in (("task", ("use", "cover")), ("branch", ("visible", "infrared"))):
            lengths = [step[f"{kind}_norm"][name] * step[f"{kind}_weight"][name] for name in names]
            assert lengths[0] == pytest.approx(lengths[1])


def test_a_teacher_is_asked_of_patches_and_of_pixels(run, monkeypatch, tiffs, split, pixels, tmp_path):
    """The teacher of red, green and blue sees patches of five bands; one of 12 bands cannot."""
    monkeypatch.setattr("landuse.model.training.pixels.train.balanced_pixel", narrow)
    options = (*TRAIN, "--data", tiffs, "--split", split, "--pixels", pixels, *SMALL)
    shown = run(*options, "--teacher", "balanced-fast-no-b10", "--out", tmp_path / "refused")
    assert shown.code == 2
    assert f"--pixels {pixels} does not hold B01, " in shown.error
    out = tmp_path / "run"
    shown = run(*options, "--teacher", "balanced-fast-rgb", "--precision", "fp32", "--out", out)
    assert shown.code == 0, shown.err
    told = [json.loads(line)["losses"] for line in (out / "losses.jsonl").read_text().splitlines()]
    assert {"taught", "taught_conditional", "taught_line"} <= told[-1].keys()
    with safe_open(out / "state.safetensors", "pt") as state:
        config = json.loads(state.metadata()["config"])
    assert config["teacher_sha256"] == [file_sha256(model_path("balanced-fast-rgb"))]


def caught(monkeypatch, request):
    """What ``train_pixels`` would be given."""
    given = {}

    def catch(config, train, val, train_sets, val_sets, out, **options):
        given.update(config=config, train=train, val=val, train_sets=train_sets, val_sets=val_sets, **options)
        return out / "model.safetensors"

    with monkeypatch.context() as patched:
        patched.setattr(train_pixels, "train_pixels", catch)
        train_pixel_model(request)
    return given


def request_of(tiffs, split, out, *folders, **config):
    return PixelTrainRequest(
        data=patch_source(tiffs, "L1C", None), split=split, pixels=folders, out=out,
        config=PixelTrainConfig(**config), device="cpu",
    )  # fmt: skip


def test_one_patch_in_ten_of_each_folder_is_kept_out(monkeypatch, tiffs, split, pixels, tmp_path):
    other = make_pixels(tmp_path / "other", [f"other_{i}" for i in range(35)])
    given = caught(monkeypatch, request_of(tiffs, split, tmp_path / "run", pixels, other, seed=1))
    for train, val, whole in zip(given["train_sets"], given["val_sets"], (20, 35), strict=True):
        assert len(val) == whole // 10
        assert len(train) == whole - whole // 10
        assert not set(train.names) & set(val.names)
        assert train.bands == ("B04", "B03", "B02", "B08", "B11")
    again = caught(monkeypatch, request_of(tiffs, split, tmp_path / "run", pixels, other, seed=1))
    assert [entry.names for entry in again["val_sets"]] == [entry.names for entry in given["val_sets"]]
    seeded = caught(monkeypatch, request_of(tiffs, split, tmp_path / "run", pixels, other, seed=2))
    assert [entry.names for entry in seeded["val_sets"]] != [entry.names for entry in given["val_sets"]]
    assert (len(given["train"]), len(given["val"])) == (20, 10)
    assert given["train"].bands == ("B04", "B03", "B02")


def test_a_list_in_the_folder_says_what_is_kept_out(monkeypatch, tiffs, split, tmp_path):
    folder = make_pixels(tmp_path / "p", [f"patch_{i}" for i in range(12)])
    (folder / "val.txt").write_text("patch_3\n\npatch_11\n")
    given = caught(monkeypatch, request_of(tiffs, split, tmp_path / "run", folder))
    assert given["val_sets"][0].names == ("patch_11", "patch_3")
    for content, says in (("patch_99\n", "names patch_99, which is no patch"), ("\n", "names no patch")):
        (folder / "val.txt").write_text(content)
        with pytest.raises(UsageError, match=says):
            train_pixel_model(request_of(tiffs, split, tmp_path / "run", folder))
    (folder / "val.txt").write_text("".join(f"patch_{i}\n" for i in range(12)))
    with pytest.raises(UsageError, match="leaves none with labels to learn from"):
        train_pixel_model(request_of(tiffs, split, tmp_path / "run", folder))


def test_what_is_measured_on_is_learned_from_nowhere(monkeypatch, caplog, tiffs, split, tmp_path):
    """EuroSAT's patches carry their names: those measured on in one place are not learned from in another."""
    learn, measure = (names_of(tiffs, *rows) for rows in ((0, 2), (2, 3)))
    stems = [Path(name).stem for name in (*learn, *measure)]
    folder = make_pixels(
        tmp_path / "p", [*stems, "elsewhere"], uses={stem: stem.split("_")[0] for stem in stems}
    )
    given = caught(monkeypatch, request_of(tiffs, split, tmp_path / "run", folder))
    held = set(given["val_sets"][0].names)
    assert held == {Path(name).stem for name in measure}  # one in ten already
    assert held.isdisjoint(given["train_sets"][0].names)
    assert held.isdisjoint(Path(name).stem for name in given["train"].names)
    assert f"10 patches of --pixels {folder} are in the validation list" in caplog.text
    uses = dict(zip(given["train_sets"][0].names, given["train_sets"][0].use.tolist(), strict=True))
    assert uses.pop("elsewhere") == -1
    assert uses == {Path(name).stem: EUROSAT_NAMES.index(name.split("/")[0]) for name in learn}

    own = make_pixels(tmp_path / "q", [Path(name).stem for name in learn])
    caplog.clear()
    given = caught(monkeypatch, request_of(tiffs, split, tmp_path / "run", own))
    held = set(given["val_sets"][0].names)
    assert len(held) == 2
    assert held.isdisjoint(Path(name).stem for name in given["train"].names)
    assert len(given["train"]) == 18
    assert "2 patches of --split are measured on in --pixels" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((*TRAIN, "--epochs", "3", "--bands", "rgb"), "--bands, --epochs do not apply to --network"),
        ((*TRAIN, "--peak-rate", "0.1"), "--peak-rate does not apply to --network balanced-pixel"),
        ((*TRAIN, "--compile"), "the recipe is set with --set NAME=VALUE"),
        ((*TRAIN, "--set", "step=3"), "Did you mean steps?"),
        ((*TRAIN, "--set", "steps=0"), "--set steps=0 must be at least 1"),
        ((*TRAIN, "--set", "gradients=all"), "Use none, tasks, branches, both, gradnorm"),
        ((*TRAIN, "--set", "gradients=both"), "there are none of pixels. Give --pixels"),
        ((*TRAIN, "--seed", "-1"), "--seed -1 must lie in 0..2147483647"),
        ((*TRAIN, "--precision", "fp16"), "--precision 'fp16'"),
        ((*TRAIN, "--device", "tpu"), "--device 'tpu'"),
        ((*TRAIN, "--teacher", "nonsense"), "No model 'nonsense'"),
        ((*TRAIN, "--teacher", "balanced-pixel"), "is no model of Sentinel-2 patches with one class each"),
        ((*TRAIN, "--teacher", "balanced-fast-rgb", "--teacher-share", "2"), "--teacher-share 2.0"),
        ((*TRAIN, "--set", "teacher_share=2"), "Use --teacher-share"),
        ((*TRAIN, "--init", "nonsense"), "No model 'nonsense'"),
        ((*TRAIN, "--init", "balanced-fast-rgb"), "classifies patches, and pixels are to be classified"),
        ((*TRAIN, "--pixels", "nowhere"), "--pixels nowhere is not a folder"),
        ((*TRAIN, "--pixels", "a", "--pixels", "a"), "--pixels a is given twice"),
        (("train", "--pixels", "a"), "--pixels and --set are of --network balanced-pixel"),
        (("train", "--set", "steps=3"), "--network balanced-fast is trained"),
    ],
)  # fmt: skip
def test_a_wrong_request_gets_one_message_with_the_mend(run, tiffs, split, tmp_path, options, says):
    shown = run(*options, "--data", tiffs, "--split", split, "--out", tmp_path / "run")
    assert shown.code == 2
    assert says in shown.error
    assert not list(tmp_path.rglob("*.safetensors"))


def test_several_processes_are_refused(run, tiffs, split, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    shown = run(*TRAIN, "--data", tiffs, "--split", split, "--out", tmp_path / "run")
    assert "trains in one process. Run it without torchrun." in shown.error


def test_evaluate_scores_the_head_of_patches(run, tiffs, model, tmp_path):
    """Of JPEGs with the visible bands alone, of 13-band patches with all that the network takes."""
    names = names_of(tiffs, 0, 2)
    listed = tmp_path / "names.txt"
    listed.write_text("\n".join(names))
    options = ("evaluate", "--model", model, "--split", listed, "--device", "cpu", "--json")
    shown = run(*options, "--data", tiffs)
    assert (shown.code, shown.err) == (0, "")
    scores = json.loads(shown.out)
    assert scores["n"] == 20
    assert np.array(scores["confusion"]).shape == (10, 10)
    assert set(scores["per_class"]) == set(EUROSAT_NAMES)
    averaged, missed = (
        json.loads(run(*options, "--data", tiffs, *extra).out) for extra in (("--tta",), ("--l2a-error", "2"))
    )
    assert averaged["ece"] != scores["ece"] != missed["ece"]
    visible = run(*options, "--data", tiffs.parent / "EuroSAT_RGB")
    if visible.code == 0:  # where those patches are among the JPEGs
        assert json.loads(visible.out)["ece"] != scores["ece"]
    png = tmp_path / "confusion.png"
    assert run("evaluate", "--model", model, "--split", listed, "--data", tiffs, "--confusion", png).code == 0
    assert png.is_file()


def test_evaluate_says_how_reliable_the_cover_is_by_folder(run, pixels, model, tmp_path):
    """Oracle: the predictor of maps, pixel by pixel, and sums in plain Python."""
    part = make_pixels(tmp_path / "part", ["a", "b", "c"])
    (part / "val.txt").write_text("b\n")
    png = tmp_path / "reliability.png"
    options = ("evaluate", "--model", model, "--device", "cpu", "--pixels", pixels, "--pixels", part)
    shown = run(*options, "--reliability", png, "--json")
    assert (shown.code, shown.err) == (0, "")
    found = json.loads(shown.out)["pixels"]
    assert list(found) == [str(pixels), str(part), "all"]
    predictor = PixelPredictor.load(str(model), "cpu")
    counts = {}
    for folder, names in ((pixels, [f"patch_{i}" for i in range(20)]), (part, ["b"])):
        bins = np.zeros((3, 15))  # pixels, their confidence, and those that are right
        for name in names:
            with (
                rasterio.open(folder / f"{name}.tif") as image,
                rasterio.open(folder / f"{name}.label.tif") as label,
            ):
                cover = predictor.pixel_scores(image.read(), BANDS, "L2A").cover
                right = cover.argmax(0) == label.read(1)
            for sure, hit in zip(cover.max(0).ravel(), right.ravel(), strict=True):
                bins[:, min(int(sure * 15), 14)] += (1, sure, hit)
        counts[str(folder)] = bins
    counts["all"] = sum(counts.values())
    for name, bins in counts.items():
        # A pixel at the edge of a bin may fall to either side.
        np.testing.assert_allclose(found[name]["weight"], bins[0], atol=3)
        assert found[name]["accuracy"] == pytest.approx(bins[2].sum() / bins[0].sum(), abs=1e-3)
        assert found[name]["ece"] == pytest.approx(np.abs(bins[1] - bins[2]).sum() / bins[0].sum(), abs=1e-3)
    with Image.open(png) as drawn:
        assert drawn.width > 1000
    shown = run(*options)
    assert f"{found['all']['accuracy']:.2%}  ECE {found['all']['ece']:6.2%}  all" in shown.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "nothing to score on. Give --data, --pixels or both"),
        (("--confusion", "a.png", "--pixels", "p"), "--confusion draws the scores of --data"),
        (("--reliability", "a.png", "--data", "p"), "--reliability draws the scores of --pixels"),
        (("--model", "balanced-fast-rgb", "--pixels", "p"), "such as balanced-pixel"),
        (("--reliability", "a.jpg", "--pixels", "p"), "End the name in .png"),
        (("--pixels", "nowhere"), "--pixels nowhere is not a folder"),
        (("--pixels", "snow"), "labels Snow, Land of L2A. Use a model trained on such labels"),
    ],
)
def test_what_cannot_be_evaluated_is_one_message(run, pixels, model, tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").symlink_to(pixels)
    (make_pixels(tmp_path / "snow", ["a"]) / "folder.json").write_text(
        '{"level": "L2A", "covers": ["Snow", "Land"]}'
    )
    write_tiff(tmp_path / "snow" / "a.label.tif", np.ones((1, 64, 64), np.uint8))
    shown = run("evaluate", "--model", model, *options, "--device", "cpu")
    assert shown.code in (1, 2)
    assert says in shown.error


def test_losses_are_read_as_they_were_written(tmp_path, caplog):
    path = tmp_path / "losses.jsonl"
    lines = [{"step": 25, "losses": {"patch": 2.0}}, {"step": 50, "losses": {"patch": 1.0, "cover": 0.5}}]
    again = {"step": 25, "losses": {"patch": 3.0}}  # done again after a kill
    text = "\n".join([json.dumps(lines[0]), json.dumps(lines[1]), '{"step": 75, "los', json.dumps(again)])
    path.write_text(text)
    assert read_losses(path) == {25: {"patch": 3.0}, 50: {"patch": 1.0, "cover": 0.5}}
    assert "line 3 holds no whole losses" in caplog.text
    draw_losses(path, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as curves:
        assert min(curves.size) > 300
    path.write_text("\n")
    for wrong in (path, tmp_path / "missing.jsonl"):
        with pytest.raises(UsageError, match=r"losses\.jsonl of a training run on pixels|cannot be read"):
            read_losses(wrong)


def narrow(visible, infrared, covers, uses):
    """The network with few channels, whose steps take a fraction of a second."""
    return PixelNetConfig(
        visible=visible, infrared=infrared, covers=covers, uses=uses, branch=8, widths=(16, 24, 32),
        depths=(1, 1, 1), decoder=(16, 12),
    )  # fmt: skip


def test_a_short_training_on_real_patches_lowers_the_loss(monkeypatch, data_dir, tiffs, tmp_path):
    """Real pixels, uses and cover labels; equal seeds give equal weights."""
    monkeypatch.setattr("landuse.model.training.pixels.train.balanced_pixel", narrow)
    learn = names_of(tiffs, 0, 8)
    (tmp_path / "learn.txt").write_text("\n".join(learn))
    (tmp_path / "measure.txt").write_text("\n".join(names_of(tiffs, 8, 10)))
    folder = tmp_path / "pixels"
    with np.load(data_dir / "cover" / "eurosat_ms_labels.npz") as file:
        labels = dict(zip(file["name"].tolist(), file["label"], strict=True))
    for name in learn:
        stem = Path(name).stem
        with rasterio.open(tiffs / name.replace(".jpg", ".tif")) as file:
            dn = file.read([EUROSAT.index(band) + 1 for band in BANDS])
        write_tiff(folder / f"{stem}.tif", dn, BANDS)
        write_tiff(folder / f"{stem}.label.tif", labels[stem][None])
    uses = {Path(name).stem: name.split("/")[0] for name in learn}
    (folder / "folder.json").write_text(
        json.dumps({"level": "L1C", "covers": LAND_COVER_NAMES, "uses": uses})
    )
    split = f"{tmp_path / 'learn.txt'},{tmp_path / 'measure.txt'}"
    recipe = {
        "steps": 40, "patches": 8, "mosaics": 2, "pixels": 6, "warmup_steps": 5, "peak_rate": 0.05,
        "cover_balance": 0.0,
        "cutmix": 0.0, "season": 0.0, "flood": 0.0, "agreement": 0.0, "precision": "fp32", "ema": 0.9,
    }  # fmt: skip
    request = request_of(tiffs, split, tmp_path / "run", folder, **recipe)
    given = caught(monkeypatch, request)
    train_pixel_model(request)
    assert list(read_losses(tmp_path / "run" / "losses.jsonl")) == [25, 40]
    # The same batches, shown to the weights of the beginning and of the end.
    contract = make_pixel_contract("tiny", given["train"], given["train_sets"])
    device, path = torch.device("cpu"), torch.tensor(path_dn(contract.bands))
    batches = Batches(request.config, contract, given["train"], given["train_sets"], path, device)
    total = {}
    for name in ("beginning", "end"):
        trained = PixelRun(request.config, contract, tmp_path / "run", device)
        if name == "end":
            trained.network.load_state_dict(
                {
                    key.removeprefix("network."): value
                    for key, value in load_file(trained.state_file).items()
                    if key.startswith("network.")
                }
            )
        shown = []
        for trained.step in (1, 2, 3):
            with torch.no_grad():
                shown.append(
                    {part: float(value) for part, (_, value) in step_losses(trained, batches).parts.items()}
                )
        total[name] = {part: sum(values[part] for values in shown) for part in shown[0]}
    for part in ("patch", "cover", "patch_infrared"):
        assert total["end"][part] < total["beginning"][part], part
    made = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        short = recipe | {"steps": 2, "seed": seed}
        made.append(load_file(train_pixel_model(request_of(tiffs, split, tmp_path / name, folder, **short))))
    assert all(torch.equal(value, made[1][key]) for key, value in made[0].items())
    assert not torch.equal(made[0]["head.weight"], made[2]["head.weight"])


def test_models_of_pixels_are_listed_with_covers_and_optional_bands(run, model, monkeypatch):
    monkeypatch.setattr("landuse.commands.training.shipped_models", lambda: (str(model),))
    shown = run("models")
    assert shown.code == 0
    assert shown.out == (
        f"{model}  B04, B03, B02 and, where there, B08, B05, B06, B07, B8A, B11, B12 of L1C and L2A; "
        "14 classes and 9 covers of each pixel\n"
    )
    listed = json.loads(run("models", "--json").out)[str(model)]
    assert listed["pixels"]["covers"] == list(LAND_COVER_NAMES)
    assert listed["optional_bands"][0] == "B08"

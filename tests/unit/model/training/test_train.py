"""Oracles: an uninterrupted run, scalar recursions, numpy statistics, and the held-out patches."""

import json
import math
import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from landuse.errors import ModelError, OutputError, UsageError
from landuse.model.checkpoint import load_checkpoint
from landuse.model.devices import Worker
from landuse.model.networks import PatchNetwork
from landuse.model.normalize import bring_to_input, path_dn, standardize
from landuse.model.training.config import TrainConfig, rate_at
from landuse.model.training.datasets import LabelledPatches
from landuse.model.training.evaluate import logits_of, score
from landuse.model.training.state import TrainingRun
from landuse.model.training.train import make_contract, train
from tests.patches import NATURAL, spectral_patches
from tests.unit.model.training.inputs import training_inputs

from ..conftest import CLASSES

# bfloat16, the default, takes ten times as long on a processor that does not compute in it.
RECIPE = TrainConfig(epochs=6, batch_size=16, peak_rate=0.02, warmup_epochs=1, shift_px=2, precision="fp32")


def subset(patches: LabelledPatches, rows) -> LabelledPatches:
    rows = list(rows)
    return replace(
        patches,
        images=patches.images[rows],
        labels=patches.labels[rows],
        names=tuple(patches.names[i] for i in rows),
    )


@pytest.fixture
def split(patches) -> tuple[LabelledPatches, LabelledPatches]:
    """Three quarters to learn from, a quarter to measure on, all classes in both."""
    return (
        subset(patches, (i for i in range(len(patches)) if i % 4)),
        subset(patches, range(0, len(patches), 4)),
    )


class PulledPlug(Exception):
    """Ends a run from outside, as a kill does, after its state was written."""


def stop_after(epoch):
    def on_epoch(metrics):
        if metrics.epoch == epoch:
            raise PulledPlug

    return on_epoch


def test_training_learns_and_writes_a_checkpoint_that_scores_the_same(tmp_path, split):
    seen = []
    result = train(RECIPE, *split, tmp_path / "run", name="tiny", on_epoch=seen.append)
    assert result == tmp_path / "run" / "model.safetensors"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [m.epoch for m in seen] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"]
    network, contract = load_checkpoint(result)
    probabilities = logits_of(network, contract, split[1]).softmax(1)
    accuracy = score(probabilities, split[1].labels, contract.classes).accuracy
    assert accuracy == lines[-1]["val_accuracy"]
    assert accuracy >= 0.9  # chance is 0.33
    assert lines[-1]["val_accuracy_l2a"] >= 0.9
    assert contract.name == "tiny"
    assert contract.classes == ("Brick", "Grass", "Water")
    assert contract.patch_size_px == 16
    assert contract.temperature != 1.0


@pytest.mark.parametrize(
    ("network", "stops", "batch_size", "optimizer"),
    # The second draws for dropout and DropBlock too; the third has two averages a weight, and a count.
    [
        ("balanced-fast", (1, 3), 16, "sgd"),
        ("balanced", (1,), 90, "sgd"),
        ("balanced-fast", (1,), 16, "adamw"),
    ],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    tmp_path, split, network, stops, batch_size, optimizer
):
    config = replace(RECIPE, network=network, epochs=max(stops) + 1, batch_size=batch_size)
    config = replace(config, optimizer=optimizer, restart_epochs=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config, *split, whole, name="tiny")
    for epoch in stops:
        with pytest.raises(PulledPlug):
            train(config, *split, broken, name="tiny", on_epoch=stop_after(epoch))
        torch.rand(7)  # whatever happens between the sittings
    train(config, *split, broken, name="tiny")
    for name in ("model.safetensors", "state.safetensors"):
        expected, got = load_file(whole / name), load_file(broken / name)
        assert expected.keys() == got.keys()
        for key, tensor in expected.items():
            assert torch.equal(tensor, got[key]), (name, key)
    losses = [
        [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (whole, broken)
    ]
    assert losses[0] == losses[1]


def test_a_finished_run_is_not_trained_again(tmp_path, split):
    config = replace(RECIPE, epochs=1)
    first, contract = load_checkpoint(train(config, *split, tmp_path, name="tiny"))
    epochs = []
    second, same = load_checkpoint(train(config, *split, tmp_path, name="tiny", on_epoch=epochs.append))
    assert epochs == []
    assert same == contract
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_run_can_start_from_weights_that_fit(tmp_path, split, checkpoint):
    first = train(replace(RECIPE, epochs=1), *split, tmp_path / "first", name="tiny")
    started = replace(RECIPE, epochs=1, peak_rate=1e-9, weight_decay=0, ema=0.0, init_sha256="of the first")
    second = train(started, *split, tmp_path / "second", name="tiny", init=first)
    before, contract_before = load_checkpoint(first)
    after, contract_after = load_checkpoint(second)
    for name, value in before.named_parameters():  # a step of no size: the parameters are those given
        torch.testing.assert_close(after.get_parameter(name), value, atol=1e-5, rtol=1e-4)
    assert (contract_after.mean, contract_after.std) == (contract_before.mean, contract_before.std)
    with pytest.raises(ModelError, match=r"--init .* is tiny; the run trains balanced-fast"):
        train(started, *split, tmp_path / "third", name="tiny", init=checkpoint)


def test_the_seed_decides(tmp_path, split):
    results = [
        load_file(train(replace(RECIPE, epochs=1, seed=seed), *split, tmp_path / run, name="tiny"))[
            "head.weight"
        ]
        for run, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_changed_settings_and_damaged_states_are_refused(tmp_path, split):
    config = replace(RECIPE, epochs=1)
    train(config, *split, tmp_path, name="tiny")
    state = tmp_path / "state.safetensors"
    whole = state.read_bytes()
    with pytest.raises(ModelError, match=r"belongs to a run with other settings.*--out"):
        train(replace(config, peak_rate=0.01), *split, tmp_path, name="tiny")
    assert state.read_bytes() == whole
    state.write_bytes(whole[:-1000])
    with pytest.raises(ModelError, match=r"cannot be read.*Remove it"):
        train(config, *split, tmp_path, name="tiny")
    state.write_bytes((tmp_path / "model.safetensors").read_bytes())  # foreign: no state
    with pytest.raises(ModelError, match=r"is damaged.*Remove it"):
        train(config, *split, tmp_path, name="tiny")
    state.unlink()
    train(config, *split, tmp_path, name="tiny")
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1  # started again


def test_splits_that_do_not_fit_are_refused(tmp_path, split):
    learn, measure = split
    other = replace(measure, classes=("Brick", "Grass", "Sand"))
    few = subset(learn, range(15))
    for arguments, message in (
        ((RECIPE, learn, other), "Training classes"),
        ((RECIPE, few, measure), "15 patches are fewer than one batch of 16"),
        ((replace(RECIPE, shift_px=16), learn, measure), "shift of 16 px does not fit patches of 16 px"),
        ((replace(RECIPE, early_crop_px=(17,)), learn, measure), r"--early-crop-px 17 must lie in 1\.\.16"),
        ((replace(RECIPE, early_crop_px=(0,)), learn, measure), "--early-crop-px 0 must lie"),
        (
            (replace(RECIPE, group_dropout=0.1), learn, measure),
            r"--group-dropout 0\.1: the bands B04, B03, B02",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            train(*arguments, tmp_path / "out", name="tiny")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def spectra() -> tuple[LabelledPatches, LabelledPatches]:
    """All 13 bands: three quarters to learn from, a quarter to measure on."""
    written = spectral_patches(16)
    classes = sorted({name.split("/")[0] for name in written})
    whole = LabelledPatches(
        images=torch.from_numpy(np.stack(list(written.values())).astype(np.int16)),
        dn_per_count=1.0,
        bands=NATURAL,
        level="L1C",
        labels=torch.tensor([classes.index(name.split("/")[0]) for name in written]),
        names=tuple(f"{name}.tif" for name in written),
        classes=tuple(classes),
    )
    return subset(whole, (i for i in range(48) if i % 4)), subset(whole, range(0, 48, 4))


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_early_epochs_learn_from_crops(tmp_path, split):
    config = replace(RECIPE, epochs=5, early_crop_px=(10,), early_until=0.4)
    with training_inputs() as seen:
        result = train(config, *split, tmp_path, name="tiny")
    steps = len(split[0]) // 16
    sides = [tuple(x.shape[2:]) for x in seen]
    assert sides == [(10, 10)] * (2 * steps) + [(16, 16)] * (3 * steps)  # 2 of 5 epochs
    assert load_checkpoint(result)[1].patch_size_px == 16


def test_crops_grow(tmp_path, split):
    config = replace(RECIPE, epochs=5, batch_size=45, early_crop_px=(8, 12), early_until=0.8)
    with training_inputs() as seen:
        train(config, *split, tmp_path, name="tiny")
    assert [x.shape[2] for x in seen] == [side for side in (8, 8, 12, 12, 16) for _ in range(2)]


def test_weight_decay_alone_moves_the_fusion_scalars_as_its_formula_says(tmp_path, split):
    """AdamW multiplies by ``1 - rate x decay`` at each step; a gradient of none is what lr alone leaves."""
    config = replace(RECIPE, epochs=1, optimizer="adamw", peak_rate=1e-9, weight_decay=1e8, decay_fusion=True)
    config = replace(config, warmup_epochs=0.0, ema=0.0, fusion_start=0.5, batch_size=45)
    train(config, *split, tmp_path, name="tiny")
    steps = [rate_at(config, step, 2) * 1e8 for step in range(2)]
    raw = 0.5 * math.prod(1 - step for step in steps)
    expected = 1 / (1 + math.exp(-raw))
    assert lines_of(tmp_path)[-1]["fusion"] == pytest.approx([expected] * 3, abs=1e-6)
    assert 0.5 < expected < 0.62


@pytest.mark.parametrize("first", [1, 3])
def test_restarts_are_torch_s(first):
    config = TrainConfig(epochs=20, warmup_epochs=0, peak_rate=0.001, restart_epochs=first)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.001)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, first, 2)
    optimizer.step()
    for step in range(20 * 4):
        schedule.step(step / 4)
        got = rate_at(config, step, 4, restart_epochs=first)
        assert got == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)


def test_a_crop_that_the_network_cannot_divide_is_one_clear_error(tmp_path, split):
    with pytest.raises(ModelError, match="multiples of 2 px; it was given 11 x 11 px"):
        train(replace(RECIPE, early_crop_px=(11,)), *split, tmp_path, name="tiny")


@pytest.mark.parametrize(("epochs", "every", "measured"), [(5, 2, [2, 4, 5]), (2, 3, [2])])
def test_only_some_epochs_are_measured_and_the_last_always(tmp_path, split, epochs, every, measured):
    seen = []
    config = replace(RECIPE, epochs=epochs, val_every=every, batch_size=45)
    train(config, *split, tmp_path, name="tiny", on_epoch=seen.append)
    assert [line["epoch"] for line in lines_of(tmp_path)] == [m.epoch for m in seen] == measured


def test_measuring_less_often_does_not_change_the_result(tmp_path, split):
    for name, every in (("often", 1), ("seldom", 3)):
        config = replace(RECIPE, epochs=3, val_every=every, batch_size=45)
        train(config, *split, tmp_path / name, name="tiny")
    often, seldom = (load_file(tmp_path / name / "model.safetensors") for name in ("often", "seldom"))
    assert all(torch.equal(value, seldom[key]) for key, value in often.items())


def test_group_dropout_trains_without_some_of_the_bands(tmp_path, spectra):
    config = replace(RECIPE, epochs=4, batch_size=12, group_dropout=0.5, cutmix=0.0)
    with training_inputs() as seen:
        train(config, *spectra, tmp_path, name="tiny")
    groups = [{0, 1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}]  # visible, red edge, near and short-wave
    gone = [{band for band in range(13) if not bool(image[band].any())} for x in seen for image in x]
    assert all(bands in (set(), *groups) for bands in gone)
    assert 0.3 < sum(map(bool, gone)) / len(gone) < 0.7
    assert all(group in gone for group in groups)
    last = lines_of(tmp_path)[-1]
    assert last["val_accuracy"] >= 0.9  # chance is 0.33


def test_thirteen_bands_learn_and_carry_their_contract(tmp_path, spectra):
    network, contract = load_checkpoint(
        train(replace(RECIPE, epochs=4, batch_size=12), *spectra, tmp_path, name="tiny")
    )
    assert contract.bands == NATURAL
    assert [entry.level for entry in contract.levels] == ["L1C"]  # L2A has no B10
    # By numpy: from L1C = t L2A + path to half-way, where L2A has no water vapour in B09.
    l1c = spectra[0].dn(slice(None)).double().numpy()
    path, saturation = (np.array(v)[:, None, None] for v in (path_dn(NATURAL), contract.saturation_dn))
    t = np.where(np.array(NATURAL) == "B09", 0.23, 0.95)[:, None, None]
    l2a = (l1c - path) / t
    x = np.clip(((1 + t) / 2 * l2a + path / 2) / saturation, 0, 1)
    np.testing.assert_allclose(contract.mean, x.mean((0, 2, 3)), atol=1e-5)
    np.testing.assert_allclose(contract.std, x.std((0, 2, 3)), atol=1e-4)
    accuracy = score(logits_of(network, contract, spectra[1]).softmax(1), spectra[1].labels, CLASSES).accuracy
    assert accuracy == lines_of(tmp_path)[-1]["val_accuracy"] >= 0.9


def test_a_band_without_content_is_refused(tmp_path, spectra):
    flat = spectra[0].images.clone()
    flat[:, 10] = 12
    with pytest.raises(UsageError, match=r"Band B10 has the same value in every training patch.*--bands"):
        train(RECIPE, replace(spectra[0], images=flat), spectra[1], tmp_path / "out", name="tiny")
    assert not (tmp_path / "out").exists()


def test_class_balance_weighs_the_rare_class_more(tmp_path, split):
    """One class is rare: without weights its patches count little, with Cui's they count as many."""
    learn, measure = split
    rare = [i for i, label in enumerate(learn.labels.tolist()) if label == 2][4:]
    uneven = subset(learn, (i for i in range(len(learn)) if i not in set(rare)))
    counts = np.bincount(uneven.labels.numpy())
    config = replace(RECIPE, epochs=1, batch_size=len(uneven), cutmix=0.0, label_smoothing=0.0)
    losses = {}
    for beta in (None, 0.0, 0.99):
        out = tmp_path / str(beta)
        with training_inputs() as seen, outputs() as logits:
            train(replace(config, class_balance=beta), uneven, measure, out, name="tiny")
        assert len(seen) == 1
        losses[beta] = lines_of(out)[-1]["loss"]
        # The loss of that one step by hand: -w[label] log p(label), averaged over the batch.
        order = torch.randperm(len(uneven), generator=torch.Generator().manual_seed(0))
        labels = uneven.labels[order].numpy()
        effective = np.array(
            [1.0 if beta is None else sum((beta or 0) ** k for k in range(n)) for n in counts]
        )
        weights = 1 / effective * len(counts) / (1 / effective).sum()
        logit = logits[0].double().numpy()
        log_p = logit - np.log(np.exp(logit).sum(1, keepdims=True))
        by_hand = -np.mean(weights[labels] * log_p[np.arange(len(labels)), labels])
        assert losses[beta] == pytest.approx(by_hand, rel=1e-4)
    assert losses[None] == losses[0.0] != losses[0.99]


@contextmanager
def outputs():
    """Logits of each training step."""
    seen = []

    def note(module, given, out):
        if isinstance(module, PatchNetwork) and module.training:
            seen.append(out.detach().float())

    handle = register_module_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def test_full_precision_trains_and_is_another_arithmetic(tmp_path, split):
    weights = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        seen = []
        handle = register_module_forward_hook(
            lambda module, given, out, seen=seen: (
                seen.append(out.dtype) if isinstance(module, nn.Conv2d) and module.training else None
            )
        )
        config = replace(RECIPE, epochs=2, precision=precision)
        try:
            result = train(config, *split, tmp_path / precision, name="tiny")
        finally:
            handle.remove()
        assert set(seen) == {dtype}
        weights[precision] = load_file(result)["head.weight"]
        assert weights[precision].dtype == torch.float32
    assert lines_of(tmp_path / "fp32")[-1]["val_accuracy"] >= 0.9
    assert not torch.equal(weights["fp32"], weights["bf16"])
    torch.testing.assert_close(weights["fp32"], weights["bf16"], atol=0.02, rtol=0.2)


def test_each_step_is_reported_with_the_time_left(tmp_path, split):
    config = replace(RECIPE, epochs=3)
    steps = len(split[0]) // 16
    first, second = [], []
    with pytest.raises(PulledPlug):
        train(config, *split, tmp_path, name="tiny", on_epoch=stop_after(1), on_step=first.append)
    began = time.monotonic()
    train(config, *split, tmp_path, name="tiny", on_step=second.append)
    took = time.monotonic() - began
    seen = first + second
    assert [(p.epoch, p.step) for p in seen] == [(i // steps + 1, i + 1) for i in range(3 * steps)]
    assert {p.steps for p in seen} == {3 * steps}
    losses = [np.mean([p.loss for p in seen if p.epoch == epoch]) for epoch in (1, 2, 3)]
    assert losses == pytest.approx([line["loss"] for line in lines_of(tmp_path)])
    assert all(p.seconds_left > 0 for p in seen[:-1])
    assert seen[-1].seconds_left == 0
    # By the pace of this sitting: after its first half about as long again, however busy the machine.
    assert second[steps - 1].seconds_left < took


def test_the_contract_standardises_its_patches(patches):
    contract = make_contract("tiny", patches)
    x = standardize(bring_to_input(patches.dn(slice(None)), contract, "L1C"), contract).double()
    np.testing.assert_allclose(x.mean((0, 2, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(x.std((0, 2, 3)), 1, atol=1e-3)
    # By numpy from the 8-bit values: L1C to half-way, clipped, in 0..1.
    red = patches.images[:, 0].double().numpy() * 2750 / 255
    half_way = np.clip((0.975 * (red - 300) / 0.95 + 150) / 2750, 0, 1)
    assert contract.mean[0] == pytest.approx(half_way.mean(), abs=1e-5)
    assert contract.std[0] == pytest.approx(half_way.std(), abs=1e-4)


def test_rate_warms_up_linearly_and_falls_along_a_cosine():
    config = TrainConfig(epochs=10, warmup_epochs=2, peak_rate=0.2)
    rates = [rate_at(config, step, 50) for step in range(500)]
    assert rates[:100] == pytest.approx([0.2 * (step + 1) / 100 for step in range(100)])
    oracle = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(oracle, T_max=400)
    for rate in rates[100:]:
        assert rate == pytest.approx(schedule.get_last_lr()[0], rel=1e-6, abs=1e-9)
        oracle.step()
        schedule.step()
    assert rate_at(replace(config, warmup_epochs=0), 0, 50) == 0.2


@pytest.fixture
def run(tmp_path, patches) -> TrainingRun:
    worker = Worker(rank=0, count=1, device=torch.device("cpu"))
    config = TrainConfig(ema=0.9, weight_decay=0.1)
    return TrainingRun(config, make_contract("tiny", patches), tmp_path, worker)


def test_the_average_follows_its_decay(run):
    # Average and weight of one position, by the recursion a <- d * a + (1 - d) * w, where d ramps
    # up as (1 + step) / (10 + step) until it reaches the decay asked for.
    weight, average = 1.0, 1.0
    with torch.no_grad():
        run.network.head.bias.fill_(weight)
        run.average.head.bias.fill_(average)
    for step in range(1, 201):
        weight = math.sin(step)
        with torch.no_grad():
            run.network.head.bias.fill_(weight)
            run.network.stem_norm.num_batches_tracked.fill_(step)
        run.step = step
        run.update_average()
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
        assert float(run.average.head.bias[0].detach()) == pytest.approx(average, abs=1e-5)
    assert int(run.average.stem_norm.num_batches_tracked) == 200  # counters are copied


def test_weight_decay_spares_the_fusion_scalars_norms_and_biases(run):
    before = {name: p.detach().clone() for name, p in run.network.named_parameters()}
    for parameter in run.network.parameters():
        parameter.grad = torch.zeros_like(parameter)  # nothing but decay can move a weight
    with torch.no_grad():
        for name, parameter in run.network.named_parameters():
            if name.endswith("balance"):
                parameter.fill_(0.5)
                before[name] = parameter.detach().clone()
    run.optimizer.step()
    shrunk = {name for name, p in run.network.named_parameters() if not torch.equal(p.detach(), before[name])}
    weights = {
        f"{name}.weight" for name, m in run.network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)
    }
    assert shrunk == weights
    assert sum(name.endswith("balance") for name in before) == 3


def test_fusion_scalars_are_decayed_where_asked_for(tmp_path, patches):
    worker = Worker(rank=0, count=1, device=torch.device("cpu"))
    moved = {}
    for decay_fusion in (False, True):
        config = TrainConfig(weight_decay=0.1, decay_fusion=decay_fusion)
        run = TrainingRun(config, make_contract("tiny", patches), tmp_path, worker)
        for parameter in run.network.parameters():
            parameter.grad = torch.zeros_like(parameter)  # nothing but decay can move a weight
        with torch.no_grad():
            for parameter in run.network.parameters():
                parameter.fill_(0.5)
        run.optimizer.step()
        moved[decay_fusion] = {
            n for n, p in run.network.named_parameters() if float(p.detach().flatten()[0]) < 0.5
        }
    fusion = {name for name, _ in run.network.named_parameters() if name.endswith("balance")}
    assert moved[True] - moved[False] == fusion
    assert moved[False] <= moved[True]
    assert len(fusion) == 3


def test_the_state_says_where_it_stands(tmp_path, split):
    config = replace(RECIPE, epochs=3)
    with pytest.raises(PulledPlug):
        train(config, *split, tmp_path, name="tiny", on_epoch=stop_after(2))
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        header = file.metadata()
    assert (header["epoch"], header["step"]) == ("2", str(2 * (len(split[0]) // 16)))
    assert not (tmp_path / "model.safetensors").exists()
    assert {p.name for p in tmp_path.iterdir()} == {"state.safetensors", "metrics.jsonl"}


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path, split):
    out = tmp_path / "file"
    out.write_text("in the way")
    with pytest.raises(OutputError, match=r"cannot be made .* Name a folder"):
        train(replace(RECIPE, epochs=1), *split, out, name="tiny")

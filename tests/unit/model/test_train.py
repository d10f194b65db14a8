"""Oracles: an uninterrupted run, scalar recursions, numpy statistics, and the held-out patches."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from landuse.errors import ModelError, OutputError, UsageError
from landuse.model.checkpoint import load_checkpoint
from landuse.model.datasets import LabelledPatches, to_dn
from landuse.model.evaluate import logits_of, score
from landuse.model.normalize import bring_to_input, standardize
from landuse.model.train import TrainConfig, _Run, make_contract, rate_at, train

RECIPE = TrainConfig(epochs=6, batch_size=16, peak_rate=0.02, warmup_epochs=1, shift_px=2)


def subset(patches: LabelledPatches, rows) -> LabelledPatches:
    rows = list(rows)
    return LabelledPatches(
        images=patches.images[rows],
        labels=patches.labels[rows],
        names=tuple(patches.names[i] for i in rows),
        classes=patches.classes,
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
    ("network", "stops"),
    [("balanced-fast", (1, 3)), ("balanced", (1,))],  # the second draws for dropout and DropBlock as well
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, split, network, stops):
    config = replace(RECIPE, network=network, epochs=max(stops) + 1)
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
    first = train(RECIPE, *split, tmp_path / "first", name="tiny")
    started = replace(RECIPE, epochs=1, peak_rate=1e-9, weight_decay=0, ema=0.0, init_sha256="of the first")
    second = train(started, *split, tmp_path / "second", name="tiny", init=first)
    before, contract_before = load_checkpoint(first)
    after, contract_after = load_checkpoint(second)
    for name, value in before.named_parameters():  # a step of no size: the parameters are those given
        torch.testing.assert_close(after.get_parameter(name), value, atol=1e-5, rtol=1e-4)
    assert (contract_after.mean, contract_after.std) == (contract_before.mean, contract_before.std)
    with pytest.raises(ModelError, match=r"--init .* is tiny .* the run is balanced-fast"):
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
    ):
        with pytest.raises(UsageError, match=message):
            train(*arguments, tmp_path / "out", name="tiny")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"network": "resnet"}, "Choose balanced, balanced-fast"),
        ({"epochs": 0}, "--epochs 0"),
        ({"batch_size": 1}, "1 must be"),
    ],
)
def test_settings_are_checked_at_birth(values, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**values)


def test_the_contract_standardises_its_patches(patches):
    contract = make_contract("tiny", patches)
    x = standardize(bring_to_input(to_dn(patches.images), contract, "L1C"), contract).double()
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
def run(tmp_path, patches) -> _Run:
    return _Run(TrainConfig(ema=0.9, weight_decay=0.1), make_contract("tiny", patches), tmp_path)


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

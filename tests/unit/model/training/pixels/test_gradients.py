"""The gradients of tasks and branches. Oracles: sums by hand on a network of two layers, and torch's autograd
on each task's loss by itself, without any cut between trunk and heads."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from landuse.errors import UsageError
from landuse.model.normalize import path_dn
from landuse.model.training.pixels import train
from landuse.model.training.pixels.batches import Batches
from landuse.model.training.pixels.config import PixelTrainConfig
from landuse.model.training.pixels.gradients import (
    TASK_OF_PART,
    Levelling,
    branch_weights,
    cosine,
    cut,
    gradnorm,
    levelled,
    send_on,
    task_gradients,
    task_losses,
    trunk_end,
)
from landuse.model.training.pixels.train import PixelRun, make_pixel_contract, step_losses, train_pixels
from landuse.model.training.teach import PixelLessons

RECIPE = PixelTrainConfig(
    steps=4, patches=10, mosaics=3, pixels=6, warmup_steps=2, peak_rate=0.02, precision="fp32", save_every=2,
    agreement_from=0.0, cutmix=0.0,
)  # fmt: skip


END = "stage3.1.conv2.weight"
"""The trunk's last convolution, in the network as it is."""


def two_layers():
    """A trunk of one layer, which is the identity, under the heads ``use`` and ``cover``; and its input.

    By hand: x = (3, 4) is 5 long, and h = W x = (3, 4). The heads say a h = 3 and b h = 8 and should say 1
    and 7.5, so the errors are 2 and 0.5. The losses are half their squares, and their gradients
    at h are 2 a = (2, 0) and 0.5 b = (0, 1). At W they are the outer products with x, of 10 and of 5.
    """
    trunk = torch.nn.Parameter(torch.eye(2))
    heads = {"use": torch.tensor([1.0, 0.0]), "cover": torch.tensor([0.0, 2.0])}
    heads = {name: torch.nn.Parameter(value) for name, value in heads.items()}
    features = [trunk @ torch.tensor([3.0, 4.0])]
    leaves = cut(features)
    wanted = {"use": 1.0, "cover": 7.5}
    losses = {name: (head @ leaves[0] - wanted[name]) ** 2 / 2 for name, head in heads.items()}
    return trunk, heads, features, leaves, losses


def test_gradients_of_two_tasks_are_levelled_as_by_hand():
    trunk, heads, features, leaves, losses = two_layers()
    found = task_gradients(losses, features, leaves, trunk)
    assert found["use"].at_end.tolist() == [6, 8, 0, 0]
    assert found["cover"].at_end.tolist() == [0, 0, 3, 4]
    norms = [float(found[task].at_end.norm()) for task in ("use", "cover")]
    assert norms == pytest.approx([10, 5])
    assert trunk.grad is None  # nothing has gone on yet
    assert leaves[0].grad is None
    weights = levelled(norms)
    assert weights == pytest.approx([2 / 3, 4 / 3])
    send_on(list(found.values()), weights, features)
    torch.testing.assert_close(trunk.grad, torch.tensor([[4, 16 / 3], [4, 16 / 3]]))
    # The heads have the gradients of their own losses: the error times h.
    torch.testing.assert_close(heads["use"].grad, torch.tensor([6.0, 8.0]))
    torch.testing.assert_close(heads["cover"].grad, torch.tensor([1.5, 2.0]))


def test_gradnorm_moves_its_weights_as_by_hand():
    """Of the same two tasks, 10 and 5 long: the use has half of its first loss left, the cover all of it."""
    # Mean length 7.5; left 0.5 and 1, relative to their mean 2/3 and 4/3: wanted lengths 5 and 10. So the
    # use's weight falls by 0.01 x 10, the cover's grows by 0.01 x 5, and 0.9 + 1.05 are brought to 2.
    moved = gradnorm([1.0, 1.0], [10.0, 5.0], [2.0, 0.125], [4.0, 0.125], alpha=1.0, rate=0.01)
    assert moved == pytest.approx([2 * 0.9 / 1.95, 2 * 1.05 / 1.95])


def test_gradnorm_follows_the_gradient_of_its_own_loss():
    """Oracle: autograd on the loss that its authors give, with targets that are held."""
    norms, losses, first = torch.tensor([0.7, 0.2]), torch.tensor([3.0, 1.1]), torch.tensor([5.0, 1.5])
    weights = torch.tensor([0.8, 1.2], requires_grad=True)
    left = losses / first
    lengths = weights * norms
    target = (lengths.mean() * (left / left.mean()) ** 1.5).detach()
    (slope,) = torch.autograd.grad((lengths - target).abs().sum(), weights)
    stepped = weights.detach() - 0.025 * slope
    expected = 2 * stepped / stepped.sum()
    moved = gradnorm(*(values.tolist() for values in (weights.detach(), norms, losses, first)))
    assert moved == pytest.approx(expected.tolist())


def test_gradnorm_without_alpha_ends_where_levelling_is():
    weights = [1.0, 1.0]
    for _ in range(3000):
        weights = gradnorm(weights, [0.9, 0.3], [1.0, 2.0], [3.0, 4.0], alpha=0.0, rate=1e-3)
    assert weights == pytest.approx(levelled([0.9, 0.3]), abs=2e-3)


@pytest.mark.parametrize("broken", [0.0, math.inf, math.nan])
def test_what_has_no_length_is_left_as_it_is(broken):
    assert levelled([broken, 2.0]) == [1, 1]
    assert gradnorm([0.5, 1.5], [broken, 1.0], [1.0, 1.0], [1.0, 1.0]) == [0.5, 1.5]
    assert gradnorm([0.5, 1.5], [1.0, 1.0], [1.0, broken], [1.0, 1.0]) == [0.5, 1.5]


def test_a_task_is_never_turned_around():
    moved = gradnorm([1.0, 1.0], [1000.0, 1.0], [1.0, 1.0], [1.0, 1.0])
    assert 0 < moved[0] < 0.03
    assert sum(moved) == pytest.approx(2)


def test_the_cosine_is_of_the_angle():
    assert cosine(torch.tensor([3.0, 4.0]), torch.tensor([-4.0, 3.0])) == pytest.approx(0)
    assert cosine(torch.tensor([3.0, 4.0]), torch.tensor([-6.0, -8.0])) == pytest.approx(-1)
    assert cosine(torch.zeros(2), torch.ones(2)) == 0


def test_running_lengths_keep_what_smoothing_says():
    levelling = Levelling("both", smoothing=0.75)
    assert levelling._smoothed(levelling.task_norm, [4.0, 1.0]) == [4, 1]  # there is nothing to keep yet
    assert levelling._smoothed(levelling.task_norm, [8.0, 3.0]) == [5, 1.5]
    assert levelling._smoothed(levelling.task_norm, [0.0, 3.0]) == [0, 3]  # not level, and not remembered
    assert levelling._smoothed(levelling.task_norm, [5.0, 1.5]) == [5, 1.5]


@pytest.fixture
def step(patches, sets, tmp_path):
    """The real network on small patches: a run, and what ``step_losses`` makes of it."""

    def call(mode, **changed):
        config = replace(RECIPE, patches=4, mosaics=2, pixels=4, gradients=mode, **changed)
        contract = make_pixel_contract("tiny", patches, sets)
        cpu = torch.device("cpu")
        run = PixelRun(config, contract, tmp_path, cpu)
        run.network.train()
        run.step = 2  # with agreement
        lessons = PixelLessons(
            patches=torch.eye(10)[patches.labels], sets=tuple(torch.eye(10)[[6] * len(each)] for each in sets)
        )
        path = torch.tensor(path_dn(contract.bands))
        batches = Batches(config, contract, patches, sets, path, cpu, lessons)
        return run, *step_losses(run, batches)

    return call


def alone(network, losses):
    """Each task's gradient of every weight, by autograd through the whole network; 0 where there is none."""
    names, weights = zip(*network.named_parameters(), strict=True)
    return {
        task: {
            name: torch.zeros_like(weight) if value is None else value
            for name, weight, value in zip(
                names,
                weights,
                torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True),
                strict=True,
            )
        }
        for task, loss in losses.items()
    }


def of_trunk(name):
    return name.split(".")[0].startswith(("stage", "visible", "infrared", "missing"))


def close(got, expected):
    # Sums in another order.
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-9)


def test_tasks_and_branches_of_the_real_network_are_level(step):
    plain, parts, *_ = step("none")
    assert set(parts) == set(TASK_OF_PART)
    each = alone(plain.network, task_losses(parts))
    run, parts, trunk, seen = step("both")
    told = run.levelling.backward(run.network, task_losses(parts), trunk, seen)
    assert dict(run.network.named_parameters())[END] is trunk_end(run.network)
    norms = {task: float(each[task][END].norm()) for task in each}
    assert told.task_norm == pytest.approx(norms, rel=1e-3)
    assert norms["use"] != pytest.approx(norms["cover"], rel=0.2)
    # Level at the trunk's last layer, with the mean weight 1.
    lengths = [told.task_weight[task] * norms[task] for task in each]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)
    assert sum(told.task_weight.values()) == pytest.approx(2)
    flat = [each[task][END].flatten() for task in each]
    assert told.cosine == pytest.approx(cosine(*flat), abs=1e-3)
    # Level in both branches, with the mean factor 1.
    ends = {name: weights[0].grad.norm() for name, weights in branch_weights(run.network).items()}
    assert float(ends["visible"]) == pytest.approx(float(ends["infrared"]), rel=1e-5)
    assert sum(told.branch_weight.values()) == pytest.approx(2)
    for name, weight in run.network.named_parameters():
        factors = told.task_weight if of_trunk(name) else {"use": 1, "cover": 1}
        expected = sum(factors[task] * each[task][name] for task in each)
        branch = name.split(".")[0].removesuffix("_norm").replace("missing", "infrared")
        close(weight.grad, expected * told.branch_weight.get(branch, 1))


def test_each_place_is_levelled_by_itself(step):
    plain, parts, *_ = step("none")
    each = alone(plain.network, task_losses(parts))
    total = {name: each["use"][name] + each["cover"][name] for name in each["use"]}
    for mode in ("tasks", "branches"):
        run, parts, trunk, seen = step(mode)
        told = run.levelling.backward(run.network, task_losses(parts), trunk, seen)
        kept = told.branch_weight if mode == "tasks" else told.task_weight
        assert set(kept.values()) == {1}
        for name, weight in run.network.named_parameters():
            touched = of_trunk(name) if mode == "tasks" else not name.startswith(("stage", "head"))
            if not touched:
                close(weight.grad, total[name])
        changed = told.task_weight if mode == "tasks" else told.branch_weight
        assert 1 not in changed.values()


def test_gradnorm_weighs_whole_losses_and_remembers(step):
    plain, parts, *_ = step("none")
    each = alone(plain.network, task_losses(parts))
    run, parts, trunk, seen = step("gradnorm")
    run.levelling.task_weight.copy_(torch.tensor([0.5, 1.5]))
    losses = task_losses(parts)
    told = run.levelling.backward(run.network, losses, trunk, seen)
    for name, weight in run.network.named_parameters():
        close(weight.grad, 0.5 * each["use"][name] + 1.5 * each["cover"][name])
    first = [losses[task].item() for task in ("use", "cover")]
    assert run.levelling.first_loss.tolist() == pytest.approx(first)
    norms = [float(each[task][END].norm()) for task in ("use", "cover")]
    moved = gradnorm([0.5, 1.5], norms, first, first)
    assert run.levelling.task_weight.tolist() == pytest.approx(moved, rel=1e-3)
    assert told.task_weight == {"use": 0.5, "cover": 1.5}  # those that the step had
    assert list(told.task_norm.values()) == pytest.approx(norms, rel=1e-3)


def test_a_step_without_a_task_is_not_levelled(step):
    run, parts, trunk, seen = step("both")
    losses = {"use": task_losses(parts)["use"]}
    told = run.levelling.backward(run.network, losses, trunk, seen)
    assert told.task_weight == {"use": 1, "cover": 1}
    assert (told.task_norm["cover"], told.cosine) == (0, 0)
    assert not run.levelling.task_norm.any()


def test_fixed_weights_are_of_all_parts_of_a_task(step):
    _, plain, *_ = step("none")
    _, weighed, *_ = step("none", weight_of_use=0.0, weight_of_cover=3.0)
    assert plain.keys() == weighed.keys()
    for part, (weight, value) in plain.items():
        factor = 0 if TASK_OF_PART[part] == "use" else 3
        assert weighed[part][0] == factor * weight
        assert torch.equal(weighed[part][1], value)


@pytest.fixture
def run(patches, val_patches, sets, val_sets, narrow):
    def call(config, out, **options):
        data = (patches, val_patches, options.pop("sets", sets), val_sets)
        return train_pixels(config, *data, out, name="tiny", device="cpu", **options)

    return call


class PulledPlug(Exception):
    """Ends a run from outside, as a kill does, after its state was written."""


def pull(run):
    raise PulledPlug


@pytest.mark.parametrize("mode", ["both", "gradnorm"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path, run, mode):
    config = replace(RECIPE, gradients=mode, gradient_smoothing=0.5, cutmix=0.5)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(config, whole)
    with pytest.raises(PulledPlug):
        run(config, broken, on_saved=pull)
    with (broken / "gradients.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": {}}\n{"step": 4, "lo')  # done after the state was saved
    run(config, broken)
    for name in ("model.safetensors", "state.safetensors"):
        one, other = load_file(whole / name), load_file(broken / name)
        assert one.keys() == other.keys()
        assert all(torch.equal(value, other[key]) for key, value in one.items()), name
    logged = (whole / "gradients.jsonl").read_text()
    assert logged == (broken / "gradients.jsonl").read_text()
    steps = [json.loads(line) for line in logged.splitlines()]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert all(step["norm"] > 0 for step in steps)
    state = load_file(whole / "state.safetensors")
    assert (
        state["levelling.task_weight" if mode == "gradnorm" else "levelling.task_norm"].unique().numel() == 2
    )


def test_without_levelling_nothing_is_measured_or_kept(tmp_path, run, monkeypatch):
    """And the step is what it was: one sum of all losses, sent back once. Oracle: that loop, written here."""
    monkeypatch.setattr(train, "Levelling", None)
    monkeypatch.setattr(train, "cut", None)
    config = replace(RECIPE, steps=2)
    kept = {}
    batches_of = Batches.__init__

    def remember(batches, *given):
        batches_of(batches, *given)
        kept["batches"] = batches

    monkeypatch.setattr(Batches, "__init__", remember)
    made = load_file(run(config, tmp_path / "run"))
    assert not (tmp_path / "run" / "gradients.jsonl").exists()
    state = load_file(tmp_path / "run" / "state.safetensors")
    assert {name.split(".")[0] for name in state} == {"network", "average", "optimizer"}
    again = PixelRun(config, kept["batches"].contract, tmp_path, torch.device("cpu"))
    again.network.train()
    while again.step < 2:
        for group in again.optimizer.param_groups:
            group["lr"] = config.rate_at(again.step)
        parts = step_losses(again, kept["batches"]).parts
        again.optimizer.zero_grad()
        torch.stack([weight * value for weight, value in parts.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(again.network.parameters(), 5.0)
        again.optimizer.step()
        again.step += 1
        again.update_average()
    for name, value in again.average.state_dict().items():
        assert torch.equal(made[name], value), name


def test_levelling_changes_what_is_learned(tmp_path, run):
    made = [load_file(run(replace(RECIPE, gradients=mode), tmp_path / mode)) for mode in ("none", "both")]
    assert not torch.equal(made[0]["stage1.0.conv1.weight"], made[1]["stage1.0.conv1.weight"])


def test_bfloat16_is_levelled_too(tmp_path, run):
    run(replace(RECIPE, gradients="both", precision="bf16", steps=2), tmp_path)
    for line in (tmp_path / "gradients.jsonl").read_text().splitlines():
        step = json.loads(line)
        lengths = [step["task_norm"][task] * step["task_weight"][task] for task in ("use", "cover")]
        assert lengths[0] == pytest.approx(lengths[1])


def test_levelling_asks_for_labels_of_pixels(tmp_path, run):
    with pytest.raises(UsageError, match=r"gradients=both levels .* there are none of pixels\. Give"):
        run(replace(RECIPE, gradients="both"), tmp_path, sets=[])

"""Training of networks of patches: SGD with Nesterov momentum, warm-up and cosine, EMA, CutMix, teachers.

An epoch's randomness depends on the seed and the epoch alone and the state is written after each
one, so a run that was killed goes on from its last whole epoch exactly as if it had not been.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from landuse.contract import ModelContract
from landuse.errors import OutputError, UsageError
from landuse.model.bands import INPUT_MAX_DN, SPECTRAL_GROUPS
from landuse.model.checkpoint import save_checkpoint
from landuse.model.devices import joined
from landuse.model.networks import fusion_weights, set_fusion
from landuse.model.normalize import bring_to_input, level_inputs, path_dn, standardize
from landuse.model.training import augment
from landuse.model.training.config import EpochMetrics, StepProgress, class_weights, rate_at
from landuse.model.training.epochs import append_metrics, epoch_seed, step_reporter, train_epoch
from landuse.model.training.evaluate import fit_temperature, logits_of, score
from landuse.model.training.state import TrainingRun
from landuse.model.training.transfer import start_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor

    from landuse.model.devices import Worker
    from landuse.model.training.config import TrainConfig
    from landuse.model.training.datasets import LabelledPatches, Patches
    from landuse.model.training.teach import Lessons

log = logging.getLogger(__name__)

SIMULATED_L2A = 0.5
"""How far, in units of the path radiance, the simulated L2A lies below the input's middle state."""


def make_contract(name: str, patches: LabelledPatches) -> ModelContract:
    """The contract of a network trained on ``patches``; mean and std are measured on them."""
    bands = patches.bands
    try:
        draft = ModelContract(
            name=name,
            bands=bands,
            levels=level_inputs(bands),
            saturation_dn=tuple(INPUT_MAX_DN[band] for band in bands),
            mean=tuple(0.0 for _ in bands),
            std=tuple(1.0 for _ in bands),
            classes=patches.classes,
            patch_size_px=int(patches.images.shape[2]),
            resolution_m=10.0,
        )
        draft.check_names()
    except ValueError as error:
        raise UsageError(
            f"--data cannot be trained on: {error}. Rename its folders or cut it anew."
        ) from None
    total, squares, count = torch.zeros(len(bands)), torch.zeros(len(bands)), 0
    for start in range(0, len(patches), 1024):
        dn = patches.dn(slice(start, start + 1024))
        x = standardize(bring_to_input(dn, draft, patches.level), draft)
        total += x.mean((0, 2, 3)) * len(x)
        squares += x.square().mean((0, 2, 3)) * len(x)
        count += len(x)
    mean = total / count
    std = (squares / count - mean.square()).sqrt()
    if not bool((std > 0).all()):
        flat = [band for band, value in zip(bands, std.tolist(), strict=True) if not value > 0]
        raise UsageError(
            f"Band {', '.join(flat)} has the same value in every training patch. Check the files, or choose "
            "--bands without it."
        )
    return replace(draft, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def spectral_groups(bands: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    """Positions of each spectral group's bands among ``bands``; groups without one are left out."""
    groups = (tuple(bands.index(band) for band in group if band in bands) for group in SPECTRAL_GROUPS)
    return tuple(group for group in groups if group)


def targets_of(labels: Tensor, classes: int, config: TrainConfig, taught: Tensor | None = None) -> Tensor:
    """What a network should answer of labelled patches: ``(B, classes)`` probabilities.

    Args:
        labels: (B,) int64.
        classes: how many there are.
        config: smooths the labels, and says what teachers count.
        taught: (B, classes) the teachers' probabilities; None without teachers.
    """
    smooth = config.label_smoothing
    targets = F.one_hot(labels, classes).float() * (1 - smooth) + smooth / classes
    return targets if taught is None else torch.lerp(targets, taught, config.teacher_share)


def _batches(
    patches: LabelledPatches,
    lessons: Lessons | None,
    config: TrainConfig,
    contract: ModelContract,
    epoch: int,
    worker: Worker,
) -> Iterator[tuple[Tensor, Tensor]]:
    """This worker's share of each batch of an epoch; unlabelled patches follow the labelled ones.

    Yields augmented input ``(B, bands, S, S)`` and target probabilities ``(B, classes)``.
    """
    seed = epoch_seed(config, epoch)
    drawn = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(patches), generator=drawn)
    rng = torch.Generator(worker.device).manual_seed(seed + (worker.rank << 40))
    groups = spectral_groups(contract.bands)
    classes = len(contract.classes)
    mixing = config.cutmix if epoch < config.cutmix_until * config.epochs else 0.0
    steps = len(order) // config.batch_size
    more = None if lessons is None else lessons.unlabelled
    each = 0 if more is None else round(config.batch_size * config.unlabelled_ratio)
    others = _drawn_in_turn(0 if more is None else len(more), each * steps, drawn)
    for step in range(steps):
        chosen = order[step * config.batch_size :][: config.batch_size][worker.rank :: worker.count]
        x = _augmented(patches, chosen, config, contract, epoch, rng)
        taught = None if lessons is None else lessons.labelled[chosen]
        targets = targets_of(patches.labels[chosen], classes, config, taught).to(worker.device)
        if more is not None and lessons is not None and lessons.answers is not None and each:
            chosen = others[step * each :][:each][worker.rank :: worker.count]
            x = torch.cat([x, _augmented(more, chosen, config, contract, epoch, rng)])
            targets = torch.cat([targets, lessons.answers[chosen].to(worker.device)])
        if config.group_dropout > 0:
            x = augment.drop_groups(x, groups, config.group_dropout, rng)
        if float(torch.rand((), generator=rng, device=worker.device)) < mixing:
            x, targets = augment.cutmix(x, targets, rng)
        yield x.contiguous(memory_format=torch.channels_last), targets


def _drawn_in_turn(count: int, wanted: int, rng: torch.Generator) -> Tensor:
    """``wanted`` of ``count`` rows in random order, each drawn once before any is drawn again."""
    rounds = -(-wanted // count) if count else 0
    return torch.cat(
        [torch.empty(0, dtype=torch.int64), *(torch.randperm(count, generator=rng) for _ in range(rounds))]
    )


def _augmented(
    patches: Patches,
    chosen: Tensor,
    config: TrainConfig,
    contract: ModelContract,
    epoch: int,
    rng: torch.Generator,
) -> Tensor:
    """The chosen patches as the network reads them ``(B, bands, S, S)``, each augmented by itself.

    A band that they lack is at its mean, as one that was dropped is.
    """
    device = rng.device
    held = [contract.bands.index(band) for band in patches.bands]
    dn = augment.random_shift(patches.dn(chosen).to(device), config.shift_px, rng)
    crop = config.crop_at(epoch)
    if crop is not None:
        dn = augment.random_crop(dn, crop, crop, rng)
    if config.dihedral:
        dn = augment.random_dihedral(dn, rng)
    whole = dn
    if len(held) < len(contract.bands):
        whole = dn.new_zeros((len(dn), len(contract.bands), *dn.shape[2:]))
        whole[:, held] = dn
    whole = bring_to_input(whole, contract, patches.level)
    path = torch.tensor(path_dn(contract.bands), device=device)
    whole = augment.atmosphere(whole, path, config.atmosphere, rng, 0.12 if config.atmosphere else 0.0)
    x = standardize(augment.brightness(whole, config.brightness, rng), contract)
    if len(held) < len(contract.bands):
        lacking = [row for row in range(len(contract.bands)) if row not in held]
        x[:, lacking] = 0
    return x


def _check(
    config: TrainConfig,
    train_patches: LabelledPatches,
    val_patches: LabelledPatches,
    lessons: Lessons | None,
    worker: Worker,
) -> None:
    """Raise UsageError where patches and settings do not fit each other."""
    if train_patches.classes != val_patches.classes:
        raise UsageError(f"Training classes {train_patches.classes} differ from {val_patches.classes}.")
    if len(train_patches) < config.batch_size:
        raise UsageError(f"{len(train_patches)} patches are fewer than one batch of {config.batch_size}.")
    if config.batch_size % worker.count:
        raise UsageError(
            f"--batch-size {config.batch_size} cannot be shared by {worker.count} processes. Use a multiple."
        )
    side = int(train_patches.images.shape[2])
    if config.shift_px >= side:
        raise UsageError(f"A shift of {config.shift_px} px does not fit patches of {side} px. Lower it.")
    for crop in config.early_crop_px:
        if not 1 <= crop <= side:
            raise UsageError(f"--early-crop-px {crop} must lie in 1..{side}, the patches' side.")
    if config.group_dropout > 0 and len(spectral_groups(train_patches.bands)) < 2:
        raise UsageError(
            f"--group-dropout {config.group_dropout}: the bands {', '.join(train_patches.bands)} are one "
            "spectral group, which cannot be spared. Leave it out."
        )
    if lessons is not None and len(lessons.labelled) != len(train_patches):
        raise ValueError(f"{len(lessons.labelled)} answers for {len(train_patches)} training patches")
    more = None if lessons is None else lessons.unlabelled
    if more is None:
        return
    if more.images.shape[2] != side:
        raise UsageError(
            f"--unlabelled holds patches of {more.images.shape[2]} px, and --data of {side} px. Cut them "
            "alike."
        )
    if round(config.batch_size * config.unlabelled_ratio) % worker.count:
        raise UsageError(
            f"--unlabelled-ratio {config.unlabelled_ratio} of {config.batch_size} patches cannot be shared "
            f"by {worker.count} processes. Use another."
        )


def train(
    config: TrainConfig,
    train_patches: LabelledPatches,
    val_patches: LabelledPatches,
    out: Path,
    *,
    name: str,
    init: Path | None = None,
    lessons: Lessons | None = None,
    device: str = "auto",
    on_epoch: Callable[[EpochMetrics], None] | None = None,
    on_step: Callable[[StepProgress], None] | None = None,
) -> Path:
    """Train, resuming a run found in ``out``, and write ``out/model.safetensors``.

    Under ``torchrun`` every process takes its share of each batch; one of them measures and writes.

    Args:
        config: the recipe.
        train_patches: what is learned from.
        val_patches: what is measured on and what the temperature is fitted on.
        out: folder for ``state.safetensors``, ``metrics.jsonl`` and the result.
        name: the model's name in its contract.
        init: weights to start from instead of from scratch; ``config.init_sha256`` is their digest.
        lessons: what teachers say of the patches; ``config.teacher_sha256`` are their digests.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        on_epoch: called after each measurement.
        on_step: called after each step.

    Returns:
        The checkpoint's path: the moving average of the last epoch, temperature-scaled.

    Raises:
        UsageError: the splits do not fit each other or the settings, or there is no such device.
        ModelError: ``out`` holds a run with other settings, or a damaged one; ``init`` does not fit.
        OutputError: ``out`` cannot be written.
    """
    with joined(device) as worker:
        _check(config, train_patches, val_patches, lessons, worker)
        contract = make_contract(name, train_patches)
        if lessons is not None and lessons.unlabelled is not None:
            _check_level(contract, lessons.unlabelled.level)
        run = TrainingRun(config, contract, out, worker, config.optimizer)
        if init is not None:
            run.contract = start_from(init, run.network, contract)
        else:
            set_fusion(run.network, config.fusion_start)
        run.average.load_state_dict(run.network.state_dict())
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"--out {out} cannot be made ({error}). Name a folder you may write to."
            ) from error
        if run.resume():
            log.info("resuming after epoch %d of %d", run.epoch, config.epochs)
        elif worker.leads:
            (out / "metrics.jsonl").unlink(missing_ok=True)  # of a run whose state is gone
        _train_epochs(run, worker, train_patches, lessons, val_patches, on_epoch, on_step)
        result = out / "model.safetensors"
        if worker.leads:
            logits = logits_of(run.average, run.contract, val_patches)
            temperature = fit_temperature(logits, val_patches.labels)
            contract = replace(run.contract, temperature=temperature)
            save_checkpoint(result, run.average, contract, recipe=config)
        worker.wait()
        return result


def _check_level(contract: ModelContract, level: str) -> None:
    if contract.level_input(level) is None:
        raise UsageError(
            f"--unlabelled holds patches of {level}, which a network of {', '.join(contract.bands)} does not "
            "read. Choose --bands without B10, or other patches."
        )


def _train_epochs(
    run: TrainingRun[TrainConfig],
    worker: Worker,
    train_patches: LabelledPatches,
    lessons: Lessons | None,
    val_patches: LabelledPatches,
    on_epoch: Callable[[EpochMetrics], None] | None,
    on_step: Callable[[StepProgress], None] | None,
) -> None:
    config = run.config
    steps_per_epoch = len(train_patches) // config.batch_size
    forward = run.forward_module(worker)
    weights = _loss_weights(config, train_patches, worker)
    report = step_reporter(run, worker, steps_per_epoch, on_step)
    began = time.monotonic()

    def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets, weight=weights)

    def rate_of(step: int) -> float:
        return rate_at(config, step, steps_per_epoch, restart_epochs=config.restart_epochs)

    while run.epoch < config.epochs:
        epoch_began = time.monotonic()
        batches = _batches(train_patches, lessons, config, run.contract, run.epoch, worker)
        loss = train_epoch(run, forward, batches, loss_of, worker, rate_of=rate_of, report=report)
        speed = steps_per_epoch * config.batch_size / (time.monotonic() - epoch_began)
        run.epoch += 1
        if worker.leads:
            run.save()
            if run.epoch % config.val_every == 0 or run.epoch == config.epochs:
                metrics = _measure(run, val_patches, loss, speed, time.monotonic() - began)
                append_metrics(run.state_file.with_name("metrics.jsonl"), metrics)
                if on_epoch is not None:
                    on_epoch(metrics)
        worker.wait()


def _loss_weights(config: TrainConfig, patches: LabelledPatches, worker: Worker) -> Tensor | None:
    if config.class_balance is None:
        return None
    counts = torch.bincount(patches.labels, minlength=len(patches.classes)).tolist()
    return torch.tensor(class_weights(tuple(counts), config.class_balance), device=worker.device)


def _measure(
    run: TrainingRun[TrainConfig], val_patches: LabelledPatches, loss: float, speed: float, seconds: float
) -> EpochMetrics:
    path = torch.tensor(path_dn(run.contract.bands))
    accuracies = []
    for shift in (None, -SIMULATED_L2A * path):
        logits = logits_of(run.average, run.contract, val_patches, path_shift_dn=shift)
        accuracies.append(score(logits.softmax(1), val_patches.labels, run.contract.classes).accuracy)
    return EpochMetrics(
        epoch=run.epoch,
        loss=loss,
        val_accuracy=accuracies[0],
        val_accuracy_l2a=accuracies[1],
        fusion=tuple(fusion_weights(run.average)),
        patches_per_s=speed,
        seconds=seconds,
    )

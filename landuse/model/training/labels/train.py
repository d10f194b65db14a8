"""Training of networks whose classes do not exclude each other: the recipe of ``training.train`` for labels.

An epoch's randomness depends on the seed and the epoch alone, and the state is written after each one, so a
run that was killed goes on from its last whole epoch exactly as if it had not been.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from landuse.contract import IMAGE_BANDS, IMAGE_MAX, REFLECTANCE, LabelOutputs, ModelContract
from landuse.errors import OutputError, UsageError
from landuse.model.bands import INPUT_MAX_DN
from landuse.model.checkpoint import load_checkpoint, load_contract, save_checkpoint
from landuse.model.devices import joined
from landuse.model.networks import fusion_weights
from landuse.model.normalize import bring_to_input, level_inputs, path_dn, standardize_unit, to_unit
from landuse.model.training import augment
from landuse.model.training.config import StepProgress, rate_at
from landuse.model.training.epochs import append_metrics, epoch_seed, step_reporter, train_epoch
from landuse.model.training.labels import augment as of_images
from landuse.model.training.labels.config import BALANCED_POS_WEIGHT, MAX_POS_WEIGHT, LabelMetrics
from landuse.model.training.labels.losses import loss_of
from landuse.model.training.labels.measure import (
    fit_label_temperature,
    fit_thresholds,
    label_logits,
    mean_average_precision,
    network_input,
)
from landuse.model.training.state import TrainingRun
from landuse.model.training.transfer import start_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor, nn

    from landuse.model.devices import Worker
    from landuse.model.training.labels.config import LabelTrainConfig
    from landuse.model.training.labels.images import LabelledImages

log = logging.getLogger(__name__)

BEST = "best.safetensors"
"""Beside the state: the weights of the best epoch so far, where those are kept."""


def make_label_contract(name: str, images: LabelledImages, preprocess: str) -> ModelContract:
    """The contract of a network trained on ``images``; mean and spread are measured on them.

    Raises:
        UsageError: a name is none, or a band is the same everywhere.
    """
    bands = images.bands
    reflectance = images.input_kind == REFLECTANCE
    try:
        draft = ModelContract(
            name=name,
            bands=bands if reflectance else IMAGE_BANDS,
            levels=level_inputs(bands) if reflectance else (),
            saturation_dn=tuple(INPUT_MAX_DN[band] for band in bands) if reflectance else (IMAGE_MAX,) * 3,
            mean=tuple(0.0 for _ in bands),
            std=tuple(1.0 for _ in bands),
            classes=images.labels,
            patch_size_px=images.size_px,
            resolution_m=10.0 if reflectance else 0.0,
            input_kind=images.input_kind,
            preprocess=preprocess,
            labels=LabelOutputs(thresholds=(0.5,) * len(images.labels)),
        )
        draft.check_names()
    except ValueError as error:
        raise UsageError(f"--labels cannot be trained on: {error}. Correct the table.") from None
    total, squares, count = torch.zeros(len(bands)), torch.zeros(len(bands)), 0
    for start in range(0, len(images), 256):
        x = network_input(images.images[start : start + 256], draft, images.level)
        total += x.mean((0, 2, 3)) * len(x)
        squares += x.square().mean((0, 2, 3)) * len(x)
        count += len(x)
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    if not bool((std > 1e-4).all()):
        flat = [band for band, value in zip(bands, std.tolist(), strict=True) if not value > 1e-4]
        raise UsageError(
            f"Band {', '.join(flat)} has the same value in every training image. Check the files."
        )
    return replace(draft, mean=tuple(mean.tolist()), std=tuple(std.tolist()))


def _batches(
    images: LabelledImages, config: LabelTrainConfig, contract: ModelContract, epoch: int, worker: Worker
) -> Iterator[tuple[Tensor, Tensor]]:
    """This worker's share of each batch of an epoch.

    Yields augmented input ``(B, bands, S, S)`` and targets ``(B, labels)`` in 0..1.
    """
    seed = epoch_seed(config, epoch)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    rng = torch.Generator(worker.device).manual_seed(seed + (worker.rank << 40))
    early = config.early_size_px is not None and epoch < config.early_until * config.epochs
    size = config.early_size_px if early and config.early_size_px is not None else config.size_px
    mixing = epoch < config.mix_until * config.epochs
    for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
        chosen = order[start + worker.rank : start + config.batch_size : worker.count]
        x = _augmented(images, chosen, config, contract, size, rng, worker)
        targets = images.targets[chosen].to(worker.device, torch.float32)
        if config.label_smoothing:
            targets = targets * (1 - config.label_smoothing) + config.label_smoothing / 2
        if mixing and float(torch.rand((), generator=rng, device=worker.device)) < config.cutmix:
            x, targets = augment.cutmix(x, targets, rng)
        elif mixing and float(torch.rand((), generator=rng, device=worker.device)) < config.mixup:
            x, targets = of_images.mixup(x, targets, rng)
        yield standardize_unit(x, contract).contiguous(memory_format=torch.channels_last), targets


def _augmented(
    images: LabelledImages,
    chosen: Tensor,
    config: LabelTrainConfig,
    contract: ModelContract,
    size_px: int,
    rng: torch.Generator,
    worker: Worker,
) -> Tensor:
    """The chosen images ``(B, bands, S, S)`` in shares of the saturation, each augmented by itself."""
    values = images.images[chosen].to(worker.device)
    if config.dihedral:
        values = augment.random_dihedral(values, rng)
    if images.input_kind == REFLECTANCE:
        path = torch.tensor(path_dn(contract.bands), device=worker.device)
        dn = bring_to_input(values, contract, images.level)
        unit = to_unit(augment.atmosphere(dn, path, config.atmosphere, rng), contract)
    else:
        unit = to_unit(values.to(torch.float32), contract)
    unit = of_images.random_resized_crop(unit, config.least_area, size_px, rng)
    unit = augment.brightness(unit, config.brightness, rng).clamp(0, 1)
    return of_images.randaugment(unit, config.randaugment, config.magnitude, rng)


def pos_weights(config: LabelTrainConfig, images: LabelledImages) -> tuple[float, ...]:
    """What each label counts where it is there.

    Raises:
        UsageError: they are to be balanced, and a label is on no training image.
    """
    if config.pos_weight != BALANCED_POS_WEIGHT:
        return (float(config.pos_weight),) * len(images.labels)
    there = images.targets.sum(0).tolist()
    missing = [name for name, count in zip(images.labels, there, strict=True) if count == 0]
    if missing:
        raise UsageError(
            f"--pos-weight {BALANCED_POS_WEIGHT}: no training image has {', '.join(missing)}. Add some, "
            "take the label out, or give a number."
        )
    return tuple(min((len(images) - count) / count, MAX_POS_WEIGHT) or 1.0 for count in there)


def _check(config: LabelTrainConfig, train: LabelledImages, val: LabelledImages, worker: Worker) -> None:
    """Raise UsageError where images and settings do not fit each other."""
    if train.labels != val.labels:
        raise UsageError(
            f"--labels has the labels {', '.join(train.labels)}; --val-labels has {', '.join(val.labels)}. "
            "Give both tables the same columns in the same order."
        )
    if (train.input_kind, train.bands) != (val.input_kind, val.bands):
        raise UsageError(
            f"The images to learn from are {train.input_kind} ({', '.join(train.bands)}), those to measure "
            f"on {val.input_kind} ({', '.join(val.bands)}). Give images of one kind."
        )
    if len(train) < config.batch_size:
        raise UsageError(
            f"{len(train)} images are fewer than one batch of {config.batch_size}. Lower --batch-size."
        )
    if config.batch_size % worker.count:
        raise UsageError(
            f"--batch-size {config.batch_size} cannot be shared by {worker.count} processes. Use a multiple."
        )
    if not bool(val.targets.any()):
        raise UsageError("No image of --val-labels has any label, so nothing can be measured. Add some.")


def train_labels(
    config: LabelTrainConfig,
    train_images: LabelledImages,
    val_images: LabelledImages,
    out: Path,
    *,
    name: str,
    init: Path | None = None,
    device: str = "auto",
    on_epoch: Callable[[LabelMetrics], None] | None = None,
    on_step: Callable[[StepProgress], None] | None = None,
) -> Path:
    """Train, resuming a run found in ``out``, and write ``out/model.safetensors``.

    Under ``torchrun`` every process takes its share of each batch; one of them measures and writes.

    Args:
        config: the recipe.
        train_images: what is learned from.
        val_images: what is measured on, and what temperature and thresholds are fitted on.
        out: folder for ``state.safetensors``, ``metrics.jsonl`` and the result.
        name: the model's name in its contract.
        init: weights to start from instead of from scratch; ``config.init_sha256`` is their digest.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.
        on_epoch: called after each measurement.
        on_step: called after each step.

    Returns:
        The checkpoint's path: the moving average of the epoch that ``config.keep`` names, with its
        temperature and its thresholds.

    Raises:
        UsageError: the parts do not fit each other or the settings, or there is no such device.
        ModelError: ``out`` holds a run with other settings, or a damaged one; ``init`` does not fit.
        OutputError: ``out`` cannot be written.
    """
    with joined(device) as worker:
        _check(config, train_images, val_images, worker)
        contract = make_label_contract(name, train_images, config.preprocess)
        run = TrainingRun(config, contract, out, worker)
        if init is not None:
            run.contract = start_from(init, run.network, contract)
        if init is None or load_contract(init).classes != contract.classes:
            _begin_at_shares(run.network.output_layer, train_images)
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
            for left in ("metrics.jsonl", BEST):  # of a run whose state is gone
                (out / left).unlink(missing_ok=True)
        _train_epochs(run, worker, train_images, val_images, on_epoch, on_step)
        result = out / "model.safetensors"
        if worker.leads:
            _finish(run, val_images, result)
        worker.wait()
        return result


def _begin_at_shares(head: nn.Linear, images: LabelledImages) -> None:
    """Let each label begin at its share of the images (Lin et al. 2017): else the first steps learn that."""
    share = images.targets.float().mean(0).clamp(1e-3, 1 - 1e-3)
    with torch.no_grad():
        head.bias.copy_(share.logit().to(head.bias.device))


def _finish(run: TrainingRun[LabelTrainConfig], val_images: LabelledImages, result: Path) -> None:
    """Fit temperature and thresholds to the weights that are kept, and write them."""
    network: nn.Module = run.average
    best = result.with_name(BEST)
    if run.config.keep == "best":
        network = load_checkpoint(best)[0].to(next(run.average.parameters()).device)
    logits = label_logits(network, run.contract, val_images)
    temperature = fit_label_temperature(logits, val_images.targets)
    probabilities = (logits / temperature).sigmoid().numpy()
    thresholds = fit_thresholds(probabilities, val_images.targets.numpy())
    contract = replace(run.contract, temperature=temperature, labels=LabelOutputs(thresholds=thresholds))
    save_checkpoint(result, network, contract)  # type: ignore[arg-type]  # both are networks of patches


def _train_epochs(
    run: TrainingRun[LabelTrainConfig],
    worker: Worker,
    train_images: LabelledImages,
    val_images: LabelledImages,
    on_epoch: Callable[[LabelMetrics], None] | None,
    on_step: Callable[[StepProgress], None] | None,
) -> None:
    config = run.config
    steps_per_epoch = len(train_images) // config.batch_size
    forward = run.forward_module(worker)
    weights = torch.tensor(pos_weights(config, train_images), device=worker.device)
    report = step_reporter(run, worker, steps_per_epoch, on_step)
    began = time.monotonic()
    best_file = run.state_file.with_name(BEST)
    best = -1.0
    if worker.leads and config.keep == "best" and best_file.exists():
        best = _val_scores(load_checkpoint(best_file)[0].to(worker.device), run, val_images)[0]

    def loss(logits: Tensor, targets: Tensor) -> Tensor:
        return loss_of(config.loss, logits, targets, weights)

    def rate_of(step: int) -> float:
        return rate_at(config, step, steps_per_epoch)

    while run.epoch < config.epochs:
        epoch_began = time.monotonic()
        batches = _batches(train_images, config, run.contract, run.epoch, worker)
        mean_loss = train_epoch(run, forward, batches, loss, worker, rate_of=rate_of, report=report)
        speed = steps_per_epoch * config.batch_size / (time.monotonic() - epoch_began)
        run.epoch += 1
        if worker.leads:
            if run.epoch % config.val_every == 0 or run.epoch == config.epochs:
                val_map, val_f1 = _val_scores(run.average, run, val_images)
                if config.keep == "best" and val_map > best:
                    best = val_map
                    save_checkpoint(best_file, run.average, run.contract)
                metrics = LabelMetrics(
                    epoch=run.epoch,
                    loss=mean_loss,
                    val_map=val_map,
                    val_micro_f1=val_f1,
                    fusion=tuple(fusion_weights(run.average)),
                    images_per_s=speed,
                    seconds=time.monotonic() - began,
                )
                append_metrics(run.state_file.with_name("metrics.jsonl"), metrics)
                if on_epoch is not None:
                    on_epoch(metrics)
            # Last: a run that is killed before it measures the epoch again, and so may keep it.
            run.save()
        worker.wait()


def _val_scores(
    network: nn.Module, run: TrainingRun[LabelTrainConfig], images: LabelledImages
) -> tuple[float, float]:
    """Mean average precision on the validation part, and micro F1 with thresholds of 0.5."""
    logits = label_logits(network, run.contract, images, half=run.config.precision == "bf16").numpy()
    truth = images.targets.numpy() > 0
    answers = logits >= 0
    f1 = 2 * float((truth & answers).sum()) / float(truth.sum() + answers.sum())
    return mean_average_precision(logits, truth), f1

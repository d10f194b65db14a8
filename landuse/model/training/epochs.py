"""What trainings on images have in common, whatever is learned of them: passes, progress and measurements."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch

from landuse.errors import OutputError
from landuse.model.networks import set_dropblock_progress
from landuse.model.training.config import Schedule, StepProgress
from landuse.model.training.state import RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from _typeshed import DataclassInstance
    from torch import Tensor, nn

    from landuse.model.devices import Worker
    from landuse.model.training.state import TrainingRun


class EpochConfig(RunConfig, Schedule, Protocol):
    """What decides how a run goes through its epochs."""

    @property
    def precision(self) -> str:
        """``"bf16"`` autocast, or ``"fp32"``."""


C = TypeVar("C", bound=EpochConfig)


def epoch_seed(config: RunConfig, epoch: int) -> int:
    """The source of an epoch's order and augmentation."""
    return config.seed * 1_000_003 + epoch


def step_reporter(
    run: TrainingRun[C],
    worker: Worker,
    steps_per_epoch: int,
    on_step: Callable[[StepProgress], None] | None,
) -> Callable[[float], None]:
    """What to call with the loss of each step, so that the leading worker tells how far the run is."""
    began, first_step = time.monotonic(), run.step
    steps = run.config.epochs * steps_per_epoch

    def report(loss: float) -> None:
        if on_step is not None and worker.leads:
            pace = (time.monotonic() - began) / (run.step - first_step)
            on_step(
                StepProgress(
                    epoch=run.epoch + 1,
                    step=run.step,
                    steps=steps,
                    loss=loss,
                    seconds_left=pace * (steps - run.step),
                )
            )

    return report


def train_epoch(
    run: TrainingRun[C],
    forward: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    worker: Worker,
    *,
    rate_of: Callable[[int], float],
    report: Callable[[float], None],
) -> float:
    """One pass over the images; returns the mean loss.

    Args:
        run: network, optimiser and position; the step moves on with each batch.
        forward: the network as it is called, see ``TrainingRun.forward_module``.
        batches: input ``(B, bands, S, S)`` and targets ``(B, outputs)``.
        loss_of: of logits in float32 and targets.
        worker: this process.
        rate_of: the learning rate of a step.
        report: called with each loss.
    """
    config = run.config
    # Dropout and DropBlock draw from the global generator.
    torch.manual_seed(epoch_seed(config, run.epoch) + (worker.rank << 40))
    set_dropblock_progress(run.network, run.epoch / config.epochs)
    forward.train()
    losses = []
    for x, targets in batches:
        for group in run.optimizer.param_groups:
            group["lr"] = rate_of(run.step)
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits = forward(x)
        loss = loss_of(logits.float(), targets)
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        run.optimizer.step()
        run.step += 1
        run.update_average()
        losses.append(float(loss.detach()))
        report(losses[-1])
    return sum(losses) / len(losses)


def append_metrics(metrics_file: Path, metrics: DataclassInstance) -> None:
    """Add a measurement as a line of JSON.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        with metrics_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")
    except OSError as error:
        raise OutputError(
            f"{metrics_file} cannot be written ({error}). Make room and run the same command again."
        ) from error

"""What a training run has written about itself, a line of JSON a measurement."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from pydantic import TypeAdapter

from landuse.errors import UsageError
from landuse.model.training.config import EpochMetrics

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

log = logging.getLogger(__name__)

Entry = TypeVar("Entry")


class OfEpoch(Protocol):
    """A measurement after an epoch."""

    @property
    def epoch(self) -> int:
        """Epochs done, from 1."""


Measured = TypeVar("Measured", bound=OfEpoch)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLosses:
    """A line of ``losses.jsonl``."""

    step: int
    """Steps done."""
    losses: dict[str, float]
    """Each part of the loss at that step, before its weight."""


def read_lines(path: Path, parse: Callable[[str], Entry], *, what: str, mend: str) -> list[Entry]:
    """The entries of a file of JSON lines, in order.

    A run that was killed may leave half a line: it is left out, with a warning.

    Args:
        path: the file.
        parse: a line's entry; raises ValueError where it is none.
        what: what a line holds, for messages, such as ``"measurement"``.
        mend: what to give instead, a sentence.

    Raises:
        UsageError: the file cannot be read or holds no entry.

    Example:
        >>> entries = read_lines(Path("run/losses.jsonl"), json.loads, what="losses", mend="Give another.")
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}). {mend}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(parse(line))
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            log.warning("%s, line %d holds no whole %s (%s): left out", path, number, what, reason)
    if not found:
        raise UsageError(f"{path} holds no {what} in {len(lines)} lines. {mend}")
    return found


def read_losses(losses_file: Path) -> dict[int, dict[str, float]]:
    """The parts of the loss by step, in order; the last line counts where a step has two.

    A run that is resumed does some steps again.

    Raises:
        UsageError: the file cannot be read or holds no losses.
    """
    entries = read_lines(
        losses_file,
        TypeAdapter(StepLosses).validate_json,
        what="losses",
        mend="Give the losses.jsonl of a training run on pixels.",
    )
    found = {entry.step: entry.losses for entry in entries}
    return {step: found[step] for step in sorted(found)}


def read_epochs(
    metrics_file: Path, parse: Callable[[str], Measured], *, run: str = "training run"
) -> tuple[Measured, ...]:
    """The measurements of a ``metrics.jsonl``, by epoch; the last one counts where an epoch has two.

    A run that is resumed measures an epoch again.

    Args:
        metrics_file: the file.
        parse: a line's measurement; raises ValueError where it is none.
        run: what the file is of, for messages.

    Raises:
        UsageError: the file cannot be read or holds no measurement.
    """
    mend = f"Give the metrics.jsonl of a {run} that has measured an epoch."
    entries = read_lines(metrics_file, parse, what="measurement", mend=mend)
    found = {entry.epoch: entry for entry in entries}
    return tuple(found[epoch] for epoch in sorted(found))


def read_metrics(metrics_file: Path) -> tuple[EpochMetrics, ...]:
    """The measurements of a run on patches, as ``read_epochs``."""
    return read_epochs(metrics_file, _metrics_of)


def _metrics_of(line: str) -> EpochMetrics:
    """One line's values, checked.

    Raises:
        ValueError: they are no measurement.
    """
    entry = TypeAdapter(EpochMetrics).validate_json(line)
    numbers = (entry.val_accuracy, entry.val_accuracy_l2a, *entry.fusion)
    if entry.epoch < 1 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(f"epoch {entry.epoch}, accuracies and fusion weights {numbers} are out of range")
    return entry

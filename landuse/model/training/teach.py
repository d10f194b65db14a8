"""Learning from the answers of other networks (knowledge distillation, Hinton et al. 2015, arXiv 1503.02531).

Each teacher looks at the plain patch, the student at an augmented view of it (noisy student, Xie et al. 2020,
arXiv 1911.04252). The answers are the teachers' calibrated probabilities, averaged. They are asked once,
before the training. A teacher may read other bands than the student, such as red, green and blue alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from landuse.contract import RGB8
from landuse.errors import ModelError
from landuse.model.checkpoint import load_checkpoint, load_contract
from landuse.model.devices import resolve_device
from landuse.model.training.evaluate import logits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor

    from landuse.contract import ModelContract
    from landuse.model.training.datasets import Patches


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lessons:
    """What teachers say of the patches that a student learns from."""

    labelled: Tensor
    """(N, classes) probabilities, for each labelled patch."""
    unlabelled: Patches | None = None
    """Patches of which nothing else is known. They may lack bands that the student reads."""
    answers: Tensor | None = None
    """(M, classes) probabilities, for each unlabelled patch."""

    def __post_init__(self) -> None:
        if (self.unlabelled is None) != (self.answers is None):
            raise ValueError("unlabelled patches and the answers for them belong together")
        counts = [0 if each is None else len(each) for each in (self.unlabelled, self.answers)]
        if counts[0] != counts[1]:
            raise ValueError(f"{counts[1]} answers for {counts[0]} unlabelled patches")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PixelLessons:
    """What teachers say of the use of the patches that a network of pixels learns from."""

    patches: Tensor
    """(N, uses) probabilities, for each labelled patch."""
    sets: tuple[Tensor, ...] = ()
    """(M, uses) probabilities, for each patch of each set with pixel labels."""


def check_teacher(path: Path, classes: tuple[str, ...], level: str, side_px: int) -> ModelContract:
    """The contract of a teacher that can be asked about patches.

    Args:
        path: its checkpoint.
        classes: those of the student.
        level: processing level of the patches.
        side_px: side of the patches.

    Raises:
        ModelError: it classifies something else, has other classes, or reads no patches of that kind.
    """
    contract = load_contract(path)
    who = f"--teacher {contract.name}"
    if contract.pixels is not None or contract.labels is not None or contract.input_kind == RGB8:
        raise ModelError(f"{who} is no model of Sentinel-2 patches with one class each. Name one that is.")
    if contract.classes != classes:
        raise ModelError(
            f"{who} knows {', '.join(contract.classes)}; the patches are of {', '.join(classes)}. Name a "
            "teacher of the same classes."
        )
    if contract.level_input(level) is None:
        raise ModelError(
            f"{who} reads {', '.join(e.level for e in contract.levels)}; patches are {level}. Name a teacher "
            "that reads both, or other patches."
        )
    if contract.patch_size_px != side_px:
        raise ModelError(
            f"{who} classifies patches of {contract.patch_size_px} px; there are some of {side_px} px. Name "
            "a teacher of their size."
        )
    return contract


def answers_of(
    teachers: Sequence[Path], patches_of: Callable[[tuple[str, ...]], Patches], device: str = "auto"
) -> Tensor:
    """The teachers' probabilities ``(N, classes)`` float32 on the CPU, averaged, of plain patches.

    Args:
        teachers: checkpoints, see ``check_teacher``.
        patches_of: the same patches with the bands that it is called with.
        device: where they are asked: ``auto``, ``cpu``, ``cuda`` or ``cuda:INDEX``.

    Raises:
        ModelError: a checkpoint cannot be read.
        UsageError: there is no such device.
    """
    target = resolve_device(device)
    told = []
    for path in teachers:
        network, contract = load_checkpoint(path)
        network = network.to(device=target, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stub
        logits = logits_of(network, contract, patches_of(contract.bands))
        told.append((logits / contract.temperature).softmax(1))
    return torch.stack(told).mean(0)

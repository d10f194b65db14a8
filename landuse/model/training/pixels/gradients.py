"""The gradients of two tasks and of two branches, measured and levelled in each step of training on pixels.

Two tasks, the use and the cover, send gradients into one trunk, which sends them on into two branches, the
visible and the infrared one. Where one task's gradient is longer, the trunk is made for that task; where one
branch's is longer, that branch learns what the other could. Levelling works in two places (Huang et al. 2023,
"FULLER: Unified Multi-modality Multi-task 3D Perception via Multi-level Gradient Calibration", ICCV, arXiv
2307.16617):

1. What each task sends into the trunk is scaled so that both gradients are equally long at the weights of the
   trunk's last convolution. The heads keep the gradients of their own losses.
2. What the trunk sends into each branch is scaled so that both gradients are equally long at the weights of
   the branch's convolution.

With plain SGD the scale counts, so the factors of each place have the mean 1: what is level already stays
as it is. The rival is GradNorm (Chen et al. 2018, arXiv 1711.02257), which learns weights of the losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from landuse.model.pixel_network import PixelNet

TASKS = ("use", "cover")

BRANCHES = ("visible", "infrared")

TASK_OF_PART = {
    "patch": "use",
    "mosaic": "use",
    "line": "use",
    "conditional": "use",
    "patch_infrared": "use",
    "agree_use": "use",
    "taught": "use",
    "taught_conditional": "use",
    "taught_line": "use",
    "cover": "cover",
    "weak_cover": "cover",
    "weak_cover_infrared": "cover",
    "agree_patch": "cover",
    "agree_cover": "cover",
}
"""Which task each part of the loss is of: whether it asks for the use or for the cover. ``line`` asks for
both, a River where water is, and is of the use, whose label it holds; ``agree_patch`` is the agreement on the
cover of patches."""

GRADNORM_ALPHA = 1.5
"""How much more a task that is behind weighs, as its authors chose for images."""

GRADNORM_RATE = 0.025
"""Learning rate of GradNorm's weights, its authors' too."""

GRADNORM_LEAST = 0.01
"""A weight stays above it: one step must not turn a task around."""


class TaskGradient(NamedTuple):
    """What a task's loss sends back, before it is scaled."""

    features: tuple[Tensor | None, ...]
    """By feature map of the trunk; None where the loss does not look at one."""
    at_end: Tensor
    """Gradient of the weights of the trunk's last layer, flat, in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGradients:
    """A line of ``gradients.jsonl``."""

    step: int
    """Steps done."""
    loss: dict[str, float]
    """Of each task, its parts weighted and added."""
    task_norm: dict[str, float]
    """Length of each task's gradient at the trunk's last layer, before it is scaled."""
    task_weight: dict[str, float]
    """What it is multiplied by."""
    cosine: float
    """Of the angle between the two tasks' gradients there; 0 where one is 0."""
    branch_norm: dict[str, float]
    """Length of the gradient at each branch's convolution, before it is scaled."""
    branch_weight: dict[str, float]
    """What it is multiplied by."""
    norm: float
    """Length of the gradient of all weights after this, before it is clipped."""


def task_losses(parts: Mapping[str, tuple[float, Tensor]]) -> dict[str, Tensor]:
    """The loss of each task that has parts: these, weighted and added.

    Args:
        parts: weight and value of each part, by its name in ``TASK_OF_PART``.
    """
    return {
        task: torch.stack(
            [w * value for part, (w, value) in parts.items() if TASK_OF_PART[part] == task]
        ).sum()
        for task in TASKS
        if any(TASK_OF_PART[part] == task for part in parts)
    }


def levelled(norms: Sequence[float]) -> list[float]:
    """Factors that make gradients of these lengths equally long, with the mean 1.

    Where a length is 0 or no number, nothing can be level, and every factor is 1.

    Example:
        >>> levelled([1.0, 3.0])
        [1.5, 0.5]
    """
    if not all(norm > 0 and math.isfinite(norm) for norm in norms):
        return [1.0] * len(norms)
    inverse = [1 / norm for norm in norms]
    return [len(norms) * value / sum(inverse) for value in inverse]


def gradnorm(
    weights: Sequence[float],
    norms: Sequence[float],
    losses: Sequence[float],
    first: Sequence[float],
    alpha: float = GRADNORM_ALPHA,
    rate: float = GRADNORM_RATE,
) -> list[float]:
    """GradNorm's weights of the losses after a step, with the mean 1.

    Each weighted gradient is to be as long as their mean times how far its task is behind: the share of its
    first loss that is left, relative to the mean share, to the power of ``alpha``. The weights move down the
    gradient of the distance to that.

    Args:
        weights: of the losses, before.
        norms: lengths of the gradients at the trunk's last layer, without the weights.
        losses: of this step, without the weights.
        first: those of the first step.
        alpha: 0 makes the gradients equally long.
        rate: of the step.

    Returns:
        ``weights`` again where a length or a loss is 0 or no number.
    """
    if not all(value > 0 and math.isfinite(value) for value in (*norms, *losses, *first)):
        return list(weights)
    lengths = [weight * norm for weight, norm in zip(weights, norms, strict=True)]
    mean = sum(lengths) / len(lengths)
    left = [loss / begun for loss, begun in zip(losses, first, strict=True)]
    behind = [value * len(left) / sum(left) for value in left]
    moved = []
    for weight, norm, length, share in zip(weights, norms, lengths, behind, strict=True):
        beyond = length - mean * share**alpha
        moved.append(max(weight - rate * norm * ((beyond > 0) - (beyond < 0)), GRADNORM_LEAST))
    return [value * len(moved) / sum(moved) for value in moved]


def cut(features: Sequence[Tensor]) -> list[Tensor]:
    """The same values as leaves: what is made of them sends gradients to these and no further."""
    return [feature.detach().requires_grad_() for feature in features]


def task_gradients(
    losses: Mapping[str, Tensor], features: Sequence[Tensor], leaves: Sequence[Tensor], end: nn.Parameter
) -> dict[str, TaskGradient]:
    """Send each loss back through the heads, whose weights take up its gradient, as far as the trunk.

    Args:
        losses: by task; they are made of ``leaves``.
        features: of the trunk, with its graph; the last one is made by its last layer.
        leaves: ``features`` after ``cut``; their gradients are None before and after.
        end: weights of the trunk's last layer.
    """
    found = {}
    for index, (task, loss) in enumerate(losses.items()):
        # The heads' graph is of all losses together: the last one may take it down.
        loss.backward(retain_graph=index + 1 < len(losses))  # type: ignore[no-untyped-call]  # torch leaves backward untyped
        gradients = tuple(leaf.grad for leaf in leaves)
        for leaf in leaves:
            leaf.grad = None
        if gradients[-1] is None:
            at_end = torch.zeros_like(end)
        else:
            (at_end,) = torch.autograd.grad(features[-1], end, gradients[-1], retain_graph=True)
        found[task] = TaskGradient(gradients, at_end.float().flatten())
    return found


def send_on(gradients: Sequence[TaskGradient], weights: Sequence[float], features: Sequence[Tensor]) -> None:
    """Send the tasks' gradients, each times its weight, from the trunk's features back to its weights."""
    reached: list[Tensor] = []
    sums: list[Tensor] = []
    for index, feature in enumerate(features):
        for gradient, weight in zip(gradients, weights, strict=True):
            value = gradient.features[index]
            if value is None:
                continue
            if reached and reached[-1] is feature:
                sums[-1] = sums[-1] + weight * value
            else:
                reached.append(feature)
                sums.append(weight * value)
    torch.autograd.backward(reached, sums)


def cosine(one: Tensor, other: Tensor) -> float:
    """Of the angle between two vectors; 0 where one of them is 0."""
    lengths = float(one.norm()) * float(other.norm())
    return float(one @ other) / lengths if lengths > 0 else 0.0


def trunk_end(network: PixelNet) -> nn.Parameter:
    """Weights of the trunk's last convolution: where the tasks' gradients are measured."""
    return network.get_parameter(f"stage3.{len(network.stage3) - 1}.conv2.weight")


def branch_weights(network: PixelNet) -> dict[str, list[Tensor]]:
    """Every weight of each branch; the first is its convolution's, where its gradient is measured."""
    visible, infrared = network.visible, network.infrared
    return {
        "visible": [visible.weight, *network.visible_norm.parameters()],
        "infrared": [infrared.weight, *network.infrared_norm.parameters(), network.missing],
    }


class Levelling(nn.Module):
    """Takes the place of ``loss.backward()``; its running values are saved and read with the run's state."""

    task_norm: Tensor
    """(2,) float64, running lengths of the tasks' gradients; 0 before there is one."""
    branch_norm: Tensor
    """(2,) float64, those of the branches'."""
    task_weight: Tensor
    """(2,) float64, GradNorm's weights."""
    first_loss: Tensor
    """(2,) float64, the tasks' losses when GradNorm began; 0 before."""

    def __init__(self, mode: str, smoothing: float = 0.0) -> None:
        """One run's levelling.

        Args:
            mode: in ``config.GRADIENTS``, but not ``"none"``.
            smoothing: how much of the running lengths a step keeps: 0 levels each step by itself.
        """
        super().__init__()
        self.mode, self.smoothing = mode, smoothing
        for name in ("task_norm", "branch_norm", "first_loss"):
            self.register_buffer(name, torch.zeros(2, dtype=torch.float64))
        self.register_buffer("task_weight", torch.ones(2, dtype=torch.float64))

    def backward(
        self,
        network: PixelNet,
        losses: Mapping[str, Tensor],
        features: Sequence[Tensor],
        leaves: Sequence[Tensor],
    ) -> StepGradients:
        """Fill the gradients of all weights of the network; ``step`` and ``norm`` are 0 in what is told.

        Args:
            network: its gradients are None or 0.
            losses: of ``task_losses``, made of ``leaves``.
            features: of ``PixelNet.features``.
            leaves: ``features`` after ``cut``.
        """
        given = dict(zip(TASKS, self.task_weight.tolist(), strict=True))
        # GradNorm's weights are of the losses, so the heads have them too.
        scaled = {
            task: loss * given[task] if self.mode == "gradnorm" else loss for task, loss in losses.items()
        }
        found = task_gradients(scaled, features, leaves, trunk_end(network))
        norms = [float(found[task].at_end.norm()) if task in found else 0.0 for task in TASKS]
        told = [float(losses[task].detach()) if task in losses else 0.0 for task in TASKS]
        weights = [1.0] * len(TASKS)
        if self.mode in ("tasks", "both"):
            weights = levelled(self._smoothed(self.task_norm, norms))
        send_on(list(found.values()), [weights[TASKS.index(task)] for task in found], features)
        if self.mode == "gradnorm":
            weights = list(given.values())
            norms = [norm / weight for norm, weight in zip(norms, weights, strict=True)]
            if not self.first_loss.all() and all(told):
                self.first_loss.copy_(torch.tensor(told))
            moved = gradnorm(weights, norms, told, self.first_loss.tolist())
            self.task_weight.copy_(torch.tensor(moved, dtype=torch.float64))
        branch_norms, branch_factors = self._level_branches(network)
        return StepGradients(
            step=0,
            loss=dict(zip(TASKS, told, strict=True)),
            task_norm=dict(zip(TASKS, norms, strict=True)),
            task_weight=dict(zip(TASKS, weights, strict=True)),
            cosine=cosine(*(found[task].at_end for task in TASKS)) if len(found) == len(TASKS) else 0.0,
            branch_norm=dict(zip(BRANCHES, branch_norms, strict=True)),
            branch_weight=dict(zip(BRANCHES, branch_factors, strict=True)),
            norm=0.0,
        )

    def _level_branches(self, network: PixelNet) -> tuple[list[float], list[float]]:
        """Scale the branches' gradients; returns their lengths before and the factors."""
        branches = branch_weights(network)
        ends = [branches[name][0].grad for name in BRANCHES]
        norms = [0.0 if end is None else float(end.float().norm()) for end in ends]
        factors = [1.0] * len(BRANCHES)
        if self.mode in ("branches", "both"):
            factors = levelled(self._smoothed(self.branch_norm, norms))
            for name, factor in zip(BRANCHES, factors, strict=True):
                for weight in branches[name]:
                    if weight.grad is not None:
                        weight.grad.mul_(factor)
        return norms, factors

    def _smoothed(self, running: Tensor, norms: Sequence[float]) -> list[float]:
        """Move the running lengths; a step that has none, or none that is a number, does not move them."""
        now = torch.tensor(norms, dtype=torch.float64)
        if not bool((now > 0).all() and now.isfinite().all()):
            return list(norms)
        kept = self.smoothing if bool(running.all()) else 0.0
        running.copy_(kept * running + (1 - kept) * now)
        return [float(value) for value in running]

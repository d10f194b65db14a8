"""Scores of a network on labelled patches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from landuse.model.normalize import bring_to_input, standardize
from landuse.model.training import augment

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from landuse.contract import ModelContract
    from landuse.model.training.datasets import Patches

DIHEDRAL = tuple(range(8))

LOG_TEMPERATURE_LIMIT = math.log(20)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How well probabilities match labels."""

    n: int
    """Patches scored."""
    accuracy: float
    """Share of patches whose most probable class is right."""
    kappa: float
    """Cohen's kappa: agreement beyond what the class frequencies alone would give; at most 1."""
    macro_f1: float
    """Mean F1 of the classes that occur among labels or answers."""
    per_class: dict[str, float]
    """Recall of each class that occurs."""
    ece: float
    """Expected calibration error, 15 equal-width bins of confidence, 0..1."""
    confidence_gap: float | None
    """Mean confidence of right minus wrong answers, 0..1; None where there is none of either."""
    confusion: tuple[tuple[int, ...], ...]
    """Counts, rows = true class, columns = predicted class."""
    interval: tuple[float, float]
    """Bootstrap 95 % interval of the accuracy."""


@torch.inference_mode()
def logits_of(
    network: nn.Module,
    contract: ModelContract,
    patches: Patches,
    *,
    path_shift_dn: Tensor | None = None,
    symmetries: tuple[int, ...] = (0,),
    batch_size: int = 64,
) -> Tensor:
    """Logits ``(N, classes)`` float32 on the CPU of patches, averaged over ``symmetries``.

    Args:
        network: in evaluation mode, on any device.
        contract: the network's.
        patches: what to answer for.
        path_shift_dn: (bands,) DN added to the network's input DN, to simulate another atmosphere.
        symmetries: elements of the dihedral group; ``DIHEDRAL`` is D4 test-time augmentation.
        batch_size: patches a forward pass. Of 256, a CPU spends a quarter of its time on fresh memory.
    """
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(patches), batch_size):
        dn = patches.dn(slice(start, start + batch_size)).to(device)
        input_dn = bring_to_input(dn, contract, patches.level)
        if path_shift_dn is not None:
            input_dn = input_dn + path_shift_dn.to(device)[:, None, None]
        x = standardize(input_dn, contract).to(memory_format=torch.channels_last)
        logits = torch.stack([network(augment.dihedral(x, s)).float() for s in symmetries]).mean(0)
        parts.append(logits.cpu())
    return torch.cat(parts)


def score(probabilities: Tensor, labels: Tensor, classes: tuple[str, ...]) -> Scores:
    """Scores of ``(N, classes)`` probabilities against ``(N,)`` labels."""
    confidence, predicted = probabilities.max(1)
    right = predicted == labels
    count = len(classes)
    confusion = torch.bincount(labels * count + predicted, minlength=count * count).view(count, count)
    totals, answers, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    occurs = totals + answers > 0
    by_chance = float((totals * answers).sum()) / len(labels) ** 2
    accuracy = int(right.sum()) / len(labels)
    bins = (confidence * 15).long().clamp(max=14)
    gaps = torch.zeros(15, dtype=torch.float64).index_add_(0, bins, confidence.double() - right.double())
    return Scores(
        n=len(labels),
        accuracy=accuracy,
        kappa=(accuracy - by_chance) / (1 - by_chance) if by_chance < 1 else 1.0,
        macro_f1=float((2 * hits / (totals + answers))[occurs].double().mean()),
        per_class={
            name: int(confusion[i, i]) / int(totals[i]) for i, name in enumerate(classes) if totals[i] > 0
        },
        ece=float(gaps.abs().sum() / len(labels)),
        confidence_gap=(
            float(confidence[right].mean() - confidence[~right].mean()) if 0 < accuracy < 1 else None
        ),
        confusion=tuple(tuple(int(v) for v in row) for row in confusion),
        interval=accuracy_interval(int(right.sum()), len(labels)),
    )


def accuracy_interval(right: int, count: int, draws: int = 10_000) -> tuple[float, float]:
    """Bootstrap 95 % percentile interval of an accuracy of ``right`` out of ``count``.

    Drawing ``count`` patches with replacement and counting the right ones is a binomial draw.
    """
    rng = torch.Generator().manual_seed(0)
    share = torch.full((draws,), right / count, dtype=torch.float64)
    drawn = torch.binomial(torch.full_like(share, count), share, generator=rng) / count
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature that minimises the negative log-likelihood (Guo et al. 2017).

    The targets are smoothed by one answer in ``N + 2`` (Platt 1999): without it, the few patches of a
    small split that are all answered right would make every answer certain. At most 20, and at least 1/20:
    answers no better than chance would have it infinite.
    """
    count, classes = logits.shape
    smoothing = classes / (classes - 1) / (count + 2)  # torch's shares it with the right class

    def loss(log_t: float) -> float:
        scaled = logits.double() / math.exp(log_t)
        return float(torch.nn.functional.cross_entropy(scaled, labels, label_smoothing=smoothing))

    return temperature_of_least(loss)


def temperature_of_least(loss: Callable[[float], float]) -> float:
    """The temperature in 1/20 to 20 where a loss is least that is convex in its inverse.

    Args:
        loss: of the natural logarithm of the temperature.
    """
    # One valley: golden section, which cannot diverge.
    low, high = -LOG_TEMPERATURE_LIMIT, LOG_TEMPERATURE_LIMIT
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-4:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return math.exp((low + high) / 2)

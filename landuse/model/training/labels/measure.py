"""Scores of labels that do not exclude each other, and what is fitted on the validation part.

Average precision and the area under the curve of precision over recall are defined as scikit-learn has
them; equal probabilities are one step of the curve.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from landuse.contract import REFLECTANCE
from landuse.model.normalize import bring_to_input, standardize
from landuse.model.training import augment
from landuse.model.training.evaluate import temperature_of_least

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from landuse.contract import ModelContract
    from landuse.model.training.labels.images import LabelledImages

DRAWS = 1000
"""Bootstrap samples of an interval."""

CHUNK = 4_000_000
"""Weights of the bootstrap that are held at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """How well one label is told."""

    positives: int
    """Images that have the label."""
    ap: float | None
    """Average precision; None where no image has the label."""
    pr_auc: float | None
    """Area under precision over recall by trapezoids; None as for ``ap``."""
    threshold: float
    """From which probability on the label counts as there."""
    precision: float | None
    """Share of the answers that are right; None where there is no answer."""
    recall: float | None
    """Share of the images with the label that are answered so; None where there is none."""
    f1: float | None
    """Harmonic mean of both; None where the label neither occurs nor is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScores:
    """How well probabilities of labels match what is on images."""

    n: int
    """Images scored."""
    map: float
    """Mean of the labels' average precision, over labels that occur."""
    pr_auc: float
    """Mean of the labels' area under precision over recall, over labels that occur."""
    micro_f1: float
    """F1 of all decisions of all labels together."""
    macro_f1: float
    """Mean of the labels' F1, over labels that occur or are answered."""
    hamming: float
    """Share of all decisions that are wrong."""
    per_label: dict[str, LabelScore]
    """By name, in the order of the model's labels."""
    interval: tuple[float, float]
    """Bootstrap 95 % interval of ``map`` over images."""
    micro_f1_interval: tuple[float, float]
    """The same of ``micro_f1``."""
    macro_f1_interval: tuple[float, float]
    """The same of ``macro_f1``."""


@torch.inference_mode()
def label_logits(
    network: nn.Module,
    contract: ModelContract,
    images: LabelledImages,
    *,
    symmetries: tuple[int, ...] = (0,),
    batch_size: int = 64,
    half: bool = False,
) -> Tensor:
    """Logits ``(N, labels)`` float32 on the CPU, averaged over ``symmetries``.

    Args:
        network: in evaluation mode, on any device.
        contract: the network's.
        images: what to score.
        symmetries: elements of the dihedral group; all eight are D4 test-time augmentation.
        batch_size: images a forward pass.
        half: in bfloat16, faster and good enough to watch a training run.
    """
    device = next(network.parameters()).device
    parts = []
    for start in range(0, len(images), batch_size):
        counts = images.images[start : start + batch_size].to(device)
        x = network_input(counts, contract, images.level).to(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            logits = [network(augment.dihedral(x, element)).float() for element in symmetries]
        parts.append(torch.stack(logits).mean(0).cpu())
    return torch.cat(parts)


def network_input(values: Tensor, contract: ModelContract, level: str) -> Tensor:
    """Values of images ``(B, bands, H, W)``, 8-bit or DN, to what the first convolution reads.

    Raises:
        ModelError: of reflectance, the level or the number of bands is not the contract's.
    """
    if contract.input_kind == REFLECTANCE:
        return standardize(bring_to_input(values, contract, level), contract)
    return standardize(values.to(torch.float32), contract)


def fit_label_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature that minimises the binary cross-entropy of ``(N, labels)`` logits.

    The targets are smoothed as ``fit_temperature`` does: by one answer in ``N + 2``.
    """
    smoothing = 2 / (len(logits) + 2)
    smoothed = targets.double() * (1 - smoothing) + smoothing / 2

    def loss(log_t: float) -> float:
        return float(F.binary_cross_entropy_with_logits(logits.double() / math.exp(log_t), smoothed))

    return temperature_of_least(loss)


def fit_thresholds(probabilities: NDArray[np.floating], targets: NDArray[np.generic]) -> tuple[float, ...]:
    """For each label the threshold with the best F1, half-way to the next lower probability.

    A label that occurs nowhere has 0.5: nothing is known of it.

    Args:
        probabilities: (N, labels), 0..1.
        targets: (N, labels), 1 where the label is there.
    """
    found = []
    for label in range(probabilities.shape[1]):
        curve = _curve(probabilities[:, label], targets[:, label])
        if curve.positives == 0:
            found.append(0.5)
            continue
        hits = np.cumsum(curve.there)[curve.ends]
        f1 = 2 * hits / (curve.ends + 1 + curve.positives)
        best = int(np.argmax(f1))
        upper = curve.sorted[curve.ends[best]]
        lower = curve.sorted[curve.ends[best] + 1] if best + 1 < len(curve.ends) else 0.0
        found.append(float((upper + lower) / 2))
    return tuple(found)


@dataclass(frozen=True, slots=True, eq=False)
class _Curve:
    """A label's images from the most to the least probable."""

    order: NDArray[np.intp]
    """Rows in that order."""
    sorted: NDArray[np.float64]
    """Their probabilities."""
    there: NDArray[np.float64]
    """1 where the label is there, in that order."""
    ends: NDArray[np.intp]
    """Last place of each run of equal probabilities."""
    positives: int
    """Images that have the label."""


def _curve(probabilities: NDArray[np.floating], targets: NDArray[np.generic]) -> _Curve:
    values = np.asarray(probabilities, np.float64)
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    there = np.asarray(targets, np.float64)[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    return _Curve(order, ordered, there, ends, int(there.sum()))


def _areas(curve: _Curve, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average precision and trapezoidal area for each row of weights ``(draws, N)`` in the curve's order.

    NaN where no image with the label has any weight.
    """
    hits = np.cumsum(weights * curve.there, 1)[:, curve.ends]
    answers = np.cumsum(weights, 1)[:, curve.ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(answers > 0, hits / answers, 1.0)
        recall = hits / hits[:, -1:]
    steps = np.diff(recall, prepend=0.0)
    before = np.concatenate([np.ones((len(weights), 1)), precision[:, :-1]], 1)
    return (steps * precision).sum(1), (steps * (precision + before) / 2).sum(1)


def curve_points(
    probabilities: NDArray[np.floating], targets: NDArray[np.generic]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Recall and precision at each distinct probability of one label, from the highest on.

    Args:
        probabilities: (N,).
        targets: (N,), 1 where the label is there; at least one is.
    """
    curve = _curve(probabilities, targets)
    hits = np.cumsum(curve.there)[curve.ends]
    return hits / curve.positives, hits / (curve.ends + 1)


def mean_average_precision(probabilities: NDArray[np.floating], targets: NDArray[np.generic]) -> float:
    """Mean of the average precision of each label that occurs; NaN where none does.

    Args:
        probabilities: (N, labels), 0..1, or anything that grows with them.
        targets: (N, labels), 1 where the label is there.
    """
    found = []
    for label in range(probabilities.shape[1]):
        curve = _curve(probabilities[:, label], targets[:, label])
        if curve.positives:
            found.append(float(_areas(curve, np.ones((1, len(targets))))[0][0]))
    return float(np.mean(found)) if found else math.nan


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def score_labels(
    probabilities: NDArray[np.floating],
    targets: NDArray[np.generic],
    labels: tuple[str, ...],
    thresholds: tuple[float, ...],
    draws: int = DRAWS,
) -> LabelScores:
    """Scores of probabilities ``(N, labels)`` against targets of the same shape.

    Args:
        probabilities: 0..1.
        targets: 1 where the label is there.
        labels: name of each column.
        thresholds: of each column; a label is answered where its probability is not below it.
        draws: bootstrap samples of the intervals.

    Raises:
        ValueError: no label occurs, so that there is nothing to score.
    """
    count = len(targets)
    truth = np.asarray(targets) > 0
    if not truth.any():
        raise ValueError("no image has any of the labels")
    answers = np.asarray(probabilities, np.float64) >= np.asarray(thresholds)
    hits, said, held = (truth & answers).sum(0), answers.sum(0), truth.sum(0)
    per_label = {}
    for index, name in enumerate(labels):
        curve = _curve(probabilities[:, index], truth[:, index])
        ap, auc = _areas(curve, np.ones((1, count))) if curve.positives else ([None], [None])
        per_label[name] = LabelScore(
            positives=int(held[index]),
            ap=None if ap[0] is None else float(ap[0]),
            pr_auc=None if auc[0] is None else float(auc[0]),
            threshold=thresholds[index],
            precision=_share(int(hits[index]), int(said[index])),
            recall=_share(int(hits[index]), int(held[index])),
            f1=_share(2 * int(hits[index]), int(said[index] + held[index])),
        )
    aps = [one.ap for one in per_label.values() if one.ap is not None]
    areas = [one.pr_auc for one in per_label.values() if one.pr_auc is not None]
    f1s = [one.f1 for one in per_label.values() if one.f1 is not None]
    intervals = _intervals(np.asarray(probabilities), truth, answers, draws)
    return LabelScores(
        n=count,
        map=float(np.mean(aps)),
        pr_auc=float(np.mean(areas)),
        micro_f1=float(2 * hits.sum() / (said.sum() + held.sum())),
        macro_f1=float(np.mean(f1s)),
        hamming=float((truth != answers).mean()),
        per_label=per_label,
        interval=intervals[0],
        micro_f1_interval=intervals[1],
        macro_f1_interval=intervals[2],
    )


def _intervals(
    probabilities: NDArray[np.floating],
    truth: NDArray[np.bool_],
    answers: NDArray[np.bool_],
    draws: int,
) -> list[tuple[float, float]]:
    """95 % percentile intervals of mAP, micro F1 and macro F1 over images drawn with replacement."""
    count, labels = truth.shape
    rng = np.random.default_rng(0)
    curves = [_curve(probabilities[:, label], truth[:, label]) for label in range(labels)]
    hit = (truth & answers).astype(np.float64)
    both = answers.astype(np.float64) + truth
    drawn: list[NDArray[np.float64]] = []
    at_once = max(CHUNK // count, 1)
    for start in range(0, draws, at_once):
        size = min(at_once, draws - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64)
        aps = np.stack([_areas(curve, weights[:, curve.order])[0] for curve in curves], 1)
        hits, sums = weights @ hit, weights @ both  # (size, labels)
        with np.errstate(invalid="ignore", divide="ignore"):
            f1 = 2 * hits / sums
            micro = 2 * hits.sum(1) / sums.sum(1)
        drawn.append(np.stack([_mean_known(aps), micro, _mean_known(f1)]))
    values = np.concatenate(drawn, 1)
    found = []
    for row in values:
        known = row[~np.isnan(row)]
        low, high = np.quantile(known, (0.025, 0.975)) if len(known) else (math.nan, math.nan)
        found.append((float(low), float(high)))
    return found


def _mean_known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each row without its NaN; NaN where it has nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = np.where(known, values, 0).sum(1) / known.sum(1)
    return means

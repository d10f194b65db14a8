"""What is asked of a network that classifies each pixel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LINE_SHARE = {"River": 1 / 8, "Highway": 1 / 20}
"""Uses that are lines: the share of their patch that is of them at least. A highway of two to four pixels
takes 3 to 6 % of 64; in EuroSAT's 13-band River patches 36 % of the pixels are water."""

LINE_MOST = 0.5
"""At most this share of such a patch is of it."""

LAND_TO_PATCHES = {"Residential": 2.5, "AnnualCrop": 2.0, "Pasture": 1.5}
"""EuroSAT has about as many patches of each class, Europe has not: how much more a pixel of a class weighs
among the uses of its cover. There is some five times as much urban fabric as industry and eight times as much
arable land as permanent crops (CORINE Land Cover 2018, EEA); the square root of it, since cities and orchards
are mapped too."""

COVERS_OF_USE = {
    "AnnualCrop": ("Crops", "Trees", "Built"),
    "Forest": ("Trees",),
    "HerbaceousVegetation": ("Grass", "ShrubScrub", "Trees", "Bare", "Built"),
    "Industrial": ("Built", "Trees", "Grass", "Bare"),
    "Pasture": ("Grass", "Trees", "Built"),
    "PermanentCrop": ("Crops", "Trees", "Built"),
    "Residential": ("Built", "Trees", "Grass"),
    "SeaLake": ("Water",),
}
"""What can cover a pixel of a patch of a use: a pasture is no field, though trees and farms stand in it."""

COVER_OF_LINE = {"River": "Water", "Highway": "Built"}
"""Uses that say what covers the line."""


def weighted_cross_entropy(logits: Tensor, label: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy of pixels, weighted, over the sum of the weights.

    Args:
        logits: (B, covers, H, W).
        label: (B, H, W) int64; where ``weight`` is 0, anything in range.
        weight: (B, H, W).
    """
    loss = F.cross_entropy(logits, label, reduction="none")
    return (loss * weight).sum() / weight.sum().clamp(min=1.0)


def generalised_cross_entropy(probabilities: Tensor, q: float) -> Tensor:
    """``(1 - p^q) / q`` of the probability of the label: cross-entropy at q = 0, absolute error at 1.

    Source: Zhang and Sabuncu 2018, "Generalized Cross Entropy Loss for Training Deep Neural Networks with
    Noisy Labels", arXiv 1805.07836.

    Args:
        probabilities: of the label, any shape.
        q: 0..1.
    """
    p = probabilities.clamp(min=1e-6)
    return -p.log() if q == 0 else (1 - p**q) / q


def bag(probability: Tensor, region: Tensor, least: float, most: float = LINE_MOST) -> Tensor:
    """Loss of each bag of pixels of which at least a share is of a class, and at most another.

    Multiple-instance learning with the mean of the strongest pixels as the bag's probability.

    Args:
        probability: (N, pixels) of the class.
        region: (N, pixels) bool, the bag.
        least: share of the bag that is of the class.
        most: share of the bag that may be of it.

    Returns:
        (N,) losses; 0 of an empty bag.
    """
    size = region.sum(1)
    kept = torch.where(region, probability, torch.zeros_like(probability))
    strongest = kept.sort(1, descending=True).values
    count = (size * least).ceil().clamp(min=1)
    rank = torch.arange(probability.shape[1], device=probability.device)[None]
    top = (strongest * (rank < count[:, None])).sum(1) / count
    mean = kept.sum(1) / size.clamp(min=1)
    loss = -top.clamp(min=1e-4).log() + 4 * F.relu(mean - most)
    return torch.where(size > 0, loss, torch.zeros_like(loss))


def line_chance(use: Tensor, cover: Tensor) -> Tensor:
    """(B, pixels), how far each pixel is of a line: a river is where water is, a road where it is built.

    Args:
        use: (B, H, W), probability of the use.
        cover: (B, H, W), that of its cover.
    """
    return (use * (0.1 + 0.9 * cover)).flatten(1)


def divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each pixel against soft targets, weighted by how sure the target is.

    Args:
        logits: (B, K, H, W).
        target: (B, K, H, W) probabilities, without gradient.
    """
    confidence = target.amax(1)
    weight = ((confidence - 0.5) / 0.4).clamp(0, 1)
    loss = -(target * logits.log_softmax(1)).sum(1)
    return (loss * weight).sum() / weight.sum().clamp(min=1.0)

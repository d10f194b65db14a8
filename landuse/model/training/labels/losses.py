"""Losses of labels that do not exclude each other: each is a yes or a no of its own.

All take logits and targets ``(B, labels)``; targets may lie between 0 and 1 where images are mixed. Each
returns the sum over labels, averaged over images, so that a label counts the same however many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

LOSSES = ("bce", "focal", "asymmetric")
"""Names of the losses."""

FOCUS = 2.0
"""Gamma of the focal loss, as published."""

FOCUS_NEGATIVE, FOCUS_POSITIVE, MARGIN = 4.0, 1.0, 0.05
"""Gammas and margin of the asymmetric loss, as published."""


def bce(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy.

    Args:
        logits: (B, labels).
        targets: (B, labels), 0..1.
        pos_weight: (labels,) what a label that is there counts, beside 1 of one that is not.
    """
    each = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction="none")
    return each.sum(1).mean()


def focal(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, gamma: float = FOCUS) -> Tensor:
    """Focal loss (Lin et al. 2017, arXiv 1708.02002), without its alpha: ``pos_weight`` has that part.

    A label's cross-entropy is weighed by ``|target - p| ** gamma``: what is right already counts little.

    Args:
        logits: (B, labels).
        targets: (B, labels), 0..1.
        pos_weight: as for ``bce``.
        gamma: 0 is ``bce``.
    """
    each = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction="none")
    return (each * (targets - logits.sigmoid()).abs() ** gamma).sum(1).mean()


def asymmetric(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    gamma_negative: float = FOCUS_NEGATIVE,
    gamma_positive: float = FOCUS_POSITIVE,
    margin: float = MARGIN,
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119).

    With ``p = sigmoid(logit)`` and ``q = max(p - margin, 0)``: a label that is there costs
    ``-(1 - p) ** gamma_positive * log p``, one that is not ``-q ** gamma_negative * log(1 - q)``. The
    gradient does not flow through the weights, as in the authors' code.

    Args:
        logits: (B, labels).
        targets: (B, labels), 0..1: between them both parts count by their share.
        pos_weight: as for ``bce``.
        gamma_negative: how much less easy labels that are not there count.
        gamma_positive: the same of labels that are there.
        margin: probabilities below it cost nothing where the label is not there.
    """
    probability = logits.sigmoid()
    shifted = (probability - margin).clamp(min=0)
    there = F.logsigmoid(logits) * (1 - probability).detach() ** gamma_positive
    if pos_weight is not None:
        there = there * pos_weight
    absent = (1 - shifted).clamp(min=1e-8).log() * shifted.detach() ** gamma_negative
    return -(targets * there + (1 - targets) * absent).sum(1).mean()


def loss_of(name: str, logits: Tensor, targets: Tensor, pos_weight: Tensor | None) -> Tensor:
    """The loss of that name, see ``LOSSES``."""
    functions = {"bce": bce, "focal": focal, "asymmetric": asymmetric}
    return functions[name](logits, targets, pos_weight)

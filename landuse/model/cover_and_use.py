"""What covers a pixel and what it is used for, as one class.

``p(class) = sum over covers of p(cover) p(use | cover)``: the cover says where, the use says what for, and a
cover can only be used as ``PixelOutputs.uses_of_covers`` allows. So a wood cannot be a pasture, however much
pasture lies around it. The use is what ``USE_AROUND_PX`` around the pixel says of this cover, weighted by how
probable the cover is there: a lake is one lake, a village one village. A highway is a line in other built
ground, so that it alone is decided at each pixel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

    from landuse.contract import ModelContract, PixelOutputs

USE_AROUND_PX = 52
"""Side of the window in which the evidence of a cover's uses is averaged: 520 m, near a patch's 640 m."""

LINES = ("Highway",)
"""Uses that are narrower than the window: decided at each pixel."""

_CELL_PX = 4
"""The averages are made of cells of so many pixels, which changes them little and costs a sixteenth."""


def with_prior(cover_logits: Tensor, present: Tensor, contract: ModelContract) -> Tensor:
    """The cover's logits, with ``visible_cover_bias`` added where an image has no optional band.

    Args:
        cover_logits: (B, covers, H, W).
        present: (B, optional bands) or (1, optional bands), 1 where a band is there, 0 where it is missing.
        contract: of the model.
    """
    logits = _planar(cover_logits)
    if contract.pixels is None or not contract.pixels.visible_cover_bias:
        return logits
    without = (present == 0).all(1)
    if not bool(without.any()):
        return logits
    bias = logits.new_tensor(contract.pixels.visible_cover_bias)[None, :, None, None]
    return logits + bias * without[:, None, None, None]


def cover_shares(cover_logits: Tensor, outputs: PixelOutputs) -> Tensor:
    """The probability of each cover, (B, covers, H, W), of logits ``with_prior``."""
    return _planar(cover_logits).div(outputs.cover_temperature).softmax(1)


def combine(cover_logits: Tensor, use_half: Tensor, contract: ModelContract) -> tuple[Tensor, Tensor]:
    """The probability of each class and of each cover.

    Args:
        cover_logits: (B, covers, H, W), ``with_prior``; H and W are multiples of 4.
        use_half: (B, uses, H/2, W/2), logits; the network tells the use of four pixels at once.
        contract: of a model that classifies pixels: classes, covers, their uses and the temperatures.

    Returns:
        (B, classes, H, W) and (B, covers, H, W), each summing to 1 over the second axis.
    """
    outputs = contract.pixels
    if outputs is None:
        raise ValueError(f"model {contract.name} classifies patches, not pixels")
    covers = cover_shares(cover_logits, outputs)
    scaled = _planar(use_half) / outputs.use_temperature
    # Every class belongs to one cover, by the contract, so that each is written below.
    classes = covers.new_empty((covers.shape[0], len(contract.classes), *covers.shape[2:]))
    for index, uses in enumerate(outputs.uses_of_covers):
        of_cover = covers[:, index : index + 1]
        if len(uses) == 1:
            classes[:, contract.classes.index(uses[0])] = of_cover[:, 0]
            continue
        shares = _shares(scaled, of_cover, uses, outputs)
        for position, use in enumerate(uses):
            torch.mul(
                of_cover[:, 0], _doubled(shares[:, position]), out=classes[:, contract.classes.index(use)]
            )
    return classes, covers


def _planar(x: Tensor) -> Tensor:
    """``x`` as float32 with one channel after the other: softmax is up to three times as fast so."""
    return x.to(torch.float32, memory_format=torch.contiguous_format)


def _shares(use_half: Tensor, of_cover: Tensor, uses: tuple[str, ...], outputs: PixelOutputs) -> Tensor:
    """``p(use | cover)`` of a cover's uses, (B, uses of the cover, H/2, W/2), summing to 1."""
    chosen = use_half[:, [outputs.uses.index(use) for use in uses]].softmax(1)
    covered = F.avg_pool2d(of_cover, 2)  # (B, 1, H/2, W/2)
    lines = [position for position, use in enumerate(uses) if use in LINES]
    others = [position for position, use in enumerate(uses) if use not in LINES]
    shares = chosen.clone()
    areal = chosen[:, others]
    around = _averaged(areal * covered) / _averaged(covered).clamp(min=1e-6)
    around = around / around.sum(1, keepdim=True).clamp(min=1e-6)
    left = 1 - chosen[:, lines].sum(1, keepdim=True) if lines else torch.ones_like(covered)
    shares[:, others] = left * around
    return shares / shares.sum(1, keepdim=True).clamp(min=1e-6)


def _averaged(x: Tensor) -> Tensor:
    """The mean over ``USE_AROUND_PX`` around each position of ``(B, C, H/2, W/2)``; shorter at the edges."""
    cells = F.avg_pool2d(x, _CELL_PX // 2)
    size = USE_AROUND_PX // _CELL_PX
    if size % 2 == 0:
        raise ValueError(f"USE_AROUND_PX {USE_AROUND_PX} must be an odd multiple of {_CELL_PX}")
    half = size // 2
    means = F.avg_pool2d(cells, (1, size), 1, (0, half), count_include_pad=False)
    means = F.avg_pool2d(means, (size, 1), 1, (half, 0), count_include_pad=False)
    return F.interpolate(means, scale_factor=_CELL_PX // 2, mode="bilinear", align_corners=False)


def _doubled(x: Tensor) -> Tensor:
    """``(B, H/2, W/2)`` with each value four times, (B, H, W)."""
    return F.interpolate(x[:, None], scale_factor=2, mode="nearest")[:, 0]

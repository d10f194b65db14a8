"""Training augmentation on batches of tensors.

Only what a satellite image can really undergo: flips and transposes (no arbitrary rotation, whose
black corners no scene has), small shifts, brightness, atmosphere, and CutMix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dihedral(images: Tensor, element: int) -> Tensor:
    """One of the eight symmetries of the square, applied to ``(B, C, S, S)``."""
    if element & 1:
        images = images.flip(3)
    if element & 2:
        images = images.flip(2)
    return images.transpose(2, 3) if element & 4 else images


def random_dihedral(images: Tensor, rng: torch.Generator) -> Tensor:
    """Each image of ``(B, C, S, S)`` under a random symmetry of the square."""
    chosen = torch.randint(8, (len(images),), generator=rng)
    out = torch.empty_like(images)
    for element in range(8):
        mask = chosen == element
        out[mask] = dihedral(images[mask], element)
    return out


def random_shift(images: Tensor, margin_px: int, rng: torch.Generator) -> Tensor:
    """Each image of ``(B, C, H, W)`` reflect-padded by ``margin_px`` and cropped back at random."""
    count, channels, height, width = images.shape
    padded = F.pad(images, (margin_px,) * 4, mode="reflect")
    start = torch.randint(2 * margin_px + 1, (2, count, 1), generator=rng)
    rows = start[0] + torch.arange(height)  # (B, H)
    cols = start[1] + torch.arange(width)  # (B, W)
    batch = torch.arange(count)[:, None, None, None]
    band = torch.arange(channels)[None, :, None, None]
    return padded[batch, band, rows[:, None, :, None], cols[:, None, None, :]]


def atmosphere(input_dn: Tensor, path_dn: Tensor, spread: float, rng: torch.Generator) -> Tensor:
    """Each image under another atmosphere: path radiance added or taken away.

    Args:
        input_dn: (B, C, H, W) input DN, see ``normalize.bring_to_input``.
        path_dn: (C,) path radiance that separates L1C from L2A.
        spread: the common amount is uniform in ``-spread..spread`` of ``path_dn``; each band
            deviates from it by a normal 12 % of its own.
        rng: source of randomness.
    """
    count, channels = input_dn.shape[:2]
    amount = (torch.rand((count, 1), generator=rng) * 2 - 1) * spread
    amount = amount + 0.12 * torch.randn((count, channels), generator=rng)
    return input_dn + (amount * path_dn)[:, :, None, None]


def brightness(input_dn: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Each image's brightness and contrast scaled by ``1 +- strength``, its bands by a third of it."""
    count, channels = input_dn.shape[:2]
    gain = 1 + strength * (torch.rand((count, 1), generator=rng) * 2 - 1)
    gain = gain * (1 + strength / 3 * (torch.rand((count, channels), generator=rng) * 2 - 1))
    contrast = 1 + strength * (torch.rand((count, 1, 1, 1), generator=rng) * 2 - 1)
    scaled = input_dn * gain[:, :, None, None]
    mean = scaled.mean((2, 3), keepdim=True)
    return mean + (scaled - mean) * contrast


def cutmix(images: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al. 2019): a rectangle of another image, its label by area.

    Args:
        images: (B, C, H, W).
        targets: (B, classes) probabilities.
        rng: source of randomness.
    """
    height, width = images.shape[2:]
    side = float(torch.sqrt(1 - torch.rand((), generator=rng)))
    rows, cols = round(height * side), round(width * side)
    top = int(torch.randint(height - rows + 1, (), generator=rng))
    left = int(torch.randint(width - cols + 1, (), generator=rng))
    order = torch.randperm(len(images), generator=rng)
    mixed = images.clone()
    mixed[:, :, top : top + rows, left : left + cols] = images[order, :, top : top + rows, left : left + cols]
    share = rows * cols / (height * width)
    return mixed, targets * (1 - share) + targets[order] * share

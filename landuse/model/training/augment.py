"""Training augmentation on batches of tensors, on the device they lie on (``rng`` too).

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
    chosen = torch.randint(8, (len(images),), generator=rng, device=images.device)
    out = torch.empty_like(images)
    for element in range(8):
        mask = chosen == element
        out[mask] = dihedral(images[mask], element)
    return out


def random_crop(images: Tensor, height_px: int, width_px: int, rng: torch.Generator) -> Tensor:
    """A random rectangle of each image of ``(B, C, H, W)``: ``(B, C, height_px, width_px)``."""
    count, channels, height, width = images.shape
    device = images.device
    top = torch.randint(height - height_px + 1, (count, 1), generator=rng, device=device)
    left = torch.randint(width - width_px + 1, (count, 1), generator=rng, device=device)
    rows = top + torch.arange(height_px, device=device)  # (B, height_px)
    cols = left + torch.arange(width_px, device=device)  # (B, width_px)
    batch = torch.arange(count, device=device)[:, None, None, None]
    band = torch.arange(channels, device=device)[None, :, None, None]
    return images[batch, band, rows[:, None, :, None], cols[:, None, None, :]]


def random_shift(images: Tensor, margin_px: int, rng: torch.Generator) -> Tensor:
    """Each image of ``(B, C, H, W)`` reflect-padded by ``margin_px`` and cropped back at random."""
    padded = F.pad(images, (margin_px,) * 4, mode="reflect")
    return random_crop(padded, images.shape[2], images.shape[3], rng)


def atmosphere(
    input_dn: Tensor, path_dn: Tensor, spread: float, rng: torch.Generator, deviation: float = 0.12
) -> Tensor:
    """Each image under another atmosphere: path radiance added or taken away.

    Args:
        input_dn: (B, C, H, W) input DN, see ``normalize.bring_to_input``.
        path_dn: (C,) path radiance that separates L1C from L2A.
        spread: the common amount is uniform in ``-spread..spread`` of ``path_dn``; each band
            deviates from it by a normal ``deviation`` of its own.
        rng: source of randomness.
        deviation: see ``spread``.
    """
    count, channels = input_dn.shape[:2]
    device = input_dn.device
    amount = (torch.rand((count, 1), generator=rng, device=device) * 2 - 1) * spread
    amount = amount + deviation * torch.randn((count, channels), generator=rng, device=device)
    return input_dn + (amount * path_dn)[:, :, None, None]


def brightness(input_dn: Tensor, strength: float, rng: torch.Generator, band_share: float = 1 / 3) -> Tensor:
    """Each image's brightness and contrast scaled by ``1 +- strength``, its bands by ``band_share`` of it."""
    count, channels = input_dn.shape[:2]
    device = input_dn.device
    gain = 1 + strength * (torch.rand((count, 1), generator=rng, device=device) * 2 - 1)
    gain = gain * (
        1 + strength * band_share * (torch.rand((count, channels), generator=rng, device=device) * 2 - 1)
    )
    contrast = 1 + strength * (torch.rand((count, 1, 1, 1), generator=rng, device=device) * 2 - 1)
    scaled = input_dn * gain[:, :, None, None]
    mean = scaled.mean((2, 3), keepdim=True)
    return mean + (scaled - mean) * contrast


def drop_groups(
    x: Tensor, groups: tuple[tuple[int, ...], ...], probability: float, rng: torch.Generator
) -> Tensor:
    """In some images, one spectral group of bands is set to its mean, which is 0 after standardising.

    Args:
        x: (B, C, H, W) standardised input.
        groups: band positions of each group; at least two.
        probability: share of the images that lose a group.
        rng: source of randomness.
    """
    count, channels = x.shape[:2]
    member = torch.zeros((len(groups) + 1, channels), device=x.device)
    for row, group in enumerate(groups):
        member[row, list(group)] = 1
    chosen = torch.randint(len(groups), (count,), generator=rng, device=x.device)
    spared = torch.rand((count,), generator=rng, device=x.device) >= probability
    chosen[spared] = len(groups)  # the row of no group
    return x * (1 - member[chosen])[:, :, None, None]


def cutmix(images: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """CutMix (Yun et al. 2019): a rectangle of another image, its label by area.

    Args:
        images: (B, C, H, W).
        targets: (B, classes) probabilities.
        rng: source of randomness.
    """
    height, width = images.shape[2:]
    device = images.device
    side = float(torch.sqrt(1 - torch.rand((), generator=rng, device=device)))
    rows, cols = round(height * side), round(width * side)
    top = int(torch.randint(height - rows + 1, (), generator=rng, device=device))
    left = int(torch.randint(width - cols + 1, (), generator=rng, device=device))
    order = torch.randperm(len(images), generator=rng, device=device)
    mixed = images.clone()
    mixed[:, :, top : top + rows, left : left + cols] = images[order, :, top : top + rows, left : left + cols]
    share = rows * cols / (height * width)
    return mixed, targets * (1 - share) + targets[order] * share

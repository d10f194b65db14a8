"""Augmentation of what the pixels of many bands look like: seasons, sensors, floods.

All functions work on batches of input DN (``normalize.bring_to_input``) on the device they lie on, with their
generator there too. Bands are named, so that any set of them can be given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from landuse.model.bands import RGB

PLATEAU = ("B06", "B07", "B08", "B8A", "B09")
"""The near infrared, in which the brightness of vegetation rises and falls together."""

AUTUMN = {
    "B02": 0.10,
    "B03": 0.10,
    "B04": 0.60,
    "B05": 0.15,
    "B06": -0.30,
    "B07": -0.40,
    "B08": -0.40,
    "B8A": -0.40,
    "B11": 0.25,
    "B12": 0.45,
}
"""By how much of itself a band of vegetation changes as its leaves turn and fall: chlorophyll and leaf area
go, so that red and short-wave infrared rise and the near infrared falls."""

GREENNESS = 0.35
"""Normalised difference of near infrared and red from which a pixel counts as vegetation."""


def gains(
    dn: Tensor, bands: tuple[str, ...], visible: float, infrared: float, rng: torch.Generator
) -> Tensor:
    """Each image's bands under log-normal gains: another soil, another leaf, another sun.

    Args:
        dn: (B, bands, H, W) input DN.
        bands: their names.
        visible: deviation of the logarithm of each visible band's gain.
        infrared: that of the infrared bands. Three quarters of it the near infrared has in common, and so
            has the short-wave infrared.
        rng: source of randomness.
    """
    count, device = len(dn), dn.device

    def normal(columns: int) -> Tensor:
        return torch.randn((count, columns), generator=rng, device=device)

    alone = normal(len(bands))
    plateau, short_wave = normal(1)[:, 0], normal(1)[:, 0]
    columns = []
    for index, band in enumerate(bands):
        if band in RGB or band == "B01":
            columns.append(visible * alone[:, index])
        elif band in PLATEAU:
            columns.append(infrared * (0.75 * plateau + 0.25 * alone[:, index]))
        elif band == "B05":
            columns.append(infrared * 0.5 * alone[:, index])
        else:
            columns.append(infrared * (0.75 * short_wave + 0.25 * alone[:, index]))
    return dn * torch.stack(columns, 1).exp()[:, :, None, None]


def season(dn: Tensor, bands: tuple[str, ...], strength: float, rng: torch.Generator) -> Tensor:
    """The vegetation of each image turned towards autumn by 0..``strength``, or a little greener.

    Images without both red and near infrared are left as they are.

    Args:
        dn: (B, bands, H, W) input DN.
        bands: their names.
        strength: 1 is a change by all of ``AUTUMN``.
        rng: source of randomness.
    """
    if strength == 0 or not {"B04", "B08"} <= set(bands):
        return dn
    red, near = dn[:, bands.index("B04")], dn[:, bands.index("B08")]
    index = (near - red) / (near + red).clamp(min=1.0)
    green = torch.sigmoid((index - GREENNESS) / 0.08)[:, None]  # (B, 1, H, W)
    device = dn.device
    amount = torch.rand((len(dn), 1, 1, 1), generator=rng, device=device) * 1.4 - 0.4
    change = torch.tensor([AUTUMN.get(band, 0.0) for band in bands], device=device)[None, :, None, None]
    own = 1 + 0.3 * torch.randn((len(dn), len(bands), 1, 1), generator=rng, device=device)
    return dn * (1 + strength * amount * own * change * green).clamp(min=0.2)


def blobs(count: int, side: int, share: Tensor, rng: torch.Generator) -> Tensor:
    """Smooth random regions, (count, side, side) bool.

    Args:
        count: how many.
        side: pixels a side.
        share: (count,) share of each that is True, about.
        rng: source of randomness, whose device the result is on.
    """
    coarse = torch.randn((count, 1, side // 8 + 1, side // 8 + 1), generator=rng, device=rng.device)
    fine = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=True)[:, 0]
    ordered = fine.flatten(1).sort(1).values
    rank = ((1 - share.clamp(0.01, 0.99)) * (ordered.shape[1] - 1)).long()
    threshold = ordered.gather(1, rank[:, None])[:, 0]
    return fine > threshold[:, None, None]


def flood(dn: Tensor, bands: tuple[str, ...], where: Tensor, base_dn: Tensor, rng: torch.Generator) -> Tensor:
    """Ground under turbid water: in the visible dark and of the ground's own colour, black further on.

    Args:
        dn: (B, bands, H, W) input DN.
        bands: their names.
        where: (B, H, W) bool, what is under water.
        base_dn: (bands,) what the atmosphere adds to the ground in ``dn``.
        rng: source of randomness.
    """
    count, device = len(dn), dn.device
    base = base_dn[None, :, None, None]
    surface = (dn - base).clamp(min=0)
    inside = where[:, None].to(dn.dtype)
    ground = (surface * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((count, 1, 1, 1), generator=rng, device=device)

    keep, near, short = uniform(0.35, 0.85), uniform(0.1, 0.5), uniform(0.03, 0.3)
    depth = uniform(0.0, 0.35)
    factors = []
    for band in bands:
        if band in RGB or band == "B01":
            factors.append(keep)
        elif band in ("B11", "B12"):
            factors.append(short)
        elif band == "B05":
            factors.append((keep + near) / 2)
        else:
            factors.append(near)
    factor = torch.cat(factors, 1)  # (B, bands, 1, 1)
    # A little of the field's own pattern shows through.
    water = base + factor * (ground[:, :, None, None] * (1 - depth) + surface * depth)
    return torch.where(where[:, None], water, dn)

"""Augmentation of images with labels, on batches of tensors, on the device they lie on (``rng`` too).

Images are ``(B, bands, H, W)`` float32 in shares of where each band saturates: 0..1 for 8-bit images.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

ASPECT = 4 / 3
"""Crops are at most so many times wider than high, or higher than wide."""

MIX_ALPHA = 0.4
"""Of the beta distribution that Mixup's shares are drawn from."""

ROTATE_DEGREES, SHEAR, TRANSLATE = 30.0, 0.3, 0.3
"""RandAugment's geometry at magnitude 1, either way: degrees, tangent, share of half a side."""

TONE = 0.9
"""RandAugment's brightness, contrast, colour and sharpness at magnitude 1: a factor of 1 +- this."""


def _uniform(count: int, low: float, high: float, like: Tensor, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand((count,), generator=rng, device=like.device)


def random_resized_crop(images: Tensor, least_area: float, size_px: int, rng: torch.Generator) -> Tensor:
    """A random part of each image, brought to ``size_px``.

    Args:
        images: (B, bands, H, W).
        least_area: the part has this share of the area at least; its sides differ by ``ASPECT`` at most,
            and by less where the part would leave the image.
        size_px: side of the result.
        rng: source of randomness.

    Returns:
        (B, bands, size_px, size_px), bilinear; averaged first where the images are larger.
    """
    count, _, height, width = images.shape
    if least_area < 1:
        area = _uniform(count, least_area, 1.0, images, rng)
        stretch = torch.exp(_uniform(count, -1.0, 1.0, images, rng) * math.log(ASPECT) / 2)
        tall = (area.sqrt() * stretch).clamp(max=1.0)  # in shares of the image's height
        wide = (area / tall).clamp(max=1.0)
        tall = area / wide
        theta = torch.zeros((count, 2, 3), device=images.device)
        theta[:, 0, 0], theta[:, 1, 1] = wide, tall
        theta[:, 0, 2] = (1 - wide) * _uniform(count, -1.0, 1.0, images, rng)
        theta[:, 1, 2] = (1 - tall) * _uniform(count, -1.0, 1.0, images, rng)
        images = _warped(images, theta)
    if (height, width) != (size_px, size_px):
        images = F.interpolate(images, (size_px, size_px), mode="bilinear", antialias=True)
    return images


def _warped(images: Tensor, theta: Tensor) -> Tensor:
    """Each image under its own affine map ``(B, 2, 3)``, as of ``F.affine_grid``; mirrored at its border."""
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def _grey(images: Tensor) -> Tensor:
    return images.mean(1, keepdim=True)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return other + (images - other) * factor[:, None, None, None]


def _tone_factor(count: int, magnitude: float, like: Tensor, rng: torch.Generator) -> Tensor:
    return 1 + TONE * magnitude * _uniform(count, -1.0, 1.0, like, rng)


def _identity(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    return images


def _brightness(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    return _blend(images, torch.zeros_like(images), _tone_factor(len(images), magnitude, images, rng))


def _contrast(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    mean = _grey(images).mean((2, 3), keepdim=True)
    return _blend(images, mean, _tone_factor(len(images), magnitude, images, rng))


def _color(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    return _blend(images, _grey(images), _tone_factor(len(images), magnitude, images, rng))


def _sharpness(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return _blend(images, blurred, _tone_factor(len(images), magnitude, images, rng))


def _autocontrast(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    spread = high - low
    return torch.where(spread > 1e-3, (images - low) / spread.clamp(min=1e-3), images)


def _posterize(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    steps = 2.0 ** (8 - round(4 * magnitude))
    return (images * 255 / (256 / steps)).floor() * (256 / steps) / 255


def _solarize(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    return torch.where(images > 1 - magnitude / 2, 1 - images, images)


def _turned(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    angle = torch.deg2rad(ROTATE_DEGREES * magnitude * _uniform(len(images), -1.0, 1.0, images, rng))
    zero = torch.zeros_like(angle)
    rows = ((angle.cos(), -angle.sin(), zero), (angle.sin(), angle.cos(), zero))
    return _warped(images, torch.stack([torch.stack(row, 1) for row in rows], 1))


def _sheared(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    theta = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    theta[:, 0, 1] = SHEAR * magnitude * _uniform(len(images), -1.0, 1.0, images, rng)
    theta[:, 1, 0] = SHEAR * magnitude * _uniform(len(images), -1.0, 1.0, images, rng)
    return _warped(images, theta)


def _moved(images: Tensor, magnitude: float, rng: torch.Generator) -> Tensor:
    theta = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    theta[:, 0, 2] = TRANSLATE * magnitude * _uniform(len(images), -1.0, 1.0, images, rng)
    theta[:, 1, 2] = TRANSLATE * magnitude * _uniform(len(images), -1.0, 1.0, images, rng)
    return _warped(images, theta)


OPERATIONS: tuple[Callable[[Tensor, float, torch.Generator], Tensor], ...] = (
    _identity,
    _brightness,
    _contrast,
    _color,
    _sharpness,
    _autocontrast,
    _posterize,
    _solarize,
    _turned,
    _sheared,
    _moved,
)
"""RandAugment's operations: of a part of a batch, at a magnitude of 0..1."""


def randaugment(images: Tensor, operations: int, magnitude: float, rng: torch.Generator) -> Tensor:
    """RandAugment (Cubuk et al. 2019, arXiv 1909.13719): each image under so many operations, drawn alike.

    Shapes that leave the image are mirrored back, so no black corner is learned.

    Args:
        images: (B, bands, H, W) in 0..1.
        operations: how many, one after the other.
        magnitude: their strength, 0..1.
        rng: source of randomness.
    """
    for _ in range(operations):
        chosen = torch.randint(len(OPERATIONS), (len(images),), generator=rng, device=images.device)
        out = images.clone()
        for index, operation in enumerate(OPERATIONS):
            rows = (chosen == index).nonzero()[:, 0]
            if len(rows):
                out[rows] = operation(images[rows], magnitude, rng).clamp(0, 1)
        images = out
    return images


def mixup(images: Tensor, targets: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mixup (Zhang et al. 2018, arXiv 1710.09412): each image and its targets blended with another's.

    The share is one for the batch, of a beta distribution with ``MIX_ALPHA`` twice.

    Args:
        images: (B, bands, H, W).
        targets: (B, labels), 0..1.
        rng: source of randomness.
    """
    # The ratio of two gamma variates of one shape is such a beta variate; gammas by their quantiles would
    # need a library, so Joehnk's way is taken: it suits shapes below 1.
    while True:
        first, second = torch.rand((2,), generator=rng, device=images.device).double().tolist()
        left, right = first ** (1 / MIX_ALPHA), second ** (1 / MIX_ALPHA)
        if 0 < left + right <= 1:
            break
    share = left / (left + right)
    order = torch.randperm(len(images), generator=rng, device=images.device)
    return images * share + images[order] * (1 - share), targets * share + targets[order] * (1 - share)

"""Random fields, parcels and lines from which the demo's land is made. Pure: a generator in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]


def smooth(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of (..., y, x), edges replicated."""
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    for axis in (-2, -1):
        pad = [(0, 0)] * image.ndim
        pad[axis] = (radius, radius)
        padded = np.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = np.zeros_like(image)
        for k, tap in enumerate(taps):
            window = [slice(None)] * image.ndim
            window[axis] = slice(k, k + size)
            image += tap * padded[tuple(window)]
    return image


def noise(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Floats:
    """Smooth random (y, x) field of mean 0 and variance 1 whose bumps are about ``scale`` cells apart."""
    coarse = rng.standard_normal([int(np.ceil(n / scale)) + 3 for n in shape]).astype(np.float32)
    height, width = shape
    image = Image.fromarray(coarse).resize(
        (width, height), Image.Resampling.BICUBIC, box=(0.5, 0.5, 0.5 + width / scale, 0.5 + height / scale)
    )
    out = np.asarray(image, np.float32)
    out = out - out.mean()
    scaled: Floats = out / np.sqrt(np.square(out).mean())
    return scaled


def mean_blocks(image: NDArray[np.floating], factor: int) -> Floats:
    """(..., y, x) averaged over squares of ``factor`` pixels."""
    *rest, height, width = image.shape
    squares = image.reshape(*rest, height // factor, factor, width // factor, factor)
    averaged: Floats = squares.mean((-3, -1), dtype=np.float32)
    return averaged


def rotated(x: Floats, y: Floats, angle_deg: float) -> tuple[Floats, Floats]:
    """Coordinates along and across a direction."""
    a = np.deg2rad(angle_deg)
    cos, sin = np.float32(np.cos(a)), np.float32(np.sin(a))
    return x * cos + y * sin, y * cos - x * sin


def parcels(
    rng: np.random.Generator,
    u: Floats,
    v: Floats,
    widths: tuple[float, float],
    lengths: tuple[float, float],
) -> tuple[NDArray[np.int64], int, Floats]:
    """Cut the plane into strips along ``u`` and the strips into parcels.

    Returns:
        (y, x) parcel number, the count of parcels, and (y, x) distance to the parcel's edge.
    """
    rows = _cuts(rng, float(v.min()) - 1, float(v.max()), widths)
    position = u.ravel()
    strip, inside = _between_cuts(rows, v.ravel())
    parcel = np.zeros(u.size, np.int64)
    total = 0
    low, high = float(u.min()), float(u.max())
    # The pixels of each strip, found at once: a search for each would look at all pixels again.
    count = len(rows) + 1
    by_strip = np.argsort(strip.astype(np.uint16) if count < 2**16 else strip, kind="stable")
    ends = np.cumsum(np.bincount(strip, minlength=count))
    for where in np.split(by_strip, ends[:-1]):
        cols = _cuts(rng, low - rng.uniform(0, lengths[1]), high, lengths)
        place, distance = _between_cuts(cols, position[where])
        parcel[where] = total + place
        inside[where] = np.minimum(inside[where], distance)
        total += len(cols) + 1
    return parcel.reshape(u.shape), total, inside.reshape(u.shape)


def _cuts(
    rng: np.random.Generator, low: float, high: float, sizes: tuple[float, float]
) -> NDArray[np.float64]:
    """Increasing positions from ``low`` past ``high`` with random steps of ``sizes``."""
    count = int((high - low) / sizes[0]) + 2
    steps = rng.uniform(*sizes, count)
    positions = low + np.cumsum(steps)
    return positions[positions < high]


def _between_cuts(cuts: NDArray[np.float64], position: Floats) -> tuple[NDArray[np.int64], Floats]:
    """How many of the increasing ``cuts`` lie before, and the distance to the nearest."""
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    k = np.searchsorted(cuts, position)
    nearest: Floats = np.minimum(position - edges[k], edges[k + 1] - position).astype(np.float32)
    return k, nearest


def from_curve(position: Floats, curve: Floats, along: int, pixel: float) -> Floats:
    """Signed distance from a curve that is a function of one axis, to first order.

    Args:
        position: (y, x), the coordinate that the curve gives.
        curve: (y, x), what the curve gives there; it varies along one axis alone.
        along: that axis, 0 for y and 1 for x.
        pixel: side of a pixel in units of ``position``.
    """
    # The distance along an axis, shortened by the curve's slope, is the distance to the curve.
    slope = np.gradient(curve, pixel, axis=along)
    distance: Floats = ((position - curve) / np.hypot(1, slope)).astype(np.float32)
    return distance

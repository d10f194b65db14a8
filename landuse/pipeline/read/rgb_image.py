"""Pure: the imagery that was classified, as a picture for eyes.

Reflectance 0..0.4 becomes 1..255 along a square root, which spreads the dark values that most land has;
0 is nodata. The same reflectance looks the same on every date, so that pictures can be compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landuse.sentinel2 import DN_PER_REFLECTANCE, MAX_DN

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray


RGB = ("B04", "B03", "B02")
"""What the eye would see."""

FULL_REFLECTANCE = 0.4
"""Shown as white; clouds and snow are brighter."""

DESCRIPTION = f"1 + 254 x sqrt(reflectance / {FULL_REFLECTANCE:g}), 0 = nodata"
"""How the values are made."""


def picture_bands(bands: Sequence[str]) -> tuple[str, str, str]:
    """Which of a model's bands are shown as red, green and blue: the true ones, else its first in grey."""
    if set(RGB) <= set(bands):
        return RGB
    return (bands[0],) * 3


def draw_picture(pixels: xr.Dataset, *, step_px: int) -> NDArray[np.uint8]:
    """A picture of a rectangle of pixels.

    Args:
        pixels: as ``pixel_block`` makes them.
        step_px: side of a picture's pixel; it divides the rectangle's sides.

    Returns:
        (3, y, x), red, green and blue; the mean over what was observed of each picture's pixel.
    """
    observed = pixels.observed.values
    if step_px == 1:  # looked up: there are fewer values than pixels
        shades = _shades(np.arange(MAX_DN + 1) / DN_PER_REFLECTANCE)
        bands = picture_bands(pixels.band.values.tolist())
        drawn = [np.where(observed, shades[pixels.dn.sel(band=band).values], 0) for band in bands]
        return np.stack(drawn)
    counts = _sums(observed, step_px)
    picture = np.zeros((3, *counts.shape), np.uint8)
    for index, band in enumerate(picture_bands(pixels.band.values.tolist())):
        dn = np.where(observed, pixels.dn.sel(band=band).values, 0)
        reflectance = _sums(dn, step_px) / np.maximum(counts, 1) / DN_PER_REFLECTANCE
        picture[index] = np.where(counts > 0, _shades(reflectance), 0)
    return picture


def _shades(reflectance: NDArray[np.float64]) -> NDArray[np.uint8]:
    shades: NDArray[np.uint8] = np.rint(
        1 + 254 * np.sqrt((reflectance / FULL_REFLECTANCE).clip(0, 1))
    ).astype(np.uint8)
    return shades


def _sums(values: NDArray[np.generic], step: int) -> NDArray[np.float64]:
    """Sums over squares of ``step`` pixels, (y, x)."""
    rows, cols = values.shape
    squares = values.reshape(rows // step, step, cols // step, step)
    sums: NDArray[np.float64] = squares.sum((1, 3), dtype=np.float64)
    return sums


def stretch(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with its darkest and brightest percent cut off, each colour by itself.

    Args:
        picture: (3, y, x) as ``draw_picture`` makes it.

    Returns:
        (y, x, 3); black is nodata, and only that.
    """
    seen = picture.any(0)
    stretched = np.zeros((*picture.shape[1:], 3), np.uint8)
    if not seen.any():
        return stretched
    for index, shades in enumerate(picture):
        low, high = np.percentile(shades[seen], (1, 99))
        scaled = (shades.astype(np.float32) - low) / max(high - low, 1) * 254
        stretched[..., index] = np.where(seen, scaled.clip(0, 254).round() + 1, 0)
    return stretched

"""The pixels of one block in memory, as an ``xarray.Dataset`` that knows its grid."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import odc.geo.xr  # gives every array .odc.geobox
import xarray as xr
from rasterio.features import geometry_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

_BURNING = threading.Lock()
"""rasterio silences a warning of its own while it burns, which threads may not do side by side."""


def pixel_block(
    dn: NDArray[np.uint16],
    observed: NDArray[np.bool_],
    usable: NDArray[np.bool_],
    *,
    bands: Sequence[str],
    geobox: GeoBox,
) -> xr.Dataset:
    """Pixels of one block of one scene, or of a composite of scenes.

    Args:
        dn: (band, y, x), reflectance x 10000; 0 = nodata.
        observed: (y, x), True where the sensor saw something in every band.
        usable: (y, x), True where observed and clear.
        bands: names of the bands, in the order of ``dn``.
        geobox: grid of the pixels.

    Returns:
        The variables ``dn``, ``observed`` and ``usable``: the arrays given, not copies of them, with the
        coordinates ``band``, ``y``, ``x`` and ``spatial_ref``.

    Raises:
        ValueError: the arrays do not share their rows and columns, or the bands their number.

    Example:
        >>> pixels = pixel_block(dn, observed, usable, bands=("B04",), geobox=grid)  # doctest: +SKIP
        >>> pixels.odc.geobox == grid  # doctest: +SKIP
        True
    """
    if not (dn.shape == (len(bands), *observed.shape) and observed.shape == usable.shape == geobox.shape):
        raise ValueError(
            f"dn {dn.shape} of {len(bands)} bands, observed {observed.shape}, usable {usable.shape} and the "
            f"grid {tuple(geobox.shape)} do not share their (y, x)"
        )
    return xr.Dataset(
        {"dn": (("band", "y", "x"), dn), "observed": (("y", "x"), observed), "usable": (("y", "x"), usable)},
        {"band": list(bands), **odc.geo.xr.xr_coords(geobox)},
    )


def cut_out(pixels: xr.Dataset, geobox: GeoBox) -> xr.Dataset:
    """The part of a block's pixels that lies on a grid inside theirs, as views of the same arrays.

    Args:
        pixels: of ``pixel_block``.
        geobox: pixels of the same size, on the same lattice.

    Raises:
        ValueError: the grid reaches beyond the pixels, or its pixels lie between theirs.
    """
    whole = pixels.odc.geobox
    rows, cols = whole.overlap_roi(geobox)  # refuses pixels between pixels: nothing is rounded
    part = pixels.isel(y=rows, x=cols)
    if part.observed.shape != geobox.shape:
        raise ValueError(f"grid {geobox} reaches beyond the pixels of {whole}")
    return part


def pixels_in(geometry: BaseGeometry, geobox: GeoBox, *, all_touched: bool = False) -> NDArray[np.bool_]:
    """(y, x), True where a geometry has the centre of a pixel, or touches the pixel.

    Args:
        geometry: in the CRS of ``geobox``, not empty.
        geobox: grid of the pixels.
        all_touched: True takes each pixel that the geometry touches.
    """
    with _BURNING:
        burnt: NDArray[np.bool_] = geometry_mask(
            [geometry], geobox.shape, geobox.affine, all_touched=all_touched, invert=True
        )
    return burnt

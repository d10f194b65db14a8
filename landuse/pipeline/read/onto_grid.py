"""IO: one open raster onto a grid of pixels.

A raster that already lies on the grid is read as it is, pixel for pixel. Any other (20 m bands,
another zone, another CRS) is warped onto it by GDAL, block by block: no band is ever whole in
memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from rasterio.crs import CRS
from rasterio.enums import Interleaving, Resampling
from rasterio.transform import rowcol
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from landuse.sentinel2 import SCL

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

    from landuse.pipeline.scene import BandAsset

MUCH_FINER = 0.6
"""A source whose pixels span less of the grid's than this is averaged, not interpolated."""

LARGEST_CHUNK = 2
"""A chunk that is said to take more than so many times its pixels' bytes is not fetched ahead: no compression
grows by as much, and a hostile header must not make us fetch gigabytes."""

Stored: TypeAlias = "tuple[NDArray[np.generic], NDArray[np.bool_]]"
"""Stored values and validity ``(y, x)`` of one asset."""


def read_onto(source: DatasetReader, asset: BandAsset, geobox: GeoBox) -> Stored:
    """The asset's band on the grid; what lies beyond the raster is not valid."""
    window = _aligned_window(source, geobox)
    if window is None:
        return _read_warped(source, asset, geobox)
    return _read_window(source, asset, window)


def ranges_onto(source: DatasetReader, asset: BandAsset, geobox: GeoBox) -> list[tuple[int, int]]:
    """Half-open byte ranges of the file that ``read_onto`` will read, as far as the file tells."""
    return chunk_ranges(
        source, asset.index, _aligned_window(source, geobox) or _window_around(source, geobox)
    )


def _aligned_window(source: DatasetReader, geobox: GeoBox) -> tuple[int, int, int, int] | None:
    """(row, col, rows, cols) of the grid in the source's pixels, or None where it has to be warped."""
    same_crs = source.crs == CRS.from_user_input(str(geobox.crs))
    here, there = geobox.affine, source.transform
    same_pixels = (here.a, here.b, here.d, here.e) == (there.a, there.b, there.d, there.e)
    if not (same_crs and same_pixels):
        return None
    col, row = (here.c - there.c) / there.a, (here.f - there.f) / there.e
    if abs(col - round(col)) > 1e-6 or abs(row - round(row)) > 1e-6:
        return None
    return round(row), round(col), *geobox.shape


def _window_around(source: DatasetReader, geobox: GeoBox) -> tuple[int, int, int, int] | None:
    """(row, col, rows, cols) of the source that warping onto the grid reads; None where overviews will do.

    A guess on the safe side: what it misses is fetched when GDAL asks for it.
    """
    if min(_pixels_per_source_pixel(source, geobox)) < 1 / 2:
        return None
    left, bottom, right, top = transform_bounds(
        CRS.from_user_input(str(geobox.crs)), source.crs, *geobox.boundingbox.bbox
    )
    corners = [(x, y) for x in (left, right) for y in (bottom, top)]
    xs, ys = zip(*corners, strict=True)
    rows, cols = rowcol(source.transform, xs, ys, op=float)
    # Cubic convolution looks two pixels further.
    row, col = math.floor(min(rows)) - 3, math.floor(min(cols)) - 3
    return row, col, math.ceil(max(rows)) + 3 - row, math.ceil(max(cols)) + 3 - col


def chunk_ranges(
    source: DatasetReader, index: int, window: tuple[int, int, int, int] | None
) -> list[tuple[int, int]]:
    """Half-open byte ranges of the chunks of a GeoTIFF that a window touches, but for those of absurd sizes.

    A chunk is what GDAL decodes at once: TIFF calls it a tile or a strip.

    Args:
        source: open dataset; of another format than GeoTIFF nothing is known.
        index: band, from 1.
        window: (row, col, rows, cols) in pixels, which may reach beyond the raster, or None.
    """
    if window is None or source.driver != "GTiff":
        return []
    row, col, rows, cols = window
    top, bottom = max(row, 0), min(row + rows, source.height)
    left, right = max(col, 0), min(col + cols, source.width)
    high, wide = source.block_shapes[index - 1]
    interleaved = source.count if source.interleaving == Interleaving.pixel else 1
    raw_bytes = high * wide * np.dtype(source.dtypes[index - 1]).itemsize * interleaved
    found = []
    for y in range(top // high, -(-bottom // high)):
        for x in range(left // wide, -(-right // wide)):
            start, size = (
                source.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=index)
                for what in ("OFFSET", "SIZE")
            )
            # A chunk without data has neither.
            if start is not None and size is not None and int(size) <= LARGEST_CHUNK * raw_bytes:
                found.append((int(start), int(start) + int(size)))
    return found


def _read_window(
    source: DatasetReader, asset: BandAsset, window: tuple[int, int, int, int]
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Read pixel for pixel; what lies beyond the raster is not valid."""
    row, col, rows, cols = window
    stored = np.zeros((rows, cols), source.dtypes[asset.index - 1])
    valid = np.zeros((rows, cols), np.bool_)
    top, bottom = max(row, 0), min(row + rows, source.height)
    left, right = max(col, 0), min(col + cols, source.width)
    if top < bottom and left < right:
        part = source.read(asset.index, window=Window(left, top, right - left, bottom - top))
        place = np.s_[top - row : bottom - row, left - col : right - col]
        stored[place] = part
        valid[place] = valid_pixels(part, asset, tagged_nodata(source, asset))
    return stored, valid


def _read_warped(
    source: DatasetReader, asset: BandAsset, geobox: GeoBox
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Warp onto the grid: classes by nearest neighbour, reflectance by cubic convolution.

    Cubic is how EuroSAT brought its 20 and 60 m bands to 10 m. A source with much finer pixels is
    averaged instead: convolution would skip most of them.
    """
    if asset.band == SCL:
        resampling = Resampling.nearest
    elif min(_pixels_per_source_pixel(source, geobox)) < MUCH_FINER:
        resampling = Resampling.average
    else:
        resampling = Resampling.cubic
    rows, cols = geobox.shape
    x_scale, y_scale = _pixels_per_source_pixel(source, geobox)
    grid = {
        "crs": CRS.from_user_input(str(geobox.crs)),
        "transform": geobox.affine,
        "width": cols,
        "height": rows,
        "resampling": resampling,
        # By themselves GDAL fits the kernel and approximates the transformation for each chunk it
        # warps, so that a pixel would depend on the block it is read in.
        "XSCALE": x_scale,
        "YSCALE": y_scale,
        "tolerance": 1e-5,
    }
    tagged = tagged_nodata(source, asset)
    fills = _fills(np.dtype(source.dtypes[asset.index - 1]), asset, tagged)
    if not fills:  # classes, of which no value is said to mean nothing
        with WarpedVRT(source, add_alpha=True, **grid) as warped:
            return warped.read(asset.index), warped.read(warped.count) > 0
    held = _held(asset.nodata, np.dtype(source.dtypes[asset.index - 1]))
    differ = held is not None and tagged is not None and held != tagged
    layers = []
    for fill in fills[: 2 if differ else 1]:  # GDAL keeps one value at a time out of the kernel
        with WarpedVRT(source, src_nodata=fill, nodata=fill, **grid) as warped:
            layers.append(warped.read(asset.index))
    stored = layers[0]
    agree = stored == layers[-1]  # else a value that means nothing was mixed in
    return stored, valid_pixels(stored, asset, tagged) & agree


def _pixels_per_source_pixel(source: DatasetReader, geobox: GeoBox) -> tuple[float, float]:
    """How many pixels of the grid a pixel of the source spans, along x and y: the same for every block."""
    with WarpedVRT(source, crs=CRS.from_user_input(str(geobox.crs))) as native:
        return native.res[0] / abs(geobox.affine.a), native.res[1] / abs(geobox.affine.e)


def tagged_nodata(source: DatasetReader, asset: BandAsset) -> float | None:
    """The stored value that an open file says means nothing; None where it says none that it can hold."""
    return _held(source.nodatavals[asset.index - 1], np.dtype(source.dtypes[asset.index - 1]))


def valid_pixels(
    stored: NDArray[np.generic], asset: BandAsset, tagged: float | None = None
) -> NDArray[np.bool_]:
    """True where a stored value is data.

    Whatever the item says means nothing does, and what the file is tagged with; where neither says any, 0 of
    whole numbers. In 16-bit reflectance 0 is never data: ESA fills with it. NaN and infinity never are.

    Args:
        stored: of the band, in the type that the file has.
        asset: the band.
        tagged: see ``tagged_nodata``.
    """
    valid: NDArray[np.bool_] = np.isfinite(stored)
    for fill in _fills(stored.dtype, asset, tagged):
        if not math.isnan(fill):
            valid &= stored != fill
    return valid


def _fills(dtype: np.dtype[np.generic], asset: BandAsset, tagged: float | None) -> tuple[float, ...]:
    """The stored values that mean nothing, that which counts most first; of floating ones at least NaN."""
    told = [_held(asset.nodata, dtype), tagged]
    fills = [value for value in told if value is not None]
    if asset.band != SCL and np.issubdtype(dtype, np.integer) and (not fills or dtype.itemsize == 2):
        fills.append(0.0)
    if not fills and np.issubdtype(dtype, np.floating):
        fills.append(math.nan)
    return tuple(dict.fromkeys(fills))


def _held(value: float | None, dtype: np.dtype[np.generic]) -> float | None:
    """A value if numbers of a type can have it: items say -9999 of unsigned ones, or NaN of whole ones."""
    if value is None or not np.issubdtype(dtype, np.integer):
        return value
    limits = np.iinfo(dtype)  # type: ignore[type-var]  # an integer type, as was just asked
    whole = math.isfinite(value) and value == int(value) and limits.min <= value <= limits.max
    return value if whole else None

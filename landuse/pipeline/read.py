"""IO: one block of one scene, as reflectance and validity on the block's grid.

A raster that already lies on the grid is read as it is, pixel for pixel. Any other (20 m bands,
another zone, another CRS) is warped onto it by GDAL, block by block: no band is ever whole in
memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # GDAL's own errors; rasterio wraps only some of them
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.transform import rowcol
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from landuse.errors import AssetError, ProviderError, ReadError
from landuse.pipeline.clouds import (
    L1C_CLOUD_BANDS,
    MASK_LATTICE_PX,
    MASK_MARGIN_PX,
    clear_by_coarse_spectrum,
    clear_by_scl,
    clear_by_spectrum,
    mask_bands,
)
from landuse.pipeline.remote import is_jpeg2000
from landuse.records import PixelBlock, ReadFailure
from landuse.redact import redact, redact_href
from landuse.sentinel2 import DN_PER_REFLECTANCE, MAX_DN, SCL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

    from landuse.pipeline.remote import Opened, Remote
    from landuse.records import BandAsset, Scene

MUCH_FINER = 0.6
"""A source whose pixels span less of the grid's than this is averaged, not interpolated."""

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_CACHEMAX": 256 * 1024**2,
    # Files beside an asset are not part of it, and those of a stranger's least of all.
    "GDAL_PAM_ENABLED": "NO",
}
"""Scoped by each read; the process's own GDAL settings stay as they are."""

Stored: TypeAlias = "tuple[NDArray[np.generic], NDArray[np.bool_]]"
"""Stored values and validity ``(y, x)`` of one asset."""


def read_scene(scene: Scene, bands: Sequence[str], geobox: GeoBox, remote: Remote) -> PixelBlock:
    """Read a rectangle of a scene, its assets side by side.

    Args:
        scene: what to read.
        bands: in the order wanted.
        geobox: the block's pixel grid.
        remote: how what is not on this machine is read.

    Returns:
        DN (reflectance x 10000, at least 1 where observed, 0 where not), what was observed in
        every band, and what of it is free of clouds where the scene offers a mask.

    Raises:
        AssetError: an asset cannot be opened or read.
        ReadError: the scene lacks a band.
    """
    masking = mask_bands(scene.level, scene.bands)
    # What is cloud at a pixel depends on its surroundings: the mask is made of a wider rectangle.
    grid, inside = _with_context(geobox) if masking else (geobox, np.s_[:, :])
    layers = _read_assets(scene, (*bands, *(band for band in masking if band not in bands)), grid, remote)
    dn = np.zeros((len(bands), *geobox.shape), np.uint16)
    observed = np.ones(geobox.shape, np.bool_)
    for row, band in enumerate(bands):
        stored, valid = layers[band]
        observed &= valid[inside]
        dn[row] = _to_dn(stored[inside], _asset(scene, band))
    dn[:, ~observed] = 0
    usable = observed & _clear(scene, layers, abs(grid.affine.a))[inside] if masking else observed
    return PixelBlock(dn=dn, observed=observed, usable=usable)


def read_mask(scene: Scene, geobox: GeoBox, remote: Remote) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What a scene saw and what of it is clear, on a coarse grid of square pixels.

    Args:
        scene: one that offers a mask (``clouds.mask_bands``).
        geobox: the grid; its pixels may span many of the scene's.
        remote: how what is not on this machine is read.

    Returns:
        Observed and clear ``(y, x)``.

    Raises:
        AssetError: an asset cannot be opened or read.
    """
    masking = mask_bands(scene.level, scene.bands)
    layers = _read_assets(scene, masking, geobox, remote)
    if SCL in masking:
        scl, valid = layers[SCL]
        observed = valid & (scl != 0)
        return observed, observed & clear_by_scl(scl.astype(np.uint8), abs(geobox.affine.a))
    dn = np.stack([_to_dn(layers[band][0], _asset(scene, band)) for band in masking])
    observed = np.logical_and.reduce([layers[band][1] for band in masking])
    return observed, observed & clear_by_coarse_spectrum(dn, observed, abs(geobox.affine.a))


def read_failure(scene: Scene, error: AssetError, block: str = "") -> ReadFailure:
    """The record of a read that failed for good."""
    return ReadFailure(
        block=block,
        scene_id=scene.id,
        provider=scene.provider,
        band=error.band,
        href=error.href,
        replaced_by=None,
        reason=str(error),
    )


def _clear(scene: Scene, layers: Mapping[str, Stored], pixel_m: float) -> NDArray[np.bool_]:
    """What is free of clouds, of layers that were read with the context a mask needs."""
    if SCL in layers:
        scl, valid = layers[SCL]
        return valid & clear_by_scl(scl.astype(np.uint8), pixel_m)
    dn = np.stack([_to_dn(layers[band][0], _asset(scene, band)) for band in L1C_CLOUD_BANDS])
    observed = np.logical_and.reduce([layers[band][1] for band in L1C_CLOUD_BANDS])
    return clear_by_spectrum(dn, observed)


def _with_context(geobox: GeoBox) -> tuple[GeoBox, tuple[slice, slice]]:
    """A wider grid on which masks are exact within ``geobox``, and where that lies in it.

    It begins and ends on multiples of the masks' own lattice, counted from the CRS's origin, so
    that a mask does not depend on the rectangle that was asked for.
    """
    from affine import Affine
    from odc.geo.geobox import GeoBox

    rows, cols = geobox.shape
    affine = geobox.affine
    first_col, first_row = round(affine.c / affine.a), round(affine.f / affine.e)

    def around(first: int, count: int) -> tuple[int, int]:
        low = (first - MASK_MARGIN_PX) // MASK_LATTICE_PX * MASK_LATTICE_PX
        high = -(-(first + count + MASK_MARGIN_PX) // MASK_LATTICE_PX) * MASK_LATTICE_PX
        return first - low, high - low

    (top, high), (left, wide) = around(first_row, rows), around(first_col, cols)
    corner = Affine(affine.a, 0, affine.c - left * affine.a, 0, affine.e, affine.f - top * affine.e)
    wider = GeoBox((high, wide), corner, geobox.crs)
    return wider, np.s_[top : top + rows, left : left + cols]


def _read_assets(scene: Scene, bands: Sequence[str], geobox: GeoBox, remote: Remote) -> dict[str, Stored]:
    """Each band on the grid, read side by side; of several errors that of the first band is raised."""
    assets = [_asset(scene, band) for band in bands]
    with remote.readers(len(assets)) as pool:
        layers = list(pool.map(lambda asset: _read_asset(scene, asset, geobox, remote), assets))
    return dict(zip(bands, layers, strict=True))


def _asset(scene: Scene, band: str) -> BandAsset:
    asset = scene.asset(band)
    if asset is None:
        raise ReadError(f"Scene {scene.id!r} has no band {band}; it offers {', '.join(scene.bands)}.")
    return asset


def _to_dn(stored: NDArray[np.generic], asset: BandAsset) -> NDArray[np.uint16]:
    """Stored values ``(y, x)`` to DN; real reflectances below zero become 1, since 0 is nodata."""
    reflectance = stored.astype(np.float64) * asset.scale + asset.offset
    dn = np.rint(np.nan_to_num(reflectance) * DN_PER_REFLECTANCE)
    return dn.clip(1, MAX_DN).astype(np.uint16)


def _read_asset(scene: Scene, asset: BandAsset, geobox: GeoBox, remote: Remote) -> Stored:
    """Stored values and validity ``(y, x)`` of one asset on the grid."""
    href = redact_href(asset.href)
    try:
        if "://" not in asset.href:
            with rasterio.Env(**GDAL_OPTIONS), rasterio.open(asset.href, driver=_driver(asset)) as source:
                return _read_open(source, None, scene, asset, geobox)
        with remote.opened(asset.href, scene.provider) as opened:
            try:
                with (
                    rasterio.Env(**GDAL_OPTIONS),
                    rasterio.open(opened.name, driver=_driver(asset), opener=opened.opener) as source,
                ):
                    layer = _read_open(source, opened, scene, asset, geobox)
            except (RasterioError, CPLE_BaseError, OSError):
                # GDAL knows only that bytes are missing; the request that failed knows why.
                opened.raise_failure()
                raise
            opened.raise_failure()
            return layer
    except AssetError:
        raise
    except (RasterioError, CPLE_BaseError, OSError, ProviderError) as error:
        reason = str(error).replace(asset.href, href)
        raise AssetError(
            f"Asset {asset.band} of scene {scene.id!r} cannot be read from {href}: {redact(reason)}. "
            "Check that the file is there and whole, or leave the scene out.",
            band=asset.band,
            href=href,
        ) from error


def _read_open(
    source: DatasetReader, opened: Opened | None, scene: Scene, asset: BandAsset, geobox: GeoBox
) -> Stored:
    _check(source, asset, scene.id)
    window = _aligned_window(source, geobox)
    if opened is not None:
        opened.fetch(tile_ranges(source, asset.index, window or _window_around(source, geobox)))
    if window is None:
        return _read_warped(source, asset, geobox)
    return _read_window(source, asset, window)


def _driver(asset: BandAsset) -> str:
    """The one GDAL driver that may open an asset.

    GDAL would try them all, VRT among them, with which a file from the web could name local ones.
    """
    return "JP2OpenJPEG" if is_jpeg2000(asset.href) else "GTiff"


def _check(source: DatasetReader, asset: BandAsset, scene_id: str) -> None:
    href = redact_href(asset.href)
    if asset.index > source.count:
        raise AssetError(
            f"Asset {asset.band} of scene {scene_id!r} has {source.count} bands, not {asset.index}.",
            band=asset.band,
            href=href,
        )
    if source.crs is None or source.transform.is_identity:
        raise AssetError(
            f"Asset {asset.band} of scene {scene_id!r} ({href}) is not georeferenced, "
            "or its header is damaged. Get the file again, or georeference it (gdal_edit -a_srs -a_ullr).",
            band=asset.band,
            href=href,
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


def tile_ranges(
    source: DatasetReader, index: int, window: tuple[int, int, int, int] | None
) -> list[tuple[int, int]]:
    """Half-open byte ranges of the tiles of a GeoTIFF that a window touches.

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
    found = []
    for y in range(top // high, -(-bottom // high)):
        for x in range(left // wide, -(-right // wide)):
            start, size = (
                source.get_tag_item(f"BLOCK_{what}_{x}_{y}", "TIFF", bidx=index)
                for what in ("OFFSET", "SIZE")
            )
            if start is not None and size is not None:  # a tile without data has neither
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
        valid[place] = _valid(part, asset)
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
    if asset.nodata is None:
        with WarpedVRT(source, add_alpha=True, **grid) as warped:
            return warped.read(asset.index), warped.read(warped.count) > 0
    with WarpedVRT(source, src_nodata=asset.nodata, nodata=asset.nodata, **grid) as warped:
        stored = warped.read(asset.index)
        return stored, _valid(stored, asset)


def _pixels_per_source_pixel(source: DatasetReader, geobox: GeoBox) -> tuple[float, float]:
    """How many pixels of the grid a pixel of the source spans, along x and y: the same for every block."""
    with WarpedVRT(source, crs=CRS.from_user_input(str(geobox.crs))) as native:
        return native.res[0] / abs(geobox.affine.a), native.res[1] / abs(geobox.affine.e)


def _valid(stored: NDArray[np.generic], asset: BandAsset) -> NDArray[np.bool_]:
    """True where a stored value is data.

    In 16-bit reflectance 0 is never data, whatever nodata is said to be: ESA fills with it.
    """
    valid: NDArray[np.bool_] = np.isfinite(stored)
    if stored.dtype in (np.uint16, np.int16) and asset.band != SCL:
        valid &= stored != 0
    if asset.nodata is not None and not np.isnan(asset.nodata):
        valid &= stored != asset.nodata
    return valid

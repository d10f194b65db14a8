"""IO: one block of one scene, as reflectance and validity on the block's grid.

A raster that already lies on the grid is read as it is, pixel for pixel. Any other (20 m bands,
another zone, another CRS) is warped onto it by GDAL, block by block: no band is ever whole in
memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # GDAL's own errors; rasterio wraps only some of them
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from landuse.errors import ReadError
from landuse.pipeline.composite import clear_of_clouds
from landuse.records import PixelBlock
from landuse.redact import redact, redact_href
from landuse.sentinel2 import DN_PER_REFLECTANCE, MAX_DN, SCL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

    from landuse.records import BandAsset, Scene

MUCH_FINER = 0.6
"""A source whose pixels span less of the grid's than this is averaged, not interpolated."""

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_CONNECTTIMEOUT": "20",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32000",
    "GDAL_CACHEMAX": 256 * 1024**2,
    "VSI_CACHE": "TRUE",
}
"""Scoped by ``read_scene``; the process's own GDAL settings stay as they are."""


def read_scene(scene: Scene, bands: Sequence[str], geobox: GeoBox, sign: Callable[[str], str]) -> PixelBlock:
    """Read a rectangle of a scene.

    Args:
        scene: what to read.
        bands: in the order wanted.
        geobox: the block's pixel grid.
        sign: unsigned href to one that can be opened, called just before each read.

    Returns:
        DN (reflectance x 10000, at least 1 where observed, 0 where not), what was observed in
        every band, and what of it is free of clouds where the scene has a classification.

    Raises:
        ReadError: an asset cannot be opened or read.
    """
    dn = np.zeros((len(bands), *geobox.shape), np.uint16)
    observed = np.ones(geobox.shape, np.bool_)
    with rasterio.Env(**GDAL_OPTIONS):
        for row, band in enumerate(bands):
            asset = _asset(scene, band)
            stored, valid = _read_asset(scene, asset, geobox, sign)
            observed &= valid
            dn[row] = _to_dn(stored, asset)
        dn[:, ~observed] = 0
        usable = observed
        if scene.asset(SCL) is not None:
            scl, valid = _read_asset(scene, _asset(scene, SCL), geobox, sign)
            usable = observed & valid & clear_of_clouds(scl.astype(np.uint8))
    return PixelBlock(dn=dn, observed=observed, usable=usable)


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


def _read_asset(
    scene: Scene, asset: BandAsset, geobox: GeoBox, sign: Callable[[str], str]
) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Stored values and validity ``(y, x)`` of one asset on the grid."""
    href, signed = redact_href(asset.href), sign(asset.href)
    try:
        with rasterio.open(signed, driver=_driver(asset.href)) as source:
            _check(source, asset, scene.id)
            window = _aligned_window(source, geobox)
            if window is None:
                return _read_warped(source, asset, geobox)
            return _read_window(source, asset, window)
    except (RasterioError, CPLE_BaseError, OSError) as error:
        # GDAL puts the URL it was given, token and all, into some messages.
        reason = str(error).replace(signed, href).replace(asset.href, href)
        raise ReadError(
            f"Asset {asset.band} of scene {scene.id!r} cannot be read from {href}: {redact(reason)}. "
            "Check that the file is there and whole, or leave the scene out."
        ) from error


def _driver(href: str) -> str:
    """The one GDAL driver that may open an asset.

    GDAL would try them all, VRT among them, with which a file from the web could name local ones.
    """
    path = urlsplit(href).path if "://" in href else href
    return "JP2OpenJPEG" if path.lower().endswith((".jp2", ".j2k")) else "GTiff"


def _check(source: DatasetReader, asset: BandAsset, scene_id: str) -> None:
    if asset.index > source.count:
        raise ReadError(
            f"Asset {asset.band} of scene {scene_id!r} has {source.count} bands, not {asset.index}."
        )
    if source.crs is None or source.transform.is_identity:
        raise ReadError(
            f"Asset {asset.band} of scene {scene_id!r} ({redact_href(asset.href)}) is not georeferenced, "
            "or its header is damaged. Get the file again, or georeference it (gdal_edit -a_srs -a_ullr)."
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

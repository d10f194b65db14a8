"""IO: a rectangle of one scene, as reflectance, validity and cloud mask on a grid of pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # GDAL's own errors; rasterio wraps only some of them
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError

from landuse.errors import AssetError, ProviderError, ReadError
from landuse.pipeline.geometry import METRES_A_DEGREE
from landuse.pipeline.pixels import pixel_block
from landuse.pipeline.read.cloud_mask import (
    MASK_LATTICE_PX,
    MASK_MARGIN_PX,
    PIXEL_M,
    clear_by_coarse_spectrum,
    clear_by_scl,
    clear_by_spectrum,
    cloud_by_haze,
)
from landuse.pipeline.read.onto_grid import Stored, ranges_onto, read_onto
from landuse.pipeline.remote.files import is_jpeg2000
from landuse.pipeline.scene import ESTIMATE_BANDS, L1C_CLOUD_BANDS, ReadFailure, mask_bands
from landuse.redact import redact, redact_href
from landuse.sentinel2 import DN_PER_REFLECTANCE, MAX_DN, SCL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import xarray as xr
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from rasterio.io import DatasetReader

    from landuse.pipeline.remote.files import Remote
    from landuse.pipeline.scene import BandAsset, Scene

GDAL_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    # In threads of its own GDAL decodes JPEG 2000 to zeros, without an error, where a file is damaged; and
    # rasterio's openers are not found there.
    "GDAL_NUM_THREADS": "1",
    # Files beside an asset are not part of it, and those of a stranger's least of all.
    "GDAL_PAM_ENABLED": "NO",
}
"""Scoped by each read; the process's own GDAL settings stay as they are."""


_FEW_VALUES = {np.dtype(np.uint8): 2**8, np.dtype(np.uint16): 2**16}
"""Types of whole numbers, and how many they have."""


def read_scene(scene: Scene, bands: Sequence[str], geobox: GeoBox, remote: Remote) -> xr.Dataset:
    """Read a rectangle of a scene, its assets side by side.

    Args:
        scene: what to read.
        bands: in the order wanted.
        geobox: the block's pixel grid.
        remote: how what is not on this machine is read.

    Returns:
        ``pixel_block``: DN (reflectance x 10000, at least 1 where observed, 0 where not), what was observed
        in every band, and what of it is free of clouds where the scene offers a mask.

    Raises:
        AssetError: an asset cannot be opened or read.
        ReadError: the scene lacks a band.
        OutputError: there is no room for what is fetched.
    """
    return image_of(scene, bands, geobox, lambda names, grid: _read_assets(scene, names, grid, remote))


def image_of(
    scene: Scene,
    bands: Sequence[str],
    geobox: GeoBox,
    read: Callable[[Sequence[str], GeoBox], Mapping[str, Stored]],
) -> xr.Dataset:
    """A rectangle of a scene, wherever its stored values come from; see ``read_scene``.

    Args:
        scene: its level and what its assets' values mean.
        bands: in the order wanted.
        geobox: the block's pixel grid.
        read: stored values and validity of bands on a grid, which may be wider than ``geobox``.
    """
    masking = mask_bands(scene.level, scene.bands)
    # What is cloud at a pixel depends on its surroundings: the mask is made of a wider rectangle.
    grid, inside = _with_context(geobox) if masking else (geobox, np.s_[:, :])
    by_band = read((*bands, *(band for band in masking if band not in bands)), grid)
    dn = np.zeros((len(bands), *geobox.shape), np.uint16)
    observed = np.ones(geobox.shape, np.bool_)
    for row, band in enumerate(bands):
        stored, valid = by_band[band]
        observed &= valid[inside]
        dn[row] = _to_dn(stored[inside], _asset(scene, band))
    dn[:, ~observed] = 0
    usable = observed & _clear(scene, by_band, abs(grid.affine.a))[inside] if masking else observed
    return pixel_block(dn, observed, usable, bands=bands, geobox=geobox)


def read_mask(scene: Scene, geobox: GeoBox, remote: Remote) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """What a scene saw and what of it is clear, on a coarse grid of square pixels.

    Args:
        scene: one that offers a mask (``scene.mask_bands``).
        geobox: the grid; its pixels may span many of the scene's.
        remote: how what is not on this machine is read.

    Returns:
        Observed and clear ``(y, x)``.

    Raises:
        AssetError: an asset cannot be opened or read.
    """
    masking = mask_bands(scene.level, scene.bands)
    by_band = _read_assets(scene, masking, geobox, remote)
    observed = np.logical_and.reduce([by_band[band][1] for band in masking])
    if SCL in masking:
        observed &= by_band[SCL][0] != 0
    return observed, observed & _clear(scene, by_band, abs(geobox.affine.a))


def read_estimate(
    scene: Scene, geobox: GeoBox, remote: Remote
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """What a scene without a mask saw, and how much of it looks like cloud, on a coarse grid.

    Args:
        scene: one that offers ``ESTIMATE_BANDS``.
        geobox: the grid; its pixels may span many of the scene's.
        remote: how what is not on this machine is read.

    Returns:
        Observed, and cloud 0..1, ``(y, x)``.

    Raises:
        AssetError: an asset cannot be opened or read.
    """
    by_band = _read_assets(scene, ESTIMATE_BANDS, geobox, remote)
    blue, red = (_to_dn(by_band[band][0], _asset(scene, band)) for band in ESTIMATE_BANDS)
    observed = np.logical_and.reduce([by_band[band][1] for band in ESTIMATE_BANDS])
    return observed, cloud_by_haze(blue, red, scene.level)


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


def _clear(scene: Scene, by_band: Mapping[str, Stored], pixel_m: float) -> NDArray[np.bool_]:
    """What is free of clouds, of assets that were read with the context a mask needs."""
    if SCL in by_band:
        scl, valid = by_band[SCL]
        return valid & clear_by_scl(scl, pixel_m)
    dn = np.stack([_to_dn(by_band[band][0], _asset(scene, band)) for band in L1C_CLOUD_BANDS])
    observed = np.logical_and.reduce([by_band[band][1] for band in L1C_CLOUD_BANDS])
    if pixel_m == PIXEL_M:
        return clear_by_spectrum(dn, observed)
    return clear_by_coarse_spectrum(dn, observed, pixel_m)


def _with_context(geobox: GeoBox) -> tuple[GeoBox, tuple[slice, slice]]:
    """A wider grid on which masks are exact within ``geobox``, and where that lies in it.

    It begins and ends on multiples of the masks' own lattice, counted from where Sentinel-2's tiles
    are counted from (the false origin of the UTM zone), so that a mask does not depend on the
    rectangle that was asked for, and its cells are the 60 m pixels of B01, B09 and B10.
    """
    from affine import Affine
    from odc.geo.geobox import GeoBox

    rows, cols = geobox.shape
    affine = geobox.affine
    origin_y = 10_000_000 if str(geobox.crs).upper().startswith("EPSG:327") else 0
    first_col, first_row = round(affine.c / affine.a), round((affine.f - origin_y) / affine.e)

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
    for asset in assets:
        # What is gone for good is not worth the others' bytes, block after block.
        reason = remote.known_lost(asset.href, scene.provider) if "://" in asset.href else None
        if reason is not None:
            raise _unreadable(scene, asset, reason)
    with remote.readers(len(assets)) as pool:
        read = list(pool.map(lambda asset: _read_asset(scene, asset, geobox, remote), assets))
    return dict(zip(bands, read, strict=True))


def _asset(scene: Scene, band: str) -> BandAsset:
    asset = scene.asset(band)
    if asset is None:
        raise ReadError(f"Scene {scene.id!r} has no band {band}; it offers {', '.join(scene.bands)}.")
    return asset


def _to_dn(stored: NDArray[np.generic], asset: BandAsset) -> NDArray[np.uint16]:
    """Stored values ``(y, x)`` to DN; real reflectances below zero become 1, since 0 is nodata."""
    if stored.dtype in _FEW_VALUES and stored.size > _FEW_VALUES[stored.dtype]:
        # Of few different values each is worked out once, and then looked up.
        table = _to_dn(np.arange(_FEW_VALUES[stored.dtype], dtype=stored.dtype), asset)
        looked_up: NDArray[np.uint16] = table[stored]
        return looked_up
    reflectance = stored.astype(np.float64) * asset.scale + asset.offset
    dn = np.rint(np.nan_to_num(reflectance) * DN_PER_REFLECTANCE)
    return dn.clip(1, MAX_DN).astype(np.uint16)


def _read_asset(scene: Scene, asset: BandAsset, geobox: GeoBox, remote: Remote) -> Stored:
    """Stored values and validity ``(y, x)`` of one asset on the grid."""
    try:
        if "://" not in asset.href:
            with rasterio.Env(**GDAL_OPTIONS), rasterio.open(asset.href, driver=driver_of(asset)) as source:
                _check(source, asset, scene.id)
                return read_onto(source, asset, geobox)
        with remote.opened(asset.href, scene.provider) as opened:
            try:
                with (
                    rasterio.Env(**GDAL_OPTIONS),
                    rasterio.open(opened.name, driver=driver_of(asset), opener=opened.opener) as source,
                ):
                    _check(source, asset, scene.id)
                    opened.fetch(ranges_onto(source, asset, geobox))
                    layer = read_onto(source, asset, geobox)
            except (RasterioError, CPLE_BaseError, OSError):
                # GDAL knows only that bytes are missing; the request that failed knows why.
                opened.raise_failure()
                raise
            opened.raise_failure()
            return layer
    except AssetError:
        raise
    except (RasterioError, CPLE_BaseError, OSError, ProviderError) as error:
        # GDAL's own reason lies beneath rasterio's "see previous exception".
        raise _unreadable(scene, asset, str(error.__cause__ or error)) from error


def _unreadable(scene: Scene, asset: BandAsset, reason: str) -> AssetError:
    href = redact_href(asset.href)
    said = redact(reason.replace(asset.href, href)).rstrip(".")
    mend = "Try again later, or name a further --source" if "://" in href else "Check the file"
    return AssetError(
        f"Asset {asset.band} of scene {scene.id!r} cannot be read from {href}: {said}. {mend}, or leave the "
        "scene out.",
        band=asset.band,
        href=href,
    )


def pixel_m_of(asset: BandAsset) -> float | None:
    """Pixel size of a local file in metres; None where it cannot be opened: who reads it says why."""
    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(asset.href, driver=driver_of(asset)) as source:
            in_degrees = source.crs is not None and source.crs.is_geographic
            return float(source.res[1]) * (METRES_A_DEGREE if in_degrees else 1)
    except (RasterioError, CPLE_BaseError, OSError):
        return None


def driver_of(asset: BandAsset) -> str:
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
    if {MaskFlags.per_dataset, MaskFlags.alpha} & set(source.mask_flag_enums[asset.index - 1]):
        raise AssetError(
            f"Asset {asset.band} of scene {scene_id!r} ({href}) marks its nodata by a mask or an alpha band, "
            "which is not read. Store it as a pixel value: gdalwarp -srcalpha -dstnodata 0.",
            band=asset.band,
            href=href,
        )
    damaged = not all(map(math.isfinite, source.transform)) or source.transform.is_degenerate
    if source.crs is None or source.transform.is_identity or damaged:
        raise AssetError(
            f"Asset {asset.band} of scene {scene_id!r} ({href}) is not georeferenced, "
            "or its header is damaged. Get the file again, or georeference it (gdal_edit -a_srs -a_ullr).",
            band=asset.band,
            href=href,
        )

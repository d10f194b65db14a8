"""The tile that ``engine.py`` maps: a real scene, mirrored until it fills a tile, then catalogued."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from rasterio.windows import Window

from landuse.workflows.imagery.bands import CatalogRequest
from landuse.workflows.imagery.catalog import catalog_rasters

SCENES = {
    "inn": ("inn_ering_de_at_L2A_window1_RGBN_utm33n.tif", "L2A", "02.14"),
    "orihuela": ("orihuela_es_L1C_20190918_13b_utm30n.tif", "L1C", "02.08"),
}
"""File, level, and a baseline of its year, before offsets."""

ACQUIRED_UTC = datetime(2021, 6, 1, 10, tzinfo=UTC)
"""An item needs a time; nothing here depends on it."""

BANDS = ("B04", "B03", "B02")
"""Those of the shipped model. With all of L1C, clouds would be searched, which takes longer than mapping."""

GRID_M = 640
"""The tile's corner lies on the cells of every stride, so that each way maps the same cells."""

STRIP_PX = 1024


def scene_path(scene: str) -> Path:
    """The real scene's file."""
    return Path(os.environ["LANDUSE_TEST_DATA"]) / "scenes" / SCENES[scene][0]


def real_catalog(scene: str, folder: Path) -> Path:
    """The scene as it is, catalogued; returns the catalogue."""
    return _catalog(scene, scene_path(scene), folder)


def tile_catalog(scene: str, tile_px: int, folder: Path) -> Path:
    """A catalogue with a tile of ``tile_px`` a side, made once; returns ``catalog.json``."""
    raster = folder / f"{scene}-{tile_px}.tif"
    if not _place(raster, folder).exists():
        _mirror(scene, tile_px, raster)
    return _catalog(scene, raster, folder)


def _place(raster: Path, folder: Path) -> Path:
    return folder / f"catalog-{raster.stem}" / "catalog.json"


def _catalog(scene: str, raster: Path, folder: Path) -> Path:
    place = _place(raster, folder)
    if place.exists():
        return place
    _, level, baseline = SCENES[scene]
    with rasterio.open(raster) as source:
        if source.descriptions != BANDS:  # more bands than are mapped: the three are cut out
            cut = folder / f"{raster.stem}-rgb.tif"
            with rasterio.open(cut, "w", **_profile(source.width, source.height, source)) as target:
                for index, band in enumerate(BANDS, start=1):
                    target.write(source.read(source.descriptions.index(band) + 1), index)
                target.descriptions = BANDS
            raster = cut
    request = CatalogRequest(
        rasters=(raster,),
        level=level,
        acquired_utc=ACQUIRED_UTC,
        baseline=baseline,
        out=place.parent,
        nodata=0,
    )
    made = catalog_rasters(request).catalog
    if raster.parent == folder:  # the COGs hold the same
        raster.unlink()
    return made


def _mirror(scene: str, tile_px: int, raster: Path) -> None:
    """Write the scene with its flips side by side, edges meeting their own reflection."""
    with rasterio.open(scene_path(scene)) as source:
        pixels = source.read([source.descriptions.index(band) + 1 for band in BANDS])  # (band, y, x)
        profile = _profile(tile_px, tile_px, source)
    left, top = (GRID_M * round(edge / GRID_M) for edge in (profile["transform"].c, profile["transform"].f))
    profile["transform"] = Affine(10, 0, left, 0, -10, top)
    rows, cols = (_reflected(tile_px, size) for size in pixels.shape[1:])
    partial = raster.with_suffix(".part")
    with rasterio.open(partial, "w", **profile) as target:
        target.descriptions = BANDS
        for row in range(0, tile_px, STRIP_PX):
            strip = pixels[:, rows[row : row + STRIP_PX, None], cols]
            target.write(strip, window=Window(0, row, tile_px, strip.shape[1]))
    partial.rename(raster)


def _reflected(count: int, size: int) -> np.ndarray:
    """Indices 0, 1 .. size-1, size-1 .. 1, 0, 0, 1 ..., ``count`` of them."""
    place = np.arange(count) % (2 * size)
    return np.where(place < size, place, 2 * size - 1 - place)


def _profile(width: int, height: int, source: rasterio.DatasetReader) -> dict:
    return {
        "driver": "GTiff", "dtype": "uint16", "count": len(BANDS), "width": width, "height": height,
        "crs": source.crs, "transform": source.transform, "nodata": 0, "tiled": True, "blockxsize": 512,
        "blockysize": 512, "compress": "deflate", "predictor": 2, "bigtiff": "if_safer",
    }  # fmt: skip

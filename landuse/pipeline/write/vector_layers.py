"""The vector side of a map: its polygons, cells, scenes and sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely
from rasterio.features import sieve
from rasterio.windows import Window

from landuse.errors import UsageError
from landuse.pipeline.blocks.votes import threshold_step
from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS
from landuse.pipeline.geometry import footprint_of
from landuse.pipeline.write.geopackage import SUFFIXES, check_vector_format, convert_layers, geopackage_writer
from landuse.pipeline.write.polygons import polygonize
from landuse.pipeline.write.qgis import StyleEntry, categorized, outlined

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import ClassArea

GEOPACKAGE = "landuse.gpkg"

LAYERS = ("landuse", "labels", "cells", "scenes", "summary")
"""What the layers are called; in other formats each is a file of that name."""

PIXELS_MIN_AREA_HA = 0.5
"""Smallest polygon of a map of pixels where none is asked for: of a few pixels there would be millions."""

SLIVER_M2 = 0.01
"""A cut polygon below this is what rounding left."""

STRIP_CELLS = 2**18
"""Cells whose polygons are made at once. Where each cell is a polygon, that takes some 400 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorOptions:
    """How a map's vector layers are to be."""

    format: str = "gpkg"
    """``"gpkg"``: one file with all layers; ``"parquet"`` or ``"fgb"``: a file for each."""
    cells: bool = False
    """Also write every cell as a square."""
    min_area_ha: float | None = None
    """Polygons below this go to their largest neighbour; None: ``PIXELS_MIN_AREA_HA`` of a map of pixels,
    else 0."""
    simplify_m: float = 0.0
    """How far outlines may be moved to make them simpler; neighbours stay neighbours."""
    whole_cells: bool = False
    """Leave polygons as their cells are, also beyond the area asked for and the scenes; else they are cut."""

    def __post_init__(self) -> None:
        check_vector_format(self.format)
        for option, value in (("--min-area-ha", self.min_area_ha), ("--simplify-m", self.simplify_m)):
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{option} {value:g} is no size. Give 0 or more.")

    def for_plan(self, plan: RunPlan) -> VectorOptions:
        """The same, with the minimum that holds for a map where none was asked for."""
        if self.min_area_ha is not None:
            return self
        return replace(self, min_area_ha=PIXELS_MIN_AREA_HA if plan.engine == "pixels" else 0.0)


def write_vectors(
    plan: RunPlan, folder: Path, areas: Sequence[ClassArea], options: VectorOptions
) -> tuple[str, ...]:
    """Write the vector layers of the rasters in a folder; returns the files' names.

    Polygons are made strip by strip. ``min_area_ha`` holds the class of every cell in memory, a byte each,
    and ``simplify_m`` every polygon: an outline can only be moved together with its neighbours'.

    Raises:
        OutputError: a file cannot be written.
    """
    entries = [StyleEntry(value=entry.id, label=entry.title, color=entry.color) for entry in plan.entries]
    styles = [
        categorized("landuse", "class_id", entries, f"Land use by {plan.model}"),
        outlined("scenes", "Scenes that the map was made of"),
    ]
    if plan.thresholds:
        styles.append(categorized("labels", "label_id", entries, f"Labels by {plan.model}"))
    if options.cells:
        styles.append(categorized("cells", "class_id", entries, f"Cells by {plan.model}"))
    land = plan.land
    shapely.prepare(land)
    with geopackage_writer(folder / GEOPACKAGE, styles) as put:
        for polygons in _polygons(plan, folder, options):
            put("landuse", polygons if options.whole_cells else _cut(polygons, land))
        for label in range(len(plan.thresholds)):
            for polygons in _label_polygons(plan, folder, label, options):
                put("labels", polygons if options.whole_cells else _cut(polygons, land))
        put("scenes", _scenes(plan))
        put("summary", summary_table(areas))
        if options.cells:
            for squares in _cells(plan, folder):
                put("cells", squares)
    if options.format == "gpkg":
        return (GEOPACKAGE,)
    names = convert_layers(folder / GEOPACKAGE, SUFFIXES[options.format])
    (folder / GEOPACKAGE).unlink()
    return names


def _polygons(plan: RunPlan, folder: Path, options: VectorOptions) -> Iterator[gpd.GeoDataFrame]:
    strips = _strips(folder)
    min_area_ha = options.for_plan(plan).min_area_ha or 0.0
    if min_area_ha > 0:
        cells = math.ceil(min_area_ha * 10_000 / plan.cell_m**2)
        strips = _sieved(folder, cells)
    frames = polygonize(strips, plan.cell_geobox, names=plan.classes, nodata=NODATA_ID)
    if options.simplify_m == 0:
        yield from frames
        return
    polygons = pd.concat(frames, ignore_index=True)
    # Neighbours have to share their vertices, of which ``polygonize`` leaves out those on straight lines.
    dense = shapely.segmentize(polygons.geometry.to_numpy(), plan.cell_m)
    dense = shapely.transform(dense, lambda points: points.round(3))
    polygons["geometry"] = shapely.coverage_simplify(dense, options.simplify_m)
    polygons["area_ha"] = polygons.geometry.area / 10_000
    yield polygons


def _label_polygons(
    plan: RunPlan, folder: Path, label: int, options: VectorOptions
) -> Iterator[gpd.GeoDataFrame]:
    """Where one label is there; polygons of different labels overlap.

    Small ones are left out, since what lies around them is no other label, and each outline is made simpler
    by itself.
    """
    step = threshold_step(plan.thresholds[label])

    def strips() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
        with rasterio.open(folder / "labels.tif") as file:
            for window in _windows(file.height, file.width):
                shares = file.read(label + 1, window=window)
                there = (shares >= step) & (shares != NODATA_ID)
                yield (
                    np.where(there, np.uint8(0), np.uint8(NODATA_ID)),
                    shares.astype(np.float32) / SHARE_STEPS,
                )

    least_ha = options.for_plan(plan).min_area_ha or 0.0
    for found in polygonize(strips(), plan.cell_geobox, names=[plan.classes[label]], nodata=NODATA_ID):
        polygons = found[found.area_ha >= least_ha].rename(
            columns={"class_id": "label_id", "class_name": "label", "confidence": "probability"}
        )
        polygons["label_id"] = np.int64(label)
        if options.simplify_m > 0:
            polygons["geometry"] = polygons.geometry.simplify(options.simplify_m)
            polygons["area_ha"] = polygons.geometry.area / 10_000
        yield polygons


def _cut(polygons: gpd.GeoDataFrame, land: BaseGeometry) -> gpd.GeoDataFrame:
    """The parts of polygons that lie on some land, each with its own area."""
    shapes = polygons.geometry.to_numpy()
    beyond = ~shapely.covers(land, shapes)
    if not beyond.any():
        return polygons
    shapes[beyond] = shapely.intersection(shapes[beyond], land)
    parts = polygons.set_geometry(gpd.GeoSeries(shapes, crs=polygons.crs)).explode(ignore_index=True)
    parts["area_ha"] = parts.geometry.area / 10_000
    # Where outlines meet, cuts leave lines, points and slivers.
    return parts[(parts.geom_type == "Polygon") & (parts.area_ha > SLIVER_M2 / 10_000)]


def _strips(folder: Path) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Classes and confidences of the map's rows from the top, each (row, col)."""
    with rasterio.open(folder / "landuse.tif") as file, rasterio.open(folder / "confidence.tif") as shades:
        for strip in _windows(file.height, file.width):
            confidence = shades.read(1, window=strip).astype(np.float32) / SHARE_STEPS
            yield file.read(1, window=strip), confidence


def _windows(rows: int, cols: int) -> Iterator[Window]:
    step = max(STRIP_CELLS // cols, 1)
    for row in range(0, rows, step):
        yield Window(0, row, cols, min(step, rows - row))


def _sieved(folder: Path, cells: int) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """The strips with areas of fewer cells merged into their largest neighbour; nodata stays as it is."""
    with rasterio.open(folder / "landuse.tif") as file:
        classes = file.read(1)
    merged = _merged(classes, cells) if cells > 1 else classes
    row = 0
    for strip, confidence in _strips(folder):
        yield merged[row : row + len(strip)], confidence
        row += len(strip)


def _merged(classes: NDArray[np.uint8], cells: int) -> NDArray[np.uint8]:
    """Classes (row, col) with areas of fewer cells merged into their largest neighbour.

    One pass leaves some small areas that lie among small ones; each pass that changes anything leaves fewer.
    """
    mapped = classes != NODATA_ID
    while True:
        merged: NDArray[np.uint8] = sieve(classes, cells, mask=mapped, connectivity=4)
        if np.array_equal(merged, classes):
            return merged
        classes = merged


def _cells(plan: RunPlan, folder: Path) -> Iterator[gpd.GeoDataFrame]:
    """Squares of the classified cells, strip by strip."""
    row = 0
    for classes, confidence in _strips(folder):
        rows, cols = np.nonzero(classes != NODATA_ID)
        ids = classes[rows, cols]
        yield gpd.GeoDataFrame(
            {
                "class_id": ids.astype(np.int64),
                "class_name": np.array(plan.classes, object)[ids],
                "confidence": confidence[rows, cols].astype(np.float64),
            },
            geometry=_squares(plan.cell_geobox, rows + row, cols),
            crs=plan.crs,
        )
        row += len(classes)


def _squares(geobox: GeoBox, rows: NDArray[np.intp], cols: NDArray[np.intp]) -> NDArray[np.object_]:
    left, top, size = geobox.affine.c, geobox.affine.f, geobox.affine.a
    west, north = left + cols * size, top - rows * size
    squares: NDArray[np.object_] = shapely.box(west, north - size, west + size, north)
    return squares


def _scenes(plan: RunPlan) -> gpd.GeoDataFrame:
    """The scenes' footprints, in longitude and latitude, in the order in which they are preferred."""
    scenes = plan.scenes
    seen = [None if scene.view is None or scene.view.estimated else scene.view for scene in scenes]
    return gpd.GeoDataFrame(
        {
            "preference": np.arange(1, len(scenes) + 1),
            "scene_id": [scene.id for scene in scenes],
            "source": [scene.provider for scene in scenes],
            "acquired_utc": pd.to_datetime([scene.acquired_utc for scene in scenes], utc=True),
            "platform": [scene.platform for scene in scenes],
            "tile": [scene.tile for scene in scenes],
            "level": [scene.level for scene in scenes],
            "baseline": [scene.baseline or "" for scene in scenes],
            "cloud_percent": np.array([scene.cloud_percent for scene in scenes], np.float64),
            "area_cloud_percent": np.array([view and view.cloud_percent for view in seen], np.float64),
            "area_seen_percent": np.array([view and 100 * view.seen for view in seen], np.float64),
            "spare": [scene.spare for scene in scenes],
        },
        geometry=[footprint_of(scene) for scene in scenes],
        crs="EPSG:4326",
    )


def summary_table(areas: Sequence[ClassArea]) -> pd.DataFrame:
    """Cells and area of each class, counted on the raster, whatever was done to the polygons."""
    return pd.DataFrame(
        {
            "class_id": np.array([area.id for area in areas], np.int64),
            "class_name": np.array([area.name for area in areas], object),
            "cells": np.array([area.cells for area in areas], np.int64),
            "area_ha": np.array([area.area_ha for area in areas], np.float64),
            "share_percent": np.array([100 * area.share for area in areas], np.float64),
        }
    )

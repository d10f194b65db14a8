"""From finished blocks to the files of a map."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from rasterio.windows import Window

import landuse
from landuse.errors import ReadError
from landuse.model import classes as class_table
from landuse.pipeline import stitch
from landuse.pipeline.blocks import read_block
from landuse.pipeline.plan import RunPlan
from landuse.pipeline.vectorize import polygonize
from landuse.pipeline.write import RasterLayer, cog_writer, vector_writer
from landuse.records import NODATA_ID, CellScores, ClassArea, Cover, ReadFailure
from landuse.workflows.block import cells_inside

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from landuse.pipeline.store import Store


OUTPUTS = (
    "landuse.tif",
    "landuse.tif.aux.xml",
    "confidence.tif",
    "probabilities.tif",
    "landuse.gpkg",
    "run.json",
)

GDAL_CACHE_MB = 256
"""Memory for blocks of the rasters at work; GDAL would take a share of the machine's."""

STRIP_CELLS = 2**18
"""Cells whose polygons are made at once. Where each cell is a polygon, that takes some 400 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A map's files, and what was counted while they were made."""

    files: tuple[str, ...]
    """Their names."""
    classes: tuple[ClassArea, ...]
    """Area of each class that occurs."""
    cover: Cover
    """What became of the area's cells."""
    failures: tuple[ReadFailure, ...]
    """Reads that failed for good."""


def assemble(plan: RunPlan, work: Store, folder: Path, *, probabilities: bool) -> Assembled:
    """Make the map's files of its finished blocks, one block or strip of the map in memory at a time.

    Raises:
        ReadError: a block is gone, or nothing could be read at all.
        OutputError: a file cannot be written.
    """
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        made = _assemble_rasters(plan, work, folder, probabilities=probabilities)
        with vector_writer(folder / "landuse.gpkg", "landuse") as put:
            for polygons in polygonize(
                _strips(folder), plan.cell_geobox, names=plan.classes, nodata=NODATA_ID
            ):
                put(polygons)
    return replace(made, files=(*made.files, "landuse.gpkg"))


def _assemble_rasters(plan: RunPlan, work: Store, folder: Path, *, probabilities: bool) -> Assembled:
    counts: Counter[str] = Counter()
    cells_of_class = np.zeros(NODATA_ID + 1, np.int64)
    failures: list[ReadFailure] = []
    layers = _layers(plan, probabilities=probabilities)
    with ExitStack() as stack:
        put = {name: stack.enter_context(cog_writer(folder / name, layers[name])) for name in layers}
        for block in plan.blocks:
            content = read_block(work, block, plan)
            if content is None:
                raise ReadError(
                    f"Block {block.name} vanished from {work} during the run. Run again to redo it."
                )
            scores, corner = content.scores, (block.row_start, block.col_start)
            classes = stitch.class_raster(scores)
            put["landuse.tif"](*corner, classes)
            put["confidence.tif"](*corner, stitch.confidence_raster(scores))
            if probabilities:
                unmapped = np.float32(np.nan)
                put["probabilities.tif"](*corner, np.where(scores.mapped, scores.probabilities, unmapped))
            cells_of_class += np.bincount(classes.ravel(), minlength=len(cells_of_class))
            counts.update(_count(scores, cells_inside(plan, block)))
            failures += content.failures
        if failures and not counts["observed"]:
            work.remove()  # there is nothing in it to go on from
            raise ReadError(f"No scene could be read. {failures[0].reason}")
    return Assembled(
        files=(*layers, "landuse.tif.aux.xml"),
        classes=_class_areas(cells_of_class, plan),
        cover=_cover(counts),
        failures=tuple(failures),
    )


def _strips(folder: Path) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32]]]:
    """Classes and confidences of the map's rows from the top, each (row, col)."""
    with rasterio.open(folder / "landuse.tif") as file, rasterio.open(folder / "confidence.tif") as shades:
        rows = max(STRIP_CELLS // file.width, 1)
        for row in range(0, file.height, rows):
            strip = Window(0, row, file.width, min(rows, file.height - row))
            yield file.read(1, window=strip), shades.read(1, window=strip)


def _layers(plan: RunPlan, *, probabilities: bool) -> dict[str, RasterLayer]:
    geobox = plan.cell_geobox
    colors = {entry.name: entry.color for entry in class_table.EUROSAT}
    tags = {
        "landuse_version": landuse.__version__,
        "model": plan.model,
        "weights_sha256": plan.weights_sha256,
        "engine": plan.engine,
        "plan_sha256": plan.digest,
        "acquired_utc": ", ".join(sorted({scene.acquired_utc.isoformat() for scene in plan.scenes})),
    }
    layers = {
        "landuse.tif": RasterLayer(
            dtype="uint8",
            geobox=geobox,
            nodata=NODATA_ID,
            descriptions=("land-use class",),
            overview_resampling="MODE",
            colors={i: colors.get(name, (128, 128, 128)) for i, name in enumerate(plan.classes)},
            categories=dict(enumerate(plan.classes)),
            tags=tags,
        ),
        "confidence.tif": RasterLayer(
            dtype="float32",
            geobox=geobox,
            nodata=float("nan"),
            descriptions=("probability of the land-use class",),
            overview_resampling="AVERAGE",
            tags=tags,
        ),
    }
    if probabilities:
        layers["probabilities.tif"] = RasterLayer(
            dtype="float32",
            geobox=geobox,
            nodata=float("nan"),
            descriptions=plan.classes,
            overview_resampling="AVERAGE",
            tags=tags,
        )
    return layers


def _count(scores: CellScores, inside: NDArray[np.bool_]) -> dict[str, int]:
    """Cells of a block by what became of them; ``observed`` counts wherever a cell lies."""
    mapped, failed = scores.mapped, inside & scores.failed & ~scores.mapped
    return {
        "cells": int(inside.sum()),
        "valid": int((inside & mapped).sum()),
        "failed": int(failed.sum()),
        "cloudy": int((inside & scores.clouded & ~mapped & ~failed).sum()),
        "observed": int(scores.observed.sum()),
    }


def _cover(counts: Counter[str]) -> Cover:
    cells = counts["cells"]
    seen = counts["valid"] + counts["cloudy"] + counts["failed"]
    return Cover(
        cells=cells,
        valid=counts["valid"] / cells,
        cloudy=counts["cloudy"] / cells,
        failed=counts["failed"] / cells,
        nodata=(cells - seen) / cells,
    )


def _class_areas(cells_of_class: NDArray[np.int64], plan: RunPlan) -> tuple[ClassArea, ...]:
    mapped = cells_of_class[: len(plan.classes)].tolist()
    total = sum(mapped)
    return tuple(
        ClassArea(
            id=i,
            name=plan.classes[i],
            cells=cells,
            area_m2=cells * plan.cell_m**2,
            share=cells / total,
        )
        for i, cells in enumerate(mapped)
        if cells
    )

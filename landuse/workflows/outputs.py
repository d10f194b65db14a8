"""From finished blocks to the files of a map."""

from __future__ import annotations

import shutil
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio

import landuse
from landuse.errors import ReadError
from landuse.model import classes as class_table
from landuse.pipeline import stitch
from landuse.pipeline.blocks import read_block
from landuse.pipeline.plan import RunPlan
from landuse.pipeline.vectorize import polygonize
from landuse.pipeline.write import RasterLayer, cog_writer, write_vectors
from landuse.records import NODATA_ID, CellScores, ReadFailure
from landuse.workflows.block import cells_inside
from landuse.workflows.report import ClassArea, Cover

if TYPE_CHECKING:
    from numpy.typing import NDArray


OUTPUTS = (
    "landuse.tif",
    "landuse.tif.aux.xml",
    "confidence.tif",
    "probabilities.tif",
    "landuse.gpkg",
    "run.json",
)


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


def assemble(plan: RunPlan, work: Path, folder: Path, *, probabilities: bool) -> Assembled:
    """Make the map's files of its finished blocks, one block in memory at a time.

    Raises:
        ReadError: a block is gone, or nothing could be read at all.
        OutputError: a file cannot be written.
    """
    counts: Counter[str] = Counter()
    cells_of_class: Counter[int] = Counter()
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
            cells_of_class.update(classes[classes != NODATA_ID].tolist())
            counts.update(_count(scores, cells_inside(plan, block)))
            failures += content.failures
        if failures and not counts["observed"]:
            shutil.rmtree(work, ignore_errors=True)  # there is nothing in it to go on from
            raise ReadError(f"No scene could be read. {failures[0].reason}")
    with rasterio.open(folder / "landuse.tif") as file, rasterio.open(folder / "confidence.tif") as shades:
        polygons = polygonize(
            file.read(1), shades.read(1), plan.cell_geobox, names=plan.classes, nodata=NODATA_ID
        )
    write_vectors(folder / "landuse.gpkg", {"landuse": polygons})
    names = ["landuse.tif", "landuse.tif.aux.xml", "confidence.tif", "landuse.gpkg"]
    return Assembled(
        files=(*names, "probabilities.tif") if probabilities else tuple(names),
        classes=_class_areas(cells_of_class, plan),
        cover=_cover(counts),
        failures=tuple(failures),
    )


def _layers(plan: RunPlan, *, probabilities: bool) -> dict[str, RasterLayer]:
    geobox = plan.cell_geobox
    colors = {entry.name: entry.color for entry in class_table.EUROSAT}
    tags = {
        "landuse_version": landuse.__version__,
        "model": plan.model,
        "weights_sha256": plan.weights_sha256,
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


def _class_areas(cells_of_class: Counter[int], plan: RunPlan) -> tuple[ClassArea, ...]:
    total = cells_of_class.total()
    return tuple(
        ClassArea(
            id=i,
            name=plan.classes[i],
            cells=cells,
            area_m2=cells * plan.cell_m**2,
            share=cells / total,
        )
        for i, cells in sorted(cells_of_class.items())
    )

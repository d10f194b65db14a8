"""From finished blocks to the files of a map."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio

import landuse
from landuse import classes as class_table
from landuse.errors import ReadError
from landuse.pipeline.blocks import votes
from landuse.pipeline.blocks.plan import RunPlan
from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS, STATUS_COLORS, CellStatus, ClassArea, Cover
from landuse.pipeline.read.rgb_image import DESCRIPTION, picture_bands
from landuse.pipeline.scene import ReadFailure, Scene
from landuse.pipeline.write.block_file import read_block
from landuse.pipeline.write.cog import RasterLayer, cog_writer
from landuse.pipeline.write.vector_layers import LAYERS, VectorOptions, write_vectors
from landuse.workflows.mapping.classify_block import cells_inside
from landuse.workflows.mapping.publish import attribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from landuse.pipeline.write.folder import Store


OUTPUTS = (
    "landuse.tif",
    "landuse.tif.aux.xml",
    "confidence.tif",
    "probabilities.tif",
    "status.tif",
    "status.tif.aux.xml",
    "image.tif",
    "landuse.gpkg",
    *(f"{layer}{suffix}" for suffix in (".parquet", ".fgb") for layer in LAYERS),
    "preview.png",
    "index.html",
    "model.json",
    "item.json",
    "run.json",
)
"""Every file that a run may write. The last one tells that the others are whole."""

GDAL_CACHE_MB = 256
"""Memory for blocks of the rasters at work; GDAL would take a share of the machine's."""


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


def assemble(
    plan: RunPlan,
    work: Store,
    folder: Path,
    *,
    spares_read: bool,
    probabilities: bool,
    vectors: VectorOptions,
) -> Assembled:
    """Make the map's files of its finished blocks, one block or strip of the map in memory at a time.

    Raises:
        ReadError: a block is gone, or nothing could be read at all.
        OutputError: a file cannot be written.
    """
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_MB):
        layers = _layers(plan, _tags(plan, plan.scenes_used(spares_read)), probabilities=probabilities)
        made = _assemble_rasters(plan, work, folder, layers)
        names = write_vectors(plan, folder, made.classes, vectors)
    return replace(made, files=(*made.files, *names))


def _assemble_rasters(plan: RunPlan, work: Store, folder: Path, layers: dict[str, RasterLayer]) -> Assembled:
    cells_of_class = np.zeros(NODATA_ID + 1, np.int64)
    cells_of_status = np.zeros(len(CellStatus), np.int64)
    failures: list[ReadFailure] = []
    observed = False
    per_cell = plan.stride_px // plan.picture_step_px
    with ExitStack() as stack:
        put = {name: stack.enter_context(cog_writer(folder / name, layers[name])) for name in layers}
        for block in plan.blocks:
            content = read_block(work, block, plan)
            if content is None:
                raise ReadError(
                    f"Block {block.name} vanished from {work} during the run. Run again to redo it."
                )
            scores, corner = content.scores, (block.row_start, block.col_start)
            classes = votes.class_raster(scores)
            status = votes.status_raster(scores, cells_inside(plan, block))
            put["landuse.tif"](*corner, classes)
            put["confidence.tif"](*corner, votes.confidence_raster(scores))
            put["status.tif"](*corner, status)
            put["image.tif"](corner[0] * per_cell, corner[1] * per_cell, content.picture)
            if "probabilities.tif" in layers:
                put["probabilities.tif"](*corner, votes.probability_rasters(scores))
            cells_of_class += np.bincount(classes.ravel(), minlength=len(cells_of_class))
            cells_of_status += np.bincount(status.ravel(), minlength=len(cells_of_status))
            failures += content.failures
            observed |= bool(scores.observed.any())
        if failures and not observed:
            work.remove()  # there is nothing in it to go on from
            raise ReadError(f"No scene could be read. {failures[0].reason}")
    sidecars = [f"{name}.aux.xml" for name, layer in layers.items() if layer.categories is not None]
    return Assembled(
        files=(*layers, *sidecars),
        classes=class_areas(cells_of_class, plan),
        cover=cover_of(cells_of_status),
        failures=tuple(failures),
    )


def _layers(plan: RunPlan, tags: dict[str, str], *, probabilities: bool) -> dict[str, RasterLayer]:
    geobox = plan.cell_geobox
    entries = class_table.legend(plan.classes)
    share = RasterLayer(
        dtype="uint8",
        geobox=geobox,
        nodata=NODATA_ID,
        descriptions=("probability of the land-use class",),
        overview_resampling="AVERAGE",
        units="1",
        scale=1 / SHARE_STEPS,
        tags=tags,
    )
    layers = {
        "landuse.tif": RasterLayer(
            dtype="uint8",
            geobox=geobox,
            nodata=NODATA_ID,
            descriptions=("land-use class",),
            overview_resampling="MODE",
            units="class id",
            colors={entry.id: entry.color for entry in entries},
            categories={entry.id: entry.name for entry in entries},
            tags=tags,
        ),
        "confidence.tif": share,
        "status.tif": RasterLayer(
            dtype="uint8",
            geobox=geobox,
            nodata=CellStatus.OUTSIDE,
            descriptions=("why a cell has a class or none",),
            overview_resampling="MODE",
            units="status id",
            colors={status.value: color for status, color in STATUS_COLORS.items()},
            categories={status.value: status.name.lower() for status in CellStatus},
            tags=tags,
        ),
        "image.tif": RasterLayer(
            dtype="uint8",
            geobox=plan.picture_geobox,
            nodata=0,
            descriptions=picture_bands(plan.bands),
            overview_resampling="AVERAGE",
            units=DESCRIPTION,
            is_rgb=True,
            tags=tags,
        ),
    }
    if probabilities:
        layers["probabilities.tif"] = replace(share, descriptions=plan.classes)
    return layers


def _tags(plan: RunPlan, used: Sequence[Scene]) -> dict[str, str]:
    """Where a raster comes from. Names are in JSON, which keeps them apart whatever is in them."""
    return {
        "TIFFTAG_SOFTWARE": f"landuse {landuse.__version__}",
        "TIFFTAG_COPYRIGHT": attribution(used),
        "landuse_version": landuse.__version__,
        "classes": json.dumps(plan.classes),
        "model": json.dumps(plan.model)[1:-1],
        "weights_sha256": plan.weights_sha256,
        "engine": plan.engine,
        "composite": plan.composite,
        "level": plan.level,
        "plan_sha256": plan.digest,
        "acquired_utc": ", ".join(sorted({scene.acquired_utc.isoformat() for scene in used})),
        "scenes": json.dumps([scene.id for scene in used]),
    }


def cover_of(cells_of_status: NDArray[np.int64]) -> Cover:
    """What became of the area's cells, from how many have each ``CellStatus``."""
    counts = dict(zip(CellStatus, cells_of_status.tolist(), strict=True))
    cells = sum(counts.values()) - counts[CellStatus.OUTSIDE]
    return Cover(
        cells=cells,
        valid=counts[CellStatus.CLASSIFIED] / cells,
        cloudy=counts[CellStatus.CLOUDY] / cells,
        failed=counts[CellStatus.FAILED] / cells,
        nodata=counts[CellStatus.UNSEEN] / cells,
    )


def class_areas(cells_of_class: NDArray[np.int64], plan: RunPlan) -> tuple[ClassArea, ...]:
    """Area of each class that occurs, from how many cells have each class id."""
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

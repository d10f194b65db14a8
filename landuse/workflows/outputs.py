"""From finished blocks to the files of a map."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import landuse
from landuse.errors import ReadError
from landuse.model import classes as class_table
from landuse.pipeline import stitch
from landuse.pipeline.blocks import read_block
from landuse.pipeline.plan import RunPlan
from landuse.pipeline.vectorize import polygonize
from landuse.pipeline.write import RasterLayer, write_cog, write_vectors
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


def gather(plan: RunPlan, work: Path) -> tuple[CellScores, tuple[ReadFailure, ...]]:
    """All blocks' cells as one raster."""
    shape = (plan.rows, plan.cols)
    whole = CellScores(
        probabilities=np.zeros((len(plan.classes), *shape), np.float32),
        mapped=np.zeros(shape, np.bool_),
        observed=np.zeros(shape, np.bool_),
        clouded=np.zeros(shape, np.bool_),
        failed=np.zeros(shape, np.bool_),
    )
    failures: list[ReadFailure] = []
    for block in plan.blocks:
        content = read_block(work, block, plan)
        if content is None:
            raise ReadError(f"Block {block.name} vanished from {work} during the run. Run again to redo it.")
        place = np.s_[block.row_start : block.row_stop, block.col_start : block.col_stop]
        whole.probabilities[:, *place] = content.scores.probabilities
        whole.mapped[place] = content.scores.mapped
        whole.observed[place] = content.scores.observed
        whole.clouded[place] = content.scores.clouded
        whole.failed[place] = content.scores.failed
        failures += content.failures
    return whole, tuple(failures)


def cover_of(plan: RunPlan, scores: CellScores) -> Cover:
    """What became of the area's cells, block by block."""
    counts = dict.fromkeys(("cells", "valid", "cloudy", "failed"), 0)
    for block in plan.blocks:
        place = np.s_[block.row_start : block.row_stop, block.col_start : block.col_stop]
        inside, mapped = cells_inside(plan, block), scores.mapped[place]
        failed = inside & scores.failed[place] & ~mapped
        counts["cells"] += int(inside.sum())
        counts["valid"] += int((inside & mapped).sum())
        counts["failed"] += int(failed.sum())
        counts["cloudy"] += int((inside & scores.clouded[place] & ~mapped & ~failed).sum())
    cells = counts["cells"]
    valid, cloudy, failed_share = (counts[name] / cells for name in ("valid", "cloudy", "failed"))
    return Cover(
        cells=cells,
        valid=valid,
        cloudy=cloudy,
        failed=failed_share,
        nodata=(cells - counts["valid"] - counts["cloudy"] - counts["failed"]) / cells,
    )


def write_outputs(
    plan: RunPlan, scores: CellScores, folder: Path, *, probabilities: bool
) -> tuple[tuple[str, ...], tuple[ClassArea, ...]]:
    """Write rasters and polygons; returns their names and the area of each class."""
    classes = stitch.class_raster(scores)
    confidence = stitch.confidence_raster(scores)
    geobox = plan.cell_geobox
    tags = {
        "landuse_version": landuse.__version__,
        "model": plan.model,
        "weights_sha256": plan.weights_sha256,
        "plan_sha256": plan.digest,
        "acquired_utc": ", ".join(sorted({scene.acquired_utc.isoformat() for scene in plan.scenes})),
    }
    colors = {entry.name: entry.color for entry in class_table.EUROSAT}
    written = ["landuse.tif", "landuse.tif.aux.xml", "confidence.tif", "landuse.gpkg"]
    write_cog(
        folder / "landuse.tif",
        RasterLayer(
            values=classes,
            geobox=geobox,
            nodata=NODATA_ID,
            descriptions=("land-use class",),
            overview_resampling="MODE",
            colors={i: colors.get(name, (128, 128, 128)) for i, name in enumerate(plan.classes)},
            categories=dict(enumerate(plan.classes)),
            tags=tags,
        ),
    )
    write_cog(
        folder / "confidence.tif",
        RasterLayer(
            values=confidence,
            geobox=geobox,
            nodata=float("nan"),
            descriptions=("probability of the land-use class",),
            overview_resampling="AVERAGE",
            tags=tags,
        ),
    )
    if probabilities:
        written.append("probabilities.tif")
        write_cog(
            folder / "probabilities.tif",
            RasterLayer(
                values=np.where(scores.mapped, scores.probabilities, np.float32(np.nan)),
                geobox=geobox,
                nodata=float("nan"),
                descriptions=plan.classes,
                overview_resampling="AVERAGE",
                tags=tags,
            ),
        )
    polygons = polygonize(classes, confidence, geobox, names=plan.classes, nodata=NODATA_ID)
    write_vectors(folder / "landuse.gpkg", {"landuse": polygons})
    return tuple(written), _class_areas(classes, plan)


def _class_areas(classes: NDArray[np.uint8], plan: RunPlan) -> tuple[ClassArea, ...]:
    counts = Counter(classes[classes != NODATA_ID].tolist())
    total = sum(counts.values())
    return tuple(
        ClassArea(
            id=i,
            name=plan.classes[i],
            cells=cells,
            area_m2=cells * plan.cell_m**2,
            share=cells / total,
        )
        for i, cells in sorted(counts.items())
    )

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
from landuse.legends.legend import hexadecimal
from landuse.pipeline.blocks.plan import RunPlan
from landuse.pipeline.blocks.votes import BITS_NODATA, LABELS_PER_BAND, label_bits
from landuse.pipeline.cells import (
    AREA_STEPS,
    COLORS_TAG,
    NODATA_ID,
    SHARE_STEPS,
    STATUS_COLORS,
    CellStatus,
    ClassArea,
    Cover,
)
from landuse.pipeline.read.rgb_image import DESCRIPTION, picture_bands
from landuse.pipeline.scene import ReadFailure, Scene, is_masked
from landuse.pipeline.write.block_file import read_block
from landuse.pipeline.write.cog import RasterLayer, cog_writer
from landuse.pipeline.write.vector_layers import LAYERS, VectorOptions, write_vectors
from landuse.workflows.mapping.publish import attribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from landuse.pipeline.cells import BlockRasters, PixelCounts
    from landuse.pipeline.write.folder import Store


OUTPUTS = (
    "landuse.tif",
    "landuse.tif.aux.xml",
    "cover.tif",
    "cover.tif.aux.xml",
    "confidence.tif",
    "second.tif",
    "doubt.tif",
    "probabilities.tif",
    "labels.tif",
    "label_bits.tif",
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

GDAL_CACHE_BYTES = 32 * 1024**2
"""Memory for blocks of the rasters at work; GDAL would take a share of the machine's. rasterio takes the
number for bytes, where GDAL's own option takes a small one for megabytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembled:
    """A map's files, and what was counted while they were made."""

    files: tuple[str, ...]
    """Their names."""
    classes: tuple[ClassArea, ...]
    """Area of each class that occurs."""
    covers: tuple[ClassArea, ...]
    """Area of each land cover that occurs; none of a model that tells none."""
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
    vectors: VectorOptions | None,
) -> Assembled:
    """Make the map's files of its finished blocks, one block or strip of the map in memory at a time.

    Args:
        plan: of the map.
        work: where the blocks are.
        folder: where the files go.
        spares_read: whether a read failed, so that spare scenes may have pixels in the map.
        vectors: how the vector layers are to be; None writes none.

    Raises:
        ReadError: a block is gone, or nothing could be read at all.
        OutputError: a file cannot be written.
    """
    with rasterio.Env(GDAL_CACHEMAX=GDAL_CACHE_BYTES):
        layers = raster_layers(plan, plan.scenes_used(spares_read))
        made = _assemble_rasters(plan, work, folder, layers, spares_read=spares_read)
        names = () if vectors is None else write_vectors(plan, folder, made.classes, vectors)
    return replace(made, files=(*made.files, *names))


def _assemble_rasters(
    plan: RunPlan, work: Store, folder: Path, layers: dict[str, RasterLayer], *, spares_read: bool
) -> Assembled:
    tally = CellTally(plan, plan.scenes_used(spares_read))
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
            rasters, corner = content.rasters, (block.row_start, block.col_start)
            put["landuse.tif"](*corner, rasters.classes)
            put["confidence.tif"](*corner, rasters.confidence)
            put["status.tif"](*corner, rasters.status)
            put["image.tif"](corner[0] * per_cell, corner[1] * per_cell, content.picture)
            if plan.covers:
                put["cover.tif"](*corner, rasters.cover)
                put["second.tif"](*corner, rasters.second)
            if plan.tells_doubt:
                put["doubt.tif"](*corner, rasters.doubt[0])
            if "probabilities.tif" in layers:
                put["probabilities.tif"](*corner, rasters.probabilities)
            if plan.thresholds:
                put["labels.tif"](*corner, rasters.probabilities)
                put["label_bits.tif"](*corner, label_bits(rasters.probabilities, plan.thresholds))
            tally.add(rasters, content.counts)
            failures += content.failures
            observed |= content.observed
        if failures and not observed:
            work.remove()  # there is nothing in it to go on from
            raise ReadError(f"No scene could be read. {failures[0].reason}")
    sidecars = [f"{name}.aux.xml" for name, layer in layers.items() if layer.categories is not None]
    return Assembled(
        files=(*layers, *sidecars),
        classes=tally.classes,
        covers=tally.covers,
        cover=tally.cover,
        failures=tuple(failures),
    )


def raster_layers(plan: RunPlan, used: Sequence[Scene]) -> dict[str, RasterLayer]:
    """What each raster of a map holds, by its file's name.

    Args:
        plan: of the map.
        used: the scenes that have pixels in it.
    """
    tags = _tags(plan, used)
    geobox = plan.cell_geobox
    entries = plan.entries
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

    def ids(entries: tuple[class_table.LandUseClass, ...], description: str) -> RasterLayer:
        return RasterLayer(
            dtype="uint8",
            geobox=geobox,
            nodata=NODATA_ID,
            descriptions=(description,),
            overview_resampling="MODE",
            units="class id",
            colors={entry.id: entry.color for entry in entries},
            categories={entry.id: entry.name for entry in entries},
            tags=tags,
        )

    layers = {
        "landuse.tif": ids(entries, "land-use class"),
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
    if plan.covers:
        layers["cover.tif"] = ids(class_table.cover_legend(plan.covers), "land cover")
        layers["second.tif"] = replace(
            share,
            descriptions=("second most probable land-use class", "its probability"),
            overview_resampling="NEAREST",  # a class and a probability that belong together
            units=("class id", "1"),
            scale=(1.0, 1 / SHARE_STEPS),
        )
    if plan.tells_doubt:
        layers["doubt.tif"] = replace(share, descriptions=("how unlike what the model was trained on",))
    if plan.thresholds:
        layers["labels.tif"] = replace(share, descriptions=plan.classes)
        layers["label_bits.tif"] = RasterLayer(
            dtype="uint32",
            geobox=geobox,
            nodata=BITS_NODATA,
            descriptions=tuple(
                f"bits of {', '.join(plan.classes[start : start + LABELS_PER_BAND])}"
                for start in range(0, len(plan.classes), LABELS_PER_BAND)
            ),
            overview_resampling="NEAREST",  # a mean or a mode of bits says nothing
            units="bit mask",
            tags={**tags, "thresholds": json.dumps(plan.thresholds)},
        )
    elif plan.probabilities:
        layers["probabilities.tif"] = replace(share, descriptions=plan.classes)
    return layers


def _tags(plan: RunPlan, used: Sequence[Scene]) -> dict[str, str]:
    """Where a raster comes from. Names are in JSON, which keeps them apart whatever is in them."""
    return {
        "TIFFTAG_SOFTWARE": f"landuse {landuse.__version__}",
        "TIFFTAG_COPYRIGHT": attribution(used),
        "landuse_version": landuse.__version__,
        "classes": json.dumps(plan.classes),
        **_legend_tags(plan),
        **({"covers": json.dumps(plan.covers)} if plan.covers else {}),
        "model": json.dumps(plan.model)[1:-1],
        "weights_sha256": plan.weights_sha256,
        "engine": plan.engine,
        "composite": plan.composite,
        **({"fuse": plan.fuse} if plan.fuse != "pixels" else {}),
        **({"smooth": json.dumps(plan.smooth), "smooth_px": str(plan.smooth_px)} if plan.smooth else {}),
        "level": plan.level,
        "cloud_mask": ", ".join(sorted({"yes" if is_masked(scene) else "no" for scene in used})),
        "bands": ", ".join(plan.bands),
        "plan_sha256": plan.digest,
        "acquired_utc": ", ".join(sorted({scene.acquired_utc.isoformat() for scene in used})),
        "scenes": json.dumps([scene.id for scene in used]),
    }


def _legend_tags(plan: RunPlan) -> dict[str, str]:
    """What the classes are sums of, and their colours, where a legend says so."""
    colors = plan.colors if plan.legend is None else plan.legend.colors
    own = {COLORS_TAG: json.dumps([hexadecimal(color) for color in colors])} if colors else {}
    if plan.legend is None:
        return own
    return {
        "legend": plan.legend.name,
        "legend_source": plan.legend.source,
        **own,
        "classes_of": json.dumps(plan.legend.of),
    }


class CellTally:
    """Cells and areas of a map's classes, covers and statuses, added up block by block."""

    def __init__(self, plan: RunPlan, used: Sequence[Scene]) -> None:
        self._plan = plan
        self._scenes = len(used)
        self._unmasked = sum(not is_masked(scene) for scene in used)
        self._cells_of_class = np.zeros(NODATA_ID + 1, np.int64)
        self._cells_of_cover = np.zeros(NODATA_ID + 1, np.int64)
        self._cells_of_status = np.zeros(len(CellStatus), np.int64)
        self._pixels_of_class = np.zeros(len(plan.classes), np.int64)
        self._pixels_of_cover = np.zeros(len(plan.covers), np.int64)
        self._pixels_of_status = np.zeros(len(CellStatus), np.int64)
        self._pixels_of_doubt = np.zeros(2, np.int64)

    def add(self, rasters: BlockRasters, counts: PixelCounts) -> None:
        """One more block."""
        self._cells_of_class += np.bincount(rasters.classes.ravel(), minlength=NODATA_ID + 1)
        self._cells_of_cover += np.bincount(rasters.cover.ravel(), minlength=NODATA_ID + 1)
        self._cells_of_status += np.bincount(rasters.status.ravel(), minlength=len(CellStatus))
        self._pixels_of_class += counts.of_class
        self._pixels_of_cover += counts.of_cover
        self._pixels_of_status += counts.of_status
        self._pixels_of_doubt += counts.of_doubt

    @property
    def classes(self) -> tuple[ClassArea, ...]:
        """Area of each class that occurs."""
        return self._areas(self._plan.classes, self._cells_of_class, self._pixels_of_class)

    @property
    def covers(self) -> tuple[ClassArea, ...]:
        """Area of each land cover that occurs."""
        return self._areas(self._plan.covers, self._cells_of_cover, self._pixels_of_cover)

    @property
    def cover(self) -> Cover:
        """What became of the area's cells."""
        pixels = dict(zip(CellStatus, self._pixels_of_status.tolist(), strict=True))
        known, doubtful = self._pixels_of_doubt.tolist()
        total = max(sum(pixels.values()) - pixels[CellStatus.OUTSIDE], 1)
        return Cover(
            cells=int(self._cells_of_status.sum() - self._cells_of_status[CellStatus.OUTSIDE]),
            valid=pixels[CellStatus.CLASSIFIED] / total,
            cloudy=None if self._unmasked == self._scenes else pixels[CellStatus.CLOUDY] / total,
            failed=pixels[CellStatus.FAILED] / total,
            nodata=pixels[CellStatus.UNSEEN] / total,
            unknown=pixels[CellStatus.UNKNOWN] / total,
            doubtful=doubtful / max(known, 1) if self._plan.tells_doubt else None,
            unmasked_scenes=self._unmasked,
        )

    def _areas(
        self, names: tuple[str, ...], cells: NDArray[np.int64], pixels: NDArray[np.int64]
    ) -> tuple[ClassArea, ...]:
        total = max(int(pixels.sum()), 1)
        return tuple(
            ClassArea(
                id=i,
                name=name,
                cells=int(cells[i]),
                area_m2=int(pixels[i]) * self._plan.pixel_m**2 / AREA_STEPS,
                share=int(pixels[i]) / total,
            )
            for i, name in enumerate(names)
            if cells[i]
        )

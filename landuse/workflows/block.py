"""One block of a map: read, composite, classify, stitch. The unit of work, here and on a cluster."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
import shapely

from landuse.errors import AssetError
from landuse.pipeline import patches, stitch
from landuse.pipeline.blocks import BlockFile
from landuse.pipeline.composite import composite
from landuse.pipeline.lonlat import outline, solar_days
from landuse.pipeline.plan import RunPlan, project
from landuse.pipeline.read import read_failure, read_scene
from landuse.records import Block, CellScores, PixelBlock, ReadFailure

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from landuse.pipeline.remote import Remote
    from landuse.records import ModelContract, Scene


log = logging.getLogger(__name__)


class PatchClassifier(Protocol):
    """What a map needs of a model; ``model.predict.Predictor`` is one."""

    contract: ModelContract
    weights_sha256: str

    def cell_probabilities(self, dn: NDArray[np.uint16], level: str, cells: int) -> NDArray[np.float32]:
        """(N, band, S, S) DN to the (N, class, cells, cells) probabilities of each patch's cells."""
        ...


def run_block(plan: RunPlan, block: Block, classifier: PatchClassifier, remote: Remote) -> BlockFile:
    """Read, composite and classify one block.

    A scene that cannot be read is read from its next mirror; one that cannot be read anywhere is
    reported, not guessed.
    """
    inside = cells_inside(plan, block)
    windows = patches.block_windows(plan, block)
    if windows is None or not inside.any():
        return BlockFile(scores=_nothing(plan, block), failures=(), patches=0)
    layers, days, failures = _read_layers(plan, block, windows, remote)
    blend = stitch.Blend(block, classes=len(plan.classes))
    rows = windows.rows_px[1] - windows.rows_px[0]
    cols = windows.cols_px[1] - windows.cols_px[0]
    pixels = composite(layers, plan.composite, days) if layers else _no_pixels(len(plan.bands), rows, cols)
    count = 0
    for batch in patches.patch_batches(pixels, windows, patch_px=plan.patch_px, batch_size=256):
        blend.add(batch, classifier.cell_probabilities(batch.dn, plan.level, plan.patch_px // plan.stride_px))
        count += len(batch.dn)
    scores = blend.settle(
        pixels,
        stride_px=plan.stride_px,
        row_offset_px=block.row_start * plan.stride_px - windows.rows_px[0],
        col_offset_px=block.col_start * plan.stride_px - windows.cols_px[0],
        inside=inside,
        any_failed=any(failure.replaced_by is None for failure in failures),
    )
    return BlockFile(scores=scores, failures=tuple(failures), patches=count)


def _read_layers(
    plan: RunPlan, block: Block, windows: patches.BlockWindows, remote: Remote
) -> tuple[list[PixelBlock], list[date], list[ReadFailure]]:
    """Pixels and day of each scene that touches the block, in order; ``best`` stops once all is clear."""
    geobox = plan.pixel_geobox(windows.rows_px, windows.cols_px)
    extent = shapely.box(*geobox.boundingbox.bbox)
    layers: list[PixelBlock] = []
    days: list[date] = []
    failures: list[ReadFailure] = []
    usable = np.zeros(geobox.shape, np.bool_)
    for scene, day in zip(plan.scenes, solar_days(plan.scenes), strict=True):
        if not ground_in(scene, plan.crs).buffer(plan.cell_m).intersects(extent):
            continue
        layer, failed = _read_somewhere(scene, plan.bands, geobox, remote, block)
        failures += failed
        if layer is None:
            continue
        layers.append(layer)
        days.append(day)
        usable |= layer.usable
        if plan.composite == "best" and usable.all():
            break
    return layers, days, failures


def _read_somewhere(
    scene: Scene, bands: Sequence[str], geobox: GeoBox, remote: Remote, block: Block
) -> tuple[PixelBlock | None, list[ReadFailure]]:
    """Pixels of the scene or of its first mirror that can be read, and what could not be."""
    failures: list[ReadFailure] = []
    for copy in (scene, *scene.mirrors):
        try:
            layer = read_scene(copy, bands, geobox, remote)
        except AssetError as error:
            log.warning("%s", error)
            failures.append(read_failure(copy, error, block.name))
        else:
            return layer, [replace(failure, replaced_by=copy.provider) for failure in failures]
    return None, failures


def ground_in(scene: Scene, crs: str) -> shapely.Geometry:
    """Where a scene may have pixels: its raster's bounds where known, else its footprint."""
    if scene.bounds_m is not None and scene.crs is not None:
        return project(shapely.box(*scene.bounds_m), scene.crs, crs)
    return project(outline(scene), "EPSG:4326", crs)


def _no_pixels(bands: int, rows: int, cols: int) -> PixelBlock:
    nothing = np.zeros((rows, cols), np.bool_)
    return PixelBlock(dn=np.zeros((bands, rows, cols), np.uint16), observed=nothing, usable=nothing)


def _nothing(plan: RunPlan, block: Block) -> CellScores:
    nothing = np.zeros(block.shape, np.bool_)
    return CellScores(
        probabilities=np.zeros((len(plan.classes), *block.shape), np.float32),
        mapped=nothing,
        observed=nothing,
        clouded=nothing,
        failed=nothing,
    )


def cells_inside(plan: RunPlan, block: Block) -> NDArray[np.bool_]:
    """(row, col), True where a cell touches the area."""
    if plan.clip_wkt is None:
        return np.ones(block.shape, np.bool_)
    area = shapely.from_wkt(plan.clip_wkt)
    shapely.prepare(area)
    left = plan.left_m + np.arange(block.col_start, block.col_stop) * plan.cell_m
    top = plan.top_m - np.arange(block.row_start, block.row_stop) * plan.cell_m
    cells = shapely.box(left[None, :], top[:, None] - plan.cell_m, left[None, :] + plan.cell_m, top[:, None])
    return np.asarray(shapely.intersects(area, cells))

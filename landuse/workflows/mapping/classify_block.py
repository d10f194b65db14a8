"""One block of a map: read, composite, classify, votes. The unit of work, here and on a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import shapely

from landuse.pipeline.blocks import patches, votes
from landuse.pipeline.blocks.plan import RunPlan
from landuse.pipeline.cells import Block, CellScores
from landuse.pipeline.pixels import cut_out
from landuse.pipeline.read.read_block import BlockPixels, Imagery, footprints_in, read_pixels
from landuse.pipeline.read.rgb_image import draw_picture
from landuse.pipeline.write.block_file import BlockFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import xarray as xr
    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from landuse.contract import ModelContract
    from landuse.pipeline.remote.files import Remote


PATCHES_AT_ONCE = 512
"""Patches handed to the network together; it cuts them into batches of what is fastest."""


class PatchClassifier(Protocol):
    """What a map needs of a model; ``model.predict.Predictor`` is one."""

    contract: ModelContract
    weights_sha256: str
    weights_path: Path | None

    @property
    def position_px(self) -> int:
        """Pixels from one position of the network's features to the next."""
        ...

    def cell_probabilities(self, dn: NDArray[np.uint16], level: str, cells: int) -> NDArray[np.float32]:
        """(N, band, S, S) DN to the (N, class, cells, cells) probabilities of each patch's cells."""
        ...

    def shared_probabilities(
        self,
        dn: NDArray[np.uint16],
        level: str,
        *,
        row_starts: Sequence[int],
        col_starts: Sequence[int],
        cells: int,
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(band, H, W) DN to (class, cells, patches, cells) of each row of patches, with the row's index."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class BlockInput:
    """What a block is classified from."""

    placed: patches.BlockPatches
    """Where its patches lie."""
    inside: NDArray[np.bool_]
    """(row, col), True where a cell belongs to the area."""
    read: BlockPixels
    """Its pixels, and what could not be read of them."""


def imagery_of(plan: RunPlan) -> Imagery:
    """What a plan's blocks are read from."""
    return Imagery(scenes=plan.scenes, bands=plan.bands, composite=plan.composite, margin_m=plan.cell_m)


def read_input(plan: RunPlan, block: Block, remote: Remote) -> BlockInput | None:
    """The reading half of a block; None where there is nothing to map."""
    work = work_of(plan, block)
    if work is None:
        return None
    placed, inside = work
    read = read_pixels(
        imagery_of(plan), plan.pixel_geobox(placed.rows_px, placed.cols_px), remote, block.name
    )
    return BlockInput(placed=placed, inside=inside, read=read)


def classify_block(
    plan: RunPlan, block: Block, classifier: PatchClassifier, given: BlockInput | None
) -> BlockFile:
    """The computing half of a block."""
    if given is None:
        side = plan.stride_px // plan.picture_step_px
        rows, cols = block.shape
        unseen = np.zeros((3, rows * side, cols * side), np.uint8)
        return BlockFile(scores=no_scores(plan, block), picture=unseen, failures=(), patches=0)
    scores, count = score_block(plan, block, classifier, given)
    picture = draw_picture(_pixels_of_cells(plan, block, given), step_px=plan.picture_step_px)
    return BlockFile(scores=scores, picture=picture, failures=given.read.failures, patches=count)


def score_block(
    plan: RunPlan, block: Block, classifier: PatchClassifier, given: BlockInput
) -> tuple[CellScores, int]:
    """What a block's cells are found to be, and how many patches were classified for that."""
    blend = votes.Blend(block, classes=len(plan.classes))
    vote = _shared_votes if plan.engine == "shared" else _patch_votes
    count = vote(plan, classifier, given, blend)
    scores = blend.settle(
        _pixels_of_cells(plan, block, given),
        stride_px=plan.stride_px,
        inside=given.inside,
        lost=cells_touching(footprints_in(given.read.lost, plan.crs), plan, block),
    )
    return scores, count


def _pixels_of_cells(plan: RunPlan, block: Block, given: BlockInput) -> xr.Dataset:
    """The pixels of the block's cells, without the context that was read around them."""
    rows_px, cols_px = (
        (start * plan.stride_px, stop * plan.stride_px)
        for start, stop in ((block.row_start, block.row_stop), (block.col_start, block.col_stop))
    )
    return cut_out(given.read.pixels, plan.pixel_geobox(rows_px, cols_px))


def _patch_votes(plan: RunPlan, classifier: PatchClassifier, given: BlockInput, blend: votes.Blend) -> int:
    """Each patch cut out and classified alone; returns how many."""
    cells, count = plan.patch_px // plan.stride_px, 0
    for batch in patches.patch_batches(
        given.read.pixels, given.placed, patch_px=plan.patch_px, batch_size=PATCHES_AT_ONCE
    ):
        blend.add(batch, classifier.cell_probabilities(batch.dn, plan.level, cells))
        count += len(batch.dn)
    return count


def _shared_votes(plan: RunPlan, classifier: PatchClassifier, given: BlockInput, blend: votes.Blend) -> int:
    """The same patches, read from features that they share; returns how many."""
    placed, pixels = given.placed, given.read.pixels
    shares = patches.voting_shares(pixels, placed, patch_px=plan.patch_px)
    voting = np.nonzero(shares.any(1))[0]
    if not voting.size:
        return 0
    rows = classifier.shared_probabilities(
        patches.filled(pixels, patch_px=plan.patch_px),
        plan.level,
        row_starts=[placed.rows.starts_px[row] - placed.rows_px[0] for row in voting],
        col_starts=[start - placed.cols_px[0] for start in placed.cols.starts_px],
        cells=plan.patch_px // plan.stride_px,
    )
    for index, probabilities in rows:
        row = int(voting[index])
        blend.add_row(
            probabilities,
            shares[row],
            row_cell=placed.rows.cells[row],
            col_cell=placed.cols.cells[0],
        )
    return int((shares > 0).sum())


def work_of(plan: RunPlan, block: Block) -> tuple[patches.BlockPatches, NDArray[np.bool_]] | None:
    """A block's patches and its cells inside the area ``(row, col)``; None where there is nothing to map."""
    inside = cells_inside(plan, block)
    placed = patches.block_patches(plan, block)
    return None if placed is None or not inside.any() else (placed, inside)


def no_scores(plan: RunPlan, block: Block) -> CellScores:
    """Those of a block with nothing to map."""
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
    return cells_touching(shapely.from_wkt(plan.clip_wkt), plan, block)


def cells_touching(geometry: BaseGeometry, plan: RunPlan, block: Block) -> NDArray[np.bool_]:
    """(row, col), True where a cell touches a geometry in the map's CRS."""
    shapely.prepare(geometry)
    left = plan.left_m + np.arange(block.col_start, block.col_stop) * plan.cell_m
    top = plan.top_m - np.arange(block.row_start, block.row_stop) * plan.cell_m
    cells = shapely.box(left[None, :], top[:, None] - plan.cell_m, left[None, :] + plan.cell_m, top[:, None])
    return np.asarray(shapely.intersects(geometry, cells))

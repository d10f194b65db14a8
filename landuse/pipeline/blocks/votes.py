"""Pure: from the scores of overlapping patches to one class and confidence a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS, CellScores, CellStatus

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

    from landuse.pipeline.blocks.patches import PatchBatch
    from landuse.pipeline.cells import Block

_PROBABILITY_STEPS = 65_535
"""Patch probabilities are blended in steps of 1/65535: sums of whole numbers are exact, so the
result cannot depend on the order or the company in which patches were computed."""


class Blend:
    """Averages the votes of a block's overlapping patches, cell by cell."""

    def __init__(self, block: Block, *, classes: int) -> None:
        self._block = block
        self._sums = np.zeros((classes, *block.shape), np.int64)  # (class, row, col)

    def add(self, batch: PatchBatch, probabilities: NDArray[np.float32]) -> None:
        """Add a batch of votes.

        Args:
            batch: says where the patches lie; a patch counts by its usable share.
            probabilities: (N, class, span, span), of each cell that a patch covers.
        """
        votes = np.rint(probabilities * _PROBABILITY_STEPS).astype(np.int64)
        votes *= np.rint(batch.usable_share * 100).clip(1).astype(np.int64)[:, None, None, None]
        span = probabilities.shape[2]
        rows, cols = self._block.shape
        for n in range(len(votes)):
            row = int(batch.row_cells[n]) - self._block.row_start
            col = int(batch.col_cells[n]) - self._block.col_start
            top, bottom = max(row, 0), min(row + span, rows)
            left, right = max(col, 0), min(col + span, cols)
            cut = votes[n, :, top - row : bottom - row, left - col : right - col]
            self._sums[:, top:bottom, left:right] += cut

    def add_row(
        self,
        probabilities: NDArray[np.float32],
        usable_share: NDArray[np.float64],
        *,
        row_cell: int,
        col_cell: int,
    ) -> None:
        """Add the votes of one row of patches, each a cell right of the one before.

        Args:
            probabilities: (class, span, patch, span): class, cell row, patch, cell column.
            usable_share: (patch,); a patch without usable pixels, 0, has no vote.
            row_cell: first cell row that they vote on, from the map's corner.
            col_cell: first cell column that the first of them votes on, from the map's corner.
        """
        weights = np.where(usable_share > 0, np.rint(usable_share * 100).clip(1), 0).astype(np.int64)
        votes = np.rint(probabilities * _PROBABILITY_STEPS).astype(np.int64)
        votes *= weights[None, None, :, None]
        classes, span, count, _ = votes.shape
        row = np.zeros((classes, span, count + span - 1), np.int64)  # cells that any of them votes on
        for offset in range(span):
            row[:, :, offset : offset + count] += votes[..., offset]
        rows, cols = self._block.shape
        first_row, first_col = row_cell - self._block.row_start, col_cell - self._block.col_start
        top, bottom = max(first_row, 0), min(first_row + span, rows)
        left, right = max(first_col, 0), min(first_col + row.shape[2], cols)
        self._sums[:, top:bottom, left:right] += row[
            :, top - first_row : bottom - first_row, left - first_col : right - first_col
        ]

    def settle(
        self,
        pixels: xr.Dataset,
        *,
        stride_px: int,
        inside: NDArray[np.bool_],
        lost: NDArray[np.bool_],
    ) -> CellScores:
        """Probabilities of each cell, and which cells are mapped.

        A cell is mapped where it lies inside the area, at least one of its pixels is usable, no
        more than half of those observed are not, and a patch had a vote on it.

        Args:
            pixels: those of the block's cells, without context, as ``pixel_block`` makes them.
            stride_px: cell size.
            inside: (row, col), True where the cell belongs to the area.
            lost: (row, col), True where a scene has pixels that could not be read.
        """
        observed = self._count(pixels.observed.values, stride_px)
        usable = self._count(pixels.usable.values, stride_px)
        total = self._sums.sum(0)
        mapped = inside & (usable > 0) & (usable * 2 >= observed) & (total > 0)
        probabilities = np.where(mapped, self._sums / np.maximum(total, 1), 0).astype(np.float32)
        return CellScores(
            probabilities=probabilities,
            mapped=mapped,
            observed=observed > 0,
            clouded=usable < observed,
            failed=lost & ~mapped,
        )

    def _count(self, mask: NDArray[np.bool_], size: int) -> NDArray[np.int64]:
        """True pixels in each cell of ``size`` pixels, ``(row, col)``."""
        rows, cols = self._block.shape
        counts: NDArray[np.int64] = mask.reshape(rows, size, cols, size).sum((1, 3))
        return counts


def class_raster(scores: CellScores) -> NDArray[np.uint8]:
    """The most probable class of each cell ``(row, col)``; ``NODATA_ID`` where not mapped."""
    best = scores.probabilities.argmax(0).astype(np.uint8)
    return np.where(scores.mapped, best, np.uint8(NODATA_ID))


def confidence_raster(scores: CellScores) -> NDArray[np.uint8]:
    """The probability of that class ``(row, col)`` in steps of 1/250; ``NODATA_ID`` where not mapped."""
    return _in_steps(scores.probabilities.max(0), scores.mapped)


def probability_rasters(scores: CellScores) -> NDArray[np.uint8]:
    """Every class's probability ``(class, row, col)`` in steps of 1/250; ``NODATA_ID`` where not mapped."""
    return _in_steps(scores.probabilities, scores.mapped)


def _in_steps(shares: NDArray[np.float32], mapped: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.where(mapped, np.rint(shares * SHARE_STEPS), NODATA_ID).astype(np.uint8)


def status_raster(scores: CellScores, inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Why each cell ``(row, col)`` has a class or none, as ``CellStatus``.

    Args:
        scores: of a block.
        inside: (row, col), True where a cell belongs to the area.
    """
    status = np.full(inside.shape, CellStatus.UNSEEN, np.uint8)
    status[scores.clouded] = CellStatus.CLOUDY
    status[scores.failed] = CellStatus.FAILED
    status[scores.mapped] = CellStatus.CLASSIFIED
    status[~inside] = CellStatus.OUTSIDE
    return status

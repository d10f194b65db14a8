"""Pure: where the patches of a block lie, and batches of patches cut from its pixels.

Windows start at every multiple of the stride, counted from the map's corner, and reach beyond the
block (and beyond the area asked for) wherever scenes have pixels: what a cell becomes depends on
its place alone, not on how the map was cut into blocks. At the edge of the imagery the last patch
shifts inward, so that the last row and column are covered by a whole patch of real pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    import xarray as xr
    from numpy.typing import NDArray

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import Block

MIN_USABLE = 0.5
"""A patch has no vote with a smaller share of usable pixels, of those that lie on the imagery."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisPatches:
    """The patches of a block along one axis."""

    cells: tuple[int, ...]
    """First cell that each patch votes on, from the map's corner; may lie outside the block."""
    starts_px: tuple[int, ...]
    """First pixel that each patch reads, from the map's corner."""
    on_imagery: float
    """Share of a patch's pixels that lie on the imagery: 1, or less where that is smaller than a patch."""

    @property
    def empty(self) -> bool:
        """True where the block lies off the imagery."""
        return not self.starts_px


def axis_patches(
    cell_start: int,
    cell_stop: int,
    *,
    stride_px: int,
    patch_px: int,
    data_px: tuple[int, int],
) -> AxisPatches:
    """The patches that vote on cells ``cell_start..cell_stop`` along one axis.

    Args:
        cell_start: first cell.
        cell_stop: one past the last cell.
        stride_px: cell size.
        patch_px: patch size, a multiple of ``stride_px``.
        data_px: first and one past the last pixel that scenes have.
    """
    low, high = data_px
    # Imagery smaller than a patch is padded on its far side; the padding counts as unusable.
    last = max(high, low + patch_px) - patch_px
    span = patch_px // stride_px
    cells = [
        cell
        for cell in range(cell_start - span + 1, cell_stop)
        if low - stride_px < cell * stride_px < last + stride_px
    ]
    return AxisPatches(
        cells=tuple(cells),
        starts_px=tuple(min(max(cell * stride_px, low), last) for cell in cells),
        on_imagery=min((high - low) / patch_px, 1.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPatches:
    """The patches of a block, and the pixels they need."""

    rows: AxisPatches
    """Along rows."""
    cols: AxisPatches
    """Along columns."""
    rows_px: tuple[int, int]
    """First and one past the last pixel row to read, from the map's corner."""
    cols_px: tuple[int, int]
    """First and one past the last pixel column to read, from the map's corner."""


def block_patches(plan: RunPlan, block: Block) -> BlockPatches | None:
    """The patches that vote on a block's cells, or None where it lies off the imagery."""
    rows, rows_px = _axis(plan, block.row_start, block.row_stop, plan.data_rows_px)
    cols, cols_px = _axis(plan, block.col_start, block.col_stop, plan.data_cols_px)
    if rows.empty or cols.empty:
        return None
    return BlockPatches(rows=rows, cols=cols, rows_px=rows_px, cols_px=cols_px)


def _axis(
    plan: RunPlan, cell_start: int, cell_stop: int, data_px: tuple[int, int]
) -> tuple[AxisPatches, tuple[int, int]]:
    """A block's patches along one axis, and the pixels to read for them."""
    placed = axis_patches(
        cell_start,
        cell_stop,
        stride_px=plan.stride_px,
        patch_px=plan.patch_px,
        data_px=data_px,
    )
    if placed.empty:
        return placed, (0, 0)
    first, last = placed.starts_px[0], placed.starts_px[-1] + plan.patch_px
    return placed, (min(cell_start * plan.stride_px, first), max(cell_stop * plan.stride_px, last))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PatchBatch:
    """Patches and the cells they vote on."""

    dn: NDArray[np.uint16]
    """(N, band, patch_px, patch_px); unusable pixels hold the mean of the patch's usable ones."""
    row_cells: NDArray[np.intp]
    """(N,), first cell row that each patch votes on, from the map's corner."""
    col_cells: NDArray[np.intp]
    """(N,), first cell column that each patch votes on, from the map's corner."""
    usable_share: NDArray[np.float32]
    """(N,), share of usable pixels, above 0."""


def patch_batches(
    pixels: xr.Dataset, placed: BlockPatches, *, patch_px: int, batch_size: int
) -> Iterator[PatchBatch]:
    """Cut a block's pixels into batches of patches, row by row.

    Args:
        pixels: covers ``placed.rows_px`` x ``placed.cols_px``.
        placed: the block's patches.
        patch_px: side of a patch.
        batch_size: patches in a batch; the last one may be smaller.
    """
    shares = voting_shares(pixels, placed, patch_px=patch_px)
    row_index, col_index = np.nonzero(shares)
    row_cells, col_cells = np.asarray(placed.rows.cells), np.asarray(placed.cols.cells)
    row_px = np.asarray(placed.rows.starts_px) - placed.rows_px[0]
    col_px = np.asarray(placed.cols.starts_px) - placed.cols_px[0]
    views = np.lib.stride_tricks.sliding_window_view(pixels.dn.values, (patch_px, patch_px), (1, 2))
    masks = np.lib.stride_tricks.sliding_window_view(pixels.usable.values, (patch_px, patch_px))
    for start in range(0, len(row_index), batch_size):
        r, c = row_index[start : start + batch_size], col_index[start : start + batch_size]
        dn = views[:, row_px[r], col_px[c]].swapaxes(0, 1).copy()  # (N, band, patch, patch)
        share = shares[r, c]
        for n in np.nonzero(share < 1)[0]:
            _fill(dn[n], masks[row_px[r[n]], col_px[c[n]]])
        yield PatchBatch(
            dn=dn,
            row_cells=row_cells[r],
            col_cells=col_cells[c],
            usable_share=share.astype(np.float32),
        )


def voting_shares(pixels: xr.Dataset, placed: BlockPatches, *, patch_px: int) -> NDArray[np.float64]:
    """Share of usable pixels of each patch, ``(patch row, patch col)``; 0 where it has no vote."""
    shares = _usable_shares(pixels.usable.values, placed, patch_px)
    least = MIN_USABLE * placed.rows.on_imagery * placed.cols.on_imagery
    return np.where(shares >= least, shares, 0.0)


def _fill(patch: NDArray[np.uint16], usable: NDArray[np.bool_]) -> None:
    """Overwrite unusable pixels of ``(band, y, x)`` with the mean of the usable ones, per band."""
    mean = patch[:, usable].mean(axis=1, dtype=np.float64)  # (band,)
    patch[:, ~usable] = np.rint(mean).astype(np.uint16)[:, None]


def _usable_shares(mask: NDArray[np.bool_], placed: BlockPatches, patch_px: int) -> NDArray[np.float64]:
    """Share of True pixels in each patch, ``(patch row, patch col)``, by a summed-area table."""
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    mask.cumsum(0, dtype=np.int64).cumsum(1, out=table[1:, 1:])
    top = np.asarray(placed.rows.starts_px) - placed.rows_px[0]
    left = np.asarray(placed.cols.starts_px) - placed.cols_px[0]
    bottom, right = top + patch_px, left + patch_px
    sums = (
        table[np.ix_(bottom, right)]
        - table[np.ix_(top, right)]
        - table[np.ix_(bottom, left)]
        + table[np.ix_(top, left)]
    )
    shares: NDArray[np.float64] = sums / patch_px**2
    return shares

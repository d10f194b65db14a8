"""Pure: what is read around a block whose pixels are classified in one pass, and its own part.

A pixel's class depends on its surroundings. So the network sees a block with ``CONTEXT_PX`` more pixels on
every side, and with as many more as smoothing looks at, as far as there is imagery; of what it says only the
block's own part is kept. Still more is read, of which gaps in those surroundings are filled. What is read and
what is seen begin and end on the network's lattice, counted from the origin of the UTM zone: a place has the
same position in it whatever block or area it is read for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import Block

CONTEXT_PX = 72
"""Pixels around a block that are read and classified with it: what lies further away changes a pixel's
probabilities by less than 1/250. Where probabilities are smoothed the window's reach is added."""

FILL_PX = 64
"""Side of the square whose usable pixels fill an unusable one."""

READ_PX = CONTEXT_PX + FILL_PX // 2
"""Pixels around a block that are read. Gaps in what the network sees are filled from whole squares: else the
size of the blocks would show near clouds, by up to 5/250."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockContext:
    """The pixels that a block is classified from."""

    rows_px: tuple[int, int]
    """First and one past the last pixel row to read, from the map's corner."""
    cols_px: tuple[int, int]
    """First and one past the last pixel column to read, from the map's corner."""
    seen_rows_px: tuple[int, int]
    """Those of them that the network sees."""
    seen_cols_px: tuple[int, int]
    """Those of them that the network sees."""

    @property
    def pixels(self) -> int:
        """How many the network sees."""
        rows, cols = self.seen_rows_px, self.seen_cols_px
        return (rows[1] - rows[0]) * (cols[1] - cols[0])


def block_context(plan: RunPlan, block: Block) -> BlockContext | None:
    """What to read for a block, or None where it lies off the imagery."""
    own_rows, own_cols = own_pixels(plan, block)

    def around(context_px: int) -> list[tuple[int, int] | None]:
        return [
            axis_context(
                own,
                data_px=data,
                step_px=plan.position_px,
                origin_px=round(corner_m / plan.pixel_m),
                context_px=context_px + plan.smoothing.reach_px,
            )
            for own, data, corner_m in (
                (own_rows, plan.data_rows_px, -plan.top_m),
                (own_cols, plan.data_cols_px, plan.left_m),
            )
        ]

    (rows, cols), (seen_rows, seen_cols) = around(READ_PX), around(CONTEXT_PX)
    if rows is None or cols is None or seen_rows is None or seen_cols is None:
        return None
    return BlockContext(rows_px=rows, cols_px=cols, seen_rows_px=seen_rows, seen_cols_px=seen_cols)


def own_pixels(plan: RunPlan, block: Block) -> tuple[tuple[int, int], tuple[int, int]]:
    """First and one past the last pixel row, and column, of a block's own cells, from the map's corner."""
    size = plan.stride_px
    return (
        (block.row_start * size, block.row_stop * size),
        (block.col_start * size, block.col_stop * size),
    )


def axis_context(
    own_px: tuple[int, int],
    *,
    data_px: tuple[int, int],
    step_px: int,
    origin_px: int,
    context_px: int = CONTEXT_PX,
) -> tuple[int, int] | None:
    """First and one past the last pixel to read along one axis; None where there is no imagery.

    The block's own pixels are read in any case, also those beyond the imagery.

    Args:
        own_px: first and one past the last pixel of the block, from the map's corner.
        data_px: the same of what scenes have.
        step_px: pixels from one position of the network to the next.
        origin_px: the map's corner, in pixels from the zone's origin.
        context_px: pixels to read on either side.
    """
    first, last = own_px
    if data_px[1] <= first or data_px[0] >= last:
        return None
    low = min(max(first - context_px, data_px[0]), first)
    high = max(min(last + context_px, data_px[1]), last)
    low = (low + origin_px) // step_px * step_px - origin_px
    high = -(-(high + origin_px) // step_px) * step_px - origin_px
    return low, high


def filled(pixels: xr.Dataset, *, step_px: int, far_dn: Sequence[float]) -> NDArray[np.uint16]:
    """The block's DN ``(band, y, x)``; unusable pixels hold the mean of the usable ones around them.

    Means are of whole steps of the network's lattice and exact: a pixel is filled alike in every block that
    sees as much of its surroundings. ``patches.filled``, which takes each pixel's own square, is ten times as
    slow.

    Args:
        pixels: of ``BlockContext``, as ``pixel_block`` makes them.
        step_px: pixels from one position of the network to the next; the sides are multiples of it.
        far_dn: what pixels deep in a gap hold, by band: what tells the network nothing.
    """
    stored: NDArray[np.uint16] = pixels.dn.values
    seen: NDArray[np.bool_] = pixels.usable.values
    if seen.all() or not seen.any():
        return stored
    # An odd number of steps, about so wide, with the pixel's own in the middle.
    reach = max(round(FILL_PX / (2 * step_px)), 1)
    dn = stored.copy()
    # A gap is filled from what is near it: no more is looked at than what is near any.
    part = _around_gaps(seen, step_px, reach)
    usable = seen[part]
    unusable = ~usable
    counts = _sums(usable, step_px)
    count = _box_sums(counts, reach)
    near = count > 0
    for whole, far in zip(dn, far_dn, strict=True):
        band = whole[part]
        sums = _sums(np.where(usable, band, 0), step_px)
        fill = np.full(counts.shape, min(max(far, 0.0), np.iinfo(np.uint16).max))
        fill[near] = _box_sums(sums, reach)[near] / count[near]
        values = np.rint(fill).astype(np.uint16).repeat(step_px, 0).repeat(step_px, 1)
        np.copyto(band, values, where=unusable)
    return dn


def _around_gaps(usable: NDArray[np.bool_], step: int, reach: int) -> tuple[slice, slice]:
    """The rectangle of whole steps that has every unusable pixel and ``reach`` steps around it."""

    def span(axis: int) -> slice:
        first, last = np.flatnonzero(~usable.all(axis))[[0, -1]] // step
        return slice(max(int(first) - reach, 0) * step, (int(last) + reach + 1) * step)

    return span(1), span(0)


def _sums(values: NDArray[np.generic], step: int) -> NDArray[np.int64]:
    """Sums over squares of ``step`` pixels, (row, col)."""
    rows, cols = (side // step for side in values.shape)
    # Rows first: they are added whole, many times as fast as sums of a few neighbours.
    of_rows = np.add.reduce(values.reshape(rows, step, cols * step), axis=1, dtype=np.int64)
    sums: NDArray[np.int64] = of_rows.reshape(rows, cols, step).sum(2)
    return sums


def _box_sums(values: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
    """Sums over squares that reach so far from each place, as far as there are values, (row, col)."""
    rows, cols = values.shape
    table = np.zeros((rows + 1, cols + 1), np.int64)
    values.cumsum(0).cumsum(1, out=table[1:, 1:])
    row, col = np.arange(rows), np.arange(cols)
    top, bottom = (row - reach).clip(0), (row + reach + 1).clip(max=rows)
    left, right = (col - reach).clip(0), (col + reach + 1).clip(max=cols)
    sums: NDArray[np.int64] = (
        table[np.ix_(bottom, right)]
        - table[np.ix_(top, right)]
        - table[np.ix_(bottom, left)]
        + table[np.ix_(top, left)]
    )
    return sums

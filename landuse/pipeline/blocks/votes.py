"""Pure: from the scores of overlapping patches, or of pixels, to what a map's rasters hold of a cell."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from landuse.pipeline.cells import (
    DOUBTFUL,
    NODATA_ID,
    SHARE_STEPS,
    BlockRasters,
    CellScores,
    CellStatus,
    PixelCounts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import xarray as xr
    from numpy.typing import NDArray

    from landuse.pipeline.blocks.patches import PatchBatch
    from landuse.pipeline.cells import Block

_STRIP_CELLS = 2**15
"""Cells whose probabilities are compared at a time: what a processor's cache holds."""

_PROBABILITY_STEPS = 65_535
"""Patch probabilities are blended in steps of 1/65535: sums of whole numbers are exact, so the
result cannot depend on the order or the company in which patches were computed."""

LABELS_PER_BAND = 31
"""Labels in a band of bits: the last bit is left, so that no value is ``BITS_NODATA``."""

BITS_NODATA = 2**32 - 1
"""Bits of a cell that is not mapped."""


def label_bits(shares: NDArray[np.uint8], thresholds: Sequence[float]) -> NDArray[np.uint32]:
    """Which labels each cell has.

    Args:
        shares: (label, row, col) probabilities in steps of 1/250; ``NODATA_ID`` where not mapped.
        thresholds: from which probability on each label is there.

    Returns:
        (band, row, col): bit ``i`` of band ``b``, from the lowest on, is label ``31 * b + i``;
        ``BITS_NODATA`` where not mapped.

    Example:
        >>> label_bits(np.array([[[200]], [[20]], [[130]]], np.uint8), (0.5, 0.5, 0.5)).tolist()
        [[[5]]]
    """
    bands = -(-len(shares) // LABELS_PER_BAND)
    bits = np.zeros((bands, *shares.shape[1:]), np.uint32)
    for label, share in enumerate(shares):
        there = share >= threshold_step(thresholds[label])
        bits[label // LABELS_PER_BAND] |= there.astype(np.uint32) << np.uint32(label % LABELS_PER_BAND)
    bits[:, shares[0] == NODATA_ID] = BITS_NODATA
    return bits


def threshold_step(threshold: float) -> int:
    """The least probability in steps of 1/250 that is not below a threshold."""
    return math.ceil(round(threshold * SHARE_STEPS, 9))


def merged(
    shares: NDArray[np.float32], members: Sequence[Sequence[int]] | None, axis: int = 0
) -> NDArray[np.float32]:
    """Probabilities of classes that are sums of others, before any of them is the largest.

    Args:
        shares: probabilities, their classes along ``axis``.
        members: for each new class the places of those that are added; None leaves the shares as they are.
        axis: of the classes.

    Returns:
        The same with the new classes along ``axis``, no sum above 1.
    """
    if members is None:
        return shares
    rows = np.moveaxis(shares, axis, 0)
    sums = np.empty((len(members), *rows.shape[1:]), np.float32)
    for total, parts in zip(sums, members, strict=True):
        np.copyto(total, rows[parts[0]])
        for part in parts[1:]:
            total += rows[part]
    np.minimum(sums, 1, out=sums)  # float32 may add up to a hair more
    return np.moveaxis(sums, 0, axis)


class Blend:
    """Averages the votes of a block's overlapping patches, cell by cell.

    Args:
        block: its cells.
        classes: how many there are.
        exclusive: whether they exclude each other, so that their probabilities sum to 1.
    """

    def __init__(self, block: Block, *, classes: int, exclusive: bool = True) -> None:
        self._block = block
        self._exclusive = exclusive
        self._weights = np.zeros(block.shape, np.int64)  # (row, col), what the votes sum to at most
        self._sums = np.zeros((classes, *block.shape), np.int64)  # (class, row, col)

    def add(self, batch: PatchBatch, probabilities: NDArray[np.float32]) -> None:
        """Add a batch of votes.

        Args:
            batch: says where the patches lie; a patch counts by its usable share.
            probabilities: (N, class, span, span), of each cell that a patch covers.
        """
        votes = np.rint(probabilities * _PROBABILITY_STEPS).astype(np.int64)
        counts = np.rint(batch.usable_share * 100).clip(1).astype(np.int64)
        votes *= counts[:, None, None, None]
        span = probabilities.shape[2]
        rows, cols = self._block.shape
        for n in range(len(votes)):
            row = int(batch.row_cells[n]) - self._block.row_start
            col = int(batch.col_cells[n]) - self._block.col_start
            top, bottom = max(row, 0), min(row + span, rows)
            left, right = max(col, 0), min(col + span, cols)
            cut = votes[n, :, top - row : bottom - row, left - col : right - col]
            self._sums[:, top:bottom, left:right] += cut
            self._weights[top:bottom, left:right] += counts[n] * _PROBABILITY_STEPS

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
        observed = count_in_cells(pixels.observed.values, stride_px)
        usable = count_in_cells(pixels.usable.values, stride_px)
        # Of classes that exclude each other the sum over classes: rounded votes do not add up to the weights.
        total = self._sums.sum(0) if self._exclusive else self._weights
        mapped = inside & (usable > 0) & (usable * 2 >= observed) & (total > 0)
        probabilities = np.where(mapped, self._sums / np.maximum(total, 1), 0).astype(np.float32)
        return CellScores(
            probabilities=probabilities,
            cover=np.zeros((0, *mapped.shape), np.float32),
            doubt=np.zeros((0, *mapped.shape), np.float32),
            mapped=mapped,
            observed=observed > 0,
            clouded=usable < observed,
            failed=lost & ~mapped,
        )


def settle_pixels(
    landuse: NDArray[np.float32],
    cover: NDArray[np.float32],
    doubt: NDArray[np.float32],
    pixels: xr.Dataset,
    *,
    cell_px: int,
    inside: NDArray[np.bool_],
    lost: NDArray[np.bool_],
) -> CellScores:
    """Probabilities of each cell, the mean of those of its usable pixels, and which cells are mapped.

    A cell is mapped where it lies inside the area, at least one of its pixels is usable, and no more than
    half of those observed are not.

    Args:
        landuse: (class, y, x) probabilities of the block's own pixels.
        cover: (cover, y, x), likewise.
        doubt: (1, y, x), 0..1; (0, y, x) of a model that does not tell.
        pixels: the same pixels, as ``pixel_block`` makes them.
        cell_px: side of a cell in pixels.
        inside: (row, col), True where the cell belongs to the area.
        lost: (row, col), True where a scene has pixels that could not be read.
    """
    usable_px = pixels.usable.values
    observed = count_in_cells(pixels.observed.values, cell_px)
    usable = count_in_cells(usable_px, cell_px)
    mapped = inside & (usable > 0) & (usable * 2 >= observed)
    return CellScores(
        probabilities=_cell_means(landuse, usable_px, usable, mapped, cell_px),
        cover=_cell_means(cover, usable_px, usable, mapped, cell_px),
        doubt=_cell_means(doubt, usable_px, usable, mapped, cell_px),
        mapped=mapped,
        observed=observed > 0,
        clouded=usable < observed,
        failed=lost & ~mapped,
    )


def _cell_means(
    shares: NDArray[np.float32],
    usable_px: NDArray[np.bool_],
    usable: NDArray[np.int64],
    mapped: NDArray[np.bool_],
    cell_px: int,
) -> NDArray[np.float32]:
    """Means over the usable pixels of each cell, (share, row, col)."""
    rows, cols = mapped.shape
    if cell_px == 1:
        return shares
    means = np.zeros((len(shares), rows, cols), np.float32)
    for of_share, mean in zip(shares, means, strict=True):  # one at a time, for memory
        seen = np.where(usable_px, of_share, 0)
        sums = seen.reshape(rows, cell_px, cols, cell_px).sum((1, 3), dtype=np.float64)
        np.copyto(mean, sums / np.maximum(usable, 1), where=mapped, casting="same_kind")
    return means


def count_in_cells(values: NDArray[np.bool_] | NDArray[np.uint16], size: int) -> NDArray[np.int64]:
    """True pixels, or the sum of all, in each cell of ``size`` pixels, ``(row, col)``."""
    if size == 1:
        return values.astype(np.int64)
    rows, cols = (side // size for side in values.shape)
    counts: NDArray[np.int64] = values.reshape(rows, size, cols, size).sum((1, 3), dtype=np.int64)
    return counts


def count_pixels(
    rasters: BlockRasters,
    shares: NDArray[np.uint16],
    observed: NDArray[np.bool_],
    lost: NDArray[np.bool_],
    *,
    classes: int,
    covers: int,
    cell_px: int,
) -> PixelCounts:
    """The pixels of a block's area, by the class, cover and status of their cells.

    A pixel off the imagery has no class, whatever its cell has: it is unseen, or its scene was not read.

    Args:
        rasters: of the block.
        shares: (y, x), how much of a pixel lies inside the area, in whatever steps are to be counted.
        observed: (y, x), True where a scene saw the pixel.
        lost: (y, x), True where a scene has a pixel that could not be read.
        classes: how many there are.
        covers: how many there are.
        cell_px: side of a cell in pixels.
    """
    counted = count_in_cells(np.where(observed, shares, np.uint16(0)), cell_px)
    of_status = np.bincount(rasters.status.ravel(), counted.ravel(), len(CellStatus))
    unobserved = np.where(observed, np.uint16(0), shares)
    failed = int(unobserved[lost].sum())
    of_status[CellStatus.FAILED] += failed
    of_status[CellStatus.UNSEEN] += int(unobserved.sum()) - failed
    known = counted[(rasters.doubt != NODATA_ID).any(0)]
    doubtful = counted[((rasters.doubt >= DOUBTFUL * SHARE_STEPS) & (rasters.doubt != NODATA_ID)).any(0)]
    cover = rasters.cover[0] if covers else np.full(rasters.classes.shape, NODATA_ID, np.uint8)
    return PixelCounts(
        of_class=_sum_by_id(rasters.classes, counted, classes),
        of_cover=_sum_by_id(cover, counted, covers),
        of_status=np.rint(of_status).astype(np.int64),
        of_doubt=np.array([known.sum(), doubtful.sum()], np.int64),
    )


def _sum_by_id(ids: NDArray[np.uint8], weights: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    sums = np.bincount(ids.ravel(), weights.ravel(), NODATA_ID + 1)[:count]
    return np.rint(sums).astype(np.int64)


def block_rasters(
    scores: CellScores, inside: NDArray[np.bool_], *, probabilities: bool, min_confidence: float = 0.0
) -> BlockRasters:
    """What a map's rasters hold of a block.

    Args:
        scores: of the block.
        inside: (row, col), True where a cell belongs to the area.
        probabilities: whether every class's probability is kept.
        min_confidence: a cell whose confidence, times what doubt leaves of it, is below this becomes unknown.
    """
    told = scores.probabilities
    if len(told) == 1:  # a single label, which has no second
        told = np.concatenate([told, np.zeros_like(told)])
    ids, shares = two_best(told)
    doubt = _in_steps(scores.doubt, scores.mapped)
    sure = np.rint(shares[0] * (1 - scores.doubt.sum(0)) * SHARE_STEPS)  # without a doubt the sum is 0
    unknown = scores.mapped & (sure < min_confidence * SHARE_STEPS)
    scores = replace(scores, mapped=scores.mapped & ~unknown)
    unmapped = ~scores.mapped
    ids[:, unmapped] = NODATA_ID
    steps = _in_steps(shares, scores.mapped)
    # Of a model of patches the second class is not kept: nothing shows it.
    has_covers = len(scores.cover) > 0
    cover = np.zeros((0, *inside.shape), np.uint8)
    if has_covers:
        cover = two_best(scores.cover)[0][:1]
        cover[:, unmapped] = NODATA_ID
    return BlockRasters(
        classes=ids[0],
        confidence=steps[0],
        status=np.where(unknown & inside, np.uint8(CellStatus.UNKNOWN), status_raster(scores, inside)),
        second=np.stack([ids[1], steps[1]]) if has_covers else np.zeros((0, *inside.shape), np.uint8),
        cover=cover,
        doubt=doubt,
        probabilities=(
            probability_rasters(scores) if probabilities else np.zeros((0, *inside.shape), np.uint8)
        ),
    )


def two_best(shares: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Ids and values of the largest and the second largest share of each cell, both (2, row, col).

    Of equal shares the lower id comes first.

    Args:
        shares: (id, row, col), 0 or more, at least two of them.
    """
    _, rows, cols = shares.shape
    ids = np.empty((2, rows, cols), np.uint8)
    values = np.empty((2, rows, cols), np.float32)
    step = max(_STRIP_CELLS // max(cols, 1), 1)
    for top in range(0, rows, step):
        strip = shares[:, top : top + step]
        best = np.full(strip.shape[1:], -1, np.int64)
        after, code, lower = best.copy(), np.empty_like(best), np.empty_like(best)
        for number, share in enumerate(strip):
            # The bits of floats from 0 on are in the order of their values. With the id below them one
            # maximum finds both, many times as fast as masks do.
            np.copyto(code, np.ascontiguousarray(share).view(np.int32))
            np.left_shift(code, 8, out=code)
            np.bitwise_or(code, NODATA_ID - number, out=code)
            np.minimum(best, code, out=lower)
            np.maximum(after, lower, out=after)
            np.maximum(best, code, out=best)
        for place, found in enumerate((best, after)):
            ids[place, top : top + step] = NODATA_ID - (found & 255)
            values[place, top : top + step] = (found >> 8).astype(np.int32).view(np.float32)
    return ids, values


def class_raster(scores: CellScores) -> NDArray[np.uint8]:
    """The most probable class of each cell ``(row, col)``; ``NODATA_ID`` where not mapped."""
    best = two_best(scores.probabilities)[0][0]
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

"""Pure: which cells of a map to label next, so that a model learns much from few labels.

Cells are chosen in two steps, so that a map of any size fits into memory and points do not cluster. First
each square of the map names the one cell that is worth most; then these are gone through by strata (the
classes of the map), the best first, and whatever lies too close to one that was taken is passed over. Such
points are no probability sample: a map must not be judged by them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

MAX_SQUARES = 50_000
"""Most squares of a map, and so most cells between which it is chosen; squares grow to be no more."""

FULL_SCORE = SHARE_STEPS**2
"""The score of a cell of which nothing is known."""


def doubt_scores(
    classes: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    second: NDArray[np.uint8] | None,
    doubt: NDArray[np.uint8] | None,
) -> NDArray[np.int64]:
    """How little is known of each cell: 1 less the margin of the best class, times what doubt leaves of it.

    Args:
        classes: (row, col), ids.
        confidence: (row, col), probability of the class in steps of 1/250.
        second: (row, col), likewise of the second class; None where it is not known: taken for 0.
        doubt: (row, col), 0..1 in steps of 1/250; None of a model that does not tell.

    Returns:
        (row, col), 0 to ``FULL_SCORE``; -1 where there is no class. Whole numbers: exact in any order.
    """
    margin = confidence.astype(np.int64)
    if second is not None:
        margin -= np.where(second == NODATA_ID, 0, second)
    left = np.int64(SHARE_STEPS)
    kept = left if doubt is None else left - np.where(doubt == NODATA_ID, 0, doubt).astype(np.int64)
    score: NDArray[np.int64] = FULL_SCORE - margin.clip(0) * kept
    return np.where(classes == NODATA_ID, -1, score)


def disagreement_scores(
    first: tuple[NDArray[np.uint8], NDArray[np.uint8]], other: tuple[NDArray[np.uint8], NDArray[np.uint8]]
) -> NDArray[np.int64]:
    """How surely two maps contradict each other at each cell: the product of their confidences.

    Args:
        first: classes and confidences (row, col), as of ``doubt_scores``.
        other: the same cells of the other map.

    Returns:
        (row, col), 0 to ``FULL_SCORE``; -1 where they agree or one has no class.
    """
    (ids, sure), (other_ids, other_sure) = first, other
    differ = (ids != other_ids) & (ids != NODATA_ID) & (other_ids != NODATA_ID)
    return np.where(differ, sure.astype(np.int64) * other_sure, -1)


def square_side(shape: tuple[int, int], distance: float) -> int:
    """Side of the squares in cells: the distance between points, or more where these are too many."""
    side = max(int(distance), 1)
    while -(-shape[0] // side) * -(-shape[1] // side) > MAX_SQUARES:
        side += max(side // 16, 1)
    return side


def chances(rows: NDArray[np.int64], cols: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """A random number of 32 bits for each cell, by its place and the seed alone (splitmix64)."""
    with np.errstate(over="ignore"):
        value = (
            rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            + cols.astype(np.uint64) * np.uint64(0xD1B54A32D192ED03)
            + np.uint64(seed) * np.uint64(0x8CB92BA72F3D8DD7)
        )
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: NDArray[np.uint64] = (value ^ (value >> np.uint64(31))) >> np.uint64(32)
    return mixed


class BestOfSquares:
    """The cell of the highest score in each square of a map that is read strip by strip.

    Of equal scores chance decides, by the cell's place and the seed: strips do not show.
    """

    def __init__(self, shape: tuple[int, int], side: int, seed: int) -> None:
        self._side, self._seed, self._shape = side, seed, shape
        counts = tuple(-(-length // side) for length in shape)
        self._best = np.zeros(counts, np.uint64)  # 0: none yet
        self._at = np.zeros((*counts, 2), np.int64)

    def add(self, top: int, scores: NDArray[np.int64]) -> None:
        """One more strip.

        Args:
            top: its first row.
            scores: (row, col) of all columns, 0 or more; -1 is never chosen.
        """
        rows, cols = scores.shape
        side, squares = self._side, self._best.shape[1]
        numbers = np.arange(cols)
        done = top
        while done < top + rows:
            square = done // side
            last = min((square + 1) * side, top + rows)
            part = scores[done - top : last - top]
            luck = chances(np.arange(done, last)[:, None], numbers[None, :], self._seed)
            keys = np.where(part < 0, 0, (part + 1).astype(np.uint64) << np.uint64(32) | luck)
            padded = np.zeros((last - done, squares * side), np.uint64)
            padded[:, :cols] = keys
            by_square = padded.reshape(last - done, squares, side).transpose(1, 0, 2).reshape(squares, -1)
            where = by_square.argmax(1)
            found = by_square[np.arange(squares), where]
            better = np.flatnonzero(found > self._best[square])
            self._best[square, better] = found[better]
            row, col = np.divmod(where[better], side)
            self._at[square, better] = np.stack([done + row, better * side + col], 1)
            done = last

    def cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N, 2) row and col of the best cell of each square that has one, and (N,) their scores."""
        there = self._best > 0
        return self._at[there], (self._best[there] >> np.uint64(32)).astype(np.int64) - 1


def choose_by_strata(
    cells: NDArray[np.int64],
    scores: NDArray[np.int64],
    strata: NDArray[np.int64],
    count: int,
    distance: float,
) -> NDArray[np.int64]:
    """Go through the strata in turn and take the best cell of each that is far enough from all taken ones.

    Args:
        cells: (N, 2), row and col.
        scores: (N,).
        strata: (N,), the stratum of each, such as its mapped class.
        count: how many to take at most.
        distance: least distance between the centres of two cells, in cells.

    Returns:
        (M,) indices in the order in which they were taken; fewer than ``count`` where no more fit.
    """
    queues = [
        # Of equal scores the first row and column: no two cells are the same.
        iter(held[np.lexsort((cells[held, 1], cells[held, 0], -scores[held]))].tolist())
        for held in (np.flatnonzero(strata == stratum) for stratum in np.unique(strata))
    ]
    taken: list[int] = []
    near: dict[tuple[int, int], list[int]] = {}
    step = max(distance, 1.0)

    def is_free(index: int) -> bool:
        row, col = cells[index]
        at = (int(row // step), int(col // step))
        return all(
            (cells[other, 0] - row) ** 2 + (cells[other, 1] - col) ** 2 >= distance**2
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            for other in near.get((at[0] + down, at[1] + right), ())
        )

    while queues and len(taken) < count:
        left = []
        for queue in queues:
            index = next(filter(is_free, queue), None)
            if index is None:
                continue
            left.append(queue)
            taken.append(index)
            row, col = cells[index]
            near.setdefault((int(row // step), int(col // step)), []).append(index)
            if len(taken) == count:
                break
        queues = left
    return np.array(taken, np.int64)


def choose_by_cover(
    cells: NDArray[np.int64],
    features: NDArray[np.float32],
    known: NDArray[np.float32],
    count: int,
    distance: float,
) -> NDArray[np.int64]:
    """Take again and again the cell that is most unlike all that are known or taken (k-centre, greedy).

    Gonzalez (1985): no choice of so many centres leaves a cell less than half as far from the nearest one.
    The first, where nothing is known, is the cell nearest to the mean.

    Args:
        cells: (N, 2), row and col.
        features: (N, feature), what likeness is measured by.
        known: (M, feature), of what is labelled already.
        count: how many to take at most.
        distance: least distance between the centres of two cells, in cells.

    Returns:
        As ``choose_by_strata``.
    """
    free = np.ones(len(cells), np.bool_)
    nearest = np.full(len(cells), np.inf, np.float64)
    for point in known:
        nearest = np.minimum(nearest, _squared(features, point))
    if not len(known) and len(cells):
        nearest = -_squared(features, features.mean(0, dtype=np.float64))
    taken: list[int] = []
    while len(taken) < count and free.any():
        index = int(np.where(free, nearest, -np.inf).argmax())
        if not taken and not len(known):
            nearest = np.full(len(cells), np.inf, np.float64)
        taken.append(index)
        nearest = np.minimum(nearest, _squared(features, features[index]))
        free &= ((cells - cells[index]) ** 2).sum(1) >= distance**2
        free[index] = False
    return np.array(taken, np.int64)


def _squared(features: NDArray[np.float32], point: NDArray[np.floating]) -> NDArray[np.float64]:
    apart: NDArray[np.float64] = ((features - point).astype(np.float64) ** 2).sum(1)
    return apart


def values_at(
    strips: Iterable[tuple[int, NDArray[np.uint8]]], cells: NDArray[np.int64], count: int
) -> NDArray[np.uint8]:
    """(point, layer), values of cells of layers that are read strip by strip.

    Args:
        strips: first row, and values (layer, row, col) of all columns.
        cells: (point, 2), row and col inside the layers.
        count: how many layers there are.
    """
    found = np.zeros((len(cells), count), np.uint8)
    for top, values in strips:
        here = np.flatnonzero((cells[:, 0] >= top) & (cells[:, 0] < top + values.shape[1]))
        found[here] = values[:, cells[here, 0] - top, cells[here, 1]].T
    return found

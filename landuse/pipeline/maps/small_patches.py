"""Pure: which cells of a mask lie in patches that are too small, strip by strip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray


def small_patches(
    strips: Callable[[], Iterable[NDArray[np.bool_]]], least_cells: int
) -> Iterator[NDArray[np.bool_]]:
    """Cells of patches with fewer cells than wanted, however the mask is cut into strips.

    A patch is all True cells that hang together by their sides. In memory are one strip and a few bytes for
    each patch.

    Args:
        strips: gives the mask's rows from the top, each (row, col); called twice, for the same strips.
        least_cells: patches with so many cells are large enough.

    Yields:
        For each strip (row, col), True where a patch is too small.
    """
    sizes: list[NDArray[np.int64]] = []
    joined: list[NDArray[np.int64]] = []
    last: NDArray[np.int64] | None = None  # the labels of the row above, counted through; -1 for none
    first = 0
    for mask in strips():
        parts, count = label(mask)
        sizes.append(np.bincount(parts.ravel(), minlength=count + 1)[1:])
        through = np.where(parts > 0, parts + (first - 1), -1)
        if last is not None:
            both = (last >= 0) & (through[0] >= 0)
            joined.append(np.stack([last[both], through[0][both]]))
        last, first = through[-1], first + count
    if not first:
        yield from (np.zeros(mask.shape, np.bool_) for mask in strips())
        return
    one, other = np.concatenate([np.zeros((2, 0), np.int64), *joined], axis=1)
    graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(first, first))
    _, patch_of = connected_components(graph, directed=False)
    is_small = np.bincount(patch_of, np.concatenate(sizes))[patch_of] < least_cells  # of each part
    first = 0
    for mask in strips():
        parts, count = label(mask)
        yield np.append(False, is_small[first : first + count])[parts]
        first += count

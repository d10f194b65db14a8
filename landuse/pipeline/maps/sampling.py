"""Pure: how many cells of each mapped class to label, and which.

The advice is that of Olofsson et al. (2014), section 5.1: a total from the precision wanted, a fixed
minimum for rare classes, the rest in proportion to area.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from landuse.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDesign:
    """How large a sample is to be, by one of three: ``total``, ``per_class`` or ``standard_error``."""

    total: int | None = None
    """Points in all."""
    per_class: int | None = None
    """Points in every mapped class."""
    standard_error: float | None = None
    """Standard error wanted of the overall accuracy, 0..1."""
    expected_accuracy: float = 0.8
    """User's accuracy that every class is thought to have; only ``standard_error`` needs it."""
    min_per_class: int = 50
    """Fewest points in a class, which has more cells than that; not for ``per_class``."""

    def __post_init__(self) -> None:
        given = [value for value in (self.total, self.per_class, self.standard_error) if value is not None]
        if len(given) != 1:
            raise UsageError("Give one of --n, --per-class and --standard-error.")
        sizes = {"--n": self.total, "--per-class": self.per_class, "--min-per-class": self.min_per_class}
        for option, value in sizes.items():
            if value is not None and value < 2:
                raise UsageError(
                    f"{option} {value} is too few: a class needs at least 2 points, or their variance is "
                    "unknown. Give 2 or more."
                )
        if self.standard_error is not None and not 0 < self.standard_error < 0.5:
            raise UsageError(
                f"--standard-error {self.standard_error:g} is none of a share. Give one above 0 and below "
                "0.5, such as 0.02."
            )
        if not 0 < self.expected_accuracy < 1:
            raise UsageError(
                f"--expected-accuracy {self.expected_accuracy:g} is no share that leaves errors to count. "
                "Give one above 0 and below 1, such as 0.8."
            )


def sample_size(
    cells: NDArray[np.int64], users_accuracy: NDArray[np.float64] | float, standard_error: float
) -> int:
    """Points in all for a standard error of the overall accuracy: eq. 13 with its correction for small maps.

    Args:
        cells: (class,), cells by mapped class.
        users_accuracy: (class,) or one for all, 0..1, as expected.
        standard_error: wanted of the overall accuracy, 0..1.
    """
    weights = cells / cells.sum()
    variances = users_accuracy * (1 - np.asarray(users_accuracy))
    spread = float((weights * np.sqrt(variances)).sum())
    return ceil(spread**2 / (standard_error**2 + float((weights * variances).sum()) / int(cells.sum())))


def allocate(cells: NDArray[np.int64], design: SampleDesign) -> NDArray[np.int64]:
    """Points to draw in each class; never more than it has cells.

    Args:
        cells: (class,), cells by mapped class; some above 0.
        design: how large the sample is to be.

    Returns:
        (class,), points.

    Raises:
        UsageError: the total wanted is less than the minimums of all classes together.
    """
    if design.per_class is not None:
        return np.minimum(cells, design.per_class)
    least = np.minimum(cells, design.min_per_class)
    if design.total is not None:
        total = design.total
        if total < least.sum():
            raise UsageError(
                f"--n {total} is less than the {least.sum()} points that --min-per-class "
                f"{design.min_per_class} asks of {np.count_nonzero(cells)} mapped classes: "
                f"{int(least.sum()) - total} are lacking. Give --n {least.sum()} or more"
                f"{_smaller_minimum(cells, total)}."
            )
    else:
        wanted = sample_size(cells, design.expected_accuracy, design.standard_error or 0.0)
        total = max(wanted, int(least.sum()))
    fixed = cells == 0
    points = least.copy()
    while True:  # each class that is fixed leaves less for the others, which may then need fixing too
        free = np.flatnonzero(~fixed)
        left = min(total, int(cells.sum())) - int(least[fixed].sum())
        if not free.size:
            return points
        shares = left * cells[free] / cells[free].sum()
        short = shares < least[free]
        if not short.any():
            points[free] = _whole(shares)
            return points
        fixed[free[short]] = True


def _smaller_minimum(cells: NDArray[np.int64], total: int) -> str:
    """The largest minimum for each class that so many points allow, in words; none where 2 are too many."""
    for least in range(total // np.count_nonzero(cells) + 1, 1, -1):
        if np.minimum(cells, least).sum() <= total:
            return f", or --min-per-class {least} or less"
    return ""


def _whole(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Whole numbers of the same sum: the largest remainders are rounded up."""
    points = np.floor(shares).astype(np.int64)
    missing = round(float(shares.sum())) - int(points.sum())
    points[np.argsort(points - shares, kind="stable")[:missing]] += 1
    return points


def draw(cells: NDArray[np.int64], points: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], ...]:
    """Choose cells of each class at random, without replacement, each as likely as any other.

    Args:
        cells: (class,), cells by mapped class.
        points: (class,), how many to choose.
        seed: the same seed chooses the same cells.

    Returns:
        By class: (point,), ascending, which of the class's cells, counted from 0 along the map's rows.
    """
    streams = np.random.SeedSequence(seed).spawn(len(cells))
    return tuple(
        np.sort(np.random.default_rng(stream).choice(there, wanted, replace=False))
        for stream, there, wanted in zip(streams, cells.tolist(), points.tolist(), strict=True)
    )


def locate(
    strips: Iterable[tuple[int, NDArray[np.uint8]]], chosen: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Find the chosen cells in a map that is read strip by strip.

    Args:
        strips: first row, and class ids (row, col) of all columns; from the top, without gaps.
        chosen: what ``draw`` returned.

    Returns:
        (point, 2), row and col of each, by class and then along the map's rows.
    """
    seen = [0] * len(chosen)
    found: list[list[NDArray[np.int64]]] = [[] for _ in chosen]
    for top, ids in strips:
        for i, wanted in enumerate(chosen):
            flat = np.flatnonzero(ids == i)  # (cell of the class,)
            first, last = np.searchsorted(wanted, (seen[i], seen[i] + flat.size))
            rows, cols = np.divmod(flat[wanted[first:last] - seen[i]], ids.shape[1])
            found[i].append(np.stack([rows + top, cols], 1))  # (point, 2)
            seen[i] += flat.size
    return np.concatenate([np.zeros((0, 2), np.int64), *(piece for pieces in found for piece in pieces)])


def shuffle(cells: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """The cells in random order, so that whoever labels them in order may stop anywhere.

    Args:
        cells: (point, 2), row and col.
        seed: the same seed gives the same order.
    """
    return np.random.default_rng(seed).permutation(cells)

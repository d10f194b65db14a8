"""Pure: from points that people labelled to a map's accuracy and to areas with their uncertainty.

A map's own areas are biased by its errors. Points drawn at random within each mapped class tell by how
much. Equation numbers are those of Olofsson, Foody, Herold, Stehman, Woodcock and Wulder (2014).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from landuse.errors import UsageError
from landuse.pipeline.maps import intervals
from landuse.pipeline.maps.intervals import Z_95

if TYPE_CHECKING:
    from numpy.typing import NDArray

METHOD = (
    f"stratified estimators of area and accuracy, strata = mapped classes; {intervals.METHOD}; margin_95 is "
    "1.96 standard errors, as in the paper"
)

CITATION = (
    "Olofsson, P., Foody, G. M., Herold, M., Stehman, S. V., Woodcock, C. E., Wulder, M. A. (2014): Good "
    "practices for estimating area and assessing accuracy of land change. Remote Sensing of Environment 148, "
    "42-57. https://doi.org/10.1016/j.rse.2014.02.015"
)

MIN_POINTS = 2
"""Points a class needs: one alone tells nothing of how they vary."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ErrorMatrix:
    """What the map and the labels say of the same cells."""

    classes: tuple[str, ...]
    """Class names by id."""
    mapped_cells: NDArray[np.int64]
    """(class,), cells of the whole map by the class they were given: the strata."""
    areas: NDArray[np.float64] | None = None
    """(class,), their area, by which the strata are weighed: cells at the edge of an area count in part. None
    where each cell counts alike."""
    counts: NDArray[np.int64]
    """(mapped class, reference class), labelled points."""

    def __post_init__(self) -> None:
        size = len(self.classes)
        if self.mapped_cells.shape != (size,) or self.counts.shape != (size, size):
            raise ValueError(
                f"{size} classes, mapped_cells {self.mapped_cells.shape} and counts {self.counts.shape} do "
                "not belong together"
            )
        if self.mapped_cells.min() < 0 or self.counts.min() < 0 or self.mapped_cells.sum() == 0:
            raise ValueError("mapped_cells and counts must not be negative, and some cell must be mapped")
        if self.areas is not None and not (
            self.areas.shape == (size,) and self.areas.min() >= 0 and self.areas.sum() > 0
        ):
            raise ValueError(f"areas {self.areas} must be one for each of {size} classes, and some above 0")
        if (self.points > self.mapped_cells).any():
            raise ValueError(f"more points {self.points} than cells {self.mapped_cells} in some class")

    @property
    def points(self) -> NDArray[np.int64]:
        """(class,), labelled points by the class of the map."""
        return np.asarray(self.counts.sum(1), np.int64)

    @property
    def complete(self) -> NDArray[np.bool_]:
        """(class,), True where every cell of the mapped class is labelled: nothing is left to chance."""
        return np.asarray(self.points == self.mapped_cells, np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and how far it may be off."""

    value: float
    """The estimate."""
    standard_error: float
    """Square root of its estimated variance, in the same unit."""
    low: float
    """Lower end of the 95 % interval, which is honest also where no error was seen."""
    high: float
    """Its upper end."""

    @property
    def margin_95(self) -> float:
        """1.96 standard errors: half the width of the paper's interval, for large samples."""
        return Z_95 * self.standard_error

    def times(self, factor: float) -> Estimate:
        """The same in another unit; ``factor`` is above 0."""
        return Estimate(
            value=self.value * factor,
            standard_error=self.standard_error * factor,
            low=self.low * factor,
            high=self.high * factor,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Accuracy:
    """How good a map is, and what lies on the ground. Shares are 0..1; tuples are by class id."""

    proportions: NDArray[np.float64]
    """(mapped class, reference class), estimated share of the mapped area; sums to 1."""
    overall: Estimate
    """Share of the area that is mapped right."""
    users: tuple[Estimate | None, ...]
    """Of what is mapped as the class, the share that is it; None where nothing is."""
    producers: tuple[Estimate | None, ...]
    """Of what is the class, the share that is mapped as it; None where no point is."""
    area_shares: tuple[Estimate, ...]
    """Share of the mapped area that is the class on the ground."""


def estimate(matrix: ErrorMatrix) -> Accuracy:
    """Accuracy and area by the stratified estimators.

    A class whose every cell is labelled adds no variance; the paper, whose classes are large, has no
    correction for finite ones, and for the others none is made.

    Raises:
        UsageError: a mapped class has too few points.
    """
    _check_points(matrix)
    points = matrix.points
    areas_mapped = matrix.mapped_cells if matrix.areas is None else matrix.areas
    weights = areas_mapped / areas_mapped.sum()  # (mapped,), W_i
    shares = matrix.counts / np.maximum(points, 1)[:, None]  # (mapped, reference), n_ij / n_i.
    proportions = weights[:, None] * shares  # (mapped, reference), p_ij of eq. 4
    vary = (points >= MIN_POINTS) & ~matrix.complete
    share_variances = np.where(vary[:, None], shares * (1 - shares) / np.maximum(points - 1, 1)[:, None], 0.0)
    variances = (
        weights[:, None] ** 2 * share_variances
    )  # (mapped, reference), the summands of eq. 5, 7 and 10
    areas, area_variances = proportions.sum(0), variances.sum(0)  # (reference,), eq. 9 and 10
    right, right_variances = np.diag(proportions), np.diag(variances)
    producers = right / np.where(areas > 0, areas, 1)  # eq. 3
    # Eq. 7, its cells N_i divided by those of the whole map.
    producer_variances = (
        (1 - producers) ** 2 * right_variances + producers**2 * (area_variances - right_variances)
    ) / np.where(areas > 0, areas, 1) ** 2
    low, high = intervals.wilson(shares, points[:, None].astype(np.float64))
    # Where every cell is labelled nothing is left to chance; a class of no cells weighs nothing.
    known = (matrix.complete | (matrix.mapped_cells == 0))[:, None]
    low, high = np.where(known, shares, low), np.where(known, shares, high)
    users_ends = (np.diag(low), np.diag(high))
    _, *overall_ends = intervals.weighted_sum(weights, np.diag(shares), users_ends)
    _, *area_ends = intervals.weighted_sum(weights, shares, (low, high))
    producer_ends = [_producer_ends(weights, shares, (low, high), j) for j in range(len(areas))]
    return Accuracy(
        proportions=proportions,
        overall=_estimate(right.sum(), right_variances.sum(), *map(float, overall_ends)),  # eq. 1 and 5
        users=_estimates(np.diag(shares), np.diag(share_variances), users_ends, points > 0),  # eq. 2 and 6
        producers=_estimates(producers, producer_variances, tuple(np.array(producer_ends).T), areas > 0),
        area_shares=tuple(_estimate(*row) for row in zip(areas, area_variances, *area_ends, strict=True)),
    )


def _producer_ends(
    weights: NDArray[np.float64], shares: NDArray[np.float64], ends: intervals.Ends, j: int
) -> tuple[float, float]:
    """Ends of the interval of a producer's accuracy: the part that is mapped right, of all of the class."""
    low, high = (side[:, j] for side in ends)
    own = np.arange(len(weights)) == j
    weight = float(weights[j])
    part = (weight * float(shares[j, j]), weight * float(low[j]), weight * float(high[j]))
    rest = intervals.weighted_sum(weights[~own], shares[~own, j], (low[~own], high[~own]))
    b, b_low, b_high = map(float, rest)
    if part[0] + b <= 0:
        return 0.0, 1.0
    return intervals.share_of_sum(part, (b, max(b_low, 0.0), b_high))


def _check_points(matrix: ErrorMatrix) -> None:
    points, mapped = matrix.points, matrix.mapped_cells
    short = np.flatnonzero((mapped > 0) & (points < MIN_POINTS) & ~matrix.complete)
    if short.size:
        told = ", ".join(
            f"{matrix.classes[i]} ({points[i]} of {mapped[i]} cells, {mapped[i] / mapped.sum():.2%} of all)"
            for i in short
        )
        raise UsageError(
            f"Too few labelled points in the mapped class {told}: without at least {MIN_POINTS} in each, its "
            "share of the errors, or their variance, is unknown. Label more of the sample, or draw one with "
            "`landuse sample`, which gives every class some."
        )


def _estimate(value: float, variance: float, low: float, high: float) -> Estimate:
    # Rounding may leave a variance of zero a hair below it, and an end a hair beyond 0 or 1.
    return Estimate(
        value=float(value),
        standard_error=float(np.sqrt(max(variance, 0.0))),
        low=float(np.clip(low, 0.0, min(value, 1.0))),
        high=float(np.clip(high, max(value, 0.0), max(value, 1.0))),
    )


def _estimates(
    values: NDArray[np.float64],
    variances: NDArray[np.float64],
    ends: tuple[NDArray[np.float64], ...],
    known: NDArray[np.bool_],
) -> tuple[Estimate | None, ...]:
    rows = zip(values, variances, *ends, known, strict=True)
    return tuple(_estimate(*row) if there else None for *row, there in rows)

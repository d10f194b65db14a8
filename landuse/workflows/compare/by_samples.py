"""Which of two maps is better, from labelled points that were drawn by the classes of one of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from odc.geo.geobox import GeoBox
from rasterio.windows import Window
from scipy.stats import binomtest

from landuse.errors import UsageError
from landuse.pipeline.cells import NODATA_ID
from landuse.pipeline.maps import intervals
from landuse.pipeline.maps.estimators import MIN_POINTS, Estimate
from landuse.pipeline.maps.open import counted_map
from landuse.pipeline.maps.points import MAP_COLUMN, read_points, refuse_unlabelled, texts
from landuse.pipeline.maps.reference import Codes, RasterReference, opened_raster, strips_of
from landuse.redact import printable
from landuse.workflows.accuracy import PointCounts, as_named, cells_of, classes_at, is_number, one_a_cell
from landuse.workflows.compare.crosswalk import crosswalk_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from landuse.pipeline.maps.open import ClassMap

METHOD = (
    "paired and stratified: the same points judge both maps, strata are the mapped classes of the map that "
    "they were drawn from, weighed by the area where both maps have a class; 95 % intervals by Tango's "
    "score for the difference and Wilson's for each map in each stratum, combined by MOVER; McNemar's test "
    "is exact, of the points as they are, unweighed"
)

_STRIP_VALUES = 2**21


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """What points say of two maps, by stratum."""

    areas: NDArray[np.int64]
    """(stratum,), cells of it; only their shares count."""
    points: NDArray[np.int64]
    """(stratum,), labelled points."""
    both: NDArray[np.int64]
    """(stratum,), points that both maps have right."""
    only_first: NDArray[np.int64]
    """(stratum,), points that the first alone has right."""
    only_second: NDArray[np.int64]
    """(stratum,), points that the second alone has right."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedEstimates:
    """What follows of pairs."""

    first: Estimate
    """Overall accuracy of the first map."""
    second: Estimate
    """Overall accuracy of the second."""
    difference: Estimate
    """First less second."""
    mcnemar_p: float
    """Two-sided, of the exact test that neither is right more often, in the points as they are."""


def estimate_pairs(pairs: Pairs) -> PairedEstimates:
    """Accuracies, their difference and its test.

    Every stratum of some area has points.

    Example:
        >>> one = np.array([100])
        >>> pairs = Pairs(areas=one, points=one, both=one - 40, only_first=one - 70, only_second=one - 90)
        >>> round(estimate_pairs(pairs).difference.value, 3)
        0.2
    """
    weights = pairs.areas / pairs.areas.sum()
    n = np.maximum(pairs.points, 1)
    first, second = (
        _overall(weights, (pairs.both + alone) / n, pairs.points.astype(np.float64))
        for alone in (pairs.only_first, pairs.only_second)
    )
    differences = (pairs.only_first - pairs.only_second) / n
    ends = np.array(
        [
            intervals.paired_difference(b, c, points) if points else (-1.0, 1.0)
            for b, c, points in zip(
                pairs.only_first.tolist(), pairs.only_second.tolist(), pairs.points.tolist(), strict=True
            )
        ]
    )
    value, low, high = map(float, intervals.weighted_sum(weights, differences, (ends[:, 0], ends[:, 1])))
    spread = (pairs.only_first + pairs.only_second) / n - differences**2
    error = float(np.sqrt((weights**2 * spread / np.maximum(n - 1, 1)).sum()))
    b, c = int(pairs.only_first.sum()), int(pairs.only_second.sum())
    return PairedEstimates(
        first=first,
        second=second,
        difference=Estimate(value=value, standard_error=error, low=max(low, -1.0), high=min(high, 1.0)),
        mcnemar_p=float(binomtest(b, b + c, 0.5).pvalue) if b + c else 1.0,
    )


def _overall(
    weights: NDArray[np.float64], shares: NDArray[np.float64], points: NDArray[np.float64]
) -> Estimate:
    value, low, high = map(float, intervals.weighted_sum(weights, shares, intervals.wilson(shares, points)))
    variance = weights**2 * shares * (1 - shares) / np.maximum(points - 1, 1)
    return Estimate(
        value=value, standard_error=float(np.sqrt(variance.sum())), low=max(low, 0.0), high=min(high, 1.0)
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairedReport:
    """Which of two maps is better."""

    maps: tuple[str, str]
    """Their rasters."""
    samples: str
    """The points' file."""
    strata: str
    """Of which map: ``"first"`` or ``"second"``."""
    points: PointCounts
    """What became of the points."""
    pairs: Pairs
    """What they say, by stratum."""
    estimates: PairedEstimates
    """What follows."""
    strata_names: tuple[str, ...]
    """Classes of the strata."""
    warnings: tuple[str, ...]
    """What the figures do not tell."""

    @property
    def first(self) -> Estimate:
        """Overall accuracy of the first map."""
        return self.estimates.first

    @property
    def second(self) -> Estimate:
        """Overall accuracy of the second."""
        return self.estimates.second

    @property
    def difference(self) -> Estimate:
        """First less second."""
        return self.estimates.difference

    @property
    def mcnemar_p(self) -> float:
        """Of the exact test."""
        return self.estimates.mcnemar_p

    @property
    def only_first(self) -> int:
        """Points that the first alone has right."""
        return int(self.pairs.only_first.sum())

    @property
    def only_second(self) -> int:
        """Points that the second alone has right."""
        return int(self.pairs.only_second.sum())

    @property
    def both_right(self) -> int:
        """Points that both have right."""
        return int(self.pairs.both.sum())

    @property
    def verdict(self) -> str:
        """What may be said, in words."""
        if self.difference.low > 0:
            return "the first map is better"
        if self.difference.high < 0:
            return "the second map is better"
        return "the points do not tell which is better: label more of them, or take either"

    def to_dict(self) -> dict[str, object]:
        """As JSON."""

        def told(value: Estimate) -> dict[str, float]:
            return {
                "value": value.value,
                "standard_error": value.standard_error,
                "low_95": value.low,
                "high_95": value.high,
            }

        rows = zip(
            self.strata_names,
            *(values.tolist() for values in (
                self.pairs.areas, self.pairs.points, self.pairs.both, self.pairs.only_first,
                self.pairs.only_second,
            )),
            strict=True,
        )  # fmt: skip
        keys = ("class", "cells", "points", "both_right", "only_first_right", "only_second_right")
        return {
            "maps": list(self.maps),
            "samples": self.samples,
            "method": METHOD,
            "points": asdict(self.points),
            "overall_accuracy": {"first": told(self.first), "second": told(self.second)},
            "difference": told(self.difference),
            "mcnemar_exact_p": self.mcnemar_p,
            "verdict": self.verdict,
            "strata_of": self.strata,
            "strata": [dict(zip(keys, row, strict=True)) for row in rows],
            "warnings": list(self.warnings),
        }


def compare_by_samples(
    first: Path,
    second: Path,
    samples: Path,
    *,
    layer: str | None = None,
    column: str = "reference",
    crosswalk: str | None = None,
) -> PairedReport:
    """Tell which of two maps is better.

    Args:
        first: a map's folder, or its ``landuse.tif``.
        second: another's.
        samples: labelled points, drawn from either by ``landuse sample``.
        layer: of theirs.
        column: holds the classes' names, or ids of the map that the points were drawn from.
        crosswalk: a legend that maps and labels are brought to; None where both have the same classes.

    Raises:
        UsageError: maps or points do not suit, or a stratum has too few of them.
        ReadError: a map cannot be read.
    """
    maps = (counted_map(first), counted_map(second))
    if crosswalk is None and maps[0].names != maps[1].names:
        raise UsageError(
            f"{maps[1].path} has the classes {', '.join(maps[1].names)}; {maps[0].path} has "
            f"{', '.join(maps[0].names)}. Name a --crosswalk that both are brought to, such as ipcc."
        )
    common = [crosswalk_of(source, crosswalk) for source in maps]
    if common[1].names != common[0].names:
        raise UsageError(
            f"--crosswalk {crosswalk} brings {maps[1].path} to the classes {', '.join(common[1].names)}, "
            f"{maps[0].path} to {', '.join(common[0].names)}: it says what codes mean, and nothing of the "
            "maps' classes. Give one with the columns class,new."
        )
    frame = read_points(samples, layer, column)
    drawn_from = set(texts(frame[MAP_COLUMN])) if MAP_COLUMN in frame.columns else set()
    of = 1 if drawn_from == {maps[1].sha256} else 0
    codes = common[0].legend.class_of_code if common[0].legend is not None else {}
    by_id: tuple[str, ...] = ()
    if not any(map(is_number, codes)) and (maps[0].names == maps[1].names or drawn_from == {maps[of].sha256}):
        by_id = maps[of].names
    known_names = tuple(dict.fromkeys((*maps[of].names, *common[0].names, *codes)))
    labels = as_named(texts(frame[column]), known_names, by_id)
    refuse_unlabelled(labels, samples, column, common[0].names)
    known = common[0].name_ids
    reference = np.array(
        [known.get(label.casefold(), NODATA_ID) if label else NODATA_ID for label in labels], np.int64
    )
    unknown = sorted({label for label in labels if label and label.casefold() not in known})
    if unknown:
        raise UsageError(
            f"{samples} names classes in column {column} that the maps do not know: "
            f"{', '.join(repr(printable(label)) for label in unknown[:5])}. Theirs are "
            f"{', '.join(common[0].names)}.{_of_numbers(unknown, by_id, codes)}"
        )
    strata_map, other = maps[of], maps[1 - of]
    cells = [cells_of(frame, source, samples) for source in maps]
    found = [_values_at(source, places) for source, places in zip(maps, cells, strict=True)]
    labelled = np.array([bool(label) for label in labels], np.bool_)
    inside = np.logical_and.reduce(
        [((places >= 0) & (places < source.shape)).all(1) for source, places in zip(maps, cells, strict=True)]
    )
    mapped = (found[0] != NODATA_ID) & (found[1] != NODATA_ID)
    usable = np.flatnonzero(labelled & mapped & (reference < len(common[0].names)))
    if not usable.size:
        raise UsageError(
            f"No labelled point of {samples} lies where both {maps[0].path} and {maps[1].path} have a class. "
            "Give maps of the place that the sample was drawn from."
        )
    usable = usable[one_a_cell(cells[of][usable], reference[usable], samples)]
    right = [common[i].of_map[found[i][usable]] == reference[usable] for i in range(2)]
    pairs = _paired(strata_map, other, found[of][usable], right)
    _check_points(pairs, strata_map)
    points = PointCounts(
        given=len(labels),
        used=len(usable),
        unlabelled=int((~labelled).sum()),
        outside=int((labelled & ~inside).sum()),
        nodata=int((labelled & inside & ~mapped).sum()),
        repeated=int((labelled & mapped).sum()) - len(usable),
    )
    present = pairs.areas > 0
    kept = Pairs(**{name: getattr(pairs, name)[present] for name in Pairs.__dataclass_fields__})
    return PairedReport(
        maps=(str(maps[0].path), str(maps[1].path)),
        samples=str(samples),
        strata=("first", "second")[of],
        points=points,
        pairs=kept,
        estimates=estimate_pairs(kept),
        strata_names=tuple(name for name, there in zip(strata_map.names, present, strict=True) if there),
        warnings=(
            *common[0].other_meanings(maps[0], maps[1].names, maps[1].parts, str(maps[1].path)),
            *_caveats(drawn_from, maps, points),
            *(
                [f"Numbers in column {column} are taken for codes of --crosswalk {crosswalk}, not for ids."]
                if any(is_number(label) and label in codes for label in labels)
                else []
            ),
        ),
    )


def _of_numbers(unknown: Sequence[str], by_id: Sequence[str], codes: Mapping[str, str | None]) -> str:
    """Why numbers among unknown labels are no ids, in words."""
    if by_id or not any(map(is_number, unknown)):
        return ""
    if any(map(is_number, codes)):
        return " Numbers are codes of the crosswalk here, not ids. Give codes or names."
    return (
        " Numbers could be ids of either map, whose classes differ, and the points do not say from which "
        f"they were drawn (column {MAP_COLUMN}). Give names."
    )


def _values_at(source: ClassMap, places: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(point,), class ids of a map, 255 beyond it."""
    inside = ((places >= 0) & (places < source.shape)).all(1)
    found = np.full(len(places), NODATA_ID, np.uint8)
    found[inside] = classes_at(source, places[inside])
    return found


def _paired(
    strata_map: ClassMap, other: ClassMap, strata: NDArray[np.uint8], right: list[NDArray[np.bool_]]
) -> Pairs:
    size = len(strata_map.names)

    def count(which: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(strata[which], minlength=size).astype(np.int64)

    return Pairs(
        areas=_common_cells(strata_map, other),
        points=count(np.ones(len(strata), np.bool_)),
        both=count(right[0] & right[1]),
        only_first=count(right[0] & ~right[1]),
        only_second=count(~right[0] & right[1]),
    )


def _common_cells(source: ClassMap, other: ClassMap) -> NDArray[np.int64]:
    """(class,), cells of a map on whose centres another has a class too."""
    grid = GeoBox(source.shape, source.transform, source.crs.to_wkt())
    cells = np.zeros(NODATA_ID + 1, np.int64)
    with opened_raster(other.path, str(other.path)) as file, rasterio.open(source.path) as own:
        codes = Codes(meaning=lambda text: 0)
        there = RasterReference([file], codes, grid, names=[str(other.path)])
        for window, rows in strips_of(grid, 1, _STRIP_VALUES):
            ids = own.read(1, window=Window(0, window.row_off, window.width, window.height))
            ids[there.ids(grid, rows) == NODATA_ID] = NODATA_ID
            cells += np.bincount(ids.ravel(), minlength=NODATA_ID + 1)
    return cells[: len(source.names)]


def _check_points(pairs: Pairs, source: ClassMap) -> None:
    short = np.flatnonzero((pairs.areas > 0) & (pairs.points < np.minimum(MIN_POINTS, pairs.areas)))
    if short.size:
        told = ", ".join(
            f"{source.names[i]} ({pairs.points[i]} points, {pairs.areas[i] / pairs.areas.sum():.2%} of the "
            "area)"
            for i in short[:5]
        )
        raise UsageError(
            f"Too few labelled points in the class {told} of {source.path}: at least {MIN_POINTS} are "
            "needed in each. Label more of the sample, or draw one with `landuse sample`."
        )


def _caveats(drawn_from: set[str], maps: tuple[ClassMap, ClassMap], points: PointCounts) -> list[str]:
    told = []
    if not drawn_from:
        told.append(
            "The points' file does not say from which map they were drawn; they are taken for a random "
            "sample within each class of the first."
        )
    elif drawn_from not in ({maps[0].sha256}, {maps[1].sha256}):
        told.append(
            "The points were drawn from neither map. Within the classes of the first they are not equally "
            "likely, so the figures may be biased. Draw a sample of either map."
        )
    if points.outside or points.nodata:
        told.append(
            f"{points.outside + points.nodata} labelled points lie where one of the maps has no class and "
            "are left out: the figures are about what both show."
        )
    return told

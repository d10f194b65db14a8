"""From labelled points to a map's accuracy, and to areas with intervals."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from pyproj.exceptions import ProjError

from landuse.errors import UsageError
from landuse.pipeline.cells import NODATA_ID
from landuse.pipeline.maps.estimators import CITATION, METHOD, Accuracy, ErrorMatrix, Estimate, estimate
from landuse.pipeline.maps.open import ClassMap, counted_map, strips
from landuse.pipeline.maps.points import (
    MAP_COLUMN,
    REFERENCE,
    SAMPLES,
    read_points,
    refuse_suggested,
    refuse_unlabelled,
    texts,
)
from landuse.pipeline.maps.sampling import SampleDesign, allocate, draw, locate, shuffle
from landuse.pipeline.search.area_file import VectorUse, read_features
from landuse.pipeline.write.folder import prepare_folder, write_json
from landuse.pipeline.write.label_points import write_label_points
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import geopandas as gpd
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PointCounts:
    """What became of the points of a file."""

    given: int
    """In the file."""
    used: int
    """Labelled, on a classified cell, one for each cell."""
    unlabelled: int
    """Without a label."""
    outside: int
    """Labelled, beyond the map's edge."""
    nodata: int
    """Labelled, where the map has no class."""
    repeated: int
    """Labelled, in a cell for which another point of the same label stands."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AreaReport:
    """How good a map is, and what lies on the ground."""

    source: ClassMap
    """The map."""
    samples: Path
    """The labelled points."""
    points: PointCounts
    """What became of them."""
    matrix: ErrorMatrix
    """Map and labels compared."""
    accuracy: Accuracy
    """What follows of it."""
    warnings: tuple[str, ...]
    """What the figures do not tell."""

    @property
    def present(self) -> list[int]:
        """Ids of the classes that the map or the labels know."""
        known = (self.matrix.mapped_cells > 0) | (self.matrix.counts.sum(0) > 0)
        return [int(i) for i in np.flatnonzero(known)]

    @property
    def total_ha(self) -> float:
        """Area of all that is classified, in hectares."""
        return float(self.source.area_ha.sum())

    def mapped_ha(self, class_id: int) -> float:
        """What is mapped as the class, in hectares."""
        return float(self.source.area_ha[class_id])

    def area_ha(self, class_id: int) -> Estimate:
        """What of the map is the class on the ground, in hectares."""
        return self.accuracy.area_shares[class_id].times(self.total_ha)

    def to_dict(self) -> dict[str, object]:
        """As JSON; an accuracy of what is nowhere is null."""
        present = self.present
        return {
            "map": str(self.source.path),
            MAP_COLUMN: self.source.sha256,
            "samples": str(self.samples),
            "method": METHOD,
            "citation": CITATION,
            "points": asdict(self.points),
            "total_ha": self.total_ha,
            "overall_accuracy": _told(self.accuracy.overall),
            "classes": [
                {
                    "id": i,
                    "name": self.source.names[i],
                    "mapped_cells": int(self.matrix.mapped_cells[i]),
                    "mapped_ha": self.mapped_ha(i),
                    "estimated_ha": _told(self.area_ha(i)),
                    "users_accuracy": _told(self.accuracy.users[i]),
                    "producers_accuracy": _told(self.accuracy.producers[i]),
                    "points_mapped": int(self.matrix.points[i]),
                    "points_reference": int(self.matrix.counts[:, i].sum()),
                }
                for i in present
            ],
            "error_matrix": {
                "rows": "class of the map",
                "columns": "class of the reference",
                "classes": [self.source.names[i] for i in present],
                "counts": self.matrix.counts[np.ix_(present, present)].tolist(),
                "area_proportions": self.accuracy.proportions[np.ix_(present, present)].tolist(),
            },
            "warnings": list(self.warnings),
        }


def _told(value: Estimate | None) -> dict[str, float] | None:
    if value is None:
        return None
    return {
        "value": value.value,
        "standard_error": value.standard_error,
        "margin_95": value.margin_95,
        "low_95": value.low,
        "high_95": value.high,
    }


def assess_map(path: Path, samples: Path, *, layer: str | None = None, column: str = REFERENCE) -> AreaReport:
    """Accuracy and areas of a map from labelled points, by the stratified estimators.

    Args:
        path: a map's folder, or its ``landuse.tif``.
        samples: points in any CRS: GeoPackage, GeoJSON, FlatGeobuf, GeoParquet or Shapefile.
        layer: of theirs; None where there is but one, or one called ``samples``.
        column: holds the classes' names.

    Raises:
        UsageError: map or points do not suit, or a mapped class has too few of them.
        ReadError: the map's pixels cannot be read.
    """
    source = counted_map(path)
    frame = read_points(samples, layer, column)
    refuse_suggested(frame, samples)
    labels = as_named(texts(frame[column]), source.names, source.names)
    refuse_unlabelled(labels, samples, column, [source.names[i] for i in np.flatnonzero(source.cells)])
    unknown = sorted({label for label in labels if label not in ("", *source.names)})
    if unknown:
        known = (
            f"{', '.join(source.names)}; they are numbers, so that ids are not taken."
            if any(map(is_number, source.names))
            else f"{', '.join(f'{i} {name}' for i, name in enumerate(source.names))}; name or id will do."
        )
        raise UsageError(
            f"{samples} names classes in column {column} that the map does not know: "
            f"{', '.join(repr(printable(label)) for label in unknown[:5])}. The map's are {known}"
        )
    own = set(texts(frame[MAP_COLUMN])) == {source.sha256} if MAP_COLUMN in frame.columns else None
    cells = cells_of(frame, source, samples)  # (point, 2)
    if own and {"row", "col"} <= set(frame.columns):
        _check_unmoved(frame, cells, samples)
    labelled = np.array([label != "" for label in labels], np.bool_)
    inside = ((cells >= 0) & (cells < source.shape)).all(1)
    mapped = np.full(len(cells), NODATA_ID, np.uint8)
    mapped[inside] = classes_at(source, cells[inside])
    usable = np.flatnonzero(labelled & (mapped != NODATA_ID))
    if labelled.any() and not (labelled & inside).any():
        drawn = "" if own is not False else ", and they were drawn from another map"
        raise UsageError(
            f"All {labelled.sum()} labelled points of {samples} lie outside {source.path}{drawn}. Give the "
            "map that the sample was drawn from."
        )
    reference = np.array([source.names.index(labels[i]) for i in usable], np.int64)
    kept = one_a_cell(cells[usable], reference, samples)
    counts = np.zeros((len(source.names), len(source.names)), np.int64)
    np.add.at(counts, (mapped[usable[kept]], reference[kept]), 1)
    matrix = ErrorMatrix(classes=source.names, mapped_cells=source.cells, areas=source.area_ha, counts=counts)
    points = PointCounts(
        given=len(labels),
        used=len(kept),
        unlabelled=int((~labelled).sum()),
        outside=int((labelled & ~inside).sum()),
        nodata=int((labelled & inside & (mapped == NODATA_ID)).sum()),
        repeated=len(usable) - len(kept),
    )
    try:
        accuracy = estimate(matrix)
    except UsageError as error:
        if own is not False:
            raise
        raise UsageError(
            f"{samples} was drawn from another map than {source.path}, and has too few points in some of its "
            "classes. Give the map that it was drawn from, or draw points of this one with `landuse "
            "sample`."
        ) from error
    return AreaReport(
        source=source,
        samples=samples,
        points=points,
        matrix=matrix,
        accuracy=accuracy,
        warnings=(*_origin_caveats(own), *_area_caveats(source), *_caveats(points, matrix)),
    )


def as_named(labels: Sequence[str], names: Sequence[str], by_id: Sequence[str]) -> list[str]:
    """Labels as the map spells its classes, whose names are taken in any case, and whose ids as well.

    Where a name is a number, numbers are names alone.

    Args:
        labels: of points; whole numbers may end in ``.0``, as a table with gaps holds them.
        names: that mean what they say.
        by_id: names that other labels mean by their ids; none where these are not known.
    """
    folded = [name.casefold() for name in names]
    # Of two names that differ in their case alone each is meant by itself alone.
    in_any_case = {key: name for key, name in zip(folded, names, strict=True) if folded.count(key) == 1}
    ids = {} if any(map(is_number, names)) else {str(i): name for i, name in enumerate(by_id)}

    def meant(label: str) -> str:
        whole = label.removesuffix(".0") if is_number(label) else label
        for told in (label, whole):
            if told in names:
                return told
        return in_any_case.get(label.casefold(), ids.get(whole, label))

    return [meant(label) for label in labels]


def is_number(label: str) -> bool:
    """Whether a label is a whole number, also as a table with gaps holds it, such as 3.0."""
    return label.removesuffix(".0").removeprefix("-").isdecimal()


def write_report(report: AreaReport, out: Path, *, overwrite: bool) -> None:
    """Write what ``--json`` prints to a file, atomically.

    Raises:
        UsageError: there is a file already.
        OutputError: it cannot be written.
    """
    if out.exists() and (not overwrite or out.samefile(report.samples) or out.samefile(report.source.path)):
        raise UsageError(f"{out} exists. Choose another --out, or replace an earlier report by --overwrite.")
    prepare_folder(out.parent)
    write_json(out, report.to_dict())


def cells_of(frame: gpd.GeoDataFrame, source: ClassMap, samples: Path) -> NDArray[np.int64]:
    """(point, 2), row and col of the cell that each point lies in; -1 where it lies nowhere."""
    try:
        at = shapely.get_coordinates(frame.to_crs(source.crs.to_wkt()).geometry.to_numpy())  # (point, 2)
    except ProjError as error:
        raise UsageError(f"{samples} cannot be brought to the map's CRS ({error}).") from error
    cells = np.full(at.shape, -1, np.int64)
    on_earth = (np.abs(at) < 1e9).all(1)  # infinite where the projection does not reach
    cells[on_earth] = np.floor(source.places(at[on_earth]))
    return cells


def _check_unmoved(frame: gpd.GeoDataFrame, cells: NDArray[np.int64], samples: Path) -> None:
    moved = int((frame[["row", "col"]].to_numpy() != cells).any(1).sum())
    if moved:
        raise UsageError(
            f"{moved} points of {samples} lie outside the cells that they were drawn for, which their "
            "columns row and col name. Move them back, or delete them."
        )


def classes_at(source: ClassMap, cells: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(point,), class ids of cells inside the map."""
    found = np.full(len(cells), NODATA_ID, np.uint8)
    for top, ids in strips(source.path):
        here = np.flatnonzero((cells[:, 0] >= top) & (cells[:, 0] < top + len(ids)))
        found[here] = ids[cells[here, 0] - top, cells[here, 1]]
    return found


def one_a_cell(cells: NDArray[np.int64], reference: NDArray[np.int64], samples: Path) -> NDArray[np.int64]:
    """Indices of the first point of each cell."""
    _, first, group = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    if (reference != reference[first][group]).any():
        raise UsageError(f"{samples} has points of different labels in one cell of the map. Keep one.")
    return np.sort(first)


def _origin_caveats(own: bool | None) -> list[str]:
    """What to know of points that are not a sample of this map, as far as their file tells."""
    if own is None:
        return [
            "The points' file does not say from which map they were drawn. The figures hold only if they "
            "were drawn at random within each class of this map, as `landuse sample` does."
        ]
    if own:
        return []
    return [
        "The points were drawn from another map. Within the classes of this one they are not equally likely, "
        "so areas and accuracy may be biased. Draw a sample of this map."
    ]


def _area_caveats(source: ClassMap) -> list[str]:
    """What to know of the areas."""
    if not source.of_whole_cells:
        return []
    return [
        f"No run.json that counts these cells lies beside {source.path.name}: cells are counted whole, "
        "also where they reach beyond the area or the imagery. Give the folder that `landuse map` wrote."
    ]


def _caveats(points: PointCounts, matrix: ErrorMatrix) -> list[str]:
    """What to know before believing the figures."""
    told = []
    if points.unlabelled:
        told.append(
            f"{points.unlabelled} of {points.given} points have no label and are left out. That is sound "
            "where chance left them out, such as the last ones of the file, and flatters the "
            "map where doubt did."
        )
    if points.outside or points.nodata:
        told.append(
            f"{points.outside} labelled points lie outside the map and {points.nodata} where it has no "
            "class; the figures are about classified cells alone."
        )
    if points.repeated:
        told.append(f"{points.repeated} labelled points share their cell with another and are left out.")
    unanimous = (matrix.counts.max(1) == matrix.points) & (matrix.points > 0) & ~matrix.complete
    if unanimous.any():
        names = ", ".join(matrix.classes[i] for i in np.flatnonzero(unanimous))
        told.append(
            f"All points mapped as {names} have the same label. Their standard error of 0 means too few "
            "points to see an error, not that there is none; the interval says how much there may be."
        )
    return told


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReport:
    """What was drawn."""

    out: Path
    """The GeoPackage."""
    classes: tuple[tuple[str, int, int], ...]
    """Name, cells and points of each mapped class."""
    seed: int
    """The same map, design and seed give the same points."""
    map_sha256: str
    """Of the map that it was drawn from."""

    @property
    def points(self) -> int:
        """Points in all."""
        return sum(points for _, _, points in self.classes)

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        rows = [{"class": name, "cells": cells, "points": points} for name, cells, points in self.classes]
        told = {"out": str(self.out), "points": self.points, "classes": rows, "seed": self.seed}
        return told | {MAP_COLUMN: self.map_sha256, "citation": CITATION}


def draw_sample(path: Path, design: SampleDesign, out: Path, *, seed: int, overwrite: bool) -> SampleReport:
    """Draw a stratified random sample of a map's cells and write it for QGIS.

    The file does not tell what the map says of a point: who knows it tends to agree.
    ``assess.assess_map`` looks it up. Points are in random order: the first so many of them are a random
    sample too.

    Args:
        path: a map's folder, or its ``landuse.tif``.
        design: how many points.
        out: the GeoPackage.
        seed: of the draw.
        overwrite: replace what is at ``out``, labels and all.

    Raises:
        UsageError: map or design do not suit, or ``out`` is there already.
        OutputError: it cannot be written.
    """
    if out.suffix.lower() != ".gpkg":
        raise UsageError(f"--out {out} is no GeoPackage. Give a name that ends in .gpkg.")
    if out.exists() and not overwrite:
        raise UsageError(
            f"{out} exists{_labels_in(out)}. Choose another --out, or replace it by --overwrite."
        )
    if seed < 0:
        raise UsageError(f"--seed {seed} is negative. Give 0 or more.")
    source = counted_map(path)
    points = allocate(source.cells, design)
    cells = shuffle(locate(strips(source.path), draw(source.cells, points, seed)), seed)  # (point, 2)
    write_label_points(out, source, cells, source.entries)
    drawn = zip(source.names, source.cells.tolist(), points.tolist(), strict=True)
    return SampleReport(
        out=out,
        classes=tuple(row for row in drawn if row[1]),
        seed=seed,
        map_sha256=source.sha256,
    )


def _labels_in(out: Path) -> str:
    """What a sample that is to be replaced holds, in words."""
    try:
        frame = read_features(out, SAMPLES, VectorUse(option="--out", kind="POINT", columns=True))
        count = sum(label != "" for label in texts(frame[REFERENCE]))
    except (UsageError, KeyError):
        return ""
    return f" and holds {count} labels" if count else ""

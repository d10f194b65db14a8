"""Scores of a finished map against points, polygons or a raster, by a legend that says what is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio import features
from rasterio.crs import CRS
from rasterio.warp import transform as to_crs

from landuse.errors import UsageError
from landuse.pipeline.maps.open import class_names
from tests.benchmarks.cover_scores import NONE_ID, Judged, ece, judged, wrong_confidence

RASTERS = (".tif", ".tiff", ".vrt")
PIXEL_M = 10.0
"""Polygons are scored at points so far apart, or as far as the map's cells where those are smaller."""
STRIP_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """What of a map is right where a reference says something."""

    right: dict[str, tuple[str, ...]] | None = None
    """Label of the reference (of a raster: its value as text) to those of the map's classes that are right.
    What it does not name is not scored. None: labels are the map's own names, or its ids."""
    column: str = "reference"
    """Column of a vector file that holds the labels."""
    layer: str | None = None
    """Layer of a vector file; None: its first."""
    names: tuple[str, ...] | None = None
    """Names of the map's classes by id; None: as its tag ``classes`` says."""

    def of(self, names: tuple[str, ...]) -> Legend:
        """The legend without classes that a map does not have."""
        if self.right is None:
            return self
        right = {label: tuple(n for n in known if n in names) for label, known in self.right.items()}
        return replace(self, right=right)

    @classmethod
    def read(cls, path: Path) -> Legend:
        """A legend from JSON with any of the keys ``right``, ``column``, ``layer`` and ``names``.

        Raises:
            UsageError: it is no such file.
        """
        try:
            held = json.loads(path.read_text("utf-8"))
            unknown = set(held) - {"right", "column", "layer", "names"}
            if unknown:
                raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
            right = held.get("right")
            return cls(
                right=None if right is None else {label: tuple(names) for label, names in right.items()},
                column=held.get("column", "reference"),
                layer=held.get("layer"),
                names=tuple(held["names"]) if "names" in held else None,
            )
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UsageError(
                f"Legend {path} cannot be read ({error}). Give a JSON object such as "
                '{"column": "land_cover", "right": {"water": ["River", "SeaLake"]}}.'
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OneMap:
    """A raster of classes, read whole: one byte a cell."""

    path: Path
    ids: NDArray[np.uint8]
    """(rows, cols), ``NONE_ID`` where there is no class."""
    confidence: NDArray[np.float32] | None
    """(rows, cols), 0..1, where a ``confidence.tif`` lies beside a ``landuse.tif``."""
    names: tuple[str, ...]
    transform: Affine
    crs: CRS


@dataclass(kw_only=True)
class MapScores:
    """How a map does against one reference."""

    labels: tuple[str, ...]
    """What the reference tells apart."""
    right: tuple[frozenset[int], ...]
    """Ids of the map that are right for each label."""
    names: tuple[str, ...]
    """The map's class names."""
    counts: NDArray[np.int64]
    """(label, 256): pixels or points of each label by the map's id; the last column has no class."""
    outside: int = 0
    """Pixels or points beyond the map's edge."""
    unlabelled: int = 0
    """Those whose label the legend does not name."""
    pixels: list[Judged] = field(default_factory=list)
    """Where the map has a confidence: what its calibration is worked out from."""

    def recall(self, label: int) -> float | None:
        """Share of what a label covers, and the map classified, that is mapped rightly."""
        known = self.counts[label, :NONE_ID].sum()
        return float(self.counts[label, list(self.right[label])].sum() / known) if known else None

    def iou(self, label: int) -> float | None:
        """Intersection over union with what is mapped as a label's classes."""
        ids = list(self.right[label])
        union = self.counts[label, :NONE_ID].sum() + self.counts[:, ids].sum() - self.counts[label, ids].sum()
        return float(self.counts[label, ids].sum() / union) if union else None

    @property
    def overall(self) -> float | None:
        """Share of all that is mapped rightly."""
        known = self.counts[:, :NONE_ID].sum()
        good = sum(int(row[list(ids)].sum()) for row, ids in zip(self.counts, self.right, strict=True))
        return good / known if known else None

    @property
    def mean_recall(self) -> float | None:
        """Mean of the labels' recalls."""
        values = [value for i in range(len(self.labels)) if (value := self.recall(i)) is not None]
        return sum(values) / len(values) if values else None

    def table(self) -> str:
        """One row a label, and what holds for all."""
        width = max(len(label) for label in (*self.labels, "mean of recalls"))
        lines = [f"{'':{width}} {'pixels':>10} {'no class':>9} {'recall':>7} {'IoU':>7}  mostly mapped as"]
        for index, label in enumerate(self.labels):
            row = self.counts[index, :NONE_ID]
            first = np.argsort(-row, kind="stable")[:3]
            most = ", ".join(f"{self.names[i]} {row[i] / row.sum():.0%}" for i in first if row[i])
            lines.append(
                f"{label:{width}} {row.sum():10} {self.counts[index, NONE_ID]:9} "
                f"{told(self.recall(index)):>7} {told(self.iou(index)):>7}  {most}"
            )
        lines.append(f"{'all':{width}} {self.counts[:, :NONE_ID].sum():10} {'':9} {told(self.overall):>7}")
        lines.append(f"{'mean of recalls':{width}} {'':10} {'':9} {told(self.mean_recall):>7}")
        if self.outside or self.unlabelled:
            lines.append(f"left out: {self.outside} beyond the map, {self.unlabelled} not in the legend")
        if self.pixels:
            parts = Judged(
                confidence=np.concatenate([part.confidence for part in self.pixels]),
                right=np.concatenate([part.right for part in self.pixels]),
                weight=np.concatenate([part.weight for part in self.pixels]),
            )
            wrong = wrong_confidence(parts)
            lines.append(
                f"expected calibration error {told(ece(parts))}; median confidence of wrong {told(wrong)}"
            )
        return "\n".join(lines)


def told(value: float | None) -> str:
    """A figure in a table."""
    return "-" if value is None else f"{value:.3f}"


def read_map(path: Path, names: tuple[str, ...] | None = None, raster: str = "landuse.tif") -> OneMap:
    """A map from its raster, or from the folder that holds one called ``raster``.

    Raises:
        UsageError: there is none, or nothing says what its ids mean.
    """
    file_path = path / raster if path.is_dir() else path
    if not file_path.is_file():
        raise UsageError(f"{file_path} does not exist. Give a map's folder, or a raster of classes.")
    with rasterio.open(file_path) as file:
        ids = file.read(1)
        nodata = file.nodata
        known = names or class_names(file_path, file.tags().get("classes"))
        grid, crs = Affine(*file.transform[:6]), file.crs
    beside = file_path.with_name("confidence.tif")
    confidence = None
    if file_path.name == "landuse.tif" and beside.is_file():
        with rasterio.open(beside) as file:
            confidence = file.read(1).astype(np.float32) * file.scales[0]
    if nodata is not None:
        ids = np.where(ids == nodata, NONE_ID, ids)
    return OneMap(
        path=file_path, ids=ids.astype(np.uint8), confidence=confidence, names=known, transform=grid, crs=crs
    )


def score_map(a_map: OneMap, reference: Path, legend: Legend) -> MapScores:
    """Compare a map with a reference, at each of the reference's pixels or points.

    Args:
        a_map: what is scored.
        reference: a raster of labels, or points or polygons in any vector format; any CRS.
        legend: what is right where.

    Raises:
        UsageError: the reference does not suit the legend, or lies beyond the map.
    """
    raster = reference.suffix.lower() in RASTERS
    labels = legend.right or {(str(i) if raster else name): (name,) for i, name in enumerate(a_map.names)}
    unknown = sorted({name for names in labels.values() for name in names} - set(a_map.names))
    if unknown:
        raise UsageError(
            f"The legend names {', '.join(unknown)}, which {a_map.path} does not have. Its classes are "
            f"{', '.join(a_map.names)}."
        )
    scores = MapScores(
        labels=tuple(labels),
        right=tuple(frozenset(a_map.names.index(name) for name in names) for names in labels.values()),
        names=a_map.names,
        counts=np.zeros((len(labels), NONE_ID + 1), np.int64),
    )
    parts = _raster_places(a_map, reference) if raster else _vector_places(a_map, reference, legend)
    for texts, xs, ys in parts:
        _count(scores, a_map, texts, xs, ys)
    if not scores.counts.any():
        raise UsageError(
            f"Nothing of {reference} that the legend names lies on {a_map.path}. Check the column "
            f"({legend.column}), the labels ({', '.join(labels)}) and the places."
        )
    return scores


def _count(scores: MapScores, a_map: OneMap, texts: NDArray, xs: NDArray, ys: NDArray) -> None:
    index = {label: i for i, label in enumerate(scores.labels)}
    values, which = np.unique(texts, return_inverse=True)
    label = np.array([index.get(str(value), -1) for value in values], np.int64)[which]
    cols, rows = ~a_map.transform @ (xs, ys)
    row, col = np.floor(rows).astype(np.int64), np.floor(cols).astype(np.int64)
    inside = (row >= 0) & (row < a_map.ids.shape[0]) & (col >= 0) & (col < a_map.ids.shape[1])
    scores.outside += int((~inside & (label >= 0)).sum())
    scores.unlabelled += int((label < 0).sum())
    used = inside & (label >= 0)
    row, col, label = row[used], col[used], label[used]
    ids = a_map.ids[row, col]
    np.add.at(scores.counts, (label, ids), 1)
    if a_map.confidence is not None:
        good = np.zeros((len(scores.labels), NONE_ID + 1), np.bool_)
        for i, right in enumerate(scores.right):
            good[i, list(right)] = True
        known = ids != NONE_ID
        scores.pixels.append(judged(a_map.confidence[row, col][known], good[label, ids][known]))


def _raster_places(a_map: OneMap, reference: Path) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """Values as text, x and y of the pixels of a raster, strip by strip, in the map's CRS."""
    with rasterio.open(reference) as file:
        for top in range(0, file.height, STRIP_ROWS):
            rows = min(STRIP_ROWS, file.height - top)
            values = file.read(1, window=((top, top + rows), (0, file.width)))
            known = np.ones(values.shape, np.bool_) if file.nodata is None else values != file.nodata
            at = np.argwhere(known)
            xs, ys = Affine(*file.transform[:6]) @ (at[:, 1] + 0.5, at[:, 0] + top + 0.5)
            if file.crs != a_map.crs:
                xs, ys = (np.asarray(part) for part in to_crs(file.crs, a_map.crs, xs, ys))
            yield values[known].astype(np.int64), xs, ys


def _vector_places(
    a_map: OneMap, reference: Path, legend: Legend
) -> Iterator[tuple[NDArray, NDArray, NDArray]]:
    """Labels, x and y of points, and of the pixels whose centres lie in polygons, in the map's CRS."""
    frame = gpd.read_file(reference, layer=legend.layer)
    if legend.column not in frame.columns:
        columns = ", ".join(str(name) for name in frame.columns if name != "geometry")
        raise UsageError(
            f"{reference} has no column {legend.column}; it has {columns}. Name it in the legend."
        )
    frame = frame.to_crs(a_map.crs.to_wkt())
    points = frame[frame.geom_type == "Point"]
    if len(points):
        yield (
            points[legend.column].astype(str).to_numpy(),
            points.geometry.x.to_numpy(),
            points.geometry.y.to_numpy(),
        )
    step = min(PIXEL_M, abs(a_map.transform.a))
    fine = a_map.transform @ Affine.scale(step / abs(a_map.transform.a))
    for label, shape in zip(frame[legend.column].astype(str), frame.geometry, strict=True):
        if shape.geom_type not in ("Polygon", "MultiPolygon"):
            continue
        west, south, east, north = shape.bounds
        (left, top), (right, bottom) = ~fine @ (west, north), ~fine @ (east, south)
        shift = int(np.floor(left)), int(np.floor(top))
        size = (max(int(np.ceil(bottom)) - shift[1], 1), max(int(np.ceil(right)) - shift[0], 1))
        grid = fine @ Affine.translation(*shift)
        at = np.argwhere(features.rasterize([shape], size, transform=grid))
        xs, ys = grid @ (at[:, 1] + 0.5, at[:, 0] + 0.5)
        yield np.full(len(at), label), xs, ys

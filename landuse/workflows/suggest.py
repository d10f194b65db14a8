"""From a finished map to the points that are worth labelling next."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from pyproj.exceptions import ProjError

from landuse.errors import UsageError
from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS
from landuse.pipeline.maps.layers import MapLayers, opened_layers
from landuse.pipeline.maps.open import ClassMap, counted_map, other_parts
from landuse.pipeline.maps.points import DESIGN, MAP_COLUMN, SAMPLES, SUGGESTED
from landuse.pipeline.maps.suggesting import (
    BestOfSquares,
    choose_by_cover,
    choose_by_strata,
    disagreement_scores,
    doubt_scores,
    square_side,
    values_at,
)
from landuse.pipeline.pixels import pixels_in
from landuse.pipeline.search.area_file import VectorUse, read_features
from landuse.pipeline.write.label_points import write_label_points

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

BY = ("doubt", "disagreement", "coverage")
"""What ``--by`` may be."""

MAX_POINTS = 10_000
"""More than anybody labels before learning anew."""

_LATTICE_CELLS = 1e-3
"""Cells of two maps lie on each other if their corners do to this share of a cell."""

NOT_A_SAMPLE = (
    "These points are chosen, not drawn: they are for learning. Accuracy and areas need `landuse sample`; "
    "`landuse area` refuses these."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestRequest:
    """What is to be suggested."""

    map_: Path
    """A map's folder, or its ``landuse.tif``."""
    out: Path
    """The GeoPackage to write."""
    other: Path | None = None
    """The map that ``disagreement`` compares with."""
    by: str = "doubt"
    """One of ``BY``."""
    count: int = 100
    """Points in all."""
    distance_m: float | None = None
    """Least distance between two points; None: half of what so many points, spread evenly, would have."""
    exclude: Path | None = None
    """What is labelled already."""
    exclude_layer: str | None = None
    """Its layer, of a GeoPackage of several."""
    seed: int = 0
    """The same map, request and seed give the same points."""
    overwrite: bool = False
    """Replace what is at ``out``, labels and all."""

    def __post_init__(self) -> None:
        if self.by not in BY:
            raise UsageError(f"--by {self.by!r} is unknown. Choose {', '.join(BY)}.")
        if (self.other is not None) != (self.by == "disagreement"):
            takes = "two maps: name the second after the first" if self.other is None else "one map"
            raise UsageError(f"--by {self.by} takes {takes}.")
        if not 1 <= self.count <= MAX_POINTS:
            raise UsageError(f"--n {self.count} is not in 1 to {MAX_POINTS}. Give 100, say.")
        if self.seed < 0:
            raise UsageError(f"--seed {self.seed} is negative. Give 0 or more.")
        if self.distance_m is not None and not (0 <= self.distance_m < math.inf):
            raise UsageError(f"--min-distance {self.distance_m:g} is no distance. Give metres, such as 200.")
        if self.exclude is None and self.exclude_layer is not None:
            raise UsageError(f"--exclude-layer {self.exclude_layer!r} is given without --exclude.")
        if self.out.suffix.lower() != ".gpkg":
            raise UsageError(f"--out {self.out} is no GeoPackage. Give a name that ends in .gpkg.")
        if self.out.exists() and not self.overwrite:
            raise UsageError(f"{self.out} exists. Choose another --out, or replace it by --overwrite.")
        if self.exclude is not None and self.out.exists() and self.out.samefile(self.exclude):
            raise UsageError(f"--out {self.out} is the file of --exclude. Choose another --out.")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuggestReport:
    """What was suggested."""

    out: Path
    """The GeoPackage."""
    by: str
    """One of ``BY``."""
    measured: str
    """What a cell's worth was worked out from, in words."""
    strata: tuple[tuple[str, int], ...]
    """Points by mapped class, or by what the two maps say."""
    wanted: int
    """Points that were asked for."""
    distance_m: float
    """Least distance between two of them."""
    excluded: int
    """Labels of ``--exclude`` that lie on the map."""
    seed: int
    """Of the choice."""
    map_sha256: str
    """Of the map."""
    notes: tuple[str, ...]
    """What to know of the points."""

    @property
    def points(self) -> int:
        """Points in all."""
        return sum(points for _, points in self.strata)

    def to_dict(self) -> dict[str, object]:
        """As JSON."""
        return {
            "out": str(self.out),
            "by": self.by,
            "measured": self.measured,
            "points": self.points,
            "wanted": self.wanted,
            "strata": [{"stratum": name, "points": points} for name, points in self.strata],
            "min_distance_m": self.distance_m,
            "excluded": self.excluded,
            "seed": self.seed,
            MAP_COLUMN: self.map_sha256,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Known:
    """What is labelled already, on the map's grid."""

    places: NDArray[np.int64]
    """(label, 2), row and col of those on the map."""
    around: shapely.STRtree
    """Land too close to a label, in pieces."""

    def keeps_off(self, top: int, shape: tuple[int, int], source: ClassMap) -> NDArray[np.bool_]:
        """(row, col), True where a cell of a strip lies too close to a label."""
        transform = source.transform @ Affine.translation(0, top)
        grid = GeoBox(shape, transform, source.crs.to_wkt())
        pieces = self.around.query(shapely.box(*grid.boundingbox.bbox))
        if not pieces.size:
            return np.zeros(shape, np.bool_)
        return pixels_in(shapely.union_all(self.around.geometries[pieces]), grid)


def suggest_points(request: SuggestRequest) -> SuggestReport:
    """Choose cells of a map that are worth labelling next, and write them for QGIS.

    The map is read strip by strip, whatever its size.

    Raises:
        UsageError: maps or labels do not suit, or there is nothing to suggest.
        ReadError: a raster cannot be read.
        OutputError: ``out`` cannot be written.

    Example:
        >>> suggest_points(SuggestRequest(map_=Path("map"), out=Path("next.gpkg")))  # doctest: +SKIP
    """
    source = counted_map(request.map_)
    cell_m = abs(source.transform.determinant) ** 0.5 * source.crs.linear_units_factor[1]
    spacing = math.sqrt(int(source.cells.sum()) / request.count)
    distance = max(spacing / 2 if request.distance_m is None else request.distance_m / cell_m, 1.0)
    known = _known(request, source, distance)
    side = square_side(source.shape, distance)
    told: Mapping[int, str] = dict(enumerate(source.names))
    names = ("probabilities", "image") if request.by == "coverage" else _DOUBT_LAYERS
    with opened_layers(source, names) as layers:
        if request.by == "coverage":
            cells, chosen, measured = _by_coverage(request, source, layers, known, side, distance)
            strata = _classes_at(layers, cells[chosen])
        elif request.other is None:
            cells, chosen, measured = _by_doubt(request, source, layers, known, side, distance)
            strata = _classes_at(layers, cells[chosen])
        else:
            cells, chosen, strata, told = _by_disagreement(request, source, layers, known, side, distance)
            measured = "the product of both maps' confidences where their classes differ"
    if not chosen.size:
        raise UsageError(
            f"{source.path} has no cell to suggest by {request.by}"
            + (f": all lie within {distance * cell_m:g} m of a label" if known is not None else "")
            + ". Choose another --by, a smaller --min-distance, or other maps."
        )
    write_label_points(
        request.out,
        source,
        cells[chosen],
        source.entries,
        shown={DESIGN: f"{SUGGESTED}{request.by}"},
    )
    counts = Counter(strata.tolist())
    on_map = 0 if known is None else len(known.places)
    return SuggestReport(
        out=request.out,
        by=request.by,
        measured=measured,
        strata=tuple((told[stratum], counts[stratum]) for stratum in sorted(counts)),
        wanted=request.count,
        distance_m=distance * cell_m,
        excluded=on_map,
        seed=request.seed,
        map_sha256=source.sha256,
        notes=tuple(_notes(request, len(chosen), distance * cell_m, None if known is None else on_map)),
    )


def _notes(request: SuggestRequest, found: int, distance_m: float, on_map: int | None) -> Iterator[str]:
    yield NOT_A_SAMPLE
    if found < request.count:
        yield (
            f"No more than {found} of {request.count} points lie {distance_m:,.0f} m apart where there is "
            "something to suggest. A smaller --min-distance gives more."
        )
    if on_map == 0:
        yield f"Nothing of --exclude {request.exclude} lies on the map: nothing was left out for it."
    if request.by == "disagreement":
        yield "Label what lies there on the date of the first map."


_DOUBT_LAYERS = ("confidence", "second", "doubt", "probabilities")


def _by_doubt(
    request: SuggestRequest,
    source: ClassMap,
    layers: MapLayers,
    known: _Known | None,
    side: int,
    distance: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """Cells, which of them are chosen, and what their worth was worked out from."""
    _check_has(source, layers, "confidence")
    wanted = [("landuse", 1), ("confidence", 1)]
    ranked = "second" not in layers.files and "probabilities" in layers.files
    if "second" in layers.files:
        wanted.append(("second", 2))
    if "doubt" in layers.files:
        wanted.append(("doubt", 1))
    first_share = len(wanted)
    if ranked:
        wanted += [("probabilities", i + 1) for i in range(len(source.names))]
    best = BestOfSquares(source.shape, side, request.seed)
    for top, values in layers.strips(wanted):
        held = dict(zip((name for name, _ in wanted[:first_share]), values, strict=False))
        second = held.get("second")
        if ranked:
            shares = np.where(values[first_share:] == NODATA_ID, 0, values[first_share:])
            second = np.partition(shares, -2, 0)[-2]
        scores = doubt_scores(held["landuse"], held["confidence"], second, held.get("doubt"))
        best.add(top, _free(scores, top, source, known))
    cells, scores = best.cells()
    strata = _classes_at(layers, cells)
    measured = (
        "confidence alone" if "second" not in layers.files and not ranked else "the margin of the class"
    )
    if "doubt" in layers.files:
        measured += ", and doubt"
    return cells, choose_by_strata(cells, scores, strata, request.count, distance), measured


def _by_coverage(
    request: SuggestRequest,
    source: ClassMap,
    layers: MapLayers,
    known: _Known | None,
    side: int,
    distance: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], str]:
    """As ``_by_doubt``."""
    best = BestOfSquares(source.shape, side, request.seed)
    for top, (ids,) in layers.strips([("landuse", 1)]):
        scores = np.where(ids == NODATA_ID, np.int64(-1), np.int64(0))
        best.add(top, _free(scores, top, source, known))
    cells, _ = best.cells()
    if "probabilities" in layers.files:
        wanted = [("probabilities", i + 1) for i in range(len(source.names))]
        measured = "the probabilities of all classes (Hellinger distance)"
    elif "image" in layers.files:
        wanted = [("image", i + 1) for i in range(layers.files["image"].count)]
        measured = "the colours of image.tif"
    else:
        raise UsageError(
            f"{source.path.parent} has neither probabilities.tif nor image.tif, and classes alone do not "
            "tell what is alike. Map it again with --probabilities."
        )
    places = np.zeros((0, 2), np.int64) if known is None else known.places
    found = values_at(layers.strips(wanted), np.concatenate([cells, places]), len(wanted))
    if wanted[0][0] == "probabilities":
        # Roots of probabilities: their distance counts what is rare as well as what is certain.
        classified = (found != NODATA_ID).all(1)
        features = np.sqrt(np.where(found == NODATA_ID, 0, found) / np.float32(SHARE_STEPS))
    else:
        classified = np.ones(len(found), np.bool_)
        features = found.astype(np.float32) / 255
    labelled = features[len(cells) :][classified[len(cells) :]]
    chosen = choose_by_cover(cells, features[: len(cells)], labelled, request.count, distance)
    return cells, chosen, measured


def _by_disagreement(
    request: SuggestRequest,
    source: ClassMap,
    layers: MapLayers,
    known: _Known | None,
    side: int,
    distance: float,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], dict[int, str]]:
    """Cells, which of them are chosen, what the two maps say of those, and the names of that."""
    if request.other is None:
        raise ValueError("disagreement takes two maps")
    other = counted_map(request.other)
    down, right = _offset(source, other)
    _check_has(source, layers, "confidence")
    wanted = [("landuse", 1), ("confidence", 1)]
    with opened_layers(other, ("confidence",)) as others:
        _check_has(other, others, "confidence")
        best = BestOfSquares(source.shape, side, request.seed)
        for top, values in layers.strips(wanted):
            theirs = _other_strip(others, wanted, top + down, values.shape[1:], right)
            scores = disagreement_scores((values[0], values[1]), (theirs[0], theirs[1]))
            best.add(top, _free(scores, top, source, known))
        cells, scores = best.cells()
        ours = _classes_at(layers, cells)
        shifted = cells + np.array([down, right])
        pairs = ours * (NODATA_ID + 1) + _classes_at(others, shifted)
    chosen = choose_by_strata(cells, scores, pairs, request.count, distance)
    names = {
        int(pair): f"{source.names[pair // (NODATA_ID + 1)]} / {source.names[pair % (NODATA_ID + 1)]}"
        for pair in np.unique(pairs[chosen])
    }
    return cells, chosen, pairs[chosen], names


def _other_strip(
    others: MapLayers, wanted: list[tuple[str, int]], top: int, shape: tuple[int, ...], right: int
) -> NDArray[np.uint8]:
    """Layers of the other map on a strip of the first, nodata beyond it.

    Args:
        others: of the other map.
        wanted: its layers.
        top: the strip's first row in the other map.
        shape: of the strip.
        right: the other map's column at the strip's first.
    """
    found = np.full((len(wanted), *shape), NODATA_ID, np.uint8)
    rows = max(top, 0), min(top + shape[0], others.shape[0])
    cols = max(right, 0), min(right + shape[1], others.shape[1])
    if rows[0] >= rows[1] or cols[0] >= cols[1]:
        return found
    for row, values in others.strips(wanted, rows):
        found[:, row - top : row - top + values.shape[1], cols[0] - right : cols[1] - right] = values[
            :, :, cols[0] : cols[1]
        ]
    return found


def _offset(first: ClassMap, other: ClassMap) -> tuple[int, int]:
    """Row and column in the other map of the first map's top left cell.

    Raises:
        UsageError: their classes, CRS, cells or places do not suit.
    """
    if other.names != first.names:
        raise UsageError(
            f"{other.path} has the classes {', '.join(other.names)}; {first.path} has "
            f"{', '.join(first.names)}. Maps that are to disagree need the same classes in the same order."
        )
    if other.parts != first.parts:
        raise UsageError(f"{other_parts(first, other)} Map both with one --legend.")
    if other.crs != first.crs:
        raise UsageError(
            f"{other.path} is in {other.crs}, {first.path} in {first.crs}. Map both in one UTM zone."
        )
    places = ~other.transform @ first.transform
    col, row = places.c, places.f
    apart = (places.a - 1, places.b, places.d, places.e - 1, col - round(col), row - round(row))
    if max(map(abs, apart)) > _LATTICE_CELLS:
        raise UsageError(
            f"Cells of {other.path} do not lie on those of {first.path}: sides of {other.transform.a:g} and "
            f"{first.transform.a:g} m, {col:.3f} columns and {row:.3f} rows apart. Map both with the same "
            "--cell-m or --stride-px."
        )
    down, right = round(row), round(col)
    if not (-first.shape[0] < down < other.shape[0] and -first.shape[1] < right < other.shape[1]):
        raise UsageError(f"{other.path} and {first.path} do not overlap. Give maps of one area.")
    return down, right


def _check_has(source: ClassMap, layers: MapLayers, name: str) -> None:
    if name not in layers.files:
        raise UsageError(
            f"{source.path.parent} has no {name}.tif. Give the folder that `landuse map` wrote, with all its "
            "files."
        )


def _classes_at(layers: MapLayers, cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """(point,), ids of cells."""
    return values_at(layers.strips([("landuse", 1)]), cells, 1)[:, 0].astype(np.int64)


def _free(scores: NDArray[np.int64], top: int, source: ClassMap, known: _Known | None) -> NDArray[np.int64]:
    """Scores of a strip, -1 where a label lies too close."""
    if known is None:
        return scores
    return np.where(known.keeps_off(top, (scores.shape[0], scores.shape[1]), source), np.int64(-1), scores)


def _known(request: SuggestRequest, source: ClassMap, distance: float) -> _Known | None:
    """What ``--exclude`` holds; None without it."""
    path = request.exclude
    if path is None:
        return None
    use = VectorUse(option="--exclude", layer_option="--exclude-layer", kind="POINT", preferred=SAMPLES)
    frame = read_features(path, request.exclude_layer, use)
    if frame.crs is None:
        raise UsageError(f"--exclude {path} states no coordinate reference system. Save it with its CRS.")
    try:
        shapes = frame.geometry.to_crs(source.crs.to_wkt()).to_numpy()
    except ProjError as error:
        raise UsageError(f"--exclude {path} cannot be brought to the map's CRS ({error}).") from error
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    shapes = shapes[there & np.isfinite(shapely.bounds(shapes)).all(1)]  # infinite beyond the projection
    points = shapely.get_coordinates(shapely.point_on_surface(shapely.make_valid(shapes)))
    cells = np.floor(source.places(points.clip(-1e9, 1e9))).astype(np.int64)
    inside = ((cells >= 0) & (cells < source.shape)).all(1)
    around = shapely.buffer(shapes, distance * abs(source.transform.a))
    return _Known(places=cells[inside], around=shapely.STRtree(around))

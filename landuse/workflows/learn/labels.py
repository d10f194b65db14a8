"""From a user's labels to labelled pixels of a UTM zone. Whoever made the file may mean ill.

Vector files are read as those of ``--aoi`` are; a raster by the GeoTIFF driver alone, and in windows.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landuse.contract import check_class_names
from landuse.errors import ReadError, UsageError
from landuse.pipeline.geometry import make_valid
from landuse.pipeline.read.read_scene import GDAL_OPTIONS
from landuse.pipeline.search.area_file import VectorUse, read_features
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import geopandas as gpd
    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

log = logging.getLogger(__name__)

PIXEL_M = 10.0
"""Side of a pixel: what the shipped network of pixels was trained at."""

SQUARE_PX = 64
"""A label raster is sampled in squares of so many pixels a side, on the zone's lattice."""

MAX_SQUARES = 400
"""Most squares of a label raster; of a larger one they are drawn at random."""

SQUARE_SAMPLES = 12
"""Most pixels of a class that are taken of a square."""

MAX_WINDOW_PX = 4096
"""Side of the largest window of a label raster that one square may take: pixels of some 15 cm."""

MAX_CLASSES = 255
"""Different labels that a class raster can hold."""

MANY_NAMES = 20
"""Where more labels differ, and most are of one feature alone, they may be measurements."""

MAX_SAMPLES = 20_000
"""Most pixels of all classes together: each is seen in some ten views, which are in memory at once."""

DENSE_PX = 1_000_000
"""Polygons whose box has more pixels are sampled at random places."""

INNER_M = 5.0
"""Pixels are taken so far inside a polygon where it has any there: at its edge they are mixed."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorLabels:
    """Labelled shapes of a file."""

    names: tuple[str, ...]
    """Classes in order of their names; the index is the id."""
    frame: gpd.GeoDataFrame
    """Geometries, in the file's CRS; the index is the row in the file."""
    labels: NDArray[np.int64]
    """(shape,), class ids."""
    unlabelled: int
    """Shapes without a class, which are left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RasterLabels:
    """A raster of class ids."""

    path: Path
    """The file."""
    bounds_lonlat: tuple[float, float, float, float]
    """West, south, east, north of its outline in degrees."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledPixels:
    """Pixels of a UTM zone with their classes."""

    crs: str
    """The zone."""
    names: tuple[str, ...]
    """Class names by id."""
    rows: NDArray[np.int64]
    """(pixel,), counted downwards from the equator."""
    cols: NDArray[np.int64]
    """(pixel,), counted from the zone's false origin."""
    labels: NDArray[np.int64]
    """(pixel,), class ids."""
    shapes: NDArray[np.int64]
    """(pixel,), the shape that a pixel is of, an index into ``outlines``; -1 of a raster's."""
    outlines: NDArray[np.object_]
    """Shapes in the zone's CRS; none of a raster."""
    file_rows: NDArray[np.int64]
    """(shape,), rows of the shapes in their file, from 0."""
    conflicting: int
    """Pixels in shapes of different classes, which are left out."""

    def of(self, kept: NDArray[np.bool_]) -> LabelledPixels:
        """Some of the pixels, (pixel,) True."""
        return LabelledPixels(
            crs=self.crs, names=self.names, rows=self.rows[kept], cols=self.cols[kept],
            labels=self.labels[kept], shapes=self.shapes[kept], outlines=self.outlines,
            file_rows=self.file_rows, conflicting=self.conflicting,
        )  # fmt: skip


def read_labels(path: Path, layer: str | None, column: str | None) -> VectorLabels | RasterLabels:
    """The labels of a vector file or of a GeoTIFF, looked at but not yet placed.

    Args:
        path: the file.
        layer: of a GeoPackage with several.
        column: of a vector file, holds the classes; a raster has none.

    Raises:
        UsageError: the file is none of those, or has no such column, no CRS, no label, one class alone or
            names that no class can have.
    """
    if _is_tiff(path):
        if column is not None or layer is not None:
            raise UsageError(
                f"--labels {path} is a raster, which has no column and no layer. Leave them out."
            )
        return _open_raster(path)
    if column is None:
        raise UsageError(f"--labels {path} is no GeoTIFF. Name the column of its classes with --column.")
    use = VectorUse(option="--labels", layer_option="--labels-layer", kind="", columns=True)
    return labels_of(read_features(path, layer, use), column, f"--labels {path}")


def labels_of(frame: gpd.GeoDataFrame, column: str, told: str) -> VectorLabels:
    """The labelled shapes of a table; see ``read_labels``.

    Args:
        frame: geometries and that column.
        column: holds the classes.
        told: what messages call the table.
    """
    if column not in frame.columns or column == frame.geometry.name:
        found = ", ".join(printable(str(name)) for name in frame.columns if name != frame.geometry.name)
        raise UsageError(f"{told} has no column {column!r}. It has: {found or 'none'}. Name one that it has.")
    if frame.crs is None:
        raise UsageError(f"{told} states no coordinate reference system. Save it with its CRS.")
    frame = frame.reset_index(drop=True)
    texts = [_text(value) for value in frame[column]]
    shapes = [shape is not None and not shape.is_empty for shape in frame.geometry]
    kept = np.array([text != "" and there for text, there in zip(texts, shapes, strict=True)], np.bool_)
    if not kept.any():
        raise UsageError(
            f"{told} has no label: column {column!r} is empty or NaN in all of its {len(frame)} features "
            "that have a shape. Fill it in, or name another --column."
        )
    own = [text for text, there in zip(texts, kept, strict=True) if there]
    _check_classes(own, frame.geometry[kept], f"{told}, column {column!r},")
    names = _checked_names(set(own), f"{told}, column {column!r},")
    foreign = sorted(set(frame.geometry[kept].geom_type) - {"Polygon", "MultiPolygon", "Point", "MultiPoint"})
    if foreign:
        raise UsageError(f"{told} holds {', '.join(foreign)} features. Give polygons or points.")
    return VectorLabels(
        names=names,
        frame=frame[kept],
        labels=np.array([names.index(text) for text in own], np.int64),
        unlabelled=int((~kept).sum()),
    )


def _check_classes(labels: Sequence[str], shapes: gpd.GeoSeries, told: str) -> None:
    """Refuse measurements as classes; a few classes of a point each, or many of an area each, are none."""
    counts = Counter(labels)
    alone = [label for label, count in counts.items() if count == 1]
    fractions = sum(re.fullmatch(r"-?\d*\.\d+(e-?\d+)?", label) is not None for label in counts)
    measured = 2 * fractions > len(counts) or (shapes.geom_type == "Point").all()
    if MANY_NAMES < len(counts) <= MAX_CLASSES and 2 * len(alone) > len(counts) and measured:
        raise UsageError(
            f"{told} has {len(counts)} different labels in {len(labels)} features, and {len(alone)} of them, "
            f"such as {alone[0]!r}, in one alone. Is it a column of classes? Name the one that is, or label "
            "more of each class."
        )


def _text(value: object) -> str:
    """A class as text; empty where there is none. Whole numbers lose their point: 3.0 is 3."""
    if value is None or value is True or value is False:
        return "" if value is None else str(value)
    if isinstance(value, float | np.floating):
        return "" if not math.isfinite(value) else str(int(value)) if value == int(value) else str(value)
    if isinstance(value, bytes):
        return printable(value.decode("utf-8", "replace")).strip()
    text = str(value).strip()
    return "" if text.casefold() in ("", "nan", "none", "null", "<na>", "nat") else printable(text)


def _checked_names(found: set[str], told: str) -> tuple[str, ...]:
    names = tuple(
        sorted(found, key=lambda text: (not text.isdigit(), int(text) if text.isdigit() else 0, text))
    )
    if len(names) < 2:
        raise UsageError(
            f"{told} has the class {names[0]!r} alone, and a model tells classes apart. Label at least two."
        )
    if len(names) > MAX_CLASSES:
        raise UsageError(
            f"{told} has {len(names)} different labels, and a map holds {MAX_CLASSES} classes. Name the "
            "column of classes, not one of ids or areas."
        )
    _check_names(names, told)
    spellings: dict[str, list[str]] = {}
    for name in names:
        spellings.setdefault(re.sub(r"^(\d+)\.0+$", r"\1", name.casefold()), []).append(name)
    twice = "; ".join(" and ".join(map(repr, same)) for same in spellings.values() if len(same) > 1)
    if twice:
        raise UsageError(f"{told} spells one class in several ways: {twice}. Choose one spelling of each.")
    return names


def _check_names(names: Iterable[str], told: str) -> None:
    try:
        check_class_names(names)
    except ValueError as error:
        raise UsageError(f"{told} has labels that no class can have: {error}. Rename them there.") from error


def bounds_lonlat(labels: VectorLabels | RasterLabels) -> tuple[float, float, float, float]:
    """West, south, east, north in degrees of all labels.

    Raises:
        UsageError: they lie nowhere on earth.
    """
    from pyproj.exceptions import ProjError

    if isinstance(labels, RasterLabels):
        return labels.bounds_lonlat
    try:
        west, south, east, north = map(float, labels.frame.to_crs(4326).total_bounds)
    except ProjError as error:
        raise UsageError(
            f"--labels cannot be brought from {labels.frame.crs.name!r} to longitude and latitude ({error})."
        ) from error
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        raise UsageError(
            f"--labels reach {west:g},{south:g},{east:g},{north:g} (W,S,E,N) as their CRS "
            f"{labels.frame.crs.name!r} has it, which is not on earth. Save them with the CRS that they are "
            "in."
        )
    return west, south, east, north


def place_shapes(
    labels: VectorLabels, crs: str, *, per_shape: int, per_class: int, seed: int
) -> LabelledPixels:
    """The pixels of labelled shapes.

    Of a polygon at most ``per_shape`` pixels are drawn, of a class at most ``per_class``. A pixel that lies
    in shapes of different classes is left out.

    Args:
        labels: the shapes.
        crs: UTM zone to place them in.
        per_shape: most pixels of a polygon.
        per_class: most pixels of a class.
        seed: of what is drawn.

    Raises:
        UsageError: a shape cannot be projected or repaired.
    """
    from pyproj.exceptions import ProjError

    try:
        placed = labels.frame.to_crs(crs)
    except ProjError as error:
        raise UsageError(f"--labels cannot be brought to {crs} ({error}).") from error
    outlines = np.empty(len(placed), object)
    try:
        outlines[:] = [make_valid(shapely.force_2d(shape)) for shape in placed.geometry]
    except ValueError as error:
        raise UsageError(f"--labels: an outline {error}. Draw it anew.") from None
    rng = np.random.default_rng(seed)
    per_class = min(per_class, MAX_SAMPLES // len(labels.names))
    # A class of very many shapes is drawn from before any is looked into.
    order = rng.permutation(len(outlines))
    taken: Counter[int] = Counter()
    rows, cols, shapes = [], [], []
    for index in order.tolist():
        label = int(labels.labels[index])
        if taken[label] >= per_class:
            continue
        row, col = _pixels_of(outlines[index], rng, min(per_shape, per_class - taken[label]))
        taken[label] += len(row)
        rows.append(row)
        cols.append(col)
        shapes.append(np.full(len(row), index, np.int64))
    row, col, shape = (np.concatenate([np.zeros(0, np.int64), *parts]) for parts in (rows, cols, shapes))
    keep, conflicting = _unanimous(row, col, labels.labels[shape], outlines, labels.labels)
    if conflicting:
        log.warning(
            "%d labelled pixels lie in shapes of different classes and are left out: %s. Mend the overlaps "
            "if that is not what you mean.",
            conflicting,
            _conflict(row, col, labels, outlines, keep),
        )
    return LabelledPixels(
        crs=crs, names=labels.names, rows=row[keep], cols=col[keep], labels=labels.labels[shape[keep]],
        shapes=shape[keep], outlines=outlines, file_rows=np.asarray(labels.frame.index, np.int64),
        conflicting=conflicting,
    )  # fmt: skip


def _pixels_of(
    outline: shapely.Geometry, rng: np.random.Generator, most: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of at most so many pixels of a shape, in order."""
    if outline.is_empty or not np.isfinite(shapely.bounds(outline)).all():
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    if "Point" in outline.geom_type:
        at = shapely.get_coordinates(outline)
        pixels = np.unique(np.stack([np.floor(-at[:, 1] / PIXEL_M), np.floor(at[:, 0] / PIXEL_M)], 1), axis=0)
    else:
        inner = outline.buffer(-INNER_M)
        pixels = _centres_in(outline if inner.is_empty else inner, rng)
        if not len(pixels):
            pixels = _centres_in(outline, rng)
        if not len(pixels):  # smaller than a pixel
            x, y = shapely.get_coordinates(outline.representative_point())[0]
            pixels = np.array([[math.floor(-y / PIXEL_M), math.floor(x / PIXEL_M)]])
    if len(pixels) > most:
        pixels = pixels[np.sort(rng.permutation(len(pixels))[:most])]
    whole = pixels.astype(np.int64)
    return whole[:, 0], whole[:, 1]


def _centres_in(outline: shapely.Geometry, rng: np.random.Generator) -> NDArray[np.int64]:
    """(pixel, 2), row and column of pixels whose centres lie in a shape; of a huge one some at random."""
    west, south, east, north = outline.bounds
    top, bottom = math.floor(-north / PIXEL_M), math.floor(-south / PIXEL_M) + 1
    left, right = math.floor(west / PIXEL_M), math.floor(east / PIXEL_M) + 1
    count = (bottom - top) * (right - left)
    at = np.arange(count) if count <= DENSE_PX else np.unique(rng.integers(0, count, DENSE_PX // 10))
    row, col = top + at // (right - left), left + at % (right - left)
    shapely.prepare(outline)
    inside = shapely.contains_xy(outline, (col + 0.5) * PIXEL_M, -(row + 0.5) * PIXEL_M)
    return np.stack([row[inside], col[inside]], 1).astype(np.int64)


def _unanimous(
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    own: NDArray[np.int64],
    outlines: NDArray[np.object_],
    labels: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], int]:
    """Which pixels to keep, one of each place, and how many places have shapes of different classes."""
    differs = np.zeros(len(row), np.bool_)
    areas = np.array([shape.geom_type in ("Polygon", "MultiPolygon") for shape in outlines], np.bool_)
    if areas.any():
        index = np.flatnonzero(areas)
        centres = shapely.points((col + 0.5) * PIXEL_M, -(row + 0.5) * PIXEL_M)
        pixel, hit = shapely.STRtree(outlines[index]).query(centres, predicate="within")
        np.logical_or.at(differs, pixel, labels[index[hit]] != own[pixel])
    _, first, place = np.unique(np.stack([row, col], 1), axis=0, return_index=True, return_inverse=True)
    torn = np.zeros(len(first), np.bool_)
    np.logical_or.at(torn, place.ravel(), (own != own[first][place.ravel()]) | differs)
    keep = np.zeros(len(row), np.bool_)
    keep[first[~torn]] = True
    return keep, int(torn.sum())


def _conflict(
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    labels: VectorLabels,
    outlines: NDArray[np.object_],
    keep: NDArray[np.bool_],
) -> str:
    """One of the places that are in dispute, in words."""
    kept = set(zip(row[keep].tolist(), col[keep].tolist(), strict=True))
    torn = next(place for place in zip(row.tolist(), col.tolist(), strict=True) if place not in kept)
    x, y = (torn[1] + 0.5) * PIXEL_M, -(torn[0] + 0.5) * PIXEL_M
    pixel = shapely.box(x - PIXEL_M / 2, y - PIXEL_M / 2, x + PIXEL_M / 2, y + PIXEL_M / 2)
    touching = sorted(shapely.STRtree(outlines).query(pixel, predicate="intersects").tolist())
    names = list(dict.fromkeys(labels.names[labels.labels[i]] for i in touching))
    rows = ", ".join(str(labels.frame.index[i]) for i in touching[:3])
    return f"{' and '.join(names[:3])} at {x:.0f}, {y:.0f} (features {rows} of the file, counted from 0)"


def _is_tiff(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    except OSError as error:
        raise UsageError(f"--labels {path} cannot be read ({error.strerror or error}).") from error


def _open_raster(path: Path) -> RasterLabels:
    from landuse.pipeline.geometry import footprint_of_bounds

    try:
        with rasterio.Env(**GDAL_OPTIONS), rasterio.open(path, driver="GTiff") as source:
            _check_raster(source, path)
            outline = footprint_of_bounds(source.crs.to_wkt(), tuple(source.bounds))
            listed = _listed_names(source.tags().get("classes"))
    except RasterioError as error:
        raise UsageError(f"--labels {path} cannot be read as a GeoTIFF ({error}).") from error
    if outline.is_empty:
        raise UsageError(f"--labels {path} lies off the earth in its CRS. Georeference it anew.")
    # Those that occur are known when the imagery was looked at, which takes a while.
    _check_names(filter(None, listed), f"--labels {path}, tag classes,")
    west, south, east, north = map(float, outline.bounds)
    return RasterLabels(path=path, bounds_lonlat=(west, south, east, north))


def _check_raster(source: DatasetReader, path: Path) -> None:
    beside = path.with_name(f"{path.name}.msk")
    is_beside = beside.exists()
    if is_beside or MaskFlags.alpha in source.mask_flag_enums[0]:
        what = f"by the file {beside.name} beside it" if is_beside else "by an alpha band"
        raise UsageError(
            f"--labels {path} marks what has no label {what}, which is not read. Store it as a value that no "
            f"class has: gdalwarp {'' if is_beside else '-srcalpha '}-dstnodata 255."
        )
    if source.count != 1 or source.dtypes[0] not in ("uint8", "uint16", "int16", "int32", "uint32", "int8"):
        raise UsageError(
            f"--labels {path} has {source.count} bands of {source.dtypes[0]}; a raster of labels has one of "
            "whole numbers. Make such a one with gdal_translate -b 1 -ot Byte."
        )
    if source.crs is None or source.transform.is_identity or source.transform.is_degenerate:
        raise UsageError(f"--labels {path} is not georeferenced. Georeference it first.")


def place_raster(
    labels: RasterLabels, crs: str, extent_px: tuple[int, int, int, int], *, per_class: int, seed: int
) -> LabelledPixels:
    """Pixels of a raster of labels: of random squares of it, a few of each class.

    Args:
        labels: the raster.
        crs: UTM zone to place them in.
        extent_px: first and one past the last row, and column, of the zone's pixels that imagery has.
        per_class: most pixels of a class.
        seed: of what is drawn.

    Raises:
        UsageError: it holds too many values, one class alone, or is too fine.
        ReadError: it cannot be read.
    """
    rng = np.random.default_rng(seed)
    found: dict[int, list[NDArray[np.int64]]] = {}
    with rasterio.Env(**GDAL_OPTIONS), rasterio.open(labels.path, driver="GTiff") as source:
        tag, nodata = source.tags().get("classes"), source.nodata
        for top, left in _squares(source, crs, extent_px, rng):
            values = _square(source, crs, top, left, labels.path)
            known = values != _NOTHING
            if nodata is not None:
                known &= values != nodata
            for value in np.unique(values[known]).tolist():
                row, col = np.nonzero(known & (values == value))
                chosen = np.sort(rng.permutation(len(row))[:SQUARE_SAMPLES])
                pixels = np.stack([row[chosen] + top, col[chosen] + left], 1).astype(np.int64)
                found.setdefault(int(value), []).append(pixels)
            if len(found) > MAX_CLASSES:
                raise UsageError(
                    f"--labels {labels.path} holds more than {MAX_CLASSES} different values. Give a raster "
                    "of classes."
                )
    if not found:
        raise UsageError(
            f"--labels {labels.path} has no label on the imagery: all is nodata there, or they do not "
            "overlap."
        )
    by_name: dict[str, NDArray[np.int64]] = {}
    per_class = min(per_class, MAX_SAMPLES // len(found))
    for value, name in zip(found, _raster_names(list(found), tag), strict=True):
        pixels = np.concatenate(found[value])
        by_name[name] = pixels[np.sort(rng.permutation(len(pixels))[:per_class])]
    names = _checked_names(set(by_name), f"--labels {labels.path}")
    at = np.concatenate([by_name[name] for name in names])
    own = np.concatenate([np.full(len(by_name[name]), i, np.int64) for i, name in enumerate(names)])
    return LabelledPixels(
        crs=crs, names=names, rows=at[:, 0], cols=at[:, 1], labels=own,
        shapes=np.full(len(own), -1, np.int64), outlines=np.empty(0, object),
        file_rows=np.zeros(0, np.int64), conflicting=0,
    )  # fmt: skip


_NOTHING = np.iinfo(np.int64).min
"""Beyond the raster's edge, or masked."""


def _raster_names(values: Sequence[int], tag: str | None) -> list[str]:
    """Names of values: of the JSON list in the tag ``classes``, as maps here have it, else the numbers."""
    listed = _listed_names(tag)
    told = [listed[v] if 0 <= v < len(listed) else str(v) for v in values]
    return told if len(set(told)) == len(told) else [str(value) for value in values]


def _listed_names(tag: str | None) -> list[str]:
    """The names in a tag ``classes``, by id; none where it holds no list of names."""
    try:
        listed = json.loads(tag or "null")
    except (ValueError, RecursionError):
        return []
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        return []
    return [printable(name).strip() for name in listed]


def _squares(
    source: DatasetReader, crs: str, extent_px: tuple[int, int, int, int], rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Top left pixels of the squares to sample: all that raster and imagery share, or some of them."""
    from rasterio.warp import transform_bounds

    west, south, east, north = transform_bounds(source.crs, crs, *source.bounds, densify_pts=21)
    top, bottom = max(math.floor(-north / PIXEL_M), extent_px[0]), min(-south / PIXEL_M, extent_px[1])
    left, right = max(math.floor(west / PIXEL_M), extent_px[2]), min(east / PIXEL_M, extent_px[3])
    if not (math.isfinite(bottom + right) and top < bottom and left < right):
        return []
    first_row, first_col = top // SQUARE_PX, left // SQUARE_PX
    down = math.ceil(bottom / SQUARE_PX) - first_row
    across = math.ceil(right / SQUARE_PX) - first_col
    count = down * across
    if count <= MAX_SQUARES:
        chosen = np.arange(count)
    else:
        chosen = np.unique(rng.integers(0, count, 4 * MAX_SQUARES))
        chosen = np.sort(rng.permutation(chosen)[:MAX_SQUARES])
    return [
        ((first_row + int(i) // across) * SQUARE_PX, (first_col + int(i) % across) * SQUARE_PX)
        for i in chosen
    ]


def _square(source: DatasetReader, crs: str, top: int, left: int, path: Path) -> NDArray[np.int64]:
    """(row, col), the label at the centre of each pixel of a square; ``_NOTHING`` where the mask hides it."""
    from rasterio.warp import transform

    row, col = np.mgrid[top : top + SQUARE_PX, left : left + SQUARE_PX]
    xs, ys = transform(crs, source.crs, ((col + 0.5) * PIXEL_M).ravel(), (-(row + 0.5) * PIXEL_M).ravel())[:2]
    x, y = np.array(xs), np.array(ys)
    inverse = ~source.transform
    at_col = np.floor(inverse.a * x + inverse.b * y + inverse.c)
    at_row = np.floor(inverse.d * x + inverse.e * y + inverse.f)
    inside = (at_row >= 0) & (at_row < source.height) & (at_col >= 0) & (at_col < source.width)  # NaN is not
    values = np.full(row.size, _NOTHING, np.int64)
    if inside.any():
        rows, cols = at_row[inside].astype(np.int64), at_col[inside].astype(np.int64)
        height, width = int(rows.max() - rows.min()) + 1, int(cols.max() - cols.min()) + 1
        if max(height, width) > MAX_WINDOW_PX:
            raise UsageError(
                f"--labels {path} has pixels so fine that {height} x {width} of them lie in "
                f"{SQUARE_PX * PIXEL_M:g} m. Resample it to {PIXEL_M:g} m first, with gdalwarp -r mode."
            )
        window = Window(int(cols.min()), int(rows.min()), width, height)
        try:
            read = source.read(1, window=window).astype(np.int64)
            if MaskFlags.per_dataset in source.mask_flag_enums[0]:
                read[source.read_masks(1, window=window) == 0] = _NOTHING
        except RasterioError as error:
            raise ReadError(f"--labels {path} cannot be read ({error}). Is it whole?") from error
        values[inside] = read[rows - rows.min(), cols - cols.min()]
    return values.reshape(row.shape)

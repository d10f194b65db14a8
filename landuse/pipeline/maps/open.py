"""Finished maps, opened to be compared: what they say of themselves, and their cells, window by window."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.errors import RasterioError
from rasterio.windows import Window

from landuse.classes import LandUseClass, legend
from landuse.errors import ReadError, UsageError
from landuse.legends.legend import colors_of
from landuse.pipeline.cells import COLORS_TAG, NODATA_ID
from landuse.pipeline.maps.moved_probability import MapCells, to_steps
from landuse.pipeline.stac_json import mapping, number, sequence, text
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from rasterio.crs import CRS
    from rasterio.io import DatasetReader

    from landuse.pipeline.stac_json import Json

_LATTICE_CELLS = 1e-3
"""Cells of two maps lie on each other if their corners do to this share of a cell."""

_SETTINGS = {
    **dict.fromkeys(("bands", "level", "composite"), ""),
    **{"fuse": "pixels", "smooth": "none", "smooth_px": "0"},
}
"""Tags of what decides a map besides its scenes and its model, and what it means if one is not there."""

_STRIP_VALUES = 2**21
"""Probabilities of each map in a strip."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenMap:
    """A map's classes and probabilities, open."""

    path: Path
    """The class raster."""
    names: tuple[str, ...]
    """Class names by id."""
    entries: tuple[LandUseClass, ...]
    """The same with titles and colours."""
    parts: tuple[tuple[str, ...], ...]
    """Of each class the model's classes that it is the sum of, sorted; itself without a legend."""
    acquired_utc: tuple[datetime, ...]
    """Of its scenes, in order."""
    plan_sha256: str
    """What it was made of."""
    model: str
    """What made it."""
    weights_sha256: str
    """Digest of the model's weights."""
    engine: str
    """How it was made: ``"pixels"`` of a map of pixels; empty where the map does not say."""
    cloud_mask: str
    """``"yes"`` where all scenes in it had a cloud mask, ``"no"``, ``"no, yes"``; empty where the map
    does not say."""
    settings: Mapping[str, str]
    """What else decided it, by the names of ``_SETTINGS``; empty where the map does not say."""
    attribution: str
    """Whose data it is."""
    classes: DatasetReader
    """Class ids."""
    probabilities: DatasetReader
    """One band a class."""

    @property
    def crs(self) -> CRS:
        """Of its grid."""
        return self.classes.crs

    @property
    def transform(self) -> Affine:
        """From (col, row) to coordinates in ``crs``."""
        return Affine(*self.classes.transform[:6])

    @property
    def clouds_unknown(self) -> str:
        """Why clouds in it may pass for land, in words; empty where all its scenes had a mask."""
        told = {
            "yes": "",
            "no": "was made without a cloud mask",
            "": "does not say whether clouds were masked (an older landuse made it)",
        }
        return told.get(self.cloud_mask, "was made of scenes some of which have no cloud mask")

    @property
    def days(self) -> str:
        """First and last day of its scenes."""
        first, last = (f"{moment:%Y-%m-%d}" for moment in (self.acquired_utc[0], self.acquired_utc[-1]))
        return first if first == last else f"{first} to {last}"

    def cells(self, row: int, col: int, rows: int, cols: int) -> MapCells:
        """Cells of a rectangle, which may lie partly or wholly beyond the map: nothing is there.

        Args:
            row: its first row in this map's grid.
            col: its first column.
            rows: its rows.
            cols: its columns.

        Raises:
            ReadError: the files cannot be read, or hold what no map holds.
        """
        classes = np.full((rows, cols), NODATA_ID, np.uint8)
        steps = np.full((len(self.names), rows, cols), NODATA_ID, np.uint8)
        top, bottom = max(row, 0), min(row + rows, self.classes.height)
        left, right = max(col, 0), min(col + cols, self.classes.width)
        try:
            if top < bottom and left < right:
                window = Window(left, top, right - left, bottom - top)
                inside = np.s_[top - row : bottom - row, left - col : right - col]
                classes[inside] = self.classes.read(1, window=window)
                steps[:, *inside] = self._steps(window)
            return MapCells(classes=classes, steps=steps)
        except RasterioError as error:
            raise ReadError(f"{self.path.parent} cannot be read ({error}). Make the map again.") from error
        except ValueError as error:
            raise ReadError(f"{self.path.parent} holds no map ({error}). Make it again.") from error

    def _steps(self, window: Window) -> NDArray[np.uint8]:
        file = self.probabilities
        return to_steps(
            file.read(window=window), scales=file.scales, offsets=file.offsets, nodata=file.nodata
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Overlap:
    """Maps, and where the first two of them overlap."""

    maps: tuple[OpenMap, ...]
    """The first, the second and the later ones."""
    corners: tuple[tuple[int, int], ...]
    """Row and column of the overlap's top left cell in the grid of each; beyond it in some later ones."""
    geobox: GeoBox
    """Its grid."""

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by id."""
        return self.maps[0].names

    @property
    def cell_ha(self) -> float:
        """Area of a cell."""
        return float(self.geobox.affine.a) ** 2 / 10_000

    def strips(self) -> Iterator[Window]:
        """Windows of all its columns, from the top."""
        rows, cols = self.geobox.shape
        step = max(_STRIP_VALUES // (cols * len(self.names)), 1)
        for row in range(0, rows, step):
            yield Window(0, row, cols, min(step, rows - row))

    def cells(self, strip: Window) -> list[MapCells]:
        """The cells of a strip, of every map.

        Raises:
            ReadError: a map cannot be read.
        """
        return [
            entry.cells(row + strip.row_off, col + strip.col_off, strip.height, strip.width)
            for entry, (row, col) in zip(self.maps, self.corners, strict=True)
        ]


def raster_of(path: Path, name: str = "landuse") -> Path:
    """The raster of a map's folder, or what is given if that is a file.

    Args:
        path: a map's folder, that of the joined maps of several UTM zones, or a raster in one of these.
        name: of the raster; of a file its neighbour of that name.
    """
    if not path.is_dir():
        return path if name == "landuse" else path.with_name(f"{name}{path.suffix}")
    joined = path / f"{name}.vrt"
    return joined if joined.exists() and not (path / f"{name}.tif").exists() else path / f"{name}.tif"


ZONE_FOLDER = re.compile(r"zone-\d\d[NS]")
"""What the folder of a zone's map in a joined map is called."""


def zone_folders(report: Json) -> list[str]:
    """The folders of the zones' maps that a joined map is made of, in its own folder; none of a single map.

    Args:
        report: what its ``run.json`` holds.

    Raises:
        ValueError: one is called as no zone's folder is: it may lead elsewhere.
    """
    names = [text(mapping(entry).get("folder")) for entry in sequence(report.get("zones"))]
    for name in names:
        if not ZONE_FOLDER.fullmatch(name):
            raise ValueError(f"its run.json names the zone's folder {printable(name)[:80]!r}, not zone-33N")
    return names


@contextmanager
def opened_map(path: Path) -> Iterator[OpenMap]:
    """Open a map with its probabilities.

    Args:
        path: a map's folder, or the ``landuse.tif`` in it.

    Raises:
        UsageError: there is no such map, or it lacks what a comparison needs.
    """
    raster = raster_of(path)
    beside = raster_of(path, "probabilities")
    if not raster.is_file():
        raise UsageError(
            f"{raster} does not exist. Give the folder that `landuse map` wrote, or its landuse.tif."
        )
    if not beside.is_file():
        raise UsageError(
            f"{raster.parent} has no {beside.name}, and classes alone do not tell change from flicker. "
            "Map it again with --probabilities."
        )
    with ExitStack() as stack:
        try:
            classes, probabilities = (stack.enter_context(rasterio.open(file)) for file in (raster, beside))
        except RasterioError as error:
            raise UsageError(
                f"{raster} or the probabilities beside it cannot be read as rasters ({error}). Make the map "
                "again."
            ) from error
        tags = classes.tags()
        names = class_names(raster, tags.get("classes"))
        if classes.dtypes != ("uint8",) or classes.nodata != NODATA_ID:
            raise UsageError(
                f"{raster} has {classes.count} bands of {classes.dtypes[0]} with nodata {classes.nodata}, "
                f"not one of uint8 with nodata {NODATA_ID}. Give a landuse.tif as `landuse map` writes it."
            )
        _check_belong(raster, classes, probabilities, names)
        yield OpenMap(
            path=raster,
            names=names,
            entries=class_entries(names, tags),
            parts=class_parts(raster, names, tags.get("classes_of")),
            acquired_utc=_acquired(raster, tags),
            plan_sha256=_tag(raster, tags, "plan_sha256"),
            model=_unescaped(_tag(raster, tags, "model")),
            weights_sha256=tags.get("weights_sha256", ""),
            engine=tags.get("engine", ""),
            cloud_mask=tags.get("cloud_mask", ""),
            settings={name: tags.get(name, default) for name, default in _SETTINGS.items()},
            attribution=tags.get("TIFFTAG_COPYRIGHT", ""),
            classes=classes,
            probabilities=probabilities,
        )


def _check_belong(
    raster: Path, classes: DatasetReader, probabilities: DatasetReader, names: tuple[str, ...]
) -> None:
    """See that a map's two rasters are of one run, on a grid in metres."""
    grids = [
        (file.crs, file.transform, file.shape, file.tags().get("plan_sha256"))
        for file in (classes, probabilities)
    ]
    if grids[0] != grids[1] or probabilities.count != len(names):
        raise UsageError(
            f"{raster} ({len(names)} classes) and the probabilities beside it ({probabilities.count} "
            "bands) are not of one run: their grid, tag plan_sha256 or classes differ. Map again with "
            "--probabilities."
        )
    crs, grid = classes.crs, classes.transform
    if crs is None or not crs.is_projected or crs.linear_units_factor[1] != 1:
        raise UsageError(f"{raster} is in {crs}, not in metres. Give a map as `landuse map` writes it.")
    if grid.b or grid.d or grid.a <= 0 or grid.a != -grid.e:
        raise UsageError(
            f"{raster} is rotated or has no square cells. Give a map as `landuse map` writes it."
        )


def _tag(raster: Path, tags: dict[str, str], name: str) -> str:
    if not tags.get(name):
        raise UsageError(f"{raster} has no tag {name}: an older landuse made it. Make the map again.")
    return tags[name]


def _acquired(raster: Path, tags: dict[str, str]) -> tuple[datetime, ...]:
    told = _tag(raster, tags, "acquired_utc")
    try:
        moments = tuple(sorted(datetime.fromisoformat(text) for text in told.split(", ")))
        if any(moment.tzinfo is None for moment in moments):
            raise ValueError("no time zone")
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{raster} was acquired at {told[:80]!r}, which is no list of times ({error}). Make the map "
            "again."
        ) from error
    return moments


def _unescaped(text: str) -> str:
    """A tag that was escaped as JSON does; as it is where it was not."""
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text


def _offset_cells(first: OpenMap, other: OpenMap) -> tuple[int, int]:
    """Where the first map's top left cell lies in the other's grid, as row and column.

    Raises:
        UsageError: their cells do not lie on each other.
    """
    if first.crs != other.crs:
        raise UsageError(
            f"{other.path} is in {other.crs}, {first.path} in {first.crs}. Map both in one UTM zone; it "
            "follows from the area and the scenes."
        )
    size = first.transform.a
    if other.transform.a != size:
        raise UsageError(
            f"{other.path} has cells of {other.transform.a:g} m, {first.path} of {size:g} m. Map both with "
            "the same --cell-m or --stride-px."
        )
    row, col = (other.transform.f - first.transform.f) / size, (first.transform.c - other.transform.c) / size
    if max(abs(row - round(row)), abs(col - round(col))) > _LATTICE_CELLS:
        raise UsageError(
            f"Cells of {other.path} lie {col % 1:.3f} columns and {row % 1:.3f} rows beside those of "
            f"{first.path}. Map both anew: cells of `landuse map` lie on one lattice."
        )
    return round(row), round(col)


def overlap_of(maps: Sequence[OpenMap]) -> Overlap:
    """Where the first two of some maps overlap, cell on cell, and the later ones see some of it.

    Raises:
        UsageError: their classes, grids or places do not suit.
    """
    first, second = maps[:2]
    for other in maps[1:]:
        if other.names != first.names:
            raise UsageError(
                f"{other.path} has the classes {', '.join(other.names)}; {first.path} has "
                f"{', '.join(first.names)}. Map both with one model."
            )
        if other.parts != first.parts:
            raise UsageError(f"{other_parts(first, other)} Map both with one model and one --legend.")
    offsets = [_offset_cells(first, other) for other in maps]
    down, right = offsets[1]
    top, left = max(-down, 0), max(-right, 0)
    rows = min(first.classes.height, second.classes.height - down) - top
    cols = min(first.classes.width, second.classes.width - right) - left
    if rows < 1 or cols < 1:
        raise UsageError(f"{second.path} and {first.path} do not overlap. Give maps of one area.")
    for other, (row, col) in zip(maps[2:], offsets[2:], strict=True):
        if not (-rows < top + row < other.classes.height and -cols < left + col < other.classes.width):
            raise UsageError(
                f"{other.path} lies beyond the overlap of {first.path} and {second.path}. It cannot confirm "
                "anything: leave it out."
            )
    return Overlap(
        maps=tuple(maps),
        corners=tuple((top + row, left + col) for row, col in offsets),
        geobox=GeoBox((rows, cols), first.transform @ Affine.translation(left, top), str(first.crs)),
    )


def check_order(maps: Sequence[OpenMap]) -> None:
    """See that the second map is later than the first, and the rest later than the second.

    Raises:
        UsageError: one is not.
    """
    before, after = maps[:2]
    for earlier, later in ((before, after), *((after, other) for other in maps[2:])):
        if later.acquired_utc[0] <= earlier.acquired_utc[-1]:
            raise UsageError(
                f"{later.path} ({later.days}) does not begin after {earlier.path} ({earlier.days}) ends. "
                "Give the earlier map first, then the later one, and to --confirm what is later still."
            )


_STRIP_ROWS = 512
"""As high as a COG's chunks: each is read once."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassMap:
    """A map of classes, counted."""

    path: Path
    """Its raster."""
    names: tuple[str, ...]
    """Class names by id."""
    entries: tuple[LandUseClass, ...]
    """The same with titles and colours."""
    parts: tuple[tuple[str, ...], ...]
    """Of each class the model's classes that it is the sum of, sorted; itself without a legend."""
    cells: NDArray[np.int64]
    """(class,), cells of each."""
    shape: tuple[int, int]
    """(rows, cols)."""
    transform: Affine
    """From (col, row) to coordinates in ``crs``."""
    crs: CRS
    """Projected."""
    area_ha: NDArray[np.float64]
    """(class,), area of each: of the cells' parts inside the area and on the imagery, as the map's report has
    it, else of whole cells."""
    of_whole_cells: bool
    """Whether it is of whole cells."""
    year: int | None
    """Of its scenes; None where it does not say."""
    sha256: str
    """Digest of grid, class names and class ids: the same map has the same, however it is stored."""

    def coordinates(self, places: NDArray[np.floating]) -> NDArray[np.float64]:
        """(..., 2) row and col, fractions counted from a cell's upper left corner, to (..., 2) x and y."""
        return _apply(self.transform, places[..., ::-1])

    def places(self, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., 2) x and y to (..., 2) row and col: what ``coordinates`` undoes."""
        return _apply(~self.transform, coordinates)[..., ::-1]


def _apply(transform: Affine, pairs: NDArray[np.floating]) -> NDArray[np.float64]:
    first, second = pairs[..., 0], pairs[..., 1]
    return np.stack(
        [
            transform.a * first + transform.b * second + transform.c,
            transform.d * first + transform.e * second + transform.f,
        ],
        -1,
    )


def counted_map(path: Path) -> ClassMap:
    """Read and count a map.

    Args:
        path: a map's folder, or the ``landuse.tif`` in it.

    Raises:
        UsageError: there is no such map, or it lacks what is needed.
        ReadError: its pixels cannot be read.
    """
    raster = raster_of(path)
    if not raster.is_file():
        raise UsageError(
            f"{raster} does not exist. Give the folder that `landuse map` wrote, or its landuse.tif."
        )
    try:
        with rasterio.open(raster) as file:
            if file.count != 1 or file.dtypes[0] != "uint8" or file.nodata != NODATA_ID:
                raise UsageError(
                    f"{raster} has {file.count} bands of {file.dtypes[0]} with nodata {file.nodata}; a map "
                    f"has one of uint8 with nodata {NODATA_ID}. Give the landuse.tif of `landuse map`."
                )
            names = class_names(raster, file.tags().get("classes"))
            entries = class_entries(names, file.tags())
            parts = class_parts(raster, names, file.tags().get("classes_of"))
            plan_sha256, is_joined = file.tags().get("plan_sha256"), "zones" in file.tags()
            told = re.match(r"(20\d\d)-", file.tags().get("acquired_utc", ""))
            year = None if told is None else int(told[1])
            crs, transform, shape = file.crs, file.transform, file.shape
    except RasterioError as error:
        raise UsageError(f"{raster} cannot be read as a raster ({error}). Give a landuse.tif.") from error
    if crs is None or not crs.is_projected:
        raise UsageError(
            f"{raster} is in {crs}, where cells have no one area. Give a map in a projected CRS."
        )
    digest = hashlib.sha256(json.dumps([names, crs.to_string(), list(transform), shape]).encode())
    cells = np.zeros(NODATA_ID + 1, np.int64)
    for _, ids in strips(raster):
        digest.update(ids.tobytes())
        cells += np.bincount(ids.ravel(), minlength=len(cells))
    foreign = np.flatnonzero(cells[len(names) : NODATA_ID]) + len(names)
    if foreign.size or not cells[: len(names)].any():
        raise UsageError(
            f"{raster} holds class ids such as {foreign.tolist()[:5]} beyond its {len(names)} classes, or no "
            "class at all. Give the landuse.tif of `landuse map`, or make the map again."
        )
    cells = cells[: len(names)]
    whole_ha = cells * abs(transform.determinant) * crs.linear_units_factor[1] ** 2 / 10_000
    reported_ha = _reported_ha(raster, plan_sha256, cells, is_joined=is_joined)
    return ClassMap(
        path=raster,
        names=names,
        entries=entries,
        parts=parts,
        cells=cells,
        shape=shape,
        transform=transform,
        crs=crs,
        area_ha=whole_ha if reported_ha is None else reported_ha,
        of_whole_cells=reported_ha is None,
        year=year,
        sha256=digest.hexdigest(),
    )


def _reported_ha(
    raster: Path, plan_sha256: str | None, cells: NDArray[np.int64], *, is_joined: bool
) -> NDArray[np.float64] | None:
    """(class,), hectares by the report beside a map's raster; None where none is of these cells.

    The report of a joined map counts the cells of its zones, most of which its raster shows warped: a class
    may have some cells more or less there, and a class of a few none, which then has no area.
    """
    try:
        report = mapping(json.loads(raster.with_name("run.json").read_bytes()))
    except (OSError, ValueError):
        return None
    entries = [mapping(entry) for entry in sequence(report.get("classes"))]
    told = {number(entry.get("id")): entry for entry in entries}
    of_class = [mapping(told.get(i)) for i in range(len(cells))]
    area_ha = np.array([number(entry.get("area_ha")) or 0.0 for entry in of_class])
    is_of_map = plan_sha256 is not None and report.get("plan_sha256") == plan_sha256
    counted = np.array([number(entry.get("cells")) or 0 for entry in of_class])
    if is_joined:
        area_ha, same = np.where(cells > 0, area_ha, 0.0), counted[cells > 0] > 0
    else:
        same = counted == cells
    return area_ha if is_of_map and same.all() and (area_ha >= 0).all() and area_ha.any() else None


def class_names(raster: Path, tag: str | None, name: str = "classes") -> tuple[str, ...]:
    """Names by id from the raster's tag, of that name; what a terminal or XML cannot hold is replaced."""
    try:
        names = json.loads(tag or "null")
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(
            f"{raster} does not say in its tag `{name}` what its class ids mean. Give a {raster.name} as "
            "`landuse map` writes it, or set the tag to a JSON list of names by id."
        )
    cleaned = tuple(printable(name).strip() for name in names)
    if not 2 <= len(set(cleaned)) == len(cleaned) <= NODATA_ID or "" in cleaned:
        raise UsageError(
            f"{raster} names its classes {cleaned}; 2 to {NODATA_ID} different names are needed."
        )
    return cleaned


def class_parts(raster: Path, names: tuple[str, ...], tag: str | None) -> tuple[tuple[str, ...], ...]:
    """Of each class, by id, the model's classes that it is the sum of, from the raster's tag `classes_of`.

    Args:
        raster: named in messages.
        names: by id.
        tag: None where no legend was laid over the model: each class is itself.

    Raises:
        UsageError: the tag holds something else.
    """
    if tag is None:
        return tuple((name,) for name in names)
    try:
        parts = [sequence(entry) for entry in sequence(json.loads(tag))]
    except ValueError:
        parts = []
    if len(parts) != len(names) or not all(isinstance(part, str) for entry in parts for part in entry):
        raise UsageError(
            f"{raster} says in its tag `classes_of` {printable(tag)[:80]!r}, which is no JSON list of "
            f"{len(names)} lists of names, one for each class. Make the map again."
        )
    return tuple(tuple(sorted(printable(str(part)) for part in entry)) for entry in parts)


def other_parts(first: OpenMap | ClassMap, other: OpenMap | ClassMap) -> str:
    """What two maps whose classes have the same names mean by the first that they tell differently."""
    name, ours, theirs = next(
        row for row in zip(first.names, first.parts, other.parts, strict=True) if row[1] != row[2]
    )
    return (
        f"{other.path} and {first.path} mean different things by the same names: {name} is the sum of "
        f"{', '.join(theirs)} in the one, of {', '.join(ours)} in the other."
    )


def class_entries(names: tuple[str, ...], tags: Mapping[str, str]) -> tuple[LandUseClass, ...]:
    """Titles and colours of a map's classes: those of its legend where its tags hold one."""
    return legend(names, colors_of(tags.get(COLORS_TAG), len(names)))


def strips(raster: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """First row and class ids, (row, col), of all columns, from the top."""
    try:
        with rasterio.open(raster) as file:
            for row in range(0, file.height, _STRIP_ROWS):
                rows = min(_STRIP_ROWS, file.height - row)
                yield row, file.read(1, window=Window(0, row, file.width, rows))
    except RasterioError as error:
        raise ReadError(f"{raster} cannot be read ({error}). Is it whole? Make the map again.") from error

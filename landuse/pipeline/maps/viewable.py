"""IO: what a folder of ``landuse map`` or ``landuse change`` holds to look at, without its cells."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import rasterio
from rasterio.errors import RasterioError

from landuse.classes import cover_legend
from landuse.errors import UsageError
from landuse.pipeline.cells import NODATA_ID
from landuse.pipeline.maps.moved_probability import UNCHANGED_CODE, UNCONFIRMED_CODE, change_codes
from landuse.pipeline.maps.open import class_entries, class_names, zone_folders
from landuse.pipeline.stac_json import mapping, number, sequence
from landuse.redact import printable

if TYPE_CHECKING:
    from pathlib import Path

    from rasterio.io import DatasetReader


_UTM = re.compile(r"EPSG:32([67])(0[1-9]|[1-5]\d|60)")

_COMPRESSIONS = (None, "deflate")
"""What the page can unpack: a browser knows how."""

_MOST_SIDE_PX = 4096
"""Of the coarsest overview: beyond it a look at the whole map would read far too much."""

_MOST_CHUNK_PX = 2048
"""Of a chunk's side; ``landuse`` writes 512."""

_MOST_CHANGES = 200
"""Kinds of change that the legend names, the largest first."""

_MAP_RASTERS = {
    "landuse": ("Land use", "classes", 1),
    "cover": ("Land cover", "classes", 1),
    "confidence": ("Confidence", "share", 1),
    "doubt": ("Doubt", "share", 1),
    "image": ("Image", "image", 3),
    "second": ("Second class", "", 2),
    "status": ("Status", "", 1),
}
"""Title, how it is drawn and bands of each raster of a map. What is not drawn is read under the pointer."""

_CHANGE_RASTERS = {
    "change": ("Change", "classes", 1),
    "difference": ("Moved probability", "share", 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A value of a raster and what it stands for."""

    value: int
    """In the raster, 0..254."""
    title: str
    """For people."""
    color: tuple[int, int, int]
    """Red, green, blue, 0..255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Raster:
    """A raster that the page reads."""

    name: str
    """Its file's, without ``.tif``."""
    title: str
    """For people."""
    kind: str
    """``"classes"``, ``"share"`` or ``"image"``; empty of one that is only read under the pointer."""
    path: Path
    """Its file."""
    shape: tuple[int, int]
    """(rows, cols)."""
    bands: int
    """As many as it has."""
    nodata: int
    """Its value for none."""
    origin_m: tuple[float, float]
    """East and north of its upper left corner."""
    pixel_m: float
    """Side of its pixels."""
    legend: tuple[Entry, ...]
    """Of classes: what its values mean."""
    tags: dict[str, str]
    """Its provenance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewable:
    """A folder whose rasters can be looked at."""

    path: Path
    """The folder."""
    kind: str
    """``"map"`` or ``"change"``."""
    days: str
    """Of its scenes, such as ``"2024-06-01 to 2024-06-09"``; of a change ``"2024-06-01 / 2024-07-01"``. Empty
    where the rasters do not say."""
    zone: int
    """Its UTM zone, 1..60."""
    is_north: bool
    """Whether that zone is north of the equator."""
    rasters: tuple[Raster, ...]
    """The classes, or the change, first."""

    @property
    def first(self) -> Raster:
        """The classes, or the change."""
        return self.rasters[0]


def folders_of(path: Path) -> tuple[Path, ...]:
    """The folders to look at where a path is given: of joined maps of several UTM zones, those of the zones.

    Args:
        path: what ``viewable`` takes, or a folder of joined maps, or the ``landuse.vrt`` in it.

    Raises:
        UsageError: the ``run.json`` of joined maps does not say which zones they have.

    Example:
        >>> folders_of(Path("austria"))  # doctest: +SKIP
        (PosixPath('austria/zone-32N'), PosixPath('austria/zone-33N'))
    """
    folder = path if path.is_dir() else path.parent
    is_joined = folder == path or path.name == "landuse.vrt"
    if not is_joined or any((folder / f"{name}.tif").is_file() for name in ("landuse", "change")):
        return (path,)
    report = folder / "run.json"
    try:
        names = zone_folders(mapping(json.loads(report.read_bytes()))) if report.is_file() else []
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{report} cannot be read as the report of a map ({printable(str(error)):.200}). Map again, or "
            "give the folders of the zones."
        ) from error
    return tuple(folder / name for name in names) or (path,)


def viewable(path: Path) -> Viewable:
    """Look at what a folder holds.

    Args:
        path: a folder of ``landuse map`` or ``landuse change``, or ``landuse.tif`` or ``change.tif`` in it.

    Raises:
        UsageError: it is neither, or a raster in it is not as ``landuse`` writes it.

    Example:
        >>> viewable(Path("map")).first.name  # doctest: +SKIP
        'landuse'
    """
    folder = path if path.is_dir() else path.parent
    if (folder / "landuse.tif").is_file() and path.name != "change.tif":
        kind, known = "map", _MAP_RASTERS
    elif (folder / "change.tif").is_file() and path.name != "landuse.tif":
        kind, known = "change", _CHANGE_RASTERS
    else:
        raise UsageError(
            f"{path} holds neither a landuse.tif nor a change.tif. Give a folder that `landuse map` or "
            "`landuse change` wrote."
        )
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_opened(folder / f"{name}.tif"))
            for name in known
            if (folder / f"{name}.tif").is_file()
        }
        first = files[next(iter(known))]
        told = _UTM.fullmatch(str(first.crs))
        if told is None:
            raise UsageError(
                f"{first.name} is in {first.crs}, and the page draws maps in UTM zones (EPSG:326xx or "
                "327xx). Give a map as `landuse map` writes it."
            )
        for name, file in files.items():
            _check_raster(file, first, known[name][2])
        legends = {
            name: _legend(folder, name, file) for name, file in files.items() if known[name][1] == "classes"
        }
        return Viewable(
            path=folder,
            kind=kind,
            days=_days(first.tags()),
            zone=int(told[2]),
            is_north=told[1] == "6",
            rasters=tuple(
                Raster(
                    name=name,
                    title=known[name][0],
                    kind=known[name][1],
                    path=folder / f"{name}.tif",
                    shape=file.shape,
                    bands=file.count,
                    nodata=int(file.nodata or 0),
                    origin_m=(file.transform.c, file.transform.f),
                    pixel_m=file.transform.a,
                    legend=legends.get(name, ()),
                    tags={key: printable(str(value)) for key, value in file.tags().items()},
                )
                for name, file in files.items()
            ),
        )


def _opened(path: Path) -> DatasetReader:
    try:
        return rasterio.open(path, driver="GTiff")
    except RasterioError as error:
        raise UsageError(f"{path} cannot be read as a GeoTIFF ({error}). Make the map again.") from error


def _check_raster(file: DatasetReader, first: DatasetReader, bands: int) -> None:
    """See that the page can read a raster, and that it lies where the first one does."""
    name, grid = file.name, file.transform
    if file.count != bands or set(file.dtypes) != {"uint8"} or file.nodata not in (0, NODATA_ID):
        raise UsageError(
            f"{name} has {file.count} bands of {file.dtypes[0]} with nodata {file.nodata}; {bands} of uint8 "
            f"with nodata 0 or {NODATA_ID} are needed. Give a folder as `landuse` writes it."
        )
    compression = file.compression.value.lower() if file.compression is not None else None
    chunk = max(file.block_shapes[0])
    coarsest = file.overviews(1)[-1] if file.overviews(1) else 1
    if (
        compression not in _COMPRESSIONS
        or file.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") != "COG"
        or chunk > _MOST_CHUNK_PX
        or max(file.shape) / coarsest > _MOST_SIDE_PX
    ):
        raise UsageError(
            f"{name} (compression {compression}, chunks of {file.block_shapes[0]}, {file.shape} pixels, "
            f"coarsest overview 1/{coarsest}) is no cloud-optimised GeoTIFF that the page can read. Convert "
            "it: gdal_translate -of COG -co COMPRESS=DEFLATE, or make it again."
        )
    size = grid.a / first.transform.a
    apart = max(
        abs(a - b) for a, b in zip(_bounds(file), _bounds(first), strict=True)
    )  # metres between the edges
    tags = [entry.tags().get("plan_sha256") for entry in (file, first)]
    if grid.b or grid.d or grid.a <= 0 or grid.a != -grid.e:
        raise UsageError(f"{name} is rotated or has no square cells. Give a map as `landuse map` writes it.")
    if file.crs != first.crs or apart > 1e-3 * grid.a or size > 1 + 1e-9 or tags[0] != tags[1]:
        raise UsageError(
            f"{name} is not of the run that made {first.name}: their grid or tag plan_sha256 differ. Make "
            "them again, or move that file away."
        )


def _bounds(file: DatasetReader) -> tuple[float, float, float, float]:
    left, bottom, right, top = file.bounds
    return float(left), float(bottom), float(right), float(top)


def _legend(folder: Path, name: str, file: DatasetReader) -> tuple[Entry, ...]:
    if name == "change":
        return _change_legend(folder, file)
    path, tags = folder / f"{name}.tif", file.tags()
    if name == "cover":
        entries = cover_legend(class_names(path, tags.get("covers"), "covers"))
    else:
        entries = class_entries(class_names(path, tags.get("classes")), tags)
    return tuple(Entry(value=entry.id, title=entry.title, color=entry.color) for entry in entries)


def _change_legend(folder: Path, file: DatasetReader) -> tuple[Entry, ...]:
    """The kinds of change that occur, the largest first; colours are those of the raster.

    Raises:
        UsageError: ``change.json`` does not say which they are.
    """
    path = folder / "change.json"
    try:
        report = mapping(json.loads(path.read_bytes()))
        names = class_names(folder / "change.tif", json.dumps(report.get("classes")))
        rows = [mapping(row) for row in sequence(report.get("matrix"))]
        areas: dict[tuple[int, int], float] = {}
        for row in rows:
            start, end, area = (number(row.get(key)) for key in ("from_id", "to_id", "area_ha"))
            if start is None or end is None or not {start, end} <= set(range(len(names))):
                raise ValueError(f"classes {start} and {end} are not of {len(names)}")
            if start != end:
                areas[int(start), int(end)] = area or 0.0
        codes = change_codes(len(names), areas)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} does not say what the values of change.tif mean ({error}). Run `landuse change` again."
        ) from error
    entries = class_entries(names, {})
    colors = file.colormap(1)
    largest = sorted(areas, key=lambda pair: (-areas[pair], pair))[:_MOST_CHANGES]
    return (
        *(
            Entry(
                value=codes[start, end],
                title=f"{entries[start].title} to {entries[end].title}",
                color=_rgb(colors, codes[start, end]),
            )
            for start, end in largest
        ),
        Entry(value=UNCONFIRMED_CODE, title="Unconfirmed", color=_rgb(colors, UNCONFIRMED_CODE)),
        Entry(value=UNCHANGED_CODE, title="No change", color=_rgb(colors, UNCHANGED_CODE)),
    )


def _rgb(colors: dict[int, tuple[int, ...]], value: int) -> tuple[int, int, int]:
    red, green, blue = colors.get(value, (128, 128, 128))[:3]
    return red, green, blue


def _days(tags: dict[str, str]) -> str:
    """The days of a raster's scenes, as far as its tags name days."""
    if "before_acquired_utc" in tags:
        spans = [_span(tags.get(f"{side}_acquired_utc", "")) for side in ("before", "after")]
        return " / ".join(filter(None, spans))
    return _span(tags.get("acquired_utc", ""))


def _span(moments: str) -> str:
    days = sorted(set(re.findall(r"(?<!\d)20\d\d-[01]\d-[0-3]\d(?=T)", moments)))
    if not days:
        return ""
    return days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"

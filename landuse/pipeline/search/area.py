"""From what the user typed to an area and a span of time: ``--bbox``, ``--aoi``, ``--date``."""

from __future__ import annotations

import logging
import math
import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

import shapely

from landuse.errors import UsageError
from landuse.pipeline.geometry import (
    EDGE_PIECES,
    crosses_antimeridian,
    cut_at_antimeridian,
    in_one_piece,
    make_valid,
    surfaces,
)
from landuse.pipeline.search.area_file import read_shapes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import geopandas as gpd
    from shapely import Geometry, MultiPolygon, Polygon

log = logging.getLogger(__name__)

UTM_LATITUDE = (-80.0, 84.0)
"""Latitudes that the UTM grid, and with it Sentinel-2's tiling, covers."""

FIRST_MOMENT = time.min.replace(tzinfo=UTC)
"""When a day begins."""

LAST_MOMENT = time.max.replace(tzinfo=UTC)
"""When a day ends; to the microsecond, which is the finest that ``datetime`` knows."""

_BBOX_FORM = "W,S,E,N in degrees, for example --bbox -4.1,52.3,-3.9,52.5"
_DATE_FORM = "2024-06-30, 2024-06, 2024-06-01/2024-06-30, 2024-06-01/.. or ../2024-06-30"


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """The part of the world to map."""

    geometry: Polygon | MultiPolygon
    """Longitude and latitude in degrees, EPSG:4326; valid, not empty, cut at the 180th meridian."""
    clip: bool
    """True where the map is cut to the geometry's edge; False where its box is meant."""
    name: str
    """Short label of letters, digits, ``-`` and ``_`` for the report."""

    def __post_init__(self) -> None:
        if self.geometry.geom_type not in ("Polygon", "MultiPolygon"):
            raise UsageError(f"An area is made of polygons, not of {self.geometry.geom_type}.")
        if self.geometry.is_empty or not self.geometry.is_valid or self.geometry.area <= 0:
            raise UsageError(f"The area {self.name!r} is empty or not valid; draw it anew.")
        west, south, east, north = self.geometry.bounds
        if west < -180 or east > 180 or south < -90 or north > 90:
            raise UsageError(
                f"The area reaches {_degrees((west, south, east, north))} (W,S,E,N); longitudes run from "
                "-180 to 180 and latitudes from -90 to 90. Was latitude given before longitude?"
            )
        if south < UTM_LATITUDE[0] or north > UTM_LATITUDE[1]:
            raise UsageError(
                f"The area reaches from {south:g} to {north:g} degrees latitude; UTM and Sentinel-2 cover "
                f"{UTM_LATITUDE[0]:g} to {UTM_LATITUDE[1]:g}. Cut it to that."
            )
        wests, _, easts, _ = shapely.bounds(shapely.get_parts(self.geometry)).T
        wide = float((easts - wests).max())
        if wide <= 180:
            west, _, east, _ = in_one_piece(self.geometry).bounds
            wide = east - west
        if wide > 180:
            raise UsageError(f"The area is {wide:g} degrees wide. Choose a smaller one.")

    @property
    def bbox(self) -> tuple[float, float, float, float]:
        """West, south, east, north in degrees.

        Over the 180th meridian west is beyond east, as GeoJSON has it (RFC 7946, 5.2); ``boxes`` never is.
        """
        west, south, east, north = self.geometry.bounds
        if crosses_antimeridian(self.geometry):
            wests, _, easts, _ = shapely.bounds(shapely.get_parts(self.geometry)).T
            west, east = float(wests[wests >= 0].min()), float(easts[wests < 0].max())
        return west, south, east, north

    @property
    def boxes(self) -> tuple[tuple[float, float, float, float], ...]:
        """The ``bbox``, or its halves on either side of the 180th meridian, each with west below east."""
        west, south, east, north = self.bbox
        if west <= east:
            return ((west, south, east, north),)
        return (west, south, 180.0, north), (-180.0, south, east, north)


@dataclass(frozen=True, slots=True, kw_only=True)
class DateRange:
    """A span of time, both ends inside it; None where it is open on that side."""

    start_utc: datetime | None
    """First moment, timezone-aware UTC."""
    end_utc: datetime | None
    """Last moment, timezone-aware UTC."""

    def __post_init__(self) -> None:
        for end in (self.start_utc, self.end_utc):
            if end is not None and end.utcoffset() != timedelta(0):
                raise ValueError(f"{end} is not in UTC")
        if self.start_utc is not None and self.end_utc is not None and self.start_utc > self.end_utc:
            raise UsageError(
                f"The dates run backwards: {self.start_utc:%Y-%m-%d} is after {self.end_utc:%Y-%m-%d}. "
                "Swap them."
            )

    def __contains__(self, moment_utc: datetime) -> bool:
        """Whether ``moment_utc`` lies in the span."""
        return (self.start_utc is None or self.start_utc <= moment_utc) and (
            self.end_utc is None or moment_utc <= self.end_utc
        )

    def __str__(self) -> str:
        """The interval as STAC APIs read it: RFC 3339, ``..`` for an open end."""
        return "/".join(
            ".." if end is None else end.isoformat().replace("+00:00", "Z")
            for end in (self.start_utc, self.end_utc)
        )

    @property
    def label(self) -> str:
        """The span for people: ends that are those of a day (UTC) as days, one day as itself."""
        days = [
            end.date().isoformat() if end is not None and end.timetz() == edge else stated
            for end, edge, stated in zip(
                (self.start_utc, self.end_utc), (FIRST_MOMENT, LAST_MOMENT), str(self).split("/"), strict=True
            )
        ]
        return "/".join(dict.fromkeys(days))


def parse_bbox(text: str) -> Area:
    """``"W,S,E,N"`` in degrees, separated by commas or spaces, to an area to clip to.

    Raises:
        UsageError: On anything else than four numbers that bound a piece of the UTM grid.
    """
    words = re.split(r"\s*,\s*|\s+", text.strip())
    if len(words) != 4:
        raise UsageError(f"--bbox {text!r} has {len(words)} values, not 4. Give {_BBOX_FORM}.")
    try:
        west, south, east, north = (float(word) for word in words)
    except ValueError as error:
        raise UsageError(f"--bbox {text!r} holds something that is no number. Give {_BBOX_FORM}.") from error
    if not all(map(math.isfinite, (west, south, east, north))):
        raise UsageError(f"--bbox {text!r} holds a value that is not finite. Give {_BBOX_FORM}.")
    if max(abs(west), abs(east)) > 180 or max(abs(south), abs(north)) > 90:
        raise UsageError(
            f"--bbox {text!r} is out of range: longitudes run from -180 to 180 and latitudes from -90 to 90, "
            f"and the order is {_BBOX_FORM}."
        )
    if west == east or south == north:
        raise UsageError(f"--bbox {text!r} has no area: give W < E and S < N.")
    if south > north:
        raise UsageError(
            f"--bbox {text!r} has south {south:g} above north {north:g}; they are swapped. Give {_BBOX_FORM}."
        )
    if west <= east:
        box = shapely.box(west, south, east, north)
    elif west > 0 > east and east + 360 - west < 180:
        halves = shapely.box(west, south, 180, north), shapely.box(-180, south, east, north)
        box = surfaces(shapely.union_all(halves))
    else:
        raise UsageError(
            f"--bbox {text!r} has west {west:g} beyond east {east:g}; they are swapped. Give {_BBOX_FORM}."
        )
    return Area(geometry=box, clip=True, name="bbox")


def read_aoi(path: Path, layer: str | None = None) -> Area:
    """The union of the polygons in a vector file, as an area to clip to.

    Args:
        path: a file of one of ``area_file.FORMATS``.
        layer: which layer of a GeoPackage; None: the only one of polygons.

    Raises:
        UsageError: Where the file is missing or unreadable, has no CRS, or holds no polygon.
    """
    return area_of_shapes(read_shapes(path, layer), f"--aoi {path}", path.stem)


def area_of_shapes(geometry: gpd.GeoSeries, told: str, name: str) -> Area:
    """The union of polygons in any CRS, as an area to clip to.

    Args:
        geometry: the polygons.
        told: what messages call them.
        name: what the area is called; what a label may not hold is replaced.

    Raises:
        UsageError: they have no CRS, are not polygons alone, or enclose nothing.
    """
    from pyproj.exceptions import ProjError

    there = [shape is not None and not shape.is_empty for shape in geometry]
    shapes = geometry[there]  # geopandas warns where notna() meets empty shapes
    if shapes.empty:
        raise UsageError(f"{told} holds no features. Give a file with at least one polygon.")
    foreign = sorted(set(shapes.geom_type) - {"Polygon", "MultiPolygon"})
    if foreign:
        raise UsageError(f"{told} holds {', '.join(foreign)} features. Give polygons alone.")
    if shapes.crs is None:
        raise UsageError(f"{told} states no coordinate reference system. Save it with its CRS.")
    if not shapes.crs.is_geographic:
        # An edge that is straight in the file's projection is bowed in degrees: it needs corners between.
        left, bottom, right, top = shapes.total_bounds
        shapes = shapes.segmentize(max(right - left, top - bottom) / EDGE_PIECES)
    try:
        lonlat = shapes.to_crs(4326)
    except ProjError as error:
        raise UsageError(
            f"{told} cannot be brought from {shapes.crs.name!r} to longitude and latitude ({error})."
        ) from error
    if not all(math.isfinite(edge) for edge in lonlat.total_bounds):
        raise UsageError(f"{told} has coordinates outside its CRS {shapes.crs.name!r}.")
    drawn = shapely.force_2d(lonlat.to_numpy())
    try:
        polygons = [make_valid(polygon) for polygon in drawn]
    except ValueError as error:
        raise UsageError(f"{told} {error}. Draw its outline anew.") from None
    _warn_of_repair(told, drawn, polygons)
    # Beyond these bounds something else than longitudes was given, which Area refuses with its values.
    turnable = max(map(abs, shapely.total_bounds(polygons)[[0, 2]])) <= 360
    area = surfaces(
        shapely.union_all([cut_at_antimeridian(polygon) if turnable else polygon for polygon in polygons])
    )
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:60]
    if area.is_empty:
        raise UsageError(f"{told} encloses no area. Draw a polygon.")
    return Area(geometry=area, clip=True, name=name or "aoi")


def _warn_of_repair(told: str, drawn: Sequence[Geometry], mended: Sequence[Geometry]) -> None:
    """Say how large the polygons that were not valid are, as drawn and as they are mapped."""
    broken = [number for number, shape in enumerate(drawn) if not shape.is_valid]
    if not broken:
        return
    from pyproj import Geod

    earth = Geod(ellps="WGS84")
    before, after = (
        sum(abs(earth.geometry_area_perimeter(shapes[number])[0]) for number in broken) / 10_000
        for shapes in (drawn, mended)
    )
    log.warning(
        "%s: the outline of %d of %d polygons is not valid (%s). As drawn it encloses %.4g ha, and as it is "
        "repaired and mapped %.4g ha. Draw it anew if that is not what you mean.",
        told,
        len(broken),
        len(drawn),
        shapely.is_valid_reason(drawn[broken[0]]),
        before,
        after,
    )


def parse_dates(text: str) -> DateRange:
    """A day, month, year, moment, or two of them as ``start/end``, to a span with both ends inside.

    A day means all of it in UTC; a moment without an offset is in UTC; ``..`` leaves one side open.

    Raises:
        UsageError: On anything else, and on dates that run backwards.
    """
    ends = [end.strip() for end in text.split("/")]
    if len(ends) == 1:
        start_utc, end_utc = _moments(ends[0], text)
        return DateRange(start_utc=start_utc, end_utc=end_utc)
    if len(ends) != 2 or ends == ["..", ".."]:
        raise UsageError(f"--date {text!r} is not a span of time. Give {_DATE_FORM}.")
    return DateRange(
        start_utc=None if ends[0] == ".." else _moments(ends[0], text)[0],
        end_utc=None if ends[1] == ".." else _moments(ends[1], text)[1],
    )


def _moments(text: str, typed: str) -> tuple[datetime, datetime]:
    """First and last moment of a year, month, day or instant; ``typed`` is all that the user typed."""
    try:
        match = re.fullmatch(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", text, flags=re.ASCII)
        if match is None:
            if not re.match(r"\d{4}-\d{2}-\d{2}[T ]", text, flags=re.ASCII):
                raise ValueError("it is no date")
            moment = datetime.fromisoformat(text)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            return moment, moment
        year, month, day = (None if part is None else int(part) for part in match.groups())
        first = datetime(int(year or 0), month or 1, day or 1, tzinfo=UTC)
        last_month = month or 12
        last_day = day or monthrange(first.year, last_month)[1]
        last = datetime.combine(first.replace(month=last_month, day=last_day), LAST_MOMENT)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--date {typed!r}: {text!r} is not understood ({error}). Give {_DATE_FORM}."
        ) from error
    return first, last


def _degrees(bbox: tuple[float, float, float, float]) -> str:
    return ",".join(f"{edge:.10g}" for edge in bbox)

"""Pure: the UTM zones of an area, and the grid in which their maps are shown together.

Each point of land belongs to one zone, as the MGRS has it: six degrees of longitude, wider or narrower in
southern Norway (32V) and over Svalbard (31X, 33X, 35X, 37X).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import Polygon

from landuse.pipeline.blocks.plan import fits_zone
from landuse.pipeline.geometry import METRES_A_DEGREE, in_one_piece, project, snap, surfaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox
    from shapely import Geometry, MultiPolygon

ZONES = range(1, 61)
"""Numbers of the UTM zones."""

STEPS_A_DEGREE = 100
"""Corners of a zone's border for each degree: the maps on both sides are cut at the same ones, and between
two of them a meridian bends by less than a millimetre."""

SMALLEST_PART_M2 = 10_000.0
"""A part of an area below this is mapped with its neighbour: a corner drawn a little beyond a border."""

_NORWAY = (56, 64)
"""Latitudes of band V, in which zone 32 begins at 3 degrees east."""

_SVALBARD = (72, 84)
"""Latitudes of band X, in which zones 32, 34 and 36 are shared out among their neighbours."""

_IN_NORWAY = {31: (0, 3), 32: (3, 12)}
"""Western and eastern longitude of the zones that are others in band V."""

_IN_SVALBARD = {31: (0, 9), 32: None, 33: (9, 21), 34: None, 35: (21, 33), 36: None, 37: (33, 42)}
"""The same in band X; None: there is no such zone there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZonePart:
    """What of an area lies in one UTM zone."""

    zone: int
    """Number of the zone, 1..60."""
    geometry: Polygon | MultiPolygon
    """Longitude and latitude in degrees; valid, not empty."""

    @property
    def crs(self) -> str:
        """The zone of the northern or southern half of the earth, in which most of the part lies."""
        return f"EPSG:{(32600 if self.geometry.centroid.y >= 0 else 32700) + self.zone}"

    @property
    def name(self) -> str:
        """Such as ``"32N"``; S for the southern half."""
        return f"{self.zone:02d}{'N' if self.crs.startswith('EPSG:326') else 'S'}"

    @property
    def area_m2(self) -> float:
        """Its area in the zone's own grid."""
        return float(project(self.geometry, "EPSG:4326", self.crs).area)


def zone_land(zone: int, south: float, north: float) -> Geometry:
    """Longitudes and latitudes that belong to a zone, with a corner each hundredth of a degree of its border.

    Args:
        zone: its number, 1..60.
        south: at least the latitudes from here on are covered, in degrees.
        north: up to here.

    Example:
        >>> zone_land(32, 59, 60).bounds
        (3.0, 59.0, 12.0, 60.0)
    """
    bottom, top = math.floor(south), math.ceil(north)
    usual = (6 * zone - 186, 6 * zone - 180)
    pieces = []
    for low, high, sides in (
        (-90, _NORWAY[0], usual),
        (*_NORWAY, _IN_NORWAY.get(zone, usual)),
        (_NORWAY[1], _SVALBARD[0], usual),
        (*_SVALBARD, _IN_SVALBARD.get(zone, usual)),
        (_SVALBARD[1], 90, usual),
    ):
        low, high = max(low, bottom), min(high, top)
        if low < high and sides is not None:
            pieces.append(_dense_box(*sides, low, high))
    return shapely.union_all(pieces)


def _dense_box(west: int, east: int, south: int, north: int) -> Polygon:
    """A box of whole degrees with a corner at each hundredth of a degree, the same whoever asks."""

    def line(first: int, last: int) -> NDArray[np.float64]:
        step = 1 if last > first else -1
        stops = np.arange(first * STEPS_A_DEGREE, last * STEPS_A_DEGREE, step)
        return np.asarray(stops / STEPS_A_DEGREE, np.float64)

    lons, lats = line(west, east), line(south, north)
    back_lons, back_lats = line(east, west), line(north, south)
    sides = (
        (lons, np.full(len(lons), float(south))),
        (np.full(len(lats), float(east)), lats),
        (back_lons, np.full(len(back_lons), float(north))),
        (np.full(len(back_lats), float(west)), back_lats),
    )
    return Polygon(np.concatenate([np.stack(side, axis=1) for side in sides]))


def parts_by_zone(area: Geometry) -> tuple[ZonePart, ...]:
    """The parts of an area by UTM zone, from west to east; over the 180th meridian zone 60 comes first.

    Together they are the area, and no two of them overlap.

    Args:
        area: in longitude and latitude, cut at the 180th meridian where it crosses it.
    """
    _, south, _, north = area.bounds
    found: dict[int, Polygon | MultiPolygon] = {}
    for zone in ZONES:
        west, east = 6 * zone - 186, 6 * zone - 180
        # Zones of Norway and Svalbard are wider by up to six degrees.
        if not shapely.intersects(area, shapely.box(west - 6, south, east + 6, north)):
            continue
        part = surfaces(shapely.intersection(area, zone_land(zone, south, north)))
        if not part.is_empty:
            found[zone] = part
    for zone in [zone for zone in found if _about_m2(found[zone]) < SMALLEST_PART_M2]:
        beside = [other for other in ((zone - 2) % 60 + 1, zone % 60 + 1) if other in found]
        if beside:
            largest = max(beside, key=lambda other: found[other].area)
            found[largest] = surfaces(shapely.union_all([found[largest], found.pop(zone)]))
    crosses = in_one_piece(area) is not area
    order = sorted(found, key=lambda zone: (crosses and zone <= 30, zone))
    return tuple(ZonePart(zone=zone, geometry=found[zone]) for zone in order)


def _about_m2(part: Geometry) -> float:
    """Area of a small shape in longitude and latitude."""
    return float(part.area) * METRES_A_DEGREE**2 * math.cos(math.radians(part.centroid.y))


def joined_crs(parts: Sequence[ZonePart]) -> str:
    """The CRS in which the maps of several zones are shown together.

    It is the zone that holds most of the land, whose map is then shown cell by cell; where the area reaches
    too far from every zone it is an equal-area projection around the area's middle.

    Returns:
        An EPSG code, or WKT.
    """
    area = surfaces(shapely.union_all([part.geometry for part in parts]))
    largest = max(parts, key=lambda part: part.area_m2)
    if fits_zone(area, largest.crs):
        return largest.crs
    import pyproj  # takes a while

    centre = in_one_piece(area).centroid
    lon = (round(centre.x) + 180) % 360 - 180
    laea = f"+proj=laea +lat_0={round(centre.y)} +lon_0={lon} +datum=WGS84 +units=m +type=crs"
    return str(pyproj.CRS.from_proj4(laea).to_wkt())


def joined_geobox(grids: Iterable[GeoBox], crs: str, cell_m: float) -> GeoBox:
    """The smallest grid of cells of ``cell_m``, on multiples of that, which holds all of some grids.

    Args:
        grids: of maps, in any CRS.
        crs: of the grid.
        cell_m: side of its cells.
    """
    from affine import Affine
    from odc.geo.geobox import GeoBox

    boxes = [project(shapely.box(*grid.boundingbox.bbox), str(grid.crs), crs).bounds for grid in grids]
    wests, souths, easts, norths = zip(*boxes, strict=True)
    cols, rows = snap(min(wests), max(easts), cell_m), snap(min(souths), max(norths), cell_m)
    transform = Affine(cell_m, 0, cols[0] * cell_m, 0, -cell_m, rows[1] * cell_m)
    return GeoBox((rows[1] - rows[0], cols[1] - cols[0]), transform, crs)

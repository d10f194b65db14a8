"""Pure: shapes in longitude and latitude on a round earth, where 180 and -180 are one meridian.

Shapes are kept within -180..180, cut in two where they cross the 180th meridian (RFC 7946, 3.1.9).
Where a shape has to be in one piece, as to project it, its western longitudes are raised by 360.
"""

from __future__ import annotations

import functools
import math
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import shapely
from shapely import Geometry, MultiPolygon, Polygon

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from landuse.pipeline.scene import Scene


MAX_CROSSINGS = 1000
"""How often an outline may cross itself: an error of drawing does it a few times."""

EDGE_PIECES = 100
"""Into how many pieces an edge as long as a shape is cut before it is projected: straight lines bend."""

METRES_A_DEGREE = 111_320.0
"""Length of a degree of latitude, about."""


def surfaces(geometry: Geometry) -> Polygon | MultiPolygon:
    """The polygons of a geometry; lines and points, which cuts leave behind, have no area."""
    parts = [part for part in shapely.get_parts(_flat(geometry)) if isinstance(part, Polygon)]
    merged = shapely.union_all(parts)
    return merged if isinstance(merged, (Polygon, MultiPolygon)) else Polygon()


def make_valid(geometry: Geometry) -> Geometry:
    """``shapely.make_valid`` for a shape that anyone may have drawn.

    Raises:
        ValueError: it crosses itself so often that the repair would take minutes and all memory.
    """
    if shapely.is_valid(geometry):
        return geometry
    corners = shapely.get_coordinates(geometry)
    edges = shapely.linestrings(np.stack([corners[:-1], corners[1:]], axis=1))
    tree, crossings = shapely.STRtree(edges), 0
    for start in range(0, len(edges), 100):
        crossings += tree.query(edges[start : start + 100], predicate="crosses").shape[1] // 2
        if crossings > MAX_CROSSINGS:
            raise ValueError(f"crosses itself more than {MAX_CROSSINGS} times")
    with np.errstate(all="ignore"):  # of coordinates such as 1e300, which the caller refuses
        return shapely.make_valid(geometry)


def _flat(geometry: Geometry) -> Geometry:
    """A collection that may hold multipolygons, as one of plain parts."""
    if geometry.geom_type != "GeometryCollection":
        return geometry
    return shapely.GeometryCollection(
        [leaf for part in shapely.get_parts(geometry) for leaf in shapely.get_parts(part)]
    )


def crosses_antimeridian(geometry: Geometry) -> bool:
    """Whether a shape within -180..180 lies on both sides of the 180th meridian rather than of 0."""
    west, _, east, _ = geometry.bounds
    return bool(east - west > 180)


def in_one_piece(geometry: Geometry) -> Geometry:
    """A shape that crosses the 180th meridian as one around it, in 0..360; any other as it is."""
    if not crosses_antimeridian(geometry):
        return geometry
    # The halves meet at 180: merged, they have no seam for a projection to tear.
    return surfaces(shapely.make_valid(shapely.transform(geometry, _raised)))


def cut_at_antimeridian(geometry: Geometry) -> Geometry:
    """A shape with longitudes within -360..360 brought to -180..180.

    A polygon more than 180 degrees wide is taken to cross the 180th meridian, uncut: so do GeoJSON
    files write it that do not know of the cut.
    """
    parts = shapely.get_parts(_flat(geometry))
    wests, _, easts, _ = shapely.bounds(parts).T
    if not ((wests < -180) | (easts > 180) | (easts - wests > 180)).any():
        return geometry
    return surfaces(shapely.union_all([_cut(part) for part in parts]))


def _cut(part: Geometry) -> Geometry:
    if crosses_antimeridian(part):
        part = shapely.make_valid(shapely.transform(part, _raised))
    return shapely.union_all(
        [
            _turned(part.intersection(shapely.box(-180 + 360 * turns, -90, 180 + 360 * turns, 90)), -turns)
            for turns in (-1, 0, 1)
        ]
    )


def _turned(geometry: Geometry, turns: int) -> Geometry:
    return shapely.transform(geometry, lambda lonlat: lonlat + np.array([360.0 * turns, 0.0]))


def _raised(lonlat: NDArray[np.float64]) -> NDArray[np.float64]:
    raised: NDArray[np.float64] = lonlat + (lonlat[:, :1] < 0) * np.array([360.0, 0.0])
    return raised


@functools.lru_cache(maxsize=1024)
def footprint_of_bounds(crs: str, bounds: tuple[float, float, float, float]) -> Geometry:
    """What bounds enclose, in longitude and latitude within -180..180; empty where they lie off the earth.

    Cached: the scenes of a search share a few tiles.

    Args:
        crs: of the bounds; one that PROJ knows.
        bounds: left, bottom, right, top.
    """
    import pyproj
    from pyproj.exceptions import ProjError

    left, bottom, right, top = bounds
    box = shapely.segmentize(shapely.box(*bounds), max(right - left, top - bottom) / EDGE_PIECES)
    try:
        to_lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform
    except ProjError:
        return Polygon()
    shape = shapely.transform(box, to_lonlat, interleaved=False)
    if not np.isfinite(shapely.get_coordinates(shape)).all():
        return Polygon()
    return cut_at_antimeridian(shapely.make_valid(shape))


def outer_rings(geometry: Geometry) -> tuple[tuple[tuple[float, float], ...], ...]:
    """(longitude, latitude) of the outer ring of each polygon, the largest first."""
    parts = [part for part in shapely.get_parts(surfaces(geometry)) if isinstance(part, Polygon)]
    parts.sort(key=lambda part: (-part.area, part.bounds))
    return tuple(tuple((float(lon), float(lat)) for lon, lat, *_ in part.exterior.coords) for part in parts)


def from_rings(rings: Iterable[Sequence[tuple[float, float]]]) -> Geometry:
    """The shape that outer rings enclose; valid."""
    return shapely.union_all([shapely.make_valid(Polygon(ring)) for ring in rings])


def solar_days(scenes: Sequence[Scene]) -> tuple[date, ...]:
    """Local solar date of each of some neighbouring scenes: those of one overpass share it.

    The hour is that of the first scene's longitude, so that the date line parts no overpass.
    """
    if not scenes:
        return ()
    lon, _ = scenes[0].footprint[0][0]
    return tuple((scene.acquired_utc + timedelta(hours=lon / 15)).date() for scene in scenes)


def footprint_of(scene: Scene) -> Geometry:
    """A scene's footprint in longitude and latitude."""
    return from_rings(scene.footprint)


_UTM = re.compile(r"EPSG:32[67](0[1-9]|[1-5][0-9]|60)")


def is_utm(crs: str) -> bool:
    """Whether a CRS, such as ``"EPSG:32633"``, is a UTM zone of WGS 84."""
    return _UTM.fullmatch(crs) is not None


def utm_crs(area: BaseGeometry, scenes: Sequence[Scene]) -> str:
    """The UTM zone of the map, among those that scenes lie in: the one that holds most of the area.

    Where that tells none (tiles reach beyond their zone's meridians) it is the zone whose scenes together
    cover most of the area. Scenes without a UTM CRS (own imagery, say) do not count; without any the zone
    of the area's centre is taken.

    Args:
        area: in longitude and latitude, cut at the 180th meridian where it crosses it.
        scenes: all that are found, whatever of them is mapped, so that clouds do not move the grid.
    """
    footprints: dict[str, list[BaseGeometry]] = {}
    for scene in scenes:
        if scene.crs is not None and is_utm(scene.crs):
            footprints.setdefault(scene.crs, []).append(footprint_of(scene))

    def held(crs: str) -> tuple[float, float]:
        zone = int(crs[-2:])
        strip = shapely.box(6 * zone - 186, -90, 6 * zone - 180, 90)
        covered = shapely.union_all(footprints[crs]).intersection(area).area
        return round(area.intersection(strip).area / area.area, 6), covered

    if footprints:
        held_by = {crs: held(crs) for crs in footprints}
        return min(held_by, key=lambda crs: (*(-share for share in held_by[crs]), crs))
    # Around the 180th meridian the centre of the two halves is on the other side of the earth.
    centre = in_one_piece(area).centroid
    zone = int(((centre.x + 180) % 360) // 6) + 1
    return f"EPSG:{(32600 if centre.y >= 0 else 32700) + zone}"


def project(geometry: BaseGeometry, source_crs: str, target_crs: str) -> BaseGeometry:
    """A geometry in another CRS; its edges are densified first, since straight lines bend.

    One in longitude and latitude that is cut at the 180th meridian comes out whole.
    """
    import pyproj

    if source_crs == "EPSG:4326":
        geometry = in_one_piece(geometry)
    west, south, east, north = geometry.bounds
    step = max(east - west, north - south) / 64
    dense = shapely.segmentize(geometry, step) if step > 0 else geometry
    to_target = pyproj.Transformer.from_crs(source_crs, target_crs, always_xy=True).transform
    return shapely.transform(dense, to_target, interleaved=False)


def snap(low: float, high: float, size: float) -> tuple[int, int]:
    """The smallest range of whole multiples of ``size`` around ``low..high``.

    A hundredth of a metre is forgiven, so that bounds that went through degrees and back do not
    cost a further row of cells.
    """
    tolerance = 0.01
    first = math.floor((low + tolerance) / size)
    return first, max(math.ceil((high - tolerance) / size), first + 1)


def footprint_in(scene: Scene, crs: str) -> BaseGeometry:
    """Where a scene may have pixels, in ``crs``: its raster's bounds where known, else its footprint."""
    if scene.bounds_m is None or scene.crs is None:
        return project(footprint_of(scene), "EPSG:4326", crs)
    bounds = shapely.box(*scene.bounds_m)
    return bounds if scene.crs == crs else project(bounds, scene.crs, crs)

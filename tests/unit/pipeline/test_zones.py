"""Which UTM zone land belongs to. Oracle: the formula of the MGRS with its exceptions, written out here."""

import numpy as np
import pytest
import shapely

from landuse.pipeline.geometry import project, surfaces
from landuse.pipeline.search.area import parse_bbox
from landuse.pipeline.zones import parts_by_zone, zone_land


def mgrs_zone(lon, lat):
    """As in the FAQ of every UTM library: six degrees each, but for band V and band X."""
    zone = int((lon + 180) // 6) + 1
    if 56 <= lat < 64 and 3 <= lon < 12:
        return 32
    if 72 <= lat < 84 and 0 <= lon < 42:
        return 31 if lon < 9 else 33 if lon < 21 else 35 if lon < 33 else 37
    return zone


def test_each_point_lies_in_the_zone_that_the_mgrs_says():
    rng = np.random.default_rng(3)
    lands = {zone: zone_land(zone, -80, 84) for zone in range(1, 61)}
    for lon, lat in zip(rng.uniform(-10, 50, 300), rng.uniform(50, 84, 300), strict=True):
        held = [zone for zone, land in lands.items() if shapely.contains_xy(land, lon, lat)]
        assert held == [mgrs_zone(lon, lat)], (lon, lat)
    for lon, lat in zip(rng.uniform(-180, 180, 200), rng.uniform(-80, 56, 200), strict=True):
        held = [zone for zone, land in lands.items() if shapely.contains_xy(land, lon, lat)]
        assert held == [mgrs_zone(lon, lat)], (lon, lat)


@pytest.mark.parametrize(
    ("box", "names"),
    [
        ("11.5,48,12.5,49", ["32N", "33N"]),
        ("2,59,6,61", ["31N", "32N"]),  # southern Norway
        ("8,77,22,79", ["31N", "33N", "35N"]),  # Svalbard
        ("-25,34,45,71", [f"{zone}N" for zone in range(26, 39)]),  # Europe, both exceptions inside
        ("179,-18,-179,-17", ["60S", "01S"]),
        ("9,-0.5,9.5,0.2", ["32S"]),
        ("6.0000001,47,12.0000001,48", ["32N"]),  # a corner a centimetre beyond the border
    ],
)
def test_parts_are_the_area_once(box, names):
    area = parse_bbox(box).geometry
    parts = parts_by_zone(area)
    assert [part.name for part in parts] == names
    whole = shapely.union_all([part.geometry for part in parts])
    assert whole.symmetric_difference(area).area < 1e-9
    assert sum(part.geometry.area for part in parts) == pytest.approx(area.area, abs=1e-9)


@pytest.mark.parametrize("box", ["11.5,40,12.5,55", "2,55.5,6,64.5", "7,71.5,23,72.5"])
def test_neighbours_are_cut_at_the_same_corners_so_that_no_land_lies_between_them(box):
    """Brought into one CRS, each by its own zone's grid, the parts leave a millimetre at most."""
    parts = parts_by_zone(parse_bbox(box).geometry)
    crs = parts[0].crs
    shapes = [project(project(part.geometry, "EPSG:4326", part.crs), part.crs, crs) for part in parts]
    union = surfaces(shapely.union_all(shapes))
    overlap = sum(shape.area for shape in shapes) - union.area
    border_m = 1.7e6 if box.startswith("11.5") else 1e6
    assert abs(overlap) < 0.01 * border_m
    closed = union.buffer(0.01).buffer(-0.01)
    assert closed.geom_type == "Polygon"
    assert len(closed.interiors) == 0

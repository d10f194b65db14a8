"""Oracles: the numbers as typed, pyproj for reprojection, shapely for areas, the calendar for dates."""

import json
import re
from datetime import UTC, datetime

import geopandas
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from landuse.errors import UsageError
from landuse.pipeline.area import DateRange, parse_bbox, parse_dates, read_aoi


@pytest.mark.parametrize(
    "text",
    ["-4.1,52.3,-3.9,52.5", " -4.1 52.3 -3.9 52.5", "-4.1, 52.3,\t-3.9 , 52.5 ", "-4.1 52.3,-3.9 52.5"],
)
def test_bbox_is_west_south_east_north_with_commas_or_spaces(text):
    area = parse_bbox(text)
    assert area.bbox == (-4.1, 52.3, -3.9, 52.5)
    assert not area.clip


@given(st.tuples(st.integers(-1790, 1780), st.integers(-790, 830)), st.integers(1, 10), st.integers(1, 10))
def test_any_box_on_the_grid_survives_the_round_trip(corner, width, height):
    box = (corner[0] / 10, corner[1] / 10, (corner[0] + width) / 10, (corner[1] + height) / 10)
    assert parse_bbox(",".join(map(str, box))).bbox == box


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2,3", "has 3 values"),
        ("1,2,3,4,5", "has 5 values"),
        ("", "1 values"),
        ("1,,3,4", "no number"),
        ("a,2,3,4", "no number"),
        ("nan,2,3,4", "not finite"),
        ("1,2,inf,4", "not finite"),
        ("1,2,1,4", "no area"),
        ("1,2,3,2", "no area"),
        ("1,52.5,3,52.3", "swapped"),
        ("11,50,10,51", "swapped"),
        ("5,50,-5,51", "swapped"),
        ("-190,50,-185,51", "out of range"),
        ("10,50,11,91", "out of range"),
        ("10,83,11,85", "80 to 84"),
        ("10,-82,11,-79", "80 to 84"),
        ("-170,10,170,11", "degrees wide"),
    ],
)
def test_a_malformed_bbox_says_what_and_the_values(text, said):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        parse_bbox(text)
    assert caught.value.exit_code == 2


def test_a_bbox_over_the_antimeridian_names_two_halves_that_work():
    with pytest.raises(UsageError, match="antimeridian") as caught:
        parse_bbox("179.5,-17,-179.25,-16.5")
    halves = [parse_bbox(half).bbox for half in re.findall(r"--bbox ([-\d.,]+\d)", str(caught.value))[-2:]]
    assert halves == [(179.5, -17.0, 180.0, -16.5), (-180.0, -17.0, -179.25, -16.5)]


def test_aoi_is_reprojected_and_merged(tmp_path):
    path = tmp_path / "my area (1).gpkg"
    left = shapely.box(400_000, 5_000_000, 410_000, 5_020_000)
    right = shapely.box(405_000, 5_000_000, 430_000, 5_005_000)
    geopandas.GeoDataFrame(geometry=[left, right, None], crs="EPSG:32633").to_file(path, layer="plot")
    area = read_aoi(path)
    assert area.clip
    assert area.name == "my-area-1"
    to_lonlat = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
    west, south = to_lonlat.transform(400_000, 5_000_000)
    assert shapely.distance(area.geometry, shapely.Point(west, south)) < 1e-9
    back = shapely.transform(
        area.geometry, pyproj.Transformer.from_crs(4326, 32633, always_xy=True).transform, interleaved=False
    )
    assert back.area == pytest.approx(left.union(right).area, rel=1e-6)


def test_aoi_bow_tie_becomes_its_two_triangles(tmp_path):
    path = tmp_path / "bow.geojson"
    ring = [[10, 50], [11, 51], [11, 50], [10, 51], [10, 50]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    area = read_aoi(path)
    assert area.geometry.is_valid
    assert area.geometry.area == pytest.approx(0.5)


def _geojson(*geometries):
    return json.dumps(
        {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "properties": {}, "geometry": g} for g in geometries],
        }
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        ("no vector data", "cannot be read"),
        (_geojson(), "Give a file"),
        (_geojson({"type": "Point", "coordinates": [1, 2]}), "0 layers of polygons"),
        (_geojson({"type": "Polygon", "coordinates": [[[1, 2], [2, 3], [3, 4], [1, 2]]]}), "no area"),
        (
            _geojson({"type": "Polygon", "coordinates": [[[5e5, 5e6], [6e5, 5e6], [6e5, 6e6], [5e5, 5e6]]]}),
            "-180 to 180",
        ),
        (
            _geojson(
                {"type": "Polygon", "coordinates": [[[1, 2], [2, 3], [3, 2], [1, 2]]]},
                {"type": "LineString", "coordinates": [[1, 2], [2, 3]]},
            ),
            "LineString",
        ),
    ],
)
def test_an_aoi_that_cannot_be_used_says_why(tmp_path, content, said):
    path = tmp_path / "aoi.geojson"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=re.escape(said)):
        read_aoi(path)


def test_aoi_without_a_crs_is_refused(tmp_path):
    path = tmp_path / "aoi.shp"
    geopandas.GeoDataFrame(geometry=[shapely.box(1, 2, 3, 4)], crs="EPSG:4326").to_file(path)
    path.with_suffix(".prj").unlink()
    with pytest.raises(UsageError, match="no coordinate reference system"):
        read_aoi(path)


def test_aoi_with_two_polygon_layers_names_them(tmp_path):
    path = tmp_path / "aoi.gpkg"
    for layer in ("one", "two"):
        geopandas.GeoDataFrame(geometry=[shapely.box(1, 2, 3, 4)], crs="EPSG:4326").to_file(path, layer=layer)
    with pytest.raises(UsageError, match="one: Polygon, two: Polygon"):
        read_aoi(path)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("2024-06-30", "2024-06-30T00:00:00Z/2024-06-30T23:59:59.999999Z"),
        ("2024-02", "2024-02-01T00:00:00Z/2024-02-29T23:59:59.999999Z"),
        ("2023", "2023-01-01T00:00:00Z/2023-12-31T23:59:59.999999Z"),
        ("2024-06-01/2024-06-30", "2024-06-01T00:00:00Z/2024-06-30T23:59:59.999999Z"),
        ("2024-06/2024-07", "2024-06-01T00:00:00Z/2024-07-31T23:59:59.999999Z"),
        ("2024-06-01/..", "2024-06-01T00:00:00Z/.."),
        ("../2024-06-01", "../2024-06-01T23:59:59.999999Z"),
        ("2024-06-01T10:00:00+02:00/2024-06-01T10:00Z", "2024-06-01T08:00:00Z/2024-06-01T10:00:00Z"),
        ("2024-06-01T10:00", "2024-06-01T10:00:00Z/2024-06-01T10:00:00Z"),
    ],
)
def test_dates_are_whole_days_in_utc(text, span):
    assert str(parse_dates(text)) == span


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2024-06-30/2024-06-01", "backwards"),
        ("2024-06-31", "2024-06-31"),
        ("2024-13", "2024-13"),
        ("last week", "last week"),
        ("../..", "not a span"),
        ("..", "'..'"),
        ("2024-06-01/", "''"),
        ("2024-06-01/2024-06-02/2024-06-03", "not a span"),
        ("30.06.2024", "30.06.2024"),
        ("0000", "0000"),
        ("٢٠٢٤", "not understood"),
    ],
)
def test_bad_dates_say_what(text, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        parse_dates(text)


def test_both_ends_of_a_span_are_inside():
    june = parse_dates("2024-06")
    assert datetime(2024, 6, 1, tzinfo=UTC) in june
    assert datetime(2024, 6, 30, 23, 59, 59, tzinfo=UTC) in june
    assert datetime(2024, 7, 1, tzinfo=UTC) not in june
    assert datetime(1999, 1, 1, tzinfo=UTC) in DateRange(start_utc=None, end_utc=june.end_utc)

"""Oracles: the numbers as typed, pyproj for reprojection, shapely for areas, the calendar for dates."""

import json
import math
import re
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from landuse.errors import UsageError
from landuse.pipeline.blocks.plan import data_extent
from landuse.pipeline.geometry import cut_at_antimeridian, footprint_of, outer_rings, project, utm_crs
from landuse.pipeline.providers import PLANETARY_COMPUTER
from landuse.pipeline.search import area_file
from landuse.pipeline.search.area import DateRange, parse_bbox, parse_dates, read_aoi
from landuse.pipeline.search.item import scene_from_item
from tests.servers import file_server


@pytest.mark.parametrize(
    "text",
    ["-4.1,52.3,-3.9,52.5", " -4.1 52.3 -3.9 52.5", "-4.1, 52.3,\t-3.9 , 52.5 ", "-4.1 52.3,-3.9 52.5"],
)
def test_bbox_is_west_south_east_north_with_commas_or_spaces(text):
    area = parse_bbox(text)
    assert area.bbox == (-4.1, 52.3, -3.9, 52.5)
    assert area.clip


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
        ("-170,10,170,11", "340 degrees wide"),
        ("-180,10,180,11", "360 degrees wide"),
    ],
)
def test_a_malformed_bbox_says_what_and_the_values(text, said):
    with pytest.raises(UsageError, match=re.escape(said)) as caught:
        parse_bbox(text)
    assert caught.value.exit_code == 2


FIJI = shapely.union(shapely.box(178, -18, 180, -16), shapely.box(-180, -18, -178, -16))


def test_a_bbox_over_the_antimeridian_is_its_two_halves():
    area = parse_bbox("178,-18,-178,-16")
    assert area.geometry.equals(FIJI)
    assert area.bbox == (178, -18, -178, -16)
    assert area.boxes == ((178, -18, 180, -16), (-180, -18, -178, -16))
    assert parse_bbox("179.7,-17,-179.3,-16.5").bbox == (179.7, -17, -179.3, -16.5)
    # One that ends at the meridian has one half.
    assert parse_bbox("180,-18,-178,-16").boxes == ((-180, -18, -178, -16),)
    assert parse_bbox("178,-18,-180,-16").boxes == ((178, -18, 180, -16),)
    assert parse_bbox("10,50,11,51").boxes == ((10, 50, 11, 51),)


def _polygon(*corners):
    return {"type": "Polygon", "coordinates": [[*map(list, corners), list(corners[0])]]}


@pytest.mark.parametrize(
    "geometries",
    [
        [_polygon((178, -18), (182, -18), (182, -16), (178, -16))],
        [_polygon((-182, -18), (-178, -18), (-178, -16), (-182, -16))],
        [_polygon((178, -18), (-178, -18), (-178, -16), (178, -16))],
        [
            _polygon((178, -18), (180, -18), (180, -16), (178, -16)),
            _polygon((-180, -18), (-178, -18), (-178, -16), (-180, -16)),
        ],
        [_polygon((181, -18), (182, -18), (182, -16), (181, -16)),
         _polygon((178, -18), (181, -18), (181, -16), (178, -16))],
    ],
)  # fmt: skip
def test_every_way_to_draw_an_aoi_over_the_antimeridian_means_the_same(tmp_path, geometries):
    path = tmp_path / "fiji.geojson"
    path.write_text(_geojson(*geometries))
    area = read_aoi(path)
    assert area.geometry.symmetric_difference(FIJI).area < 1e-9
    assert area.bbox == (178, -18, -178, -16)


def test_a_projected_aoi_over_the_antimeridian_is_whole(tmp_path):
    path = tmp_path / "fiji.gpkg"
    box = shapely.box(800_000, 8_090_000, 840_000, 8_120_000)  # 180 degrees is at about 819.4 km there
    geopandas.GeoDataFrame(geometry=[box], crs="EPSG:32760").to_file(path)
    area = read_aoi(path)
    west, _, east, _ = area.bbox
    assert 179 < west < 180
    assert -180 < east < -179
    assert project(area.geometry, "EPSG:4326", "EPSG:32760").area == pytest.approx(box.area, rel=1e-3)


def test_parts_on_either_side_of_greenwich_and_of_the_date_line_are_what_is_near_them(tmp_path):
    path = tmp_path / "two.geojson"
    path.write_text(
        _geojson(_polygon((140, 35), (141, 35), (141, 36)), _polygon((-156, 20), (-155, 20), (-155, 21)))
    )
    assert read_aoi(path).bbox == (140, 20, -155, 36)
    path.write_text(_geojson(_polygon((0, 35), (1, 35), (1, 36)), _polygon((-2, 20), (-1, 20), (-1, 21))))
    assert read_aoi(path).bbox == (-2, 20, 1, 36)


def test_a_map_over_the_antimeridian_is_one_piece_in_one_zone(data_dir):
    """The scene is a real item of the easternmost zone, and the area reaches from it over 180 degrees."""
    path = next((data_dir / "stac_items/PC").glob("*/*_T60VUK_*.json"))
    scene = scene_from_item(json.loads(path.read_text("utf-8")), PLANETARY_COMPUTER, str(path))
    area = parse_bbox("174,58,-178,58.3")
    assert utm_crs(area.geometry, [scene]) == "EPSG:32660"
    projected = project(area.geometry, "EPSG:4326", "EPSG:32660")
    assert projected.geom_type == "Polygon"
    corner = pyproj.Transformer.from_crs(4326, 32660, always_xy=True).transform
    assert projected.bounds[0] == pytest.approx(min(corner(174, 58)[0], corner(174, 58.3)[0]))
    assert projected.bounds[2] == pytest.approx(max(corner(-178, 58)[0], corner(-178, 58.3)[0]))
    rows, cols = data_extent([scene], "EPSG:32660", projected.bounds[0], projected.bounds[3], 10.0)
    assert (cols[1] - cols[0], rows[1] - rows[0]) == (10_980 + 1, 10_980 + 1)  # the corner is off the lattice
    assert cols[0] == (scene.bounds_m[0] - projected.bounds[0]) // 10
    # Without its bounds, and moved over the meridian, its outline alone is as wide as it was.
    moved = shapely.transform(footprint_of(scene), lambda lonlat: lonlat + np.array([6.1, 0]))
    moved = replace(scene, crs=None, bounds_m=None, footprint=outer_rings(cut_at_antimeridian(moved)))
    assert len(moved.footprint) == 2
    _, cols = data_extent([moved], "EPSG:32660", projected.bounds[0], projected.bounds[3], 10.0)
    west, _, east, _ = footprint_of(scene).bounds
    assert (cols[1] - cols[0]) * 10 == pytest.approx(
        (east - west) * 111_320 * math.cos(math.radians(58)), rel=0.1
    )


@pytest.mark.parametrize(
    ("bbox", "zone"),
    [
        ("178,-18,-178.5,-16", "EPSG:32760"),
        ("178.5,-18,-178,-16", "EPSG:32701"),
        ("178.5,10,-178,12", "EPSG:32601"),
    ],
)
def test_without_scenes_the_zone_is_that_of_the_centre_of_both_halves(bbox, zone):
    assert utm_crs(parse_bbox(bbox).geometry, []) == zone


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


def test_aoi_bow_tie_becomes_its_two_triangles_and_both_areas_are_told(tmp_path, caplog):
    path = tmp_path / "bow.geojson"
    ring = [[10, 50], [11, 51], [11, 50], [10, 51], [10, 50]]
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    area = read_aoi(path)
    assert area.geometry.is_valid
    assert area.geometry.area == pytest.approx(0.5)
    # Two triangles of some 199 000 ha, which turn in opposite directions: as drawn they all but cancel.
    told = re.search(r"it encloses (\S+) ha, .* repaired and mapped (\S+) ha", caplog.text)
    drawn, mapped = map(float, told.groups())
    assert drawn < 1e4
    assert mapped == pytest.approx(3.94e5, rel=0.01)
    caplog.clear()
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [ring[:3] + ring[:1]]}))
    read_aoi(path)
    assert not caplog.records


def test_an_outline_that_crosses_itself_thousands_of_times_is_refused_at_once(tmp_path):
    path = tmp_path / "tangle.geojson"
    corners = np.random.default_rng(1).random((400, 2)).tolist()
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [[*corners, corners[0]]]}))
    with pytest.raises(UsageError, match=r"crosses itself more than 1000 times\. Draw its outline anew"):
        read_aoi(path)


def test_every_format_that_aoi_takes_means_the_same(tmp_path):
    frame = geopandas.GeoDataFrame(
        {"x": [1]}, geometry=[shapely.box(4e5, 5e6, 4.1e5, 5.02e6)], crs="EPSG:32633"
    )
    for name in ("a.gpkg", "a.shp", "a.fgb"):
        frame.to_file(tmp_path / name)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_file(tmp_path / "a.geojson", engine="pyogrio", RFC7946="NO")  # with its CRS, as GDAL writes it
    shapes = [
        read_aoi(tmp_path / f"a.{kind}").geometry for kind in ("gpkg", "shp", "fgb", "parquet", "geojson")
    ]
    for shape in shapes[1:]:
        assert shape.symmetric_difference(shapes[0]).area < 1e-12


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.geojson", "<OGRWFSDataSource><URL>{url}</URL></OGRWFSDataSource>"),
        ("x.gpkg", "<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>{url}/a.geojson</SrcDataSource>"
         "</OGRVRTLayer></OGRVRTDataSource>"),
        ("x.shp", "<OGRWFSDataSource><URL>{url}</URL></OGRWFSDataSource>"),
        ("x.kml", "<kml><NetworkLink><Link><href>{url}/a.kml</href></Link></NetworkLink></kml>"),
        ("x.json", '{{"type": "Topology", "x": "{url}"}}'),
    ],
)  # fmt: skip
def test_an_aoi_of_another_format_under_a_known_name_is_refused_and_asks_nobody(tmp_path, name, content):
    path = tmp_path / name
    with file_server(tmp_path) as server:
        path.write_text(content.format(url=server.url))
        with pytest.raises(
            UsageError, match=r"holds no features|cannot be read as a vector file .*Give GeoPackage"
        ):
            read_aoi(path)
        assert server.log == []


def test_a_view_of_a_geopackage_is_not_read_and_a_table_only_for_a_time(tmp_path, monkeypatch):
    path = tmp_path / "x.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(1, 2, 3, 4)], crs="EPSG:4326").to_file(path, layer="a")
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE kept AS SELECT * FROM a")
        for trigger in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f'DROP TRIGGER "{trigger[0]}"')
        database.execute("DROP TABLE a")
        database.execute(
            "CREATE VIEW a AS WITH RECURSIVE n(fid, geom) AS (SELECT 1, NULL UNION ALL SELECT fid + 1, NULL "
            "FROM n) SELECT fid, geom FROM n"
        )
    database.close()
    with pytest.raises(UsageError, match=r"0 layers of polygons \(tables: none; views are not read\)"):
        read_aoi(path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE gpkg_geometry_columns SET table_name = 'kept'")
    database.close()
    assert read_aoi(path).bbox == (1, 2, 3, 4)
    monkeypatch.setattr(area_file, "LIMIT_S", -1.0)
    monkeypatch.setattr(area_file, "STEPS", 1)
    with pytest.raises(UsageError, match="interrupted"):
        read_aoi(path)


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
        (_geojson({"type": "Point", "coordinates": [1, 2]}), "holds Point features. Give polygons"),
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
    for west, layer in enumerate(("one", "two"), start=1):
        box = shapely.box(west, 2, 3, 4)
        geopandas.GeoDataFrame(geometry=[box], crs="EPSG:4326").to_file(path, layer=layer)
    with pytest.raises(UsageError, match=r"2 layers of polygons \(tables: one: Polygon, two: Polygon"):
        read_aoi(path)
    assert read_aoi(path, "two").bbox == (2, 2, 3, 4)
    with pytest.raises(UsageError, match=r"has no table 'three' of geometries\. It has: one"):
        read_aoi(path, "three")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("2024-06-30", "2024-06-30"),
        ("2024-02", "2024-02-01/2024-02-29"),
        ("2023", "2023-01-01/2023-12-31"),
        ("2024-06-01/..", "2024-06-01/.."),
        ("../2024-06-01", "../2024-06-01"),
        ("2024-06-01/2024-06-02T10:00", "2024-06-01/2024-06-02T10:00:00Z"),
        ("2024-06-01T10:00", "2024-06-01T10:00:00Z"),
        # A moment is no day, also where it is that of midnight.
        ("2024-06-01/2024-06-02T00:00", "2024-06-01/2024-06-02T00:00:00Z"),
    ],
)
def test_people_are_told_days(text, label):
    assert parse_dates(text).label == label


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

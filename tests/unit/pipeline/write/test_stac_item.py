"""A map's STAC item. Oracles: published JSON schemas, pyproj, pystac's and rustac's readers, hashlib."""

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyproj
import pystac
import pytest
import rustac
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from landuse.contract import LevelInput, ModelContract
from landuse.pipeline.blocks.plan import RunPlan, make_plan
from landuse.pipeline.cells import ClassArea, Cover
from landuse.pipeline.scene import BandAsset, Scene
from landuse.pipeline.write.stac_item import MapFacts, MapFile, item_id, map_item
from tests.stac_schemas import stac_errors

RGB = ("B04", "B03", "B02")
NAMES = (
    *("landuse.tif", "landuse.tif.aux.xml", "confidence.tif", "probabilities.tif", "status.tif", "image.tif"),
    *("landuse.gpkg", "cells.parquet", "scenes.fgb", "preview.png", "index.html", "run.json"),
)
HOSTILE = (
    "\"'><script>alert(1)</script>",
    "../../etc/passwd",
    "a\nb\r\tc\x1b[31m",
    "C:\\nul/..",
    "ünïcödé-\u202e-🛰",
    "\ud800",
    "a:b/c?sig=SECRET#x",
)


def contract(classes=("Forest", "SeaLake", "Own class")):
    return ModelContract(
        name="test",
        bands=RGB,
        levels=(LevelInput(level="L2A", gain=(1.0,) * 3, offset_dn=(0.0,) * 3),),
        saturation_dn=(2750.0,) * 3,
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
        classes=classes,
        patch_size_px=64,
        resolution_m=10.0,
    )


def scene(name="scene", day=1, item_href=None, **values):
    return Scene(
        **{
            "id": name,
            "provider": "local",
            "acquired_utc": datetime(2024, 6, day, 10, 20, 30, tzinfo=UTC),
            "level": "L2A",
            "baseline": None,
            "cloud_percent": None,
            "footprint": (((14.0, 47.0), (16.0, 47.0), (16.0, 49.0), (14.0, 49.0), (14.0, 47.0)),),
            "crs": None,
            "bounds_m": None,
            "assets": tuple(BandAsset(band=band, href=f"/data/{band}.tif") for band in RGB),
            "item_href": item_href,
        }
        | values
    )


def plan_of(*scenes, area=None, crs="EPSG:32633", classes=("Forest", "SeaLake", "Own class"), **options):
    values = {"weights_sha256": "0" * 64, "stride_px": 16, "composite": "best", "clip": False}
    return make_plan(
        shapely.box(15.0, 48.0, 15.1, 48.05) if area is None else area,
        scenes or (scene(),),
        contract(classes),
        crs=crs,
        **values | options,
    )


def facts_of(folder=None, **values):
    return MapFacts(
        **{
            "title": "A map",
            "attribution": "Contains modified Copernicus Sentinel data 2024",
            "created_utc": datetime(2024, 7, 1, 12, 0, 0, 999, tzinfo=UTC),
            "classes": (
                ClassArea(id=0, name="Forest", cells=300, area_m2=300 * 160.0**2, share=0.75),
                ClassArea(id=2, name="Own class", cells=100, area_m2=100 * 160.0**2, share=0.25),
            ),
            "cover": Cover(cells=500, valid=0.8, cloudy=0.1, failed=0.0, nodata=0.1),
            "folder": folder,
        }
        | values
    )


def files_of(names=NAMES):
    return [MapFile(name=n, size_bytes=len(n), sha256=hashlib.sha256(n.encode()).hexdigest()) for n in names]


def written(plan, facts=None, files=None):
    """The item as its file has it."""
    item = map_item(plan, facts or facts_of(), files_of() if files is None else files)
    values = item.to_dict(include_self_link=False, transform_hrefs=False)
    return json.loads(json.dumps(values, allow_nan=False, ensure_ascii=False).encode())


def hrefs(values):
    return [link["href"] for link in values["links"] if link["rel"] == "derived_from"]


def test_the_item_is_valid_and_says_what_the_files_hold():
    plan = plan_of()
    values = written(plan)
    assert stac_errors(values) == []
    properties, assets = values["properties"], values["assets"]
    assert values["stac_version"] == "1.1.0"
    assert (properties["processing:level"], properties["processing:software"]) == (
        "L4",
        {"landuse": plan.version},
    )
    assert properties["proj:code"] == "EPSG:32633"
    assert properties["proj:shape"] == [plan.rows, plan.cols]
    assert properties["proj:transform"] == [160, 0, plan.left_m, 0, -160, plan.top_m]
    assert properties["proj:bbox"] == pytest.approx(
        [plan.left_m, plan.top_m - 160 * plan.rows, plan.left_m + 160 * plan.cols, plan.top_m]
    )
    assert {asset["href"] for asset in assets.values()} == {f"./{name}" for name in NAMES}
    for asset in assets.values():
        content = Path(asset["href"]).name.encode()
        assert asset["file:size"] == len(content)
        assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()
    for key in ("confidence", "probabilities"):
        found = {name: assets[key][name] for name in ("data_type", "nodata", "raster:scale", "raster:offset")}
        assert found == {"data_type": "uint8", "nodata": 255, "raster:scale": 1 / 250, "raster:offset": 0}
    assert [band["name"] for band in assets["probabilities"]["bands"]] == ["Forest", "SeaLake", "Own-class"]
    assert [band["description"] for band in assets["probabilities"]["bands"]][1:] == [
        "Sea or lake",
        "Own class",
    ]
    assert [band["name"] for band in assets["image"]["bands"]] == list(RGB)
    step_m = assets["image"]["proj:transform"][0]
    assert assets["image"]["proj:shape"] == [plan.rows * 160 / step_m, plan.cols * 160 / step_m]
    statuses = {entry["value"]: entry["name"] for entry in assets["status"]["classification:classes"]}
    assert statuses == {0: "outside", 1: "classified", 2: "cloudy", 3: "failed", 4: "unseen", 5: "unknown"}
    assert [entry.get("nodata", False) for entry in assets["status"]["classification:classes"]] == [
        True
    ] + 5 * [False]
    assert assets["landuse"]["classification:classes"] == [
        {
            "value": 0,
            "name": "Forest",
            "title": "Forest",
            "description": "Forest",
            "color_hint": "1E6932",
            "count": 300,
            "percentage": 75.0,
        },
        {
            "value": 1,
            "name": "SeaLake",
            "title": "Sea or lake",
            "description": "Sea or lake",
            "color_hint": "1946A0",
            "count": 0,
            "percentage": 0,
        },
        {
            "value": 2,
            "name": "Own-class",
            "title": "Own class",
            "description": "Own class",
            "color_hint": "009E73",
            "count": 100,
            "percentage": 25.0,
        },
        {"value": 255, "name": "nodata", "description": "No class", "nodata": True},
    ]
    areas = {entry["id"]: entry["area_ha"] for entry in properties["landuse:areas"]}
    assert areas == {0: 300 * 2.56, 2: 100 * 2.56}


def test_readers_of_stac_read_it_again(tmp_path):
    values = written(plan_of())
    path = tmp_path / "item.json"
    path.write_text(json.dumps(values))
    item = pystac.Item.from_file(str(path))
    assert item.datetime == datetime(2024, 6, 1, 10, 20, 30, tzinfo=UTC)
    assert item.assets["landuse"].get_absolute_href() == str(tmp_path / "landuse.tif")
    assert {
        asset.media_type for key, asset in item.assets.items() if key in ("landuse", "status", "image")
    } == {pystac.MediaType.COG}
    again = rustac.read_sync(str(path))
    assert again["id"] == item.id
    assert again["assets"].keys() == values["assets"].keys()


def test_ids_name_days_and_plan_and_nothing_else():
    one = plan_of(scene('"><../', 3))
    assert item_id(one) == f"landuse-20240603-{one.digest[:8]}"
    several = plan_of(scene("b", 9), scene("a", 2), scene("c", 2))
    assert item_id(several) == f"landuse-20240602-20240609-{several.digest[:8]}"
    properties = written(several)["properties"]
    assert properties["datetime"] is None
    assert properties["start_datetime"] == "2024-06-02T10:20:30Z"
    assert properties["end_datetime"] == "2024-06-09T10:20:30Z"
    assert stac_errors(written(several)) == []
    # Two tiles of one overpass: one moment, not a span of it.
    assert written(plan_of(scene("a", 2), scene("b", 2)))["properties"]["datetime"] == "2024-06-02T10:20:30Z"


@settings(max_examples=40, deadline=None)
@given(
    lon=st.floats(-180, 179.9),
    lat=st.floats(-79, 83),
    width=st.floats(0.01, 1.5),
    height=st.floats(0.01, 0.9),
)
def test_the_outline_is_the_grid_on_a_round_earth(lon, lat, width, height):
    parts = [shapely.box(lon, lat, min(lon + width, 180), lat + height)]
    if lon + width > 180:
        parts.append(shapely.box(-180, lat, lon + width - 360, lat + height))
    area = shapely.union_all(parts)
    plan = plan_of(area=area, crs=None, stride_px=64)
    values = written(plan, files=[])
    outline = shapely.from_geojson(json.dumps(values["geometry"]))
    assert shapely.is_valid(outline)
    assert outline.geom_type in ("Polygon", "MultiPolygon")
    west, south, east, north = outline.bounds
    assert -180 <= west <= east <= 180
    assert -90 <= south <= north <= 90
    # Straight lines between corners of the grid bend on the way: its size in metres does not.
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", plan.crs, always_xy=True).transform
    on_grid = shapely.transform(outline, to_grid, interleaved=False)
    assert on_grid.area == pytest.approx(plan.rows * plan.cols * plan.cell_m**2, rel=2e-3)
    box = values["bbox"]
    assert box[1::2] == pytest.approx([south, north])
    crosses = outline.bounds[2] - outline.bounds[0] > 180
    assert (box[0] > box[2]) == crosses
    assert stac_errors(values) == []


def test_a_clipped_map_has_the_outline_of_its_area():
    triangle = shapely.Polygon([(15.0, 48.0), (15.4, 48.0), (15.0, 48.3)])
    values = written(plan_of(area=triangle, clip=True))
    outline = shapely.from_geojson(json.dumps(values["geometry"]))
    assert outline.symmetric_difference(triangle).area < 1e-3 * triangle.area
    assert outline.exterior.is_ccw  # RFC 7946, 3.1.6


def test_scenes_are_linked_from_where_the_map_will_lie(tmp_path):
    here, there = tmp_path / "maps" / "june", tmp_path / "scenes" / "a b" / "x.json"
    secret = "https://user:pw@stac.example.org/items/a?sig=SECRET#frag"
    scenes = [
        scene("a", item_href=str(there)),
        scene("b", item_href=secret, mirrors=(scene("m", item_href=secret),)),
        scene("rows of a table"),
        scene("inside", item_href=str(here / "a:b" / "x.json")),
    ]
    values = written(plan_of(*scenes), facts_of(here))
    assert hrefs(values) == [
        "./model.json",
        "../../scenes/a b/x.json",
        "https://stac.example.org/items/a",
        "./a:b/x.json",
    ]
    assert "SECRET" not in json.dumps(values)
    # A map that lies on another machine can only name the place in full.
    assert hrefs(written(plan_of(*scenes), facts_of(None)))[1] == str(there)
    assert [entry["id"] for entry in values["properties"]["landuse:scenes"]] == [s.id for s in scenes]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_break_nothing(text, tmp_path):
    plan = plan_of(scene(text, item_href="/data/x.json", provider=text), classes=(text, text[::-1] + "x"))
    plan = replace(plan, model=text)
    facts = facts_of(
        title=text,
        classes=(ClassArea(id=0, name=text, cells=1, area_m2=1.0, share=1.0),),
    )
    values = written(plan, facts)
    assert stac_errors(values) == []
    assert item_id(plan).replace("-", "").isalnum()
    assert set(values["assets"]) == {*written(plan_of())["assets"]}
    told = [*values["properties"].values(), *(link.get("title", "") for link in values["links"])]
    assert all(value.isprintable() for value in told if isinstance(value, str))
    path = tmp_path / "item.json"
    path.write_text(json.dumps(values, ensure_ascii=False), "utf-8")
    assert pystac.Item.from_file(str(path)).id == rustac.read_sync(str(path))["id"]


def test_where_items_are_decides_no_pixels_and_is_told_without_secrets():
    secret = "https://stac.example.org/a?sig=SECRET"
    bare = plan_of(scene(mirrors=(scene("m"),)))
    named = plan_of(scene(item_href=secret, mirrors=(scene("m", item_href=secret),)))
    assert named.digest == bare.digest
    assert named.blocks_key == bare.blocks_key
    assert "SECRET" not in json.dumps(named.to_public_dict())
    assert named.to_public_dict()["scenes"][0]["item_href"] == "https://stac.example.org/a"
    assert RunPlan.from_dict(json.loads(json.dumps(named.to_dict()))) == named
    # A plan of before items were named.
    old = json.loads(json.dumps(bare.to_dict()))
    for entry in (old["scenes"][0], old["scenes"][0]["mirrors"][0]):
        del entry["item_href"]
    assert RunPlan.from_dict(old).digest == bare.digest


def test_a_time_that_is_not_utc_is_refused_where_it_is_born():
    for moment in (datetime(2024, 7, 1, 12), datetime(2024, 7, 1, tzinfo=ZoneInfo("Asia/Kathmandu"))):
        with pytest.raises(ValueError, match="not in UTC"):
            facts_of(created_utc=moment)

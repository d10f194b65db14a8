"""Oracles: verbatim items of the services with the manifest's baselines, and the STAC specification."""

import json
import math
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import shapely

from landuse.errors import ProviderError, UsageError
from landuse.pipeline.providers import (
    PLANETARY_COMPUTER,
    Provider,
    footprint,
    resolve_href,
    scene_from_item,
    sign,
)
from landuse.pipeline.search import SceneQuery, search
from landuse.redact import redact, redact_href
from landuse.sentinel2 import BANDS
from tests.servers import file_server, stac_item, write_items

WEB = Provider(name="somewhere", endpoint="https://stac.example.org")
WEB_LOCATION = "https://stac.example.org/a/item.json"
LOCAL = Provider(name="local", endpoint="")


@pytest.fixture
def verbatim(data_dir) -> Path:
    return data_dir / "stac_items"


def _items(verbatim: Path, pattern: str) -> list[dict]:
    items = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(verbatim.glob(pattern))]
    assert items
    return items


def test_planetary_computer_items_as_served(verbatim):
    manifest = json.loads((verbatim / "MANIFEST.json").read_text(encoding="utf-8"))
    entries = [
        entry for entry in manifest if entry["provider"] == "PC" and (verbatim / entry["file"]).exists()
    ]
    assert {entry["baseline"] for entry in entries} >= {"02.12", "04.00", "05.10"}
    for entry in entries:
        item = json.loads((verbatim / entry["file"]).read_text(encoding="utf-8"))
        scene = scene_from_item(item, PLANETARY_COMPUTER, PLANETARY_COMPUTER.endpoint)
        assert scene.bands == (*(band for band in BANDS if band != "B10"), "SCL")
        offset = -0.1 if float(entry["baseline"]) >= 4 else 0.0
        reflectances = [asset for asset in scene.assets if asset.band != "SCL"]
        assert {(asset.scale, asset.offset, asset.nodata) for asset in reflectances} == {(1e-4, offset, 0.0)}
        assert (scene.asset("SCL").scale, scene.asset("SCL").offset) == (1.0, 0.0)
        assert {asset.href for asset in scene.assets} <= {a["href"] for a in item["assets"].values()}
        assert not any("?" in asset.href for asset in scene.assets)
        assert (scene.level, scene.baseline, scene.provider) == (
            "L2A",
            entry["baseline"],
            "planetary-computer",
        )
        assert scene.acquired_utc == datetime.fromisoformat(entry["datetime"])
        assert scene.crs == f"EPSG:{item['properties']['proj:epsg']}"
        assert scene.bounds_m == tuple(item["assets"]["B04"]["proj:bbox"])
        west, south, east, north = shapely.Polygon(scene.footprint).bounds
        assert (west, south, east, north) == pytest.approx(shapely.geometry.shape(item["geometry"]).bounds)


def test_a_stale_signature_is_dropped_so_that_signing_can_renew_it(verbatim):
    item = _items(verbatim, "PC/*/S2B_MSIL2A_2024*.json")[0]
    for asset in item["assets"].values():
        asset["href"] += "?st=2024-01-01&se=2024-01-02&sp=r&sig=secret"
    scene = scene_from_item(item, PLANETARY_COMPUTER, PLANETARY_COMPUTER.endpoint)
    assert not any("sig" in asset.href or "?" in asset.href for asset in scene.assets)


def test_earth_search_items_are_not_corrected_twice(verbatim):
    for item in _items(verbatim, "E84v1/*/*.json"):
        scene = scene_from_item(item, WEB, WEB_LOCATION)
        baseline = float(item["properties"]["s2:processing_baseline"])
        applied = item["properties"].get("earthsearch:boa_offset_applied") is True
        expected = -0.1 if baseline >= 4 and not applied else 0.0
        assert {a.offset for a in scene.assets if a.band != "SCL"} == {expected}, item["id"]
        assert {a.scale for a in scene.assets if a.band != "SCL"} == {1e-4}
        level = "L1C" if item["collection"] == "sentinel-2-l1c" else "L2A"
        assert scene.level == level
        optical = BANDS if level == "L1C" else tuple(b for b in BANDS if b != "B10")
        assert scene.bands == (optical if level == "L1C" else (*optical, "SCL"))
        # The file behind each asset is named after its band: red is B04, rededge1 is B05, ...
        assert all(f"/{asset.band}." in asset.href for asset in scene.assets)
        # Of a GeoTIFF and a JPEG 2000 of the same band the GeoTIFF is read.
        assert level == "L1C" or all(asset.href.endswith(".tif") for asset in scene.assets)


def test_copernicus_items_give_each_band_at_its_finest(verbatim):
    item = _items(verbatim, "CDSE/*/*.json")[0]
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert scene.level == "L2A"
    assert scene.baseline == "05.00"
    assert scene.asset("B04").href.endswith("_B04_10m.jp2")
    assert scene.asset("B01").href.endswith("_B01_20m.jp2")
    assert scene.asset("SCL").href.endswith("_SCL_20m.jp2")
    assert scene.asset("B04").offset == -0.1
    assert scene.crs == "EPSG:32636"


DECODING = {"raster:scale": 0.0001, "raster:offset": 0}


def _own_item(**asset_fields):
    item = stac_item("mine", s2__processing_baseline=None, bands=("B04",))
    item["assets"]["B04"].update(asset_fields)
    return item


def test_stated_scale_offset_and_nodata_are_believed(tmp_path):
    here = str(tmp_path / "item.json")
    stac_1_1 = _own_item(**{"raster:scale": 0.001, "raster:offset": -0.5, "nodata": 7})
    per_band = _own_item(bands=[{"name": "B04", "raster:scale": 0.001, "raster:offset": -0.5, "nodata": 7}])
    stac_1_0 = _own_item(**{"raster:bands": [{"scale": 0.001, "offset": -0.5, "nodata": 7}]})
    for item in (stac_1_1, per_band, stac_1_0):
        asset = scene_from_item(item, LOCAL, here).asset("B04")
        assert (asset.scale, asset.offset, asset.nodata) == (0.001, -0.5, 7.0)
        assert asset.href == str(tmp_path / "B04.tif")
    assert (
        scene_from_item(_own_item(**{"raster:scale": 1, "raster:offset": 0}), LOCAL, here).assets[0].nodata
        is None
    )
    nan = _own_item(**{"raster:scale": 1, "raster:offset": 0, "nodata": "nan"})
    assert math.isnan(scene_from_item(nan, LOCAL, here).assets[0].nodata)


@pytest.mark.parametrize(
    ("fields", "lacking"),
    [
        ({}, "no scale and offset"),
        ({"raster:scale": 0.0001}, "no offset"),
        ({"raster:offset": -0.1}, "no scale"),
        ({"raster:scale": "0.0001", "raster:offset": 0}, "no scale"),
        ({"raster:scale": -1, "raster:offset": 0}, "above 0"),
    ],
)
def test_scale_and_offset_are_never_assumed(fields, lacking):
    with pytest.raises(UsageError, match=lacking):
        scene_from_item(_own_item(**fields), LOCAL, "/data/item.json")


@pytest.mark.parametrize(
    ("baseline", "offset"), [("02.14", 0.0), ("03.01", 0.0), ("04.00", -0.1), ("05.11", -0.1)]
)
def test_a_baseline_alone_means_the_rule_of_esa(baseline, offset):
    item = stac_item("esa", s2__processing_baseline=baseline, datetime="2016-01-01T00:00:00Z")
    assert {asset.offset for asset in scene_from_item(item, WEB, WEB_LOCATION).assets} == {offset}


def test_bands_of_one_file_are_found_by_name_and_a_picture_is_never_a_band():
    item = stac_item("stack", bands=())
    names = ["nir", "B8A", "rededge", "red"]
    item["assets"] = {
        "visual": {"href": "https://x.org/tci.tif", "eo:bands": [{"name": "B04"}, {"name": "B03"}]},
        "preview": {"href": "https://x.org/p.tif", "roles": ["overview"], "bands": [{"name": "B02"}]},
        "stack": {"href": "https://x.org/stack.tif", "bands": [{"name": name} for name in names]},
    }
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert {asset.band: asset.index for asset in scene.assets} == {"B04": 4, "B08": 1, "B8A": 2}
    assert {asset.href for asset in scene.assets} == {"https://x.org/stack.tif"}


@pytest.mark.parametrize(
    ("properties", "collection", "level"),
    [
        ({"s2:product_type": "S2MSI1C"}, "anything", "L1C"),
        ({"processing:level": "L1C"}, "anything", "L1C"),
        ({"processing:level": "Level-2A"}, "anything", "L2A"),
        ({"processing:level": "L2", "product:type": "S2MSI2A"}, "anything", "L2A"),
        ({}, "sentinel-2-c1-l2a", "L2A"),
        ({}, "sentinel-2-l1c", "L1C"),
        ({"processing:level": "L3"}, "own", None),
        ({}, "l2archive", None),
    ],
)
def test_the_level_is_stated_or_refused(properties, collection, level):
    item = stac_item("x", collection=collection, s2__product_type=None, **properties)
    if level is None:
        with pytest.raises(UsageError, match="processing:level"):
            scene_from_item(item, WEB, WEB_LOCATION)
    else:
        assert scene_from_item(item, WEB, WEB_LOCATION).level == level


def test_another_satellite_is_refused():
    with pytest.raises(UsageError, match="not of Sentinel-2"):
        scene_from_item(stac_item("x", constellation="enmap"), WEB, WEB_LOCATION)


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "/vsicurl/https://x.org/a.tif",
        "/VSIZIP//etc/x.zip/a.tif",
        "ftp://x.org/a.tif",
        "gs://bucket/a.tif",
        "netcdf:/etc/passwd",
        "C:/a.tif",
        "https:///a.tif",
        "https://x.org/a.tif\n/etc/passwd",
        "<VRTDataset/>\x00",
        "",
    ],
)
def test_an_item_from_the_web_cannot_reach_local_files(href):
    with pytest.raises(ProviderError, match="refused"):
        resolve_href(href, WEB_LOCATION)
    with pytest.raises(ProviderError):
        scene_from_item(stac_item("x", href=href.replace("{", "")), WEB, WEB_LOCATION)


def test_hrefs_become_absolute_where_they_are_allowed():
    assert resolve_href("../b/x.tif", WEB_LOCATION) == "https://stac.example.org/b/x.tif"
    # A path from the web is a path on that host, not on this one.
    assert resolve_href("/etc/passwd", WEB_LOCATION) == "https://stac.example.org/etc/passwd"
    assert resolve_href("s3://bucket/x.jp2", WEB_LOCATION) == "s3://bucket/x.jp2"
    assert resolve_href("../b/x.tif", "/data/a/item.json") == "/data/b/x.tif"
    assert resolve_href("file:///data/with%20space.tif", "/data/item.json") == "/data/with space.tif"
    assert resolve_href("https://x.org/a.tif", "/data/item.json") == "https://x.org/a.tif"
    for href in ("/vsizip/a.zip", "../vsicurl/x", "netcdf:a", "file:///vsimem/x"):
        with pytest.raises(ProviderError):
            resolve_href(href, "/data/item.json")


def test_an_outline_over_the_antimeridian_does_not_span_the_globe():
    item = stac_item("fiji")
    ring = [[179, -18], [-179, -18], [-179, -17], [179, -17], [179, -18]]
    item["geometry"]["coordinates"] = [ring]
    outline = footprint(item)
    assert outline.area == pytest.approx(2.0)
    assert outline.contains(shapely.Point(179.5, -17.5))
    assert outline.contains(shapely.Point(-179.5, -17.5))
    assert not outline.intersects(shapely.Point(0, -17.5))


@pytest.mark.parametrize(
    "damage",
    [
        {"id": 5},
        {"geometry": None, "bbox": None},
        {"geometry": {"type": "Polygon", "coordinates": "x"}},
        {"geometry": {"type": "Point", "coordinates": [1, 2]}},
        {"geometry": {"type": "Polygon", "coordinates": [[[1e9, 0], [1e9, 1], [2e9, 1], [1e9, 0]]]}},
        {"properties": None},
        {"properties": {"datetime": "soon"}},
        {"assets": []},
        {"assets": {"B04": None}},
    ],
)
def test_a_damaged_item_is_an_error_of_ours(damage):
    with pytest.raises((UsageError, ProviderError)):
        scene_from_item({**stac_item("x"), **damage}, WEB, WEB_LOCATION)


def test_the_projection_comes_from_the_item_or_its_bands():
    item = stac_item("x", proj__code="EPSG:32633")
    item["assets"]["B03"].update(
        {"proj:shape": [50, 30], "proj:transform": [10, 0, 500_000, 0, -10, 5_000_000]}
    )
    scene = scene_from_item(item, WEB, WEB_LOCATION)
    assert (scene.crs, scene.bounds_m) == ("EPSG:32633", (500_000, 4_999_500, 500_300, 5_000_000))


def test_without_bounds_of_the_item_those_of_all_its_reflectance_bands_count():
    item = stac_item("x", proj__code="EPSG:32633", bands=("B02", "B03", "B04", "SCL"))
    item["assets"]["B02"]["proj:bbox"] = [0, 0, 100, 100]
    item["assets"]["B03"]["proj:bbox"] = [50, -20, 180, 90]
    item["assets"]["SCL"]["proj:bbox"] = [-900, -900, 900, 900]
    # In another zone: its numbers mean other places.
    item["assets"]["B04"].update({"proj:code": "EPSG:32634", "proj:bbox": [0, 0, 9000, 9000]})
    assert scene_from_item(item, WEB, WEB_LOCATION).bounds_m == (0, -20, 180, 100)
    item["properties"]["proj:bbox"] = [1, 2, 3, 4]
    assert scene_from_item(item, WEB, WEB_LOCATION).bounds_m == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("stated", "fault"),
    [
        ({"proj__code": "EPSG:999999"}, "no such CRS"),
        ({"proj__epsg": 1e300}, "AUTHORITY:CODE|no such CRS"),
        ({"proj__epsg": 32633.5}, "AUTHORITY:CODE"),
        ({"proj__code": "+proj=longlat +nadgrids=/etc/passwd"}, "AUTHORITY:CODE"),
        ({"proj__code": "IAU_2015:30110"}, "not of the earth"),
        ({"proj__code": "EPSG:5703"}, "easting"),
    ],
)
def test_a_crs_that_is_none_of_the_earth_is_refused(stated, fault):
    with pytest.raises(UsageError, match=rf"STAC item 'x' states the CRS .*({fault})"):
        scene_from_item(stac_item("x", **stated), WEB, WEB_LOCATION)


def test_a_strangers_item_with_a_bad_crs_does_not_stop_the_search(tmp_path, caplog):
    items = [stac_item("bad", proj__code="EPSG:999999"), stac_item("good", proj__code="EPSG:32632")]
    write_items(tmp_path / "items.json", items)
    with file_server(tmp_path) as server:
        scenes = search(f"{server.url}/items.json", SceneQuery(area=None))
    assert [scene.id for scene in scenes] == ["good"]
    assert "EPSG:999999" in caplog.text


@pytest.mark.parametrize(
    "href",
    [
        "http://127.0.0.1:9/my scenes/B04.tif?X-Amz-Signature=SECRET",
        "http://127.0.0.1:9/<a>'s \"b\"/B04.tif?x=it's a&X-Amz-Signature=SECRET#'SECRET",
        "http://a@b:SECRET'SECRET@127.0.0.1:9/B04.tif",
    ],
)
def test_a_secret_in_an_odd_url_does_not_survive(href):
    for location in ("/data/item.json", WEB_LOCATION):
        asset = scene_from_item(_own_item(href=href, **DECODING), LOCAL, location).asset("B04")
        for said in (redact(asset.href), redact(f"'{asset.href}' does not exist"), redact_href(asset.href)):
            assert "SECRET" not in said
            assert "http://127.0.0.1:9/" in said
    relative = _own_item(href="my scenes/B04.tif?sig=SECRET", **DECODING)
    asset = scene_from_item(relative, LOCAL, WEB_LOCATION).asset("B04")
    assert asset.href == "https://stac.example.org/a/my%20scenes/B04.tif?sig=SECRET"
    assert redact(asset.href) == "https://stac.example.org/a/my%20scenes/B04.tif"


@pytest.mark.parametrize(
    "href",
    [
        "s3://bucket/my scenes/x.tif?sig=SECRET",
        "https:///my scenes/x.tif?sig=SECRET",
        "my scenes/x.tif?sig=SECRET\x00",
        "http://ho'st/x.tif?sig=SECRET",
    ],
)
def test_a_refusal_tells_no_secret(href):
    with pytest.raises(ProviderError, match="refused") as caught:
        resolve_href(href, WEB_LOCATION)
    assert "SECRET" not in str(caught.value)


def test_a_url_with_a_blank_is_read_as_it_was_meant(tmp_path):
    (tmp_path / "my scenes").mkdir()
    (tmp_path / "my scenes/it's.txt").write_text("here")
    with (
        file_server(tmp_path) as server,
        urllib.request.urlopen(resolve_href(f"{server.url}/my scenes/it's.txt", "/a.json")) as answer,
    ):
        assert answer.read() == b"here"
    # Encoded, a key of S3 would be another object's; what is encoded already stays.
    assert resolve_href("s3://bucket/my scenes/x.jp2", WEB_LOCATION) == "s3://bucket/my scenes/x.jp2"
    assert resolve_href("https://x.org/a%20b.tif", WEB_LOCATION) == "https://x.org/a%20b.tif"


HREF = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/a/B04.tif"


@pytest.fixture
def tokens(tmp_path, monkeypatch):
    """A loopback server in the place of Planetary Computer's token service."""
    # The SDK's models are written for pydantic 1, and importing them warns.
    pytest.importorskip("planetary_computer")
    from planetary_computer.sas import TOKEN_CACHE
    from planetary_computer.settings import Settings

    folder = tmp_path / "sentinel2l2a01"
    folder.mkdir()
    with file_server(tmp_path) as server:
        monkeypatch.setenv("PC_SDK_SAS_URL", server.url)
        Settings.get.cache_clear()
        TOKEN_CACHE.clear()
        yield folder / "sentinel2-l2"
    Settings.get.cache_clear()
    TOKEN_CACHE.clear()


pydantic_1 = pytest.mark.filterwarnings("ignore:Support for class-based `config`")


@pydantic_1
def test_signing_appends_the_token_that_the_service_gives(tokens):
    tokens.write_text(json.dumps({"msft:expiry": "2099-01-01T00:00:00Z", "token": "se=2099&sig=s3cret"}))
    assert sign(HREF, "planetary-computer") == f"{HREF}?se=2099&sig=s3cret"
    assert sign("https://x.org/a.tif", "planetary-computer") == "https://x.org/a.tif"
    assert sign(HREF, "local") == HREF


@pydantic_1
def test_a_token_never_shows_in_an_error(tokens):
    with pytest.raises(ProviderError, match="404"):
        sign(HREF, "planetary-computer")
    tokens.write_text(json.dumps({"expires": "soon", "token": "sig=s3cret"}))
    with pytest.raises(ProviderError, match="Try again") as caught:
        sign(HREF + "?mine=s3cret", "planetary-computer")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_provider_is_a_value():
    assert replace(PLANETARY_COMPUTER, endpoint="http://127.0.0.1:1").collections == (
        ("L2A", "sentinel-2-l2a"),
    )
    assert PLANETARY_COMPUTER.endpoint.startswith("https://")
    assert scene_from_item(stac_item("x"), WEB, WEB_LOCATION).acquired_utc == datetime(
        2024, 6, 15, 10, 20, 30, tzinfo=UTC
    )

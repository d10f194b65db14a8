"""The services' answers as they were recorded, replayed from loopback.

Oracle: a reading of the same JSON by rules of a few lines. Only the services' addresses in links are
changed, to the loopback's.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import shapely
from starlette.responses import JSONResponse

from landuse.errors import ProviderError, UsageError
from landuse.pipeline.providers import (
    CDSE,
    EARTH_SEARCH,
    EARTH_SEARCH_C1,
    EARTH_SEARCH_L1C,
    PLANETARY_COMPUTER,
)
from landuse.pipeline.remote.retry import RetryPolicy
from landuse.pipeline.search.area import parse_bbox, parse_dates
from landuse.pipeline.search.find_scenes import SceneQuery, search
from landuse.pipeline.search.stac_files import stac_io
from landuse.sentinel2 import LEVELS
from tests.servers import file_server, json_body

AT_ONCE = RetryPolicy(first_pause_s=0.0)
EVER = parse_dates("2015-06-23/..")
LANDING = {
    "planetary": "stac-utils+stac-geoparquet__test_smoke[sentinel-2-l2a].exchanges.json",
    "earth": "stac-utils+pystac-client__TestCLISearch.test_filter[inprocess].exchanges.json",
}


@pytest.fixture
def raw(data_dir) -> Path:
    return data_dir / "stac_items" / "raw"


@dataclass
class Replay:
    """A loopback that answers as a service once did."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    """Bodies of the searches, in order."""


@contextmanager
def _replayed(folder: Path, exchanges: list[dict[str, Any]]) -> Iterator[Replay]:
    """Answers each recorded request as recorded, and a page that was not recorded as an empty one."""
    origins = {f"{parts.scheme}://{parts.netloc}" for parts in (urlsplit(e["uri"]) for e in exchanges)}
    waiting = list(exchanges)
    with file_server(folder) as server:
        replay = Replay(url=server.url)

        def interfere(request):
            searched = request.method == "POST"
            if searched:
                replay.asked.append(json_body(request))
            for exchange in waiting:
                parts = urlsplit(exchange["uri"])
                same_path = parts.path.rstrip("/") == request.url.path.rstrip("/")
                if (
                    exchange["method"] == request.method
                    and same_path
                    and (searched or parse_qsl(parts.query) == parse_qsl(request.url.query))
                ):
                    waiting.remove(exchange)
                    content = json.dumps(exchange["response"])
                    for origin in origins:
                        content = content.replace(origin, server.url)
                    return JSONResponse(json.loads(content), exchange["status"]["code"])
            return JSONResponse({"type": "FeatureCollection", "features": [], "links": []})

        server.interfere = interfere
        yield replay


def _exchanges(raw: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((raw / name).read_text(encoding="utf-8"))


def _landing(raw: Path, service: str) -> dict[str, Any]:
    exchanges = _exchanges(raw, LANDING[service])
    return next(e for e in exchanges if e["response"]["type"] == "Catalog")


def _features(exchanges: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [feature for exchange in exchanges for feature in exchange["response"].get("features", [])]


def _newest(features: list[dict[str, Any]], area: shapely.Geometry | None = None) -> set[str]:
    """Ids of what is to be found: of each level, satellite, tile and day the newest by its product's name."""
    kept: dict[tuple[str, ...], tuple[str, str]] = {}
    for feature in features:
        properties = feature["properties"]
        outline = shapely.geometry.shape(feature["geometry"]).buffer(0)
        if area is not None and outline.intersection(area).area == 0:
            continue
        names = " ".join(str(properties.get(key)) for key in ("s2:product_uri", "s2:generation_time"))
        tile = re.search(r"_T?(\d\d[A-Z]{3})_", feature["id"])[1]
        level = "L1C" if "L1C" in names else "L2A"
        baseline = re.search(r"_N(\d{4})_", f"{names} {feature['id']}")[1]
        key = (level, properties["platform"].lower(), tile, properties["datetime"][:10])
        recency = (
            baseline,
            str(properties.get("s2:generation_time", properties.get("created"))),
            feature["id"],
        )
        kept[key] = max(kept.get(key, ("",)), recency)
    return {recency[-1] for recency in kept.values()}


@pytest.mark.parametrize("bbox", ["166,53,175,59.5", "170.9,55,171.1,56", "174.1,58,-178,58.6"])
def test_planetary_computer_as_recorded(raw, tmp_path, bbox):
    exchanges = _exchanges(
        raw, "stac-utils+pystac-client__TestItemSearch.test_datetime_results.exchanges.json"
    )
    area = parse_bbox(bbox)
    # Over the antimeridian it is asked twice, and was recorded twice.
    with _replayed(tmp_path, [_landing(raw, "planetary"), *exchanges]) as replay:
        provider = replace(PLANETARY_COMPUTER, endpoint=replay.url + "/api/stac/v1")
        query = SceneQuery(area=area, dates=parse_dates("2019-01-01"), levels=("L2A",))
        scenes = search(provider, query, AT_ONCE)
    expected = _newest(exchanges[0]["response"]["features"], area.geometry)
    assert {scene.id for scene in scenes} == expected
    assert len(scenes) == len(expected) > 0
    assert len(expected) < 33 or bbox.startswith("166")
    clouds = [scene.cloud_percent for scene in scenes]
    assert clouds == sorted(clouds)
    assert replay.asked == [
        {
            "collections": ["sentinel-2-l2a"],
            "datetime": "2019-01-01T00:00:00Z/2019-01-01T23:59:59.999999Z",
            "bbox": list(box),
            "limit": provider.page_items,
        }
        for box in area.boxes
    ]


@pytest.mark.parametrize("provider", [EARTH_SEARCH, EARTH_SEARCH_C1, EARTH_SEARCH_L1C])
def test_pages_of_earth_search_as_recorded(raw, tmp_path, provider):
    """The recorded search was for everything: what was not asked for is left out here."""
    exchanges = _exchanges(raw, LANDING["earth"])
    ((level, collection),) = provider.collections
    with _replayed(tmp_path, exchanges) as replay:
        query = SceneQuery(area=parse_bbox("-180,-80,-1,80"), dates=EVER, levels=(level,))
        scenes = search(replace(provider, endpoint=replay.url + "/v1"), query, AT_ONCE)
    served = [feature for feature in _features(exchanges) if feature["collection"] == collection]
    assert {scene.id for scene in scenes} == _newest(served)
    assert scenes
    # Both recorded pages and the one after them were asked for, as Earth Search's links say.
    assert len(replay.asked) == 3
    assert [set(body) for body in replay.asked[1:]] == [{"next"}, {"next"}]


def test_earth_search_as_an_address_of_many_collections(raw, tmp_path):
    """Copies of one acquisition lie in two collections there, and radar images beside them."""
    exchanges = _exchanges(raw, LANDING["earth"])
    area = parse_bbox("-180,-80,-1,80")
    for level in LEVELS:
        with _replayed(tmp_path, exchanges) as replay:
            scenes = search(replay.url + "/v1", SceneQuery(area=area, dates=EVER, levels=(level,)), AT_ONCE)
        served = [f for f in _features(exchanges) if "-2-" in f["collection"]]
        of_level = [f for f in served if ("l1c" in f["collection"]) is (level == "L1C")]
        assert {scene.id for scene in scenes} == _newest(of_level)
    with _replayed(tmp_path, exchanges) as replay, pytest.raises(UsageError, match="L1C and L2A"):
        search(replay.url + "/v1", SceneQuery(area=area, dates=EVER), AT_ONCE)


def test_a_foreign_satellite_is_left_out_with_a_warning(raw, tmp_path, caplog):
    name = "stac-utils+pystac-client__test_multiple_collections.exchanges.json"
    exchanges = _exchanges(raw, name)
    with _replayed(tmp_path, [_landing(raw, "earth"), *exchanges]) as replay:
        query = SceneQuery(area=parse_bbox("-105.2,40.1,-105.0,40.2"), dates=parse_dates("2023-10-08"))
        scenes = search(replay.url + "/v1", query, AT_ONCE)
    ours, foreign = _features(exchanges)
    assert foreign["collection"] == "landsat-c2-l2"
    assert [scene.id for scene in scenes] == [ours["id"]]
    assert foreign["id"] in caplog.text
    assert "not of Sentinel-2" in caplog.text
    # The next page is asked for with the whole body that the link has.
    assert replay.asked[1] == exchanges[1]["request_body"]


def test_cdse_as_recorded(raw, tmp_path):
    response = _exchanges(raw, "openeo-geopyspark-driver__issue1043_CDSE_search.json")
    origin = "https://stac.dataspace.copernicus.eu"
    landing = {
        "type": "Catalog",
        "links": [{"rel": "search", "method": "POST", "href": origin + "/v1/search"}],
    }
    exchanges = [
        {"method": "GET", "uri": origin + "/v1/", "status": {"code": 200}, "response": landing},
        {"method": "POST", "uri": origin + "/v1/search", "status": {"code": 200}, "response": response},
    ]
    (feature,) = response["features"]
    west, south, east, north = feature["bbox"]
    area = parse_bbox(f"{west + 0.3},{south + 0.3},{east - 0.3},{north - 0.3}")
    with _replayed(tmp_path, exchanges) as replay:
        provider = replace(CDSE, endpoint=replay.url + "/v1")
        (scene,) = search(
            provider, SceneQuery(area=area, dates=parse_dates("2020-03"), levels=("L2A",)), AT_ONCE
        )
    assert scene.id == feature["id"]
    assert (scene.provider, scene.asset("B04").offset) == ("cdse", -0.1)
    assert scene.asset("B04").href == feature["assets"]["B04_10m"]["href"]
    assert scene.asset("B04").bytes_per_px == pytest.approx(127_466_004 / 10_980**2)


def test_a_collections_items_are_followed_page_by_page(raw, tmp_path):
    exchanges = _exchanges(raw, LANDING["planetary"])
    with _replayed(tmp_path, exchanges) as replay:
        url = replay.url + "/api/stac/v1/collections/sentinel-2-l2a/items"
        pages = list(stac_io(AT_ONCE, url).get_pages(url, "GET", {"limit": 1}))
        (feature,) = _features(exchanges)
        assert [page["features"][0]["id"] for page in pages] == [feature["id"]]
    with _replayed(tmp_path, exchanges) as replay:
        url = replay.url + "/api/stac/v1/collections/sentinel-2-l2a/items?limit=1"
        (scene,) = search(url, SceneQuery(area=None), AT_ONCE)
        assert scene.id == feature["id"]


def test_a_single_item_is_a_source(raw, tmp_path):
    exchanges = _exchanges(raw, "stac-utils+stac-geoparquet__test_assert_equal.exchanges.json")
    ours, foreign = exchanges
    with _replayed(tmp_path, exchanges) as replay:
        (scene,) = search(replay.url + urlsplit(ours["uri"]).path, SceneQuery(area=None), AT_ONCE)
        assert scene.id == ours["response"]["id"]
        with pytest.raises(ProviderError, match="not of Sentinel-2"):
            search(replay.url + urlsplit(foreign["uri"]).path, SceneQuery(area=None), AT_ONCE)


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("azavea+raster-vision__item.json", "earth-search"),
        ("azavea+raster-vision__item_collection.json", "earth-search"),
        ("opendatacube+odc-stac__site1-20200606-tall-strip-africa.geojson", "planetary-computer"),
        ("opendatacube+odc-stac__site2-2020_jun_jul-35MNM.geojson", "planetary-computer"),
        (
            "opendatacube+odc-stac__S2B_MSIL2A_20190629T212529_R043_T06VVN_20201006T080531.json",
            "planetary-computer",
        ),
        ("openeo-geopyspark-driver__issue1043_CDSE_search.json", "cdse"),
    ],
)
def test_a_saved_answer_is_a_source_and_is_read_as_its_providers_own(raw, name, provider):
    document = json.loads((raw / name).read_text(encoding="utf-8"))
    scenes = search(str(raw / name), SceneQuery(area=None))
    assert {scene.id for scene in scenes} == _newest(document.get("features", [document]))
    assert {scene.provider for scene in scenes} == {provider}

"""Search and read against real servers on loopback: rustac's STAC API, and files behind HTTP ranges.

Oracles: the items as written, and rasterio's own read of the local file.
"""

import dataclasses
import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.windows import Window

from landuse.errors import ModelError, NothingFoundError
from landuse.pipeline.providers import PAGE_ITEMS, PLANETARY_COMPUTER
from landuse.pipeline.search.area import parse_bbox, parse_dates
from landuse.pipeline.search.find_scenes import SceneQuery, search
from tests.servers import file_server, stac_api, stac_item, write_items

BANDS = ("B02", "B03", "B04")
AREA = parse_bbox("12.2,48.2,12.3,48.3")
JUNE = parse_dates("2024-06")


def _cog(path, seed):
    pixels = np.random.default_rng(seed).integers(1, 10_000, (1, 300, 500), dtype=np.uint16)
    with rasterio.open(
        path, "w", driver="COG", width=500, height=300, count=1, dtype="uint16", nodata=0, crs="EPSG:32633",
        transform=Affine(10, 0, 300_000, 0, -10, 5_350_000), blocksize=128, compress="none",
    ) as target:  # fmt: skip
        target.write(pixels)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A file server with COGs, a STAC API of items that point there, and the items."""
    folder = tmp_path_factory.mktemp("served")
    for seed, band in enumerate(BANDS):
        _cog(folder / f"{band}.tif", seed)
    with file_server(folder) as files:
        common = {
            "bbox": (12.0, 48.0, 13.0, 49.0),
            "href": files.url + "/{band}.tif",
            "bands": BANDS,
            "proj__code": "EPSG:32633",
            "proj__bbox": [300_000, 5_347_000, 305_000, 5_350_000],
        }
        # More than a page in June, each of its own tile and minute; one elsewhere, one in July, one cloudy.
        items = [
            stac_item(
                f"june-{number:03d}",
                datetime=f"2024-06-{number % 30 + 1:02d}T10:{number % 60:02d}:00Z",
                cloud=float(number % 39),
                s2__mgrs_tile=f"33U{number:03d}",
                **common,
            )
            for number in range(PAGE_ITEMS + 30)
        ]
        items += [
            stac_item("july", datetime="2024-07-01T00:00:00Z", **common),
            stac_item("cloudy", datetime="2024-06-10T00:00:00Z", **{**common, "cloud": 95.0}),
            stac_item(
                "elsewhere",
                datetime="2024-06-10T00:00:00Z",
                **{
                    **common,
                    "bbox": (20, 48, 21, 49),
                    "proj__code": "EPSG:32634",
                    "proj__bbox": [450_000, 5_347_000, 455_000, 5_350_000],
                },
            ),
            stac_item("landsat", datetime="2024-06-10T00:00:00Z", collection="landsat-c2-l2", **common),
        ]
        with stac_api(write_items(folder / "items.json", items)) as url:
            yield files, url, items


def test_every_page_is_read_and_filtered(served):
    _, url, items = served
    provider = dataclasses.replace(PLANETARY_COMPUTER, endpoint=url)
    query = SceneQuery(area=AREA, dates=JUNE, max_cloud_percent=40, levels=("L2A",), bands=BANDS)
    scenes = search(provider, query)
    june = [item for item in items if item["id"].startswith("june")]
    assert len(june) > PAGE_ITEMS
    by_hand = sorted(
        june,
        key=lambda item: (
            item["properties"]["eo:cloud_cover"],
            [-ord(letter) for letter in item["properties"]["datetime"]],
            item["id"],
        ),
    )
    assert [scene.id for scene in scenes] == [item["id"] for item in by_hand]
    assert {scene.provider for scene in scenes} == {"planetary-computer"}
    assert {asset.offset for scene in scenes for asset in scene.assets} == {-0.1}


def test_hrefs_come_back_unsigned_as_the_items_have_them(served):
    files, url, _ = served
    scenes = search(dataclasses.replace(PLANETARY_COMPUTER, endpoint=url), SceneQuery(area=AREA, dates=JUNE))
    hrefs = {asset.href for scene in scenes for asset in scene.assets}
    assert hrefs == {f"{files.url}/{band}.tif" for band in BANDS}


def test_the_url_of_an_api_or_of_its_collection_is_a_source(served):
    _, url, _ = served
    query = SceneQuery(area=AREA, dates=parse_dates("2024-07"))
    by_collection = search(f"{url}/collections/sentinel-2-l2a", query)
    assert [scene.id for scene in by_collection] == ["july"]
    assert [scene.id for scene in search(url, query)] == ["july"]
    assert by_collection[0].bounds_m == (300_000, 5_347_000, 305_000, 5_350_000)
    with pytest.raises(NothingFoundError, match="no Sentinel-2 scene"):
        search(f"{url}/collections/nothing-here", query)


def test_nothing_found_says_what_the_server_gave_and_what_to_widen(served):
    _, url, _ = served
    provider = dataclasses.replace(PLANETARY_COMPUTER, endpoint=url)
    with pytest.raises(NothingFoundError, match="--date"):
        search(provider, SceneQuery(area=AREA, dates=parse_dates("2001")))
    day = SceneQuery(
        area=parse_bbox("20.2,48.2,20.3,48.3"), dates=parse_dates("2024-06-10"), max_cloud_percent=5
    )
    with pytest.raises(NothingFoundError, match=r"1 cloudier than 5 %.*--max-cloud"):
        search(provider, day)


def test_a_level_that_the_provider_does_not_serve_is_said_before_anything_is_asked():
    provider = dataclasses.replace(PLANETARY_COMPUTER, endpoint="http://127.0.0.1:1")
    with pytest.raises(ModelError, match="serves L2A; L1C is needed"):
        search(provider, SceneQuery(area=AREA, dates=JUNE, levels=("L1C",)))


def test_gdal_reads_a_window_of_an_asset_by_range(served, tmp_path):
    files, url, _ = served
    scene = search(url, SceneQuery(area=AREA, dates=parse_dates("2024-07")))[0]
    window = Window(390, 260, 60, 30)
    files.log.clear()
    with (
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        rasterio.open(scene.asset("B04").href) as source,
    ):
        pixels = source.read(1, window=window)
    with rasterio.open(files.root / "B04.tif") as local:
        np.testing.assert_array_equal(pixels, local.read(1, window=window))
    gets = [entry for entry in files.log if entry.method == "GET"]
    assert gets
    assert {(entry.path, entry.status) for entry in gets} == {("/B04.tif", 206)}
    assert all(entry.byte_range and entry.byte_range.startswith("bytes=") for entry in gets)


def test_the_file_server_keeps_to_its_folder_and_can_fail_on_purpose(tmp_path):
    import urllib.error
    import urllib.request

    from starlette.responses import PlainTextResponse

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.json").write_text(json.dumps([1]))
    (tmp_path / "out.json").write_text("secret")
    with file_server(tmp_path / "in") as files:
        with urllib.request.urlopen(f"{files.url}/a.json") as response:
            assert response.read() == b"[1]"
        files.interfere = lambda request: PlainTextResponse("later", status_code=503)
        for path in ("a.json", "%2e%2e/out.json"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(f"{files.url}/{path}")
            caught.value.close()
            files.interfere = None
        assert [entry.status for entry in files.log] == [200, 503, 404]

"""A map from a STAC API and a file server on loopback, as one from Planetary Computer is made.

Oracles: the map of the same pixels on disk, bit for bit; the servers' own logs. Planetary
Computer's hosts are played by a proxy that refuses whatever is not signed, so that its real SDK
signs real requests.
"""

import dataclasses
import json
import logging
import re
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pystac
import pytest
import rasterio
from affine import Affine
from rasterio.warp import transform_bounds

from landuse.errors import ReadError
from landuse.model.predict import Predictor
from landuse.pipeline.area import parse_bbox
from landuse.pipeline.providers import PLANETARY_COMPUTER
from landuse.workflows.catalog import catalog_rasters
from landuse.workflows.map_area import MapRequest, map_area, plan_map
from landuse.workflows.rasters import CatalogRequest
from tests.servers import file_server, stac_api, stac_item, write_items

INN = "scenes/inn_ering_de_at_L2A_window2_RGBN_utm33n.tif"
ACQUIRED = datetime(2021, 6, 18, 10, 10, 31, tzinfo=UTC)
RGB = ("B02", "B03", "B04")
OUTPUTS = ("landuse.tif", "confidence.tif")
# The SDK's models are written for pydantic 1, and importing them warns.
pydantic_1 = pytest.mark.filterwarnings("ignore:Support for class-based `config`")


def area_of(left, bottom, right, top):
    edges = transform_bounds("EPSG:32633", "EPSG:4326", left, bottom, right, top)
    return parse_bbox(",".join(f"{edge:.7f}" for edge in edges))


AREA = area_of(360_000, 5_349_600, 361_000, 5_350_100)


def map_of(out, source, predictor, area=AREA):
    return map_area(MapRequest(source=source, area=area, dates=None, out=out), predictor)


def layers(out):
    read = []
    for name in OUTPUTS:
        with rasterio.open(out / name) as file:
            read.append((file.crs, file.transform, file.read(1)))
    return read


def assert_same_map(out, reference):
    for (crs, grid, values), (crs_too, grid_too, expected) in zip(
        layers(out), layers(reference), strict=True
    ):
        assert (crs, grid) == (crs_too, grid_too)
        np.testing.assert_array_equal(values, expected)


def catalogue(raster, out, baseline):
    return catalog_rasters(
        CatalogRequest(rasters=(raster,), level="L2A", acquired_utc=ACQUIRED, out=out, baseline=baseline)
    )


def planetary_computer_item(result, href, baseline):
    """The item as Planetary Computer would write it: bands by key, a baseline, no scale or offset."""
    with rasterio.open(result.item.parent / "B04.tif") as cog:
        bounds, grid, shape, epsg = cog.bounds, cog.transform, cog.shape, cog.crs.to_epsg()
    item = stac_item(
        f"S2A_MSIL2A_20210618T101031_R022_T33UUP_{baseline.replace('.', '')}",
        bbox=result.bounds_lonlat,
        datetime="2021-06-18T10:10:31.024000Z",
        bands=RGB,
        href=href,
        platform="Sentinel-2A",
        constellation="Sentinel 2",
        proj__epsg=epsg,
        s2__mgrs_tile="33UUP",
        s2__processing_baseline=baseline,
    )
    for asset in item["assets"].values():
        asset |= {"proj:bbox": list(bounds), "proj:shape": list(shape), "proj:transform": list(grid)[:6]}
    return item


@pytest.fixture(scope="module")
def predictor():
    return Predictor.load("balanced-fast-rgb", "cpu")


@pytest.fixture(scope="module")
def inn(data_dir, tmp_path_factory):
    """The real scene catalogued twice: as it is, and as ESA stores it from baseline 04.00 on."""
    folder = tmp_path_factory.mktemp("inn")
    twin = folder / "plus1000.tif"
    with rasterio.open(data_dir / INN) as image, rasterio.open(twin, "w", **image.profile) as target:
        target.write(image.read() + np.uint16(1000))
        target.descriptions = image.descriptions
    results = {
        "03.00": catalogue(data_dir / INN, folder / "old", "03.00"),
        "05.11": catalogue(twin, folder / "new", "05.11"),
    }
    return folder, results


@pytest.fixture(scope="module")
def local(inn, predictor, tmp_path_factory):
    """The map of the scene on disk."""
    out = tmp_path_factory.mktemp("local") / "map"
    map_of(out, str(inn[1]["03.00"].catalog), predictor)
    assert len(np.unique(layers(out)[1][2])) > 5
    return out


def test_a_catalogue_served_over_http_gives_the_local_map(inn, local, predictor, tmp_path):
    folder, results = inn
    with file_server(folder) as files:
        (item,) = pystac.Catalog.from_file(str(results["03.00"].catalog)).get_items()
        for asset in item.assets.values():
            path = Path(asset.get_absolute_href()).relative_to(folder)
            asset.href = f"{files.url}/{path}"
        document = item.to_dict(include_self_link=False) | {"collection": "sentinel-2-l2a", "links": []}
        with stac_api(write_items(tmp_path / "items.json", [document])) as url:
            report = map_of(tmp_path / "api", url, predictor)
        map_of(tmp_path / "static", f"{files.url}/old/catalog.json", predictor)
        gets = {entry.path for entry in files.log if entry.method == "GET" and entry.status == 206}
    assert_same_map(tmp_path / "api", local)
    assert_same_map(tmp_path / "static", local)
    stem = f"/old/{results['03.00'].item_id}"
    assert gets == {f"{stem}/{band}.tif" for band in RGB}  # B08 is there, and nobody needs it
    (scene,) = report.to_dict()["scenes"]
    assert {asset["href"] for asset in scene["assets"].values()} == {files.url + path for path in gets}


@pydantic_1
@pytest.mark.parametrize(("baseline", "offset"), [("03.00", 0), ("05.11", -0.1)])
def test_items_of_planetary_computers_shape_give_the_local_map(
    inn, local, predictor, tmp_path, baseline, offset
):
    folder, results = inn
    result = results[baseline]
    with file_server(folder) as files:
        href = f"{files.url}/{result.item.parent.relative_to(folder)}/{{band}}.tif"
        item = planetary_computer_item(result, href, baseline)
        with stac_api(write_items(tmp_path / "items.json", [item])) as url:
            report = map_of(
                tmp_path / "map", dataclasses.replace(PLANETARY_COMPUTER, endpoint=url), predictor
            )
    assert_same_map(tmp_path / "map", local)
    (scene,) = report.to_dict()["scenes"]
    assert (scene["provider"], scene["baseline"]) == ("planetary-computer", baseline)
    assert {asset["offset"] for asset in scene["assets"].values()} == {offset}


@pytest.mark.slow
def test_a_small_area_of_a_large_scene_is_read_by_range(predictor, tmp_path):
    """Noise does not compress, so the bytes that travelled tell how many pixels did."""
    size_px, left, top = 3000, 400_000, 5_400_000
    rng = np.random.default_rng(1)
    folder = tmp_path / "served"
    folder.mkdir()
    for band in RGB:
        with rasterio.open(
            folder / f"{band}.tif", "w", driver="COG", dtype="uint16", count=1, height=size_px,
            width=size_px, crs="EPSG:32633", transform=Affine(10, 0, left, 0, -10, top), nodata=0,
            blocksize=512, compress="none",
        ) as target:  # fmt: skip
            target.write(rng.integers(1, 2000, (1, size_px, size_px), np.uint16))
    edges = transform_bounds("EPSG:32633", "EPSG:4326", left, top - 10 * size_px, left + 10 * size_px, top)
    with file_server(folder) as files:
        item = stac_item(
            "large", bbox=edges, bands=RGB, href=files.url + "/{band}.tif", proj__code="EPSG:32633",
            proj__bbox=[left, top - 10 * size_px, left + 10 * size_px, top],
        )  # fmt: skip
        small = area_of(left + 17_000, top - 14_500, left + 17_600, top - 14_000)
        with stac_api(write_items(tmp_path / "items.json", [item])) as url:
            report = map_of(tmp_path / "map", url, predictor, area=small)
        requests = [entry for entry in files.log if entry.method == "GET"]
    assert report.cover.valid == 1
    assert {entry.path for entry in requests} == {f"/{band}.tif" for band in RGB}
    assert {entry.status for entry in requests} == {206}
    spans = [re.fullmatch(r"bytes=(\d+)-(\d+)", entry.byte_range) for entry in requests]
    travelled = sum(int(span[2]) - int(span[1]) + 1 for span in spans)
    held = sum((folder / f"{band}.tif").stat().st_size for band in RGB)
    assert held > 3 * 2 * size_px**2
    # The window and its context touch four of 36 tiles at the most.
    assert 2 * 3 * 100**2 < travelled < held / 6


ACCOUNT = "sentinel2l2a01"
BLOBS = f"http://{ACCOUNT}.blob.core.windows.net/sentinel2-l2"
SECRET = "s3cr3t"


class _Proxy(ThreadingHTTPServer):
    """An HTTP proxy that plays Azure's blob storage: the files of a folder, for signed requests."""

    def __init__(self, root, signature):
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.root = root
        self.signature = signature
        self.asked = []
        """URLs as they were requested, and the status each got."""
        self.token_valid = True


class _ProxyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer(with_body=False)

    def do_GET(self):
        self._answer(with_body=True)

    def _answer(self, *, with_body):
        url = urlsplit(self.path)
        path = self.server.root / url.path.removeprefix("/sentinel2-l2/")
        signed = self.server.token_valid and url.query.endswith(self.server.signature)
        status, content = 403, b"AuthenticationFailed"
        if signed and path.is_file():
            status, content = 200, path.read_bytes()
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.server.asked.append((self.path, status))
        total = len(content)
        if status == 200 and span is not None:
            status, content = 206, content[int(span[1]) : int(span[2]) + 1]
        self.send_response(status)
        if status == 206:
            last = int(span[1]) + len(content) - 1
            self.send_header("Content-Range", f"bytes {span[1]}-{last}/{total}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.wfile.write(content)

    def log_message(self, format, *args):
        pass


@contextmanager
def blob_storage(root, signature):
    with _Proxy(root, signature) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        yield proxy
        proxy.shutdown()
        thread.join()


@pytest.fixture
def azure(inn, tmp_path, monkeypatch):
    """A token service and a blob storage on loopback, and the STAC API of an item that is there."""
    from planetary_computer.sas import TOKEN_CACHE
    from planetary_computer.settings import Settings

    result = inn[1]["05.11"]
    item = planetary_computer_item(result, BLOBS + "/{band}.tif?sig=someone-elses-old-one", "05.11")
    tokens = tmp_path / "tokens" / ACCOUNT
    tokens.mkdir(parents=True)
    # Each test has its own: GDAL remembers what it read from a URL, signature and all.
    signature = f"se=2099&sig={SECRET}%2B{uuid.uuid4().hex}"
    answer = {"msft:expiry": "2099-01-01T00:00:00Z", "token": signature}
    (tokens / "sentinel2-l2").write_text(json.dumps(answer))
    with (
        file_server(tokens.parent) as service,
        blob_storage(result.item.parent, signature) as storage,
        stac_api(write_items(tmp_path / "items.json", [item])) as url,
    ):
        monkeypatch.setenv("PC_SDK_SAS_URL", service.url)
        monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "k3y-of-mine")
        # GDAL alone goes through the proxy; the catalogue and the tokens are asked for directly.
        monkeypatch.setenv("GDAL_HTTP_PROXY", f"127.0.0.1:{storage.server_port}")
        monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.01")
        Settings.get.cache_clear()
        TOKEN_CACHE.clear()
        yield dataclasses.replace(PLANETARY_COMPUTER, endpoint=url), service, storage
    Settings.get.cache_clear()
    TOKEN_CACHE.clear()


@pydantic_1
def test_hrefs_are_signed_when_they_are_read_and_no_secret_is_kept(azure, local, predictor, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    provider, service, storage = azure
    out = tmp_path / "map"
    plan = plan_map(
        MapRequest(source=provider, area=AREA, dates=None, out=out),
        predictor.contract,
        predictor.weights_sha256,
    )
    assert service.log == []  # a plan waits for hours; a token would not
    assert {asset.href for asset in plan.scenes[0].assets} == {f"{BLOBS}/{band}.tif" for band in RGB}

    report = map_of(out, provider, predictor)
    assert_same_map(out, local)
    assert [(entry.path, entry.status) for entry in service.log] == [(f"/{ACCOUNT}/sentinel2-l2", 200)]
    asked = {url.partition("?")[0] for url, _ in storage.asked}
    assert {f"{BLOBS}/{band}.tif" for band in RGB} == asked
    assert all(storage.signature in url and status == 200 for url, status in storage.asked)

    kept = [json.dumps(plan.to_dict()), json.dumps(report.to_dict()), str(report), caplog.text]
    kept += [path.read_bytes().decode("latin-1") for path in out.iterdir()]
    for text in kept:
        for secret in (SECRET, "k3y-of-mine", "someone-elses", "sig=", "se=2099"):
            assert secret not in text


@pydantic_1
def test_an_expired_token_is_an_error_that_does_not_show_it(azure, predictor, tmp_path, caplog):
    provider, _, storage = azure
    storage.token_valid = False
    with pytest.raises(ReadError, match=r"B0\d of scene .*blob\.core\.windows\.net") as caught:
        map_of(tmp_path / "map", provider, predictor)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("landuse")]
    assert ours
    for text in (str(caught.value), *ours):
        assert SECRET not in text
        assert "se=2099" not in text
    assert not list((tmp_path / "map").iterdir())

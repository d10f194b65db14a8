"""Oracles: RFC 3986 for what an href means, and the files behind a real server."""

import urllib.request

import pytest

from landuse.errors import ProviderError
from landuse.pipeline.providers import Provider
from landuse.pipeline.search.item import scene_from_item
from landuse.pipeline.stac_json import resolve_href
from landuse.redact import redact, redact_href
from tests.servers import file_server, stac_item

WEB = Provider(name="somewhere", endpoint="https://stac.example.org")
WEB_LOCATION = "https://stac.example.org/a/item.json"
LOCAL = Provider(name="local", endpoint="")


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


def _item(href):
    item = stac_item("mine", bands=("B04",))
    item["assets"]["B04"]["href"] = href
    return item


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
        asset = scene_from_item(_item(href), LOCAL, location).asset("B04")
        for said in (redact(asset.href), redact(f"'{asset.href}' does not exist"), redact_href(asset.href)):
            assert "SECRET" not in said
            assert "http://127.0.0.1:9/" in said
    relative = _item("my scenes/B04.tif?sig=SECRET")
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
        "https://user:SECRET@ho\u2100st/x.tif",
        "//user:SECRET@ho\u2100st/x.tif",
        "https://user:SECRET@[::1/x.tif",
    ],
)
def test_a_refusal_tells_no_secret(href):
    with pytest.raises(ProviderError, match="refused") as caught:
        resolve_href(href, WEB_LOCATION)
    assert "SECRET" not in f"{caught.value}{caught.value.__cause__}"


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

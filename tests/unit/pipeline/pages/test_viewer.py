"""The viewer's page as text. Oracles: Python's HTML parser, hashlib."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS
from landuse.pipeline.maps.viewable import Entry, Raster, Viewable
from landuse.pipeline.pages.viewer import data_paths, render_viewer
from tests.views import HOSTILE


def raster(name="landuse", kind="classes", titles=("Forest", "Water"), **changed):
    values = {
        "name": name,
        "title": name,
        "kind": kind,
        "path": Path(f"{name}.tif"),
        "shape": (20, 30),
        "bands": 3 if kind == "image" else 1,
        "nodata": 0 if kind == "image" else NODATA_ID,
        "origin_m": (500_000.0, 5_000_000.0),
        "pixel_m": 10.0,
        "legend": tuple(Entry(value=i, title=t, color=(i, 2, 3)) for i, t in enumerate(titles)),
        "tags": {"plan_sha256": "a" * 64},
    }
    return Raster(**values | changed)


def folder(name="map", *rasters, **changed):
    values = {
        "path": Path(f"/maps/{name}"),
        "kind": "map",
        "days": "2024-06-16",
        "zone": 33,
        "is_north": True,
    }
    return Viewable(**values | {"rasters": rasters or (raster(),)} | changed)


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def test_every_raster_has_an_address_of_its_own():
    folders = [folder("map", raster(), raster("image", "image", ())), folder("map")]
    paths = data_paths(folders)
    assert list(paths) == ["/data/0/landuse.tif", "/data/0/image.tif", "/data/1/landuse.tif"]
    data = data_of(render_viewer(folders)[0])
    urls = [one["url"] for entry in data["folders"] for one in entry["rasters"].values()]
    assert [f"/{url}" for url in urls] == list(paths)
    assert (data["nodata_id"], data["share_steps"]) == (NODATA_ID, SHARE_STEPS)


def test_links_name_folders_by_names_that_differ():
    data = data_of(
        render_viewer([folder("map"), folder("other/map"), folder("a b&c=.d"), folder("map-2")])[0]
    )
    keys = [entry["key"] for entry in data["folders"]]
    assert keys[0] == "map"
    assert len(set(keys)) == 4
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in keys)


def test_maps_with_the_same_classes_share_a_legend():
    same, other = folder("a"), folder("c", raster(titles=("Barley", "Maize")))
    data = data_of(render_viewer([same, replace(same, path=Path("b")), other])[0])
    legends = [entry["rasters"]["landuse"]["legend"] for entry in data["folders"]]
    assert legends == ["landuse", "landuse", "landuse-2"]
    assert [entry["title"] for entry in data["legends"]["landuse-2"]["entries"]] == ["Barley", "Maize"]


def test_a_change_lies_over_the_image_of_the_later_map():
    def with_image(name, plan):
        tags = {"plan_sha256": plan}
        return folder(name, raster(tags=tags), raster("image", "image", (), tags=tags))

    change = folder(
        "change",
        raster("change", tags={"before_plan_sha256": "1", "after_plan_sha256": "2"}),
        kind="change",
    )
    before, after = with_image("june", "1"), with_image("july", "2")
    for folders, expected in (
        ([before, after, change], [0, 1, 1]),
        ([change, before], [1, 1]),
        ([change, with_image("x", "3")], [None, 1]),
        ([folder("bare"), before], [None, 1]),
    ):
        data = data_of(render_viewer(folders)[0])
        assert [entry["under"] for entry in data["folders"]] == expected
    assert data_of(render_viewer([change])[0])["legends"]["change"]["hidden"] == [0]


class Reader(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.inline, self._open = [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open = (tag, dict(attrs)) if tag in ("script", "style") else None

    def handle_endtag(self, tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.inline.append((*self._open, data))


def test_only_its_own_scripts_run_and_only_its_server_is_asked():
    page, policy = render_viewer([folder()])
    rules = {rule.split()[0]: rule.split()[1:] for rule in policy.split(";")}
    assert rules["default-src"] == ["'none'"]
    assert rules["connect-src"] == ["'self'"]
    assert rules["frame-ancestors"] == ["'none'"]
    reader = Reader(page)
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        texts = [t for name, attrs, t in reader.inline if name == tag and "type" not in attrs]
        digests = [base64.b64encode(hashlib.sha256(t.encode()).digest()).decode() for t in texts]
        assert rules[rule] == [f"'sha256-{digest}'" for digest in digests]
    outside = [value for _, attrs in reader.tags for name, value in attrs.items() if name in ("src", "href")]
    assert outside == ["data:,"]


@pytest.mark.parametrize("where", ["title", "folder", "tag"])
def test_hostile_words_stay_words(where):
    title = HOSTILE if where == "title" else "Forest"
    tags = {"TIFFTAG_COPYRIGHT": HOSTILE} if where == "tag" else {}
    name = HOSTILE.replace("/", "_") if where == "folder" else "map"
    page, _ = render_viewer(
        [folder(name.encode("utf-8", "replace").decode(), raster(titles=(title, "B"), tags=tags))]
    )
    tags = Reader(page).tags
    assert len([tag for tag, _ in tags if tag == "script"]) == 7
    assert not [tag for tag, attrs in tags if tag == "img" or "onerror" in attrs]

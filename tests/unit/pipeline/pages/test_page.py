"""The page's text. Oracles: Python's HTML parser, hashlib, zlib, Pillow; a browser has its own tests."""

import base64
import hashlib
import io
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from landuse.errors import OutputError
from landuse.pipeline.pages import page
from landuse.pipeline.pages.page import json_for_html, render_page, write_page
from tests.views import HOSTILE, hostile_view, small_view


class Reader(HTMLParser):
    """Every tag with its attributes, and what stands in scripts and styles."""

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

    @property
    def policy(self):
        meta = [a for tag, a in self.tags if tag == "meta" and a.get("http-equiv")]
        (content,) = [a["content"] for a in meta if a["http-equiv"] == "Content-Security-Policy"]
        return {rule.split()[0]: rule.split()[1:] for rule in content.split(";")}

    @property
    def data(self):
        (text,) = [t for tag, a, t in self.inline if a.get("type") == "application/json"]
        return json.loads(text)


def test_the_page_carries_the_map_without_loss():
    view = small_view()
    data = Reader(render_page(view)).data
    raw = np.frombuffer(zlib.decompress(base64.b64decode(data["cells"])), np.uint8)
    np.testing.assert_array_equal(
        raw.reshape(3, *view.classes.shape), [view.classes, view.confidence, view.status]
    )
    kind, content = data["image"].split(",")
    assert kind == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        np.testing.assert_array_equal(np.asarray(image), view.image)
    assert tuple(data["bounds_m"]) == view.bounds_m
    assert (data["utm_zone"], data["is_north"]) == (33, True)
    assert [(a["id"], a["area_m2"], a["share"]) for a in data["areas"]] == [
        (a.id, a.area_m2, a.share) for a in view.areas
    ]
    assert data["cover"]["cloudy"] == view.cover.cloudy
    assert [scene["id"] for scene in data["scenes"]] == [scene.id for scene in view.scenes]
    assert data["files"] == [name for name in view.files if name != "index.html"]


def test_the_policy_lets_only_the_pages_own_scripts_run():
    reader = Reader(render_page(small_view()))
    digests = {"script": [], "style": []}
    for tag, attributes, text in reader.inline:
        if attributes.get("type") != "application/json":
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            digests[tag].append(f"'sha256-{digest}'")
    policy = reader.policy
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == digests["script"]
    assert policy["style-src"] == digests["style"]
    assert policy["img-src"] == ["data:"]
    assert len(digests["script"]) == 4
    # Nothing is fetched: no address but the empty icon, and no attribute that runs or styles.
    addresses = [a[key] for _, a in reader.tags for key in ("src", "href", "srcset") if key in a]
    assert addresses == ["data:,"]
    assert not [key for _, a in reader.tags for key in a if key.startswith("on") or key == "style"]
    assert "sourceMappingURL" not in render_page(small_view())


def test_hostile_texts_add_no_markup_and_arrive_as_they_are():
    plain, hostile = Reader(render_page(small_view())), Reader(render_page(hostile_view()))
    assert hostile.tags == plain.tags
    assert hostile.data["title"] == HOSTILE
    assert hostile.data["scenes"][0]["id"] == HOSTILE


@given(st.text())
def test_any_text_survives_a_script_element(text):
    escaped = json_for_html({"text": text})
    assert escaped.isascii()
    assert not re.search(r"[<>&\u2028\u2029\n]", escaped)
    (inline,) = Reader(f'<script type="application/json">{escaped}</script>').inline
    assert json.loads(inline[2]) == {"text": text}


def test_large_images_are_jpeg_of_bounded_size(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(page, "JPEG_BYTES", 300_000)
    smooth = np.full((700, 800, 3), (90, 120, 60), np.uint8)
    noisy = rng.integers(0, 256, (700, 800, 3), dtype=np.uint8)
    sizes = []
    for image in (smooth, noisy):
        kind, content = Reader(render_page(small_view(image=image))).data["image"].split(",")
        assert kind == "data:image/jpeg;base64"
        raw = base64.b64decode(content)
        sizes.append(len(raw))
        with Image.open(io.BytesIO(raw)) as decoded:
            assert decoded.size == (800, 700)
            if image is smooth:
                assert np.abs(np.asarray(decoded).astype(int) - image).max() <= 3
    assert sizes[0] < 20_000
    assert sizes[1] < 300_000


def test_the_southern_hemisphere_and_other_grids():
    data = Reader(render_page(small_view(crs="EPSG:32719"))).data
    assert (data["utm_zone"], data["is_north"]) == (19, False)
    with pytest.raises(ValueError, match=r"UTM zone .* not in EPSG:3035"):
        render_page(small_view(crs="EPSG:3035"))


def test_the_page_is_written_whole_or_not_at_all(tmp_path):
    write_page(tmp_path / "index.html", small_view())
    written = (tmp_path / "index.html").read_text("utf-8")
    assert written == render_page(small_view())  # and equal maps make equal pages
    assert len(written) < 500_000
    with pytest.raises(OutputError):
        write_page(tmp_path / "none" / "index.html", small_view())
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_the_vendored_library_is_the_one_its_readme_names():
    folder = page.ASSETS / page.LEAFLET
    listed = re.findall(r"^([0-9a-f]{64})  (\S+)$", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    assert {name for _, name in listed} == {"leaflet.js", "leaflet.css", "LICENSE"}
    for digest, name in listed:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "Leaflet 1.9.4" in (folder / "leaflet.js").read_text("utf-8")[:200]
    assert Path(folder / "LICENSE").read_text("utf-8").startswith("BSD 2-Clause")

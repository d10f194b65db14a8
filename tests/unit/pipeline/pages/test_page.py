"""The page's text. Oracles: Python's HTML parser and whole numbers, hashlib, zlib, Pillow; a browser has its
own tests."""

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
from landuse.pipeline.pages import page, pieces
from landuse.pipeline.pages.page import json_for_html, render_page, write_page
from tests.views import HOSTILE, cells_of, hostile_view, noisy_view, pixel_view, small_view


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

    def piece(self, name):
        (text,) = [t for tag, a, t in self.inline if a.get("id") == name]
        return text


def bytes_of(text, digits):
    """What ``to_text`` wrote, by whole numbers of any length."""
    bits = "".join(
        f"{digits.index(high) * 91 + digits.index(low):013b}"
        for high, low in zip(text[::2], text[1::2], strict=True)
    )
    length = int(bits[:32], 2)
    return int(bits[32 : 32 + 8 * length], 2).to_bytes(length, "big")


@pytest.mark.parametrize("view", [small_view(), pixel_view()], ids=["patches", "pixels"])
def test_the_page_carries_the_map_without_loss(view):
    reader = Reader(render_page(view))
    data = reader.data
    assert data["share_step"] == 1
    raw = zlib.decompress(bytes_of(reader.piece("cells-0-0"), data["digits"]))
    layers = {
        "classes": view.classes,
        "status": view.status,
        "covers": view.land_cover,
        "second": view.second,
        "confidence": view.confidence,
        "secondShare": view.second_share,
    }
    found = cells_of(raw, view.classes.shape)
    assert list(found) == list(layers)
    for name, values in layers.items():
        np.testing.assert_array_equal(found[name], 255 if values is None else values, name)
    assert data["image"]["type"] == "image/png"
    with Image.open(io.BytesIO(bytes_of(reader.piece("image-overview"), data["digits"]))) as image:
        np.testing.assert_array_equal(np.asarray(image), view.image)
    assert set(data["layers"]) == {"classes", *(["covers"] if view.cover_legend else [])}
    assert data["warnings"] == list(view.warnings)
    assert tuple(data["bounds_m"]) == view.bounds_m
    assert (data["utm_zone"], data["is_north"]) == (33, True)
    assert [(a["id"], a["area_m2"], a["share"]) for a in data["layers"]["classes"]["areas"]] == [
        (a.id, a.area_m2, a.share) for a in view.areas
    ]
    assert data["cover"]["cloudy"] == view.cover.cloudy
    assert [scene["id"] for scene in data["scenes"]] == [scene.id for scene in view.scenes]
    assert data["files"] == [name for name in view.files if name != "index.html"]


def test_the_policy_lets_only_the_pages_own_scripts_run():
    reader = Reader(render_page(small_view()))
    digests = {"script": [], "style": []}
    for tag, attributes, text in reader.inline:
        if attributes.get("type") not in ("application/json", "text/plain"):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            digests[tag].append(f"'sha256-{digest}'")
    policy = reader.policy
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == digests["script"]
    assert policy["style-src"] == digests["style"]
    assert policy["img-src"] == ["data:"]
    assert len(digests["script"]) == 5
    # Nothing is fetched: no address but the empty icon, and no attribute that runs or styles.
    addresses = [a[key] for _, a in reader.tags for key in ("src", "href", "srcset") if key in a]
    assert addresses == ["data:,"]
    assert not [key for _, a in reader.tags for key in a if key.startswith("on") or key == "style"]
    assert "sourceMappingURL" not in render_page(small_view())


def test_hostile_texts_add_no_markup_and_arrive_as_they_are():
    plain, hostile = Reader(render_page(pixel_view())), Reader(render_page(hostile_view()))
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


def test_larger_rasters_come_in_pieces_within_the_bytes_of_a_page(monkeypatch):
    side = 500
    monkeypatch.setattr(pieces, "WHOLE_PX", 250)
    monkeypatch.setattr(pieces, "PIECE_PX", 200)
    monkeypatch.setattr(pieces, "EXACT_PX", 0)
    monkeypatch.setattr(page, "PAGE_BYTES", 620_000)  # a third of it for scripts and styles
    view = noisy_view(side)
    text = render_page(view)
    assert len(text.encode()) <= page.PAGE_BYTES
    reader = Reader(text)
    data = reader.data
    assert data["cells"]["shape"] == [side, side]  # at full detail
    assert data["cells"]["shown_m"] == view.cell_m
    assert data["share_step"] > 1
    half = data["share_step"] / 2
    found = cells_of(zlib.decompress(bytes_of(reader.piece("cells-1-2"), data["digits"])), (200, 100))
    part = (slice(200, 400), slice(400, 500))
    for name, values in (("classes", view.classes), ("covers", view.land_cover), ("second", view.second)):
        np.testing.assert_array_equal(found[name], values[part])
    for name, values in (("confidence", view.confidence), ("secondShare", view.second_share)):
        assert np.abs(found[name].astype(int) - values[part]).max() <= half
    with Image.open(io.BytesIO(bytes_of(reader.piece("image-1-2"), data["digits"]))) as image:
        assert image.format == "WEBP"
        assert np.abs(np.asarray(image).astype(int) - view.image[part]).mean() < 12
    with Image.open(io.BytesIO(bytes_of(reader.piece("image-overview"), data["digits"]))) as image:
        assert image.size == (250, 250)


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

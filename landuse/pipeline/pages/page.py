"""Pure: a map as one HTML page that opens from disk and asks nothing of any network.

Scripts, styles, image and cells are all in the page. Its policy lets only them run, by their digests.
Every text travels as JSON and is set as text by the scripts: none is ever markup.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from base64 import b64encode
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from landuse.pipeline.cells import NO_CLASS, NODATA_ID, SHARE_STEPS
from landuse.pipeline.write.folder import atomic_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from landuse.pipeline.pages.content import MapView

ASSETS = Path(__file__).parent / "assets"
LEAFLET = "leaflet-1.9.4"
STYLES = (f"{LEAFLET}/leaflet.css", "page.css")
SCRIPTS = (f"{LEAFLET}/leaflet.js", "utm.js", "panel.js", "map.js")
"""In the order in which they need each other."""

PNG_PIXELS = 2**18
"""Images of up to so many pixels are kept exactly; larger ones are JPEG."""

JPEG_BYTES = 4 * 2**20
JPEG_QUALITIES = (88, 75, 60, 40)
"""The first that keeps an image within ``JPEG_BYTES``, or the last."""

_UTM = re.compile(r"EPSG:32([67])(\d\d)")


def write_page(target: Path, view: MapView) -> None:
    """Write the page of a map, atomically.

    Raises:
        ValueError: the map is not in a UTM zone.
        OutputError: it cannot be written.
    """
    page = render_page(view)
    with atomic_path(target) as partial:
        partial.write_text(page, "utf-8")


def render_page(view: MapView) -> str:
    """The page of a map, whole.

    Raises:
        ValueError: the map is not in a UTM zone.
    """
    styles = [_asset(name) for name in STYLES]
    scripts = [_asset(name) for name in SCRIPTS]
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {_digests(styles)}",
            f"script-src {_digests(scripts)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return Template(_asset("template.html")).substitute(
        policy=policy,
        styles="\n".join(f"<style>{text}</style>" for text in styles),
        scripts="\n".join(f"<script>{text}</script>" for text in scripts),
        data=json_for_html(_data(view)),
    )


def json_for_html(values: object) -> str:
    """JSON in ASCII that can stand in a ``script`` element: nothing in it begins a tag or an entity."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _asset(name: str) -> str:
    """A file of the page, without the line that sends a debugger looking for the library's sources."""
    return re.sub(r"\n//# sourceMappingURL=.*", "", (ASSETS / name).read_text("utf-8"))


def _digests(texts: list[str]) -> str:
    """What lets exactly these texts pass a Content-Security-Policy."""
    digests = (b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _data(view: MapView) -> dict[str, object]:
    """What the scripts are given, as JSON knows it."""
    utm = _UTM.fullmatch(view.crs)
    if utm is None:
        raise ValueError(f"The page needs a map in a UTM zone (EPSG:326xx or EPSG:327xx), not in {view.crs}.")
    # Not a PNG, which a page reads back through a canvas: some browsers falsify that against tracking.
    cells = zlib.compress(np.stack([view.classes, view.confidence, view.status]).tobytes(), 9)
    return {
        "title": view.title,
        "crs": view.crs,
        "utm_zone": int(utm[2]),
        "is_north": utm[1] == "6",
        "bounds_m": [float(edge) for edge in view.bounds_m],
        "cell_m": view.cell_m,
        "shape": view.classes.shape,
        "cells": b64encode(cells).decode(),
        "nodata_id": NODATA_ID,
        "share_steps": SHARE_STEPS,
        "no_class": [asdict(kind) for kind in NO_CLASS],
        "image": _image_uri(view.image),
        "image_shape": view.image.shape[:2],
        "image_bands": view.image_bands,
        "legend": [{"id": c.id, "title": c.title, "color": c.color} for c in view.legend],
        "areas": [{"id": a.id, "area_m2": a.area_m2, "share": a.share} for a in view.areas],
        "cover": asdict(view.cover),
        "scenes": [
            {
                "id": scene.id,
                "provider": scene.provider,
                "acquired": scene.acquired_utc.isoformat(),
                "level": scene.level,
                "tile": scene.tile,
                "cloud_percent": scene.area_cloud_percent,
                "spare": scene.spare,
            }
            for scene in view.scenes
        ],
        "composite": view.composite,
        "model": view.model,
        "weights_sha256": view.weights_sha256,
        "version": view.version,
        "created": view.created_utc.isoformat(),
        "files": [name for name in view.files if name != "index.html"],
        "attribution": view.attribution,
        "citation": view.citation,
    }


def _image_uri(image: NDArray[np.uint8]) -> str:
    """The image (y, x, 3) as a data URI: PNG where it is small, else JPEG of bounded size."""
    picture = Image.fromarray(image)
    content = BytesIO()
    if image.shape[0] * image.shape[1] <= PNG_PIXELS:
        picture.save(content, "PNG", optimize=True)
        return f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
    for quality in JPEG_QUALITIES:
        content = BytesIO()
        picture.save(content, "JPEG", quality=quality)
        if content.tell() <= JPEG_BYTES:
            break
    return f"data:image/jpeg;base64,{b64encode(content.getvalue()).decode()}"

"""Pure: a map as one HTML page that opens from disk and asks nothing of any network.

Scripts, styles, image and cells are all in the page: it can be mailed and moved as one file, and a page that
was opened from disk may not fetch another. Cells and image lie in it in pieces, which are unpacked where
somebody looks. Its policy lets only its own scripts run, by their digests. Every text travels as JSON and is
set as text by the scripts: none is ever markup.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from dataclasses import asdict
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from landuse.pipeline.cells import NO_CLASS, NODATA_ID, SHARE_STEPS
from landuse.pipeline.pages.pieces import DIGITS, pack_map
from landuse.pipeline.write.folder import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable

    from landuse.classes import LandUseClass
    from landuse.pipeline.cells import ClassArea
    from landuse.pipeline.pages.content import MapView
    from landuse.pipeline.pages.pieces import PackedMap, PackedRaster

ASSETS = Path(__file__).parent / "assets"
LEAFLET = "leaflet-1.9.4"
STYLES = (f"{LEAFLET}/leaflet.css", "page.css")
SCRIPTS = (f"{LEAFLET}/leaflet.js", "utm.js", "panel.js", "drawing.js", "map.js")
"""In the order in which they need each other."""

PAGE_BYTES = 15_000_000
"""Of a whole page, at most."""

_TAGS_BYTES = 20_000
"""At most of the elements around the pieces and of what is said of the rasters."""

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
    styles = [asset(name) for name in STYLES]
    scripts = [asset(name) for name in SCRIPTS]
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src {digests(styles)}",
            f"script-src {digests(scripts)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    parts = {
        "policy": policy,
        "styles": "\n".join(f"<style>{text}</style>" for text in styles),
        "scripts": "\n".join(f"<script>{text}</script>" for text in scripts),
    }
    texts = _texts(view)
    template = asset("template.html")
    others = sum(len(text.encode()) for text in (template, json_for_html(texts), *parts.values()))
    packed = pack_map(view, PAGE_BYTES - others - _TAGS_BYTES)
    return Template(template).substitute(
        parts, data=json_for_html(texts | _rasters(packed)), pieces="\n".join(_pieces(packed))
    )


def json_for_html(values: object) -> str:
    """JSON in ASCII that can stand in a ``script`` element: nothing in it begins a tag or an entity."""
    text = json.dumps(values, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def asset(name: str) -> str:
    """A file of the page, without the line that sends a debugger looking for the library's sources."""
    return re.sub(r"\n//# sourceMappingURL=.*", "", (ASSETS / name).read_text("utf-8"))


def digests(texts: list[str]) -> str:
    """What lets exactly these texts pass a Content-Security-Policy."""
    found = (b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in found)


def _texts(view: MapView) -> dict[str, object]:
    """What is said of a map, as JSON knows it."""
    utm = _UTM.fullmatch(view.crs)
    if utm is None:
        raise ValueError(f"The page needs a map in a UTM zone (EPSG:326xx or EPSG:327xx), not in {view.crs}.")
    return {
        "title": view.title,
        "crs": view.crs,
        "utm_zone": int(utm[2]),
        "is_north": utm[1] == "6",
        "cell_m": view.cell_m,
        "image_bands": view.image_bands,
        "layers": {
            "classes": _layer(view.legend, view.areas),
            **({"covers": _layer(view.cover_legend, view.cover_areas)} if view.cover_legend else {}),
        },
        "no_class": [asdict(kind) for kind in NO_CLASS],
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
        "smooth_px": view.smooth_px,
        "season": view.season,
        "model": view.model,
        "weights_sha256": view.weights_sha256,
        "version": view.version,
        "created": view.created_utc.isoformat(),
        "files": [name for name in view.files if name != "index.html"],
        "attribution": view.attribution,
        "citation": view.citation,
        "warnings": view.warnings,
    }


def _layer(legend: Iterable[LandUseClass], areas: Iterable[ClassArea]) -> dict[str, object]:
    return {
        "legend": [{"id": c.id, "title": c.title, "color": c.color} for c in legend],
        "areas": [{"id": a.id, "area_m2": a.area_m2, "share": a.share} for a in areas],
    }


def _rasters(packed: PackedMap) -> dict[str, object]:
    """Where and how the cells and the image lie, as JSON knows it."""
    view = packed.view
    return {
        "bounds_m": [float(edge) for edge in view.bounds_m],
        "nodata_id": NODATA_ID,
        "share_steps": SHARE_STEPS,
        "share_step": packed.detail.share_step,
        "digits": DIGITS,
        "cells": {**_raster(packed.cells), "shown_m": view.shown_m},
        "image": {**_raster(packed.image), "type": packed.image_type},
    }


def _raster(raster: PackedRaster) -> dict[str, object]:
    return {
        "shape": raster.shape,
        "side": raster.side,
        "overview_factor": raster.overview_factor,
    }


def _pieces(packed: PackedMap) -> list[str]:
    """The elements that hold the pieces. No script runs in them, and their text ends no element."""
    contents = {}
    for kind, raster in (("cells", packed.cells), ("image", packed.image)):
        if raster.overview is not None:
            contents[f"{kind}-overview"] = raster.overview
        contents |= {f"{kind}-{row}-{col}": piece for (row, col), piece in raster.pieces.items()}
    return [f'<script type="text/plain" id="{key}">{text}</script>' for key, text in contents.items()]

"""Pure: the page of ``landuse view``, which reads rasters by ranges from the server that gives it.

As in a map's own page every text travels as JSON and is set as text, and only the page's own scripts run. It
may ask its own server alone.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from string import Template
from typing import TYPE_CHECKING

from landuse.pipeline.cells import NO_CLASS, NODATA_ID, SHARE_STEPS
from landuse.pipeline.maps.moved_probability import UNCHANGED_CODE
from landuse.pipeline.maps.open import ZONE_FOLDER
from landuse.pipeline.pages.page import LEAFLET, asset, digests, json_for_html
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from landuse.pipeline.maps.viewable import Entry, Raster, Viewable

STYLES = (f"{LEAFLET}/leaflet.css", "page.css", "view.css")
SCRIPTS = (f"{LEAFLET}/leaflet.js", "utm.js", "panel.js", "drawing.js", "cog.js", "view.js")
"""In the order in which they need each other."""


def data_paths(folders: Sequence[Viewable]) -> dict[str, Path]:
    """The rasters of some folders by their paths on the server: ``"/data/0/landuse.tif"``."""
    return {
        f"/{_url(index, raster)}": raster.path
        for index, folder in enumerate(folders)
        for raster in folder.rasters
    }


def render_viewer(folders: Sequence[Viewable]) -> tuple[str, str]:
    """The page that shows some folders, and its Content-Security-Policy.

    Args:
        folders: at least one; the first one's UTM zone is that of the page.

    Example:
        >>> page, policy = render_viewer([viewable(Path("map"))])  # doctest: +SKIP
    """
    styles = [asset(name) for name in STYLES]
    scripts = [asset(name) for name in SCRIPTS]
    policy = "; ".join(
        (
            "default-src 'none'",
            "connect-src 'self'",
            "img-src data:",
            f"style-src {digests(styles)}",
            f"script-src {digests(scripts)}",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )
    page = Template(asset("view.html")).substitute(
        styles="\n".join(f"<style>{text}</style>" for text in styles),
        scripts="\n".join(f"<script>{text}</script>" for text in scripts),
        data=json_for_html(_data(folders)),
    )
    return page, policy


def _data(folders: Sequence[Viewable]) -> dict[str, object]:
    legends: dict[str, tuple[Entry, ...]] = {}
    titles = _titles(folders)
    shown = [
        {
            "key": key,
            "title": title,
            "kind": folder.kind,
            "days": folder.days,
            "zone": folder.zone,
            "is_north": folder.is_north,
            "under": _under(folder, folders),
            "rasters": {raster.name: _raster(raster, index, legends) for raster in folder.rasters},
        }
        for index, (folder, (key, title)) in enumerate(zip(folders, titles, strict=True))
    ]
    attributions = (folder.first.tags.get("TIFFTAG_COPYRIGHT", "") for folder in folders)
    return {
        "folders": shown,
        "legends": {
            key: {
                "entries": [asdict(entry) for entry in entries],
                # Over unchanged land the image is what one wants to see.
                "hidden": [UNCHANGED_CODE] if key.startswith("change") else [],
            }
            for key, entries in legends.items()
        },
        "no_class": [asdict(kind) for kind in NO_CLASS],
        "nodata_id": NODATA_ID,
        "share_steps": SHARE_STEPS,
        "attribution": "; ".join(dict.fromkeys(filter(None, attributions))),
    }


def _url(index: int, raster: Raster) -> str:
    return f"data/{index}/{raster.name}.tif"


def _raster(raster: Raster, index: int, legends: dict[str, tuple[Entry, ...]]) -> dict[str, object]:
    """A raster as JSON knows it; its legend joins the others, but where one of them is the same."""
    told = {
        "title": raster.title,
        "kind": raster.kind,
        "url": _url(index, raster),
        "shape": raster.shape,
        "bands": raster.bands,
        "nodata": raster.nodata,
        "origin_m": raster.origin_m,
        "pixel_m": raster.pixel_m,
    }
    return told | ({"legend": _legend_key(raster, legends)} if raster.legend else {})


def _legend_key(raster: Raster, legends: dict[str, tuple[Entry, ...]]) -> str:
    number = 1
    while True:
        key = raster.name if number == 1 else f"{raster.name}-{number}"
        if legends.setdefault(key, raster.legend) == raster.legend:
            return key
        number += 1


def _titles(folders: Sequence[Viewable]) -> list[tuple[str, str]]:
    """What a link and a person call each folder, no two alike."""
    titles: list[tuple[str, str]] = []
    for folder in folders:
        path = folder.path.resolve()
        name = printable(path.name)[:60] or "map"
        if ZONE_FOLDER.fullmatch(name):  # of joined maps, several of which may be shown
            name = f"{printable(path.parent.name)[:50]} {name}".strip()
        key = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
        number = 1
        while (found := key if number == 1 else f"{key}-{number}") in {key for key, _ in titles}:
            number += 1
        titles.append((found, name if number == 1 else f"{name} ({number})"))
    return titles


def _under(folder: Viewable, folders: Sequence[Viewable]) -> int | None:
    """Which folder's image lies beneath: its own; of a change the later map's, else the earlier one's."""
    with_image: Mapping[str, int] = {
        entry.first.tags.get("plan_sha256", ""): index
        for index, entry in enumerate(folders)
        if any(raster.kind == "image" for raster in entry.rasters)
    }
    if folder.kind == "map":
        own = folders.index(folder)
        return own if own in with_image.values() or any(r.kind == "image" for r in folder.rasters) else None
    plans = (folder.first.tags.get(f"{side}_plan_sha256", "-") for side in ("after", "before"))
    return next((with_image[plan] for plan in plans if plan in with_image), None)

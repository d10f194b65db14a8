"""Pure: a map as a STAC Item: where and when it is of, what its files hold, what it was made of.

Written to STAC 1.1.0 with the extensions projection 2.0.0, raster 2.0.0, classification 2.0.0,
processing 1.2.0 and file 2.1.0. Names of scenes, classes and maps are somebody else's: they become
neither keys, ids nor paths, and lose what could not be printed.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import asdict, dataclass
from datetime import UTC
from typing import TYPE_CHECKING

import pystac
import shapely
from pystac import MediaType
from pystac.utils import datetime_to_str

from landuse.classes import LandUseClass, cover_legend
from landuse.pipeline.blocks.votes import BITS_NODATA, LABELS_PER_BAND
from landuse.pipeline.cells import NODATA_ID, SHARE_STEPS, CellStatus
from landuse.pipeline.geometry import (
    crosses_antimeridian,
    cut_at_antimeridian,
    in_one_piece,
    project,
    surfaces,
)
from landuse.pipeline.read.rgb_image import picture_bands
from landuse.pipeline.scene import is_masked
from landuse.pipeline.stac_json import MAP_LEVEL, PLAN_DIGEST, is_remote
from landuse.redact import printable, redact_href

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from shapely import Geometry

    from landuse.pipeline.blocks.plan import RunPlan
    from landuse.pipeline.cells import ClassArea, Cover
    from landuse.pipeline.scene import Scene

ITEM_NAME = "item.json"
"""The map's item, in the map's folder."""

MODEL_NAME = "model.json"
"""The item of its model, beside it."""

EXTENSIONS = tuple(
    f"https://stac-extensions.github.io/{name}/schema.json"
    for name in ("projection/v2.0.0", "raster/v2.0.0", "classification/v2.0.0", "processing/v1.2.0")
)
FILE_EXTENSION = "https://stac-extensions.github.io/file/v2.1.0/schema.json"

SHA2_256 = "1220"
"""Multihash prefix: the function's code and the digest's length of 32 bytes."""

FOOTPRINT_DEGREES = 1e-5
"""How far the stated footprint may be from the true one: about a metre."""

_MEDIA = {
    ".tif": MediaType.COG,
    ".gpkg": MediaType.GEOPACKAGE,
    ".parquet": "application/vnd.apache.parquet",
    ".fgb": MediaType.FLATGEOBUF,
    ".png": MediaType.PNG,
    ".html": MediaType.HTML,
    ".json": MediaType.JSON,
    ".xml": MediaType.XML,
}
_ASSETS = {
    "landuse.tif": ("landuse", "Land-use classes", "data"),
    "cover.tif": ("cover", "Land cover", "data"),
    "second.tif": ("second", "Second most probable class, and its probability", "data"),
    "doubt.tif": ("doubt", "How unlike what the model was trained on", "data"),
    "confidence.tif": ("confidence", "Probability of the class", "data"),
    "probabilities.tif": ("probabilities", "Probability of every class", "data"),
    "labels.tif": ("labels", "Probability of every label", "data"),
    "label_bits.tif": ("label_bits", "Labels that are there, a bit each", "data"),
    "status.tif": ("status", "Why a cell has a class or none", "metadata"),
    "image.tif": ("image", "The imagery that was classified", "visual"),
    "landuse.gpkg": ("vectors", "Polygons, scenes and summary", "data"),
    "preview.png": ("preview", "The map beside the imagery, with legend", "overview"),
    "index.html": ("page", "The map for a browser", "overview"),
    "run.json": ("run", "What the run did", "metadata"),
}
"""Key, title and role of the files that people look for; others go by their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFile:
    """A file of a map."""

    name: str
    """Its name in the map's folder."""
    size_bytes: int
    sha256: str
    """Digest of its content, in hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapFacts:
    """What is said of a map besides its plan."""

    title: str
    """What it is called; may hold anything."""
    attribution: str
    """Whose data it is made of."""
    created_utc: datetime
    """When it was made, timezone-aware UTC."""
    classes: tuple[ClassArea, ...]
    """Area of each class that occurs."""
    covers: tuple[ClassArea, ...] = ()
    """Area of each land cover that occurs; none of a model that tells none."""
    cover: Cover
    """What became of the area's cells."""
    folder: Path | None
    """Where it will lie; None where that is not on this machine."""
    spares_read: bool = False
    """Whether a read failed, so that spare scenes may have pixels in it."""

    def __post_init__(self) -> None:
        if self.created_utc.utcoffset() != UTC.utcoffset(None):
            raise ValueError(f"created_utc {self.created_utc} is not in UTC")


def item_id(plan: RunPlan, *, spares_read: bool = False) -> str:
    """What the map's item is called: its first day, its last where it is another, and its plan."""
    days = sorted(f"{scene.acquired_utc:%Y%m%d}" for scene in plan.scenes_used(spares_read))
    return "-".join(["landuse", *dict.fromkeys((days[0], days[-1])), plan.digest[:8]])


def map_item(plan: RunPlan, facts: MapFacts, files: Sequence[MapFile]) -> pystac.Item:
    """The item of a map, to be written as ``item.json`` into its folder, beside the model's.

    Args:
        plan: what was mapped.
        facts: what else is said of it.
        files: what lies in the folder, without ``item.json`` and ``model.json``.
    """
    footprint = _footprint(plan)
    used = plan.scenes_used(facts.spares_read)
    moments = sorted({scene.acquired_utc for scene in used})
    item = pystac.Item(
        id=item_id(plan, spares_read=facts.spares_read),
        geometry=json.loads(shapely.to_geojson(footprint)),
        bbox=_bbox(footprint),
        datetime=moments[0] if len(moments) == 1 else None,
        start_datetime=None if len(moments) == 1 else moments[0],
        end_datetime=None if len(moments) == 1 else moments[-1],
        properties=_properties(plan, facts),
        stac_extensions=[*EXTENSIONS, FILE_EXTENSION],
    )
    for file in files:
        key, title, role = _ASSETS.get(file.name, (file.name, "", _role(file.name)))
        asset = pystac.Asset(
            href=f"./{file.name}",
            title=title or None,
            media_type=_MEDIA.get(file.name[file.name.rfind(".") :]),
            roles=[role],
            extra_fields={
                "file:size": file.size_bytes,
                "file:checksum": SHA2_256 + file.sha256,
                **_raster_fields(file.name, plan, facts),
            },
        )
        item.add_asset(key, asset)
    item.add_links(_links(plan, used, facts.folder))
    return item


def local_href(path: str, folder: Path | None) -> str:
    """How a document in ``folder`` names a local path: from there on, else in full."""
    if folder is None:
        return path
    relative = os.path.relpath(path, folder.absolute())
    # "a:b/c" would pass for a URL.
    return relative if relative.startswith("../") else f"./{relative}"


def _properties(plan: RunPlan, facts: MapFacts) -> dict[str, object]:
    box = plan.cell_geobox.boundingbox
    model = printable(plan.model)
    created = datetime_to_str(facts.created_utc, timespec="seconds")
    return {
        "title": printable(facts.title),
        "description": (
            f"Land use in cells of {plan.cell_m:g} m, by the network {model} from Sentinel-2 {plan.level} "
            f"imagery. {printable(facts.attribution)}."
        ),
        "created": created,
        "constellation": "sentinel-2",
        "instruments": ["msi"],
        "gsd": plan.pixel_m,
        "proj:code": plan.crs,
        "proj:shape": [plan.rows, plan.cols],
        "proj:transform": [*plan.cell_geobox.affine][:6],
        "proj:bbox": [box.left, box.bottom, box.right, box.top],
        "processing:level": MAP_LEVEL,
        "processing:datetime": created,
        "processing:software": {"landuse": plan.version},
        "processing:lineage": (
            f"{_masking(plan, facts.spares_read)}; {_combined(plan)}; {_classified(plan)}"
        ),
        # The form that MLM's best practices give to what a model has made.
        "processing:expression": {"format": "stac-mlm", "expression": f"./{MODEL_NAME}"},
        PLAN_DIGEST: plan.digest,
        "landuse:model": model,
        "landuse:weights_sha256": plan.weights_sha256,
        "landuse:cell_m": plan.cell_m,
        **(
            {}
            if plan.legend is None
            else {
                "landuse:legend": {
                    "name": printable(plan.legend.name),
                    "source": printable(plan.legend.source),
                    "classes": [
                        {"name": printable(name), "of": [printable(part) for part in parts]}
                        for name, parts in zip(plan.classes, plan.legend.of, strict=True)
                    ],
                }
            }
        ),
        "landuse:areas": [
            {**asdict(entry), "name": printable(entry.name), "area_ha": entry.area_ha}
            for entry in facts.classes
        ],
        **(
            {"landuse:covers": [{**asdict(entry), "area_ha": entry.area_ha} for entry in facts.covers]}
            if plan.covers
            else {}
        ),
        "landuse:cover": asdict(facts.cover),
        "landuse:scenes": [
            {
                "id": printable(scene.id),
                "provider": printable(redact_href(scene.provider)),
                "datetime": datetime_to_str(scene.acquired_utc),
            }
            for scene in plan.scenes_used(facts.spares_read)
        ],
    }


def _combined(plan: RunPlan) -> str:
    """How several dates became one map."""
    if plan.fuse == "dates":
        return "each date classified, and the probabilities of those clear at a pixel averaged"
    return f"composite: {plan.composite}"


def _classified(plan: RunPlan) -> str:
    """How the imagery became classes."""
    model = printable(plan.model)
    if plan.legend is not None:
        model += f" (probabilities of its classes added to those of the legend {printable(plan.legend.name)})"
    if plan.engine == "pixels":
        cells = (
            "the most probable class"
            if plan.stride_px == 1
            else f"in each cell of {plan.stride_px} x {plan.stride_px} px the most probable class by the "
            "mean of its pixels' probabilities"
        )
        smooth = (
            f"probabilities smoothed over {plan.smooth_px} x {plan.smooth_px} px (Simoes et al. 2024); "
            if plan.smooth
            else ""
        )
        return f"each pixel classified by {model} from the bands {', '.join(plan.bands)}; {smooth}{cells}."
    return (
        f"windows of {plan.patch_px} x {plan.patch_px} px classified by {model}; engine: {plan.engine}; in "
        f"each cell of {plan.stride_px} x {plan.stride_px} px the most probable class by the windows over it."
    )


def _masking(plan: RunPlan, spares_read: bool) -> str:
    """What was left out as cloud, by the masks that there were."""
    used = plan.scenes_used(spares_read)
    masked = sum(is_masked(scene) for scene in used)
    if not masked:
        return "No cloud mask: clouds are mapped as land"
    kinds = "cloud, shadow and snow (SCL)" if plan.level == "L2A" else "cloud (s2cloudless)"
    some = "" if masked == len(used) else f" in {masked} of {len(used)} scenes, the others without a mask"
    return f"Pixels under {kinds} left out{some}"


def _footprint(plan: RunPlan) -> Geometry:
    """The grid, or the area it is cut to, in longitude and latitude within -180..180; valid."""
    box = plan.cell_geobox.boundingbox
    area = shapely.box(*box.bbox) if plan.clip_wkt is None else shapely.from_wkt(plan.clip_wkt)
    # Beyond the 180th meridian PROJ goes on from -180: put together there first, then cut.
    uncut = in_one_piece(project(area, plan.crs, "EPSG:4326"))
    footprint = cut_at_antimeridian(surfaces(shapely.make_valid(uncut)))
    simple = shapely.make_valid(shapely.simplify(footprint, FOOTPRINT_DEGREES))
    return shapely.orient_polygons(surfaces(shapely.set_precision(simple, 1e-7)))


def _bbox(footprint: Geometry) -> list[float]:
    """West, south, east, north; over the 180th meridian west is beyond east (RFC 7946, 5.2)."""
    west, south, east, north = in_one_piece(footprint).bounds
    return [west, south, east - 360 if crosses_antimeridian(footprint) else east, north]


def _role(name: str) -> str:
    return "metadata" if name.endswith((".xml", ".json")) else "data"


def _raster_fields(name: str, plan: RunPlan, facts: MapFacts) -> dict[str, object]:
    """What the raster of that name holds; nothing for other files."""
    share: dict[str, object] = {
        "data_type": "uint8",
        "nodata": NODATA_ID,
        "unit": "1",
        "raster:scale": 1 / SHARE_STEPS,
        "raster:offset": 0,
        "raster:spatial_resolution": plan.cell_m,
    }
    ids = {"data_type": "uint8", "raster:spatial_resolution": plan.cell_m}
    if name == "landuse.tif":
        classes = _classes(plan.entries, facts.classes)
        return {**ids, "nodata": NODATA_ID, "classification:classes": classes}
    if name == "cover.tif":
        classes = _classes(cover_legend(plan.covers), facts.covers)
        return {**ids, "nodata": NODATA_ID, "classification:classes": classes}
    if name == "second.tif":
        classes = _classes(plan.entries, ())
        bands: list[dict[str, object]] = [
            {"name": "class", "description": "Second most probable class", "classification:classes": classes},
            {"name": "probability", "unit": "1", "raster:scale": 1 / SHARE_STEPS, "raster:offset": 0},
        ]
        return {**ids, "nodata": NODATA_ID, "bands": bands}
    if name == "status.tif":
        return {**ids, "nodata": CellStatus.OUTSIDE.value, "classification:classes": _statuses()}
    if name in ("confidence.tif", "doubt.tif"):
        return share
    if name in ("probabilities.tif", "labels.tif"):
        bands = [{"name": _safe(entry.name), "description": printable(entry.title)} for entry in plan.entries]
        return {**share, "bands": bands}
    if name == "label_bits.tif":
        return {
            "data_type": "uint32",
            "nodata": BITS_NODATA,
            "raster:spatial_resolution": plan.cell_m,
            "bands": [{"name": f"bits_{band}"} for band in range(-(-len(plan.classes) // LABELS_PER_BAND))],
        }
    if name == "image.tif":
        return {
            "data_type": "uint8",
            "nodata": 0,
            "raster:spatial_resolution": plan.picture_geobox.affine.a,
            "proj:shape": [*plan.picture_geobox.shape],
            "proj:transform": [*plan.picture_geobox.affine][:6],
            "bands": [{"name": band} for band in picture_bands(plan.bands)],
        }
    return {}


def _classes(entries: Sequence[LandUseClass], areas: Sequence[ClassArea]) -> list[dict[str, object]]:
    """What ids mean; how often each occurs where that was counted."""
    by_id = {entry.id: entry for entry in areas}
    classes: list[dict[str, object]] = [
        {
            "value": entry.id,
            "name": _safe(entry.name),
            "title": printable(entry.title),
            "description": printable(entry.title),
            "color_hint": "{:02X}{:02X}{:02X}".format(*entry.color),
            **(
                {
                    "count": by_id[entry.id].cells if entry.id in by_id else 0,
                    "percentage": round(100 * by_id[entry.id].share, 6) if entry.id in by_id else 0,
                }
                if by_id
                else {}
            ),
        }
        for entry in entries
    ]
    return [*classes, {"value": NODATA_ID, "name": "nodata", "description": "No class", "nodata": True}]


def _statuses() -> list[dict[str, object]]:
    told = {
        CellStatus.OUTSIDE: "Not part of the area",
        CellStatus.CLASSIFIED: "Has a class",
        CellStatus.CLOUDY: "Under cloud, shadow or snow",
        CellStatus.FAILED: "Under a scene that could not be read",
        CellStatus.UNSEEN: "Seen by no scene, or too little of it",
        CellStatus.UNKNOWN: "Seen, but less certain than was asked for",
    }
    return [
        {
            "value": status.value,
            "name": status.name.lower(),
            "description": text,
            **({"nodata": True} if status is CellStatus.OUTSIDE else {}),
        }
        for status, text in told.items()
    ]


def _safe(name: str) -> str:
    """A name of the letters that the classification extension's schema takes."""
    return re.sub(r"[^0-9A-Za-z_-]", "-", name) or "-"


def _links(plan: RunPlan, used: Sequence[Scene], folder: Path | None) -> list[pystac.Link]:
    """To the items of the scenes, as far as these can be read again, and of the model."""
    links = [
        pystac.Link(
            rel="derived_from",
            target=f"./{MODEL_NAME}",
            media_type=MediaType.GEOJSON,
            title=f"Model {printable(plan.model)}",
        )
    ]
    for scene in used:
        href = scene.item_href
        if href is not None:
            target = redact_href(href) if is_remote(href) else local_href(href, folder)
            links.append(
                pystac.Link(
                    rel="derived_from",
                    target=target,
                    media_type=MediaType.GEOJSON,
                    title=f"Scene {printable(scene.id)}",
                )
            )
    return links

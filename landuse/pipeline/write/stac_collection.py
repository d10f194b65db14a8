"""Pure: maps of several UTM zones as one STAC Collection of their items."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from pystac import MediaType
from pystac.utils import datetime_to_str

from landuse.pipeline.stac_json import PLAN_DIGEST, mapping, sequence
from landuse.pipeline.write.stac_item import ITEM_NAME
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from landuse.pipeline.stac_json import Json

COLLECTION_NAME = "collection.json"
"""The collection, in the folder of the zones' folders."""

_ASSETS = {
    ".vrt": ("application/x-gdal-vrt", "data"),
    ".gpkg": (str(MediaType.GEOPACKAGE), "data"),
    ".parquet": ("application/vnd.apache.parquet", "data"),
    ".fgb": (str(MediaType.FLATGEOBUF), "data"),
    ".json": (str(MediaType.JSON), "metadata"),
}
"""Media type and role of the joined files, by the end of their name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionFacts:
    """What is said of the maps together."""

    title: str
    """What they are called; may hold anything."""
    attribution: str
    """Whose data they are made of."""
    plan_sha256: str
    """Digest of all their plans."""
    bboxes: tuple[tuple[float, float, float, float], ...]
    """West, south, east, north of all, then of each; over the 180th meridian west is beyond east."""
    first_utc: datetime
    """When the earliest scene was taken."""
    last_utc: datetime
    """When the latest one was."""
    crs: str
    """Of the joined rasters: an EPSG code, or WKT."""
    areas: tuple[dict[str, object], ...]
    """Area of each class, as JSON values."""
    cover: dict[str, object]
    """What became of the area, as JSON values."""


def zones_collection(
    facts: CollectionFacts, folders: Sequence[str], files: Sequence[str]
) -> dict[str, object]:
    """The collection of zones' maps, to be written as ``collection.json``.

    Args:
        facts: what is said of them.
        folders: of the maps, beside the collection.
        files: the joined files, beside it too.
    """
    assets = {}
    for name in files:
        suffix = name[name.rfind(".") :]
        if suffix in _ASSETS:
            media, role = _ASSETS[suffix]
            key = name if suffix in (".parquet", ".fgb") else name[: name.rfind(".")]
            key = "vectors" if suffix == ".gpkg" else key
            assets[key] = {"href": f"./{name}", "type": media, "roles": [role]}
    interval = [datetime_to_str(moment.astimezone(UTC)) for moment in (facts.first_utc, facts.last_utc)]
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "id": f"landuse-zones-{facts.plan_sha256[:8]}",
        "title": printable(facts.title),
        "description": (
            f"Land use, a map for each of {len(folders)} UTM zones. {printable(facts.attribution)}."
        ),
        "license": "other",
        "extent": {
            "spatial": {"bbox": [list(bbox) for bbox in facts.bboxes]},
            "temporal": {"interval": [interval]},
        },
        "summaries": {
            PLAN_DIGEST: [facts.plan_sha256],
            "landuse:areas": list(facts.areas),
            "landuse:cover": [facts.cover],
        },
        "links": [
            {"rel": "root", "href": f"./{COLLECTION_NAME}", "type": str(MediaType.JSON)},
            *(
                {"rel": "item", "href": f"./{folder}/{ITEM_NAME}", "type": str(MediaType.GEOJSON)}
                for folder in folders
            ),
        ],
        "assets": assets,
    }


def in_collection(item: Json, collection_id: str) -> dict[str, object]:
    """A map's item as one of the collection in the folder above; whatever it was of before."""
    links = [
        entry
        for entry in map(mapping, sequence(item.get("links")))
        if entry.get("rel") not in ("root", "parent", "collection")
    ]
    upward = [
        {"rel": rel, "href": f"../{COLLECTION_NAME}", "type": str(MediaType.JSON)}
        for rel in ("root", "parent", "collection")
    ]
    return {**item, "collection": collection_id, "links": [*upward, *links]}

"""IO: STAC metadata that is files, here or on the web: items, collections of them, catalogues, parquet.

A catalogue is walked link by link. A document from the web can lead only to the web, so that a
foreign catalogue never makes this machine read its own files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import LanduseError, ProviderError, UsageError
from landuse.pipeline.fields import mapping, sequence, text
from landuse.pipeline.hrefs import is_remote, resolve_href
from landuse.redact import redact, redact_href

if TYPE_CHECKING:
    from collections.abc import Iterator

    from landuse.pipeline.fields import Json
    from landuse.pipeline.retry import RetryPolicy
    from landuse.pipeline.stac_http import StacHttp

MAX_DOCUMENTS = 20_000
"""Files of one catalogue that are read before it is called endless."""

ROOT_NAMES = ("catalog.json", "collection.json")
"""What the top document of a catalogue's folder is called."""

_PARQUET = (".parquet", ".geoparquet", ".pq")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundItem:
    """A STAC item and where it was found."""

    item: Json
    """Parsed JSON, not yet believed."""
    location: str
    """URL or local path of the document that holds it."""


def stac_io(policy: RetryPolicy | None = None) -> StacHttp:
    """HTTP for one search; the clock of the policy's deadline starts now."""
    # Imported here: it takes half a second, and only searches need it.
    from landuse.pipeline.stac_http import StacHttp

    return StacHttp(policy)


def exists(path: str) -> bool:
    """Whether there is such a file or folder; not where the name is too long or its folder closed to us."""
    try:
        return Path(path).exists()
    except OSError:
        return False


def local_document(path: Path) -> Path:
    """The file that ``--source PATH`` means: itself, or the top document of a catalogue's folder.

    Raises:
        UsageError: The folder holds none.
    """
    if not path.is_dir():
        return path.absolute()
    for name in ROOT_NAMES:
        if exists(str(path / name)):
            return (path / name).absolute()
    raise UsageError(
        f"--source {path} holds neither {' nor '.join(ROOT_NAMES)}. "
        "Make a catalogue of rasters with landuse catalog, or name the STAC file itself."
    )


def read_items(location: str, io: StacHttp, document: Json | None = None) -> Iterator[FoundItem]:
    """Every item of the document at ``location`` and of those it links to, depth first.

    Args:
        location: URL, or absolute local path.
        io: reads what is on the web.
        document: what is at ``location``, where that was read already.

    Raises:
        UsageError: A local document is missing or no STAC.
        ProviderError: A document on the web cannot be had or is no STAC.
    """
    waiting = [location]
    known = {location}

    def follow(document: Json, relations: tuple[str, ...], here: str) -> None:
        links = [
            resolve_href(text(link.get("href")), here)
            for link in map(mapping, sequence(document.get("links")))
            if link.get("rel") in relations
        ]
        fresh = [link for link in dict.fromkeys(links) if link not in known]
        known.update(fresh)
        waiting.extend(reversed(fresh))

    while waiting:
        here = waiting.pop()
        if len(known) > MAX_DOCUMENTS:
            raise UsageError(
                f"{redact_href(location)} links to more than {MAX_DOCUMENTS} documents. Name a part of it, "
                "or a stac-geoparquet file."
            )
        if document is None or here != location:
            document = read_document(here, io)
        kind = document.get("type")
        if kind == "Feature":
            yield FoundItem(item=document, location=here)
        elif kind == "FeatureCollection":
            for feature in sequence(document.get("features")):
                yield FoundItem(item=mapping(feature), location=here)
            # What an API lists comes in pages.
            follow(document, ("next",), here)
        elif kind in ("Catalog", "Collection") or "stac_version" in document:
            follow(document, ("item", "child"), here)
        else:
            raise _failure(here, "it is no STAC item, ItemCollection, collection or catalogue")


def read_document(location: str, io: StacHttp) -> Json:
    """One JSON document, or a stac-geoparquet file as an ItemCollection.

    Raises:
        UsageError: It is local and missing or malformed.
        ProviderError: It is on the web and cannot be had or is malformed.
    """
    try:
        if is_remote(location):
            return _object(io.request(location))
        if location.lower().endswith(_PARQUET):
            return _read_parquet(location)
        return _object(Path(location).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _failure(location, cause(error)) from error


def cause(error: Exception) -> str:
    """What went wrong, in one line without tokens; of nested errors the innermost."""
    reason = str(error).rpartition("Caused by ")[2] or type(error).__name__
    return " ".join(redact(reason).split())[:200]


def _object(content: str) -> Json:
    document = json.loads(content)
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    return document


def _read_parquet(path: str) -> Json:
    import rustac

    try:
        # Without a self link: hrefs stay as they were written, relative to this file.
        return mapping(rustac.read_sync(path, set_self_link=False))
    except rustac.RustacError as error:
        raise ValueError(str(error)) from error


def _failure(location: str, reason: str) -> LanduseError:
    """The error of a document that cannot be used: the user's to mend where it is local."""
    if is_remote(location):
        return ProviderError(
            f"{redact_href(location)} cannot be read as STAC: {reason}. Check the address, or try "
            "again later."
        )
    return UsageError(
        f"{location} cannot be read as STAC: {reason}. Give a STAC item, ItemCollection, catalogue or "
        "stac-geoparquet file; landuse catalog makes one of rasters."
    )

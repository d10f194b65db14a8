"""IO: STAC metadata that is files, here or on the web: items, collections of them, catalogues, parquet.

A catalogue is walked link by link. A document from the web can lead only to the web, so that a
foreign catalogue never makes this machine read its own files. Of a map that landuse made, the items
are those of the scenes it was made of.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from landuse.errors import LanduseError, ProviderError, UsageError
from landuse.pipeline.stac_json import (
    is_land_use_map,
    is_model,
    is_remote,
    mapping,
    resolve_href,
    sequence,
    text,
)
from landuse.redact import redact, redact_href

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from landuse.pipeline.remote.retry import RetryPolicy
    from landuse.pipeline.search.stac_http import StacHttp
    from landuse.pipeline.stac_json import Json

log = logging.getLogger(__name__)

MAX_DOCUMENTS = 20_000
"""Files of one catalogue that are read before it is called endless."""

ROOT_NAMES = ("catalog.json", "collection.json")
"""What the top document of a catalogue's folder is called."""

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
"""What a file of pixels is called."""

_PARQUET = (".parquet", ".geoparquet", ".pq")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundItem:
    """A STAC item and where it was found."""

    item: Json
    """Parsed JSON, not yet believed."""
    location: str
    """URL or local path of the document that holds it."""
    item_href: str | None
    """Where it can be read again by itself; None where nothing holds it alone."""


def stac_io(policy: RetryPolicy | None = None, named: str = "", *, any_host: bool = False) -> StacHttp:
    """HTTP for one search; the clock of the policy's deadline starts now.

    Args:
        policy: patience.
        named: what the user named: if that is a URL, its host may be asked though it be private.
        any_host: whether every private host may be asked.
    """
    # Imported here: it takes half a second, and only searches need it.
    from landuse.pipeline.remote.hosts import Hosts
    from landuse.pipeline.search.stac_http import StacHttp

    return StacHttp(policy, Hosts([named], any_host=any_host))


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


def read_items(
    location: str, io: StacHttp, document: Json | None = None, most_items: int = MAX_DOCUMENTS
) -> Iterator[FoundItem]:
    """Every item of the document at ``location`` and of those it links to, depth first.

    Of a catalogue on the web what a bad link leads to is left out, with a warning.

    Args:
        location: URL, or absolute local path.
        io: reads what is on the web.
        document: what is at ``location``, where that was read already.
        most_items: a catalogue that links to more is refused before they are read.

    Raises:
        UsageError: A local document is missing or no STAC, or there are too many.
        ProviderError: A document on the web cannot be had or is no STAC, and it is the first, a page of a
            list, or as bad as all others; or the time for the search is used up.
    """
    waiting = [location]
    known = {location}
    given: set[str] = set()
    pages: set[str] = set()
    faults: list[LanduseError] = []
    tolerant = is_remote(location)
    linked_items = 0
    gave = False

    def left_out(error: LanduseError) -> None:
        log.warning("left out: %s", error)
        faults.append(error)

    def follow(document: Json, relations: tuple[str, ...], here: str) -> None:
        nonlocal linked_items
        linked_items += sum(mapping(link).get("rel") == "item" for link in sequence(document.get("links")))
        if linked_items > most_items:
            raise UsageError(
                f"{redact_href(location)} links to more than {most_items} items. Name a part of it, such "
                "as one of its collections."
            )
        # One's own catalogue can be mended; a stranger's bad link costs what it leads to.
        lenient = tolerant and relations != ("next",)
        links = _linked(document, relations, here, left_out if lenient else None)
        if not is_remote(here):
            io.hosts.name(links)
        fresh = [link for link in dict.fromkeys(links) if link not in known]
        known.update(fresh)
        waiting.extend(reversed(fresh))

    while waiting:
        here = waiting.pop()
        if here in given:
            continue
        if len(known) > MAX_DOCUMENTS:
            raise UsageError(
                f"{redact_href(location)} links to more than {MAX_DOCUMENTS} documents. Name a part of it, "
                "or a stac-geoparquet file."
            )
        if document is None or here != location:
            try:
                document = read_document(here, io)
            except ProviderError as error:
                if not tolerant or here == location or here in pages or io.time_is_up:
                    raise
                left_out(error)
                continue
        kind = document.get("type")
        if kind == "Feature" and is_land_use_map(document):
            try:
                scenes = list(_scenes_of(document, here, io, given))
            except ProviderError as error:
                if not tolerant or here == location or io.time_is_up:
                    raise
                left_out(error)
                continue
            gave = True
            known.update(scene.location for scene in scenes)
            yield from scenes
        elif kind == "Feature":
            given.add(here)
            gave = True
            yield FoundItem(item=document, location=here, item_href=here)
        elif kind == "FeatureCollection":
            gave = True
            for feature in map(mapping, sequence(document.get("features"))):
                yield FoundItem(item=feature, location=here, item_href=self_address(feature))
            # What an API lists comes in pages, none of which may be missing.
            before = set(known)
            follow(document, ("next",), here)
            pages |= known - before
        elif kind in ("Catalog", "Collection") or "stac_version" in document:
            follow(document, ("item", "child"), here)
        else:
            fault = _failure(here, "it is no STAC item, ItemCollection, collection or catalogue")
            if not tolerant or here == location:
                raise fault
            left_out(fault)
    if faults and not gave:
        raise ProviderError(
            f"Nothing that {redact_href(location)} links to can be read; choose another source. The first: "
            f"{faults[0]}"
        )


def _linked(
    document: Json,
    relations: tuple[str, ...],
    here: str,
    left_out: Callable[[LanduseError], None] | None = None,
) -> list[str]:
    """Where the document's links of these relations lead.

    Args:
        document: that has the links.
        relations: of the links.
        here: where the document is.
        left_out: told of each link that must not be followed from there; None: it is an error.

    Raises:
        ProviderError: One must not be followed from there.
    """
    found = []
    for link in map(mapping, sequence(document.get("links"))):
        if link.get("rel") in relations:
            try:
                found.append(resolve_href(text(link.get("href")), here))
            except ProviderError as error:
                if left_out is None:
                    raise
                left_out(error)
    return found


def self_address(item: Json) -> str | None:
    """The item's own address on the web, as it states it; None where that is none."""
    for link in map(mapping, sequence(item.get("links"))):
        href = text(link.get("href"))
        if link.get("rel") == "self" and is_remote(href):
            try:
                return resolve_href(href, href)
            except ProviderError:
                return None
    return None


def _scenes_of(land_use_map: Json, here: str, io: StacHttp, given: set[str]) -> Iterator[FoundItem]:
    """The items of the scenes that a map was made of, but for those ``given`` before, which they join.

    Raises:
        UsageError: None of them can be read again, and the map is local.
        ProviderError: The same on the web; or a link must not be followed from there.
    """
    readable, reason = 0, "it names none"
    links = dict.fromkeys(_linked(land_use_map, ("derived_from",), here))
    if not is_remote(here):
        io.hosts.name(links)
    for link in links:
        if link in given:
            readable += 1
            continue
        try:
            document = read_document(link, io)
        except LanduseError as error:
            log.warning("a scene of the map %s is left out: %s", redact_href(here), error)
            reason = str(error).partition(". ")[0]  # without the mend, which is another here
            continue
        # A map names its model as well.
        if document.get("type") == "Feature" and not is_model(document) and not is_land_use_map(document):
            given.add(link)
            readable += 1
            yield FoundItem(item=document, location=link, item_href=link)
    if not readable:
        kind = ProviderError if is_remote(here) else UsageError
        raise kind(
            f"None of the scenes of the map {redact_href(here)} can be read again: {reason}. Give the "
            "--source that the map was made of, or take the map out of its catalogue."
        )


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
    if location.lower().endswith(RASTER_SUFFIXES):
        return UsageError(
            f"{location} is an image, not STAC. Map it with landuse map {Path(location).name}, or make a "
            "catalogue of it with landuse catalog."
        )
    return UsageError(
        f"{location} cannot be read as STAC: {reason}. Give a STAC item, ItemCollection, catalogue or "
        "stac-geoparquet file; landuse catalog makes one of rasters."
    )

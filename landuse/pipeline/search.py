"""IO: an area, a span of time and a source in; the scenes to map out of, hrefs unsigned.

Servers are asked for the area and the dates. Cloud cover is filtered here: a server drops items
that state none, and what it drops cannot be counted in the message that says why nothing is left.
Area and dates are checked again here, since some servers answer generously.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from landuse.errors import LanduseError, ModelError, NothingFoundError, ProviderError, UsageError
from landuse.pipeline.providers import (
    PROVIDERS,
    Provider,
    acquired_utc,
    acquisition,
    cloud_percent,
    footprint,
    is_remote,
    mapping,
    processed,
    scene_from_item,
    sequence,
    text,
)
from landuse.pipeline.sources import FoundItem, cause, local_document, read_document, read_items, stac_io
from landuse.redact import redact_href
from landuse.sentinel2 import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pystac_client.stac_api_io import StacApiIO

    from landuse.pipeline.area import Area, DateRange
    from landuse.pipeline.providers import Json
    from landuse.records import Scene

log = logging.getLogger(__name__)

MAX_ITEMS = 10_000
"""Items that one search looks at; more is an error, never a silent cut."""

PAGE_ITEMS = 100
"""Items asked for in one page."""

SEARCH_ATTEMPTS = 3
"""How often a search that the server gave up for lack of time is begun."""

_TOOK_TOO_LONG = "exceeded the maximum allowed time"


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneQuery:
    """Which scenes are wanted."""

    area: Area | None
    """Where; None takes all that a local source or static catalogue holds."""
    dates: DateRange | None = None
    """When; None takes any date."""
    max_cloud_percent: float = 100.0
    """Scenes that state more cloud are left out; one that states none is taken."""
    levels: tuple[str, ...] = ()
    """Processing levels that can be used; empty takes either."""
    bands: tuple[str, ...] = ()
    """Sentinel-2 bands that a scene must offer."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_cloud_percent <= 100:
            raise UsageError(f"--max-cloud {self.max_cloud_percent:g} is no percentage. Give 0 to 100.")
        if not set(self.levels) <= set(LEVELS):
            raise ValueError(f"levels {self.levels} are not among {LEVELS}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A scene that fits, and the item it was made of."""

    scene: Scene
    item: Json


def search(source: str | Provider, query: SceneQuery) -> tuple[Scene, ...]:
    """The scenes of ``source`` that fit: clearest first, then newest, then by id.

    Of several copies of one acquisition the one with the newest processing baseline is taken.

    Args:
        source: a provider or its name; URL of a STAC API, of one of its collections, or of a static
            catalogue; path of a STAC item, ItemCollection, catalogue or stac-geoparquet file.
        query: which scenes are wanted.

    Raises:
        UsageError: The source is unknown or not STAC, its items lack what is needed, or it offers
            more than one level.
        ModelError: No scene has the level and the bands that are needed.
        ProviderError: The source cannot be reached or answers nonsense.
        NothingFoundError: Nothing fits; the message says what removed how many.
    """
    provider, location = _origin(source)
    io = stac_io()
    remote = is_remote(location)
    found = _remote_items(provider, location, query, io) if remote else read_items(location, io)
    candidates = _fitting(found, provider, location, query)
    scenes = _one_level(_usable(_newest_copies(candidates), query))
    log.info("%d scenes of %s fit", len(scenes), provider.name)
    return tuple(sorted(scenes, key=_preference))


def _origin(source: str | Provider) -> tuple[Provider, str]:
    """The provider that ``source`` names, and the URL or absolute path to start at."""
    if isinstance(source, Provider):
        return source, source.endpoint
    if source in PROVIDERS:
        return PROVIDERS[source], PROVIDERS[source].endpoint
    try:
        remote = is_remote(source) and urlsplit(source).hostname is not None
    except ValueError as error:
        raise UsageError(f"--source {source!r} is no URL ({error}).") from error
    if remote:
        for known in PROVIDERS.values():
            if source.rstrip("/") == known.endpoint:
                return known, known.endpoint
        return Provider(name=redact_href(source), endpoint=source), source
    if "://" in source:
        raise UsageError(f"--source {redact_href(source)!r} is not http(s). Download it and give its path.")
    if not Path(source).exists():
        raise UsageError(
            f"--source {source!r} is neither a provider ({', '.join(PROVIDERS)}), a URL, nor a file here."
        )
    return Provider(name="local", endpoint=""), str(local_document(Path(source)))


def _remote_items(provider: Provider, endpoint: str, query: SceneQuery, io: StacApiIO) -> Iterator[FoundItem]:
    """Items of a STAC API, searched there; or every item of a static catalogue."""
    collections = _collections(provider, query)
    # A collection of an API: search the API it belongs to.
    match = re.fullmatch(r"(https?://[^?#]+)/collections/([^/?#]+)/?", endpoint)
    if match is not None and not provider.collections:
        root = read_document(match[1], io)
        if _search_link(root, match[1]) is not None:
            endpoint, collections = match[1], (match[2],)
    root = read_document(endpoint, io)
    link = _search_link(root, endpoint)
    if link is None:
        yield from read_items(endpoint, io)
        return
    if query.area is None:
        raise UsageError(f"{provider.name} holds the whole world. Say where, with --bbox or --aoi.")
    url, method = link
    for attempt in range(1, SEARCH_ATTEMPTS + 1):
        try:
            items = _search_api(url, method, collections, query, io)
            break
        except _TookTooLongError as error:
            if attempt == SEARCH_ATTEMPTS:
                raise ProviderError(
                    f"{redact_href(url)} took too long {attempt} times: {error}. Narrow --date or --bbox, or "
                    "try again later."
                ) from error
            log.warning("%s took too long; trying again", redact_href(url))
            time.sleep(attempt)
    for item in items:
        yield FoundItem(item=item, location=_self_link(item) or url)


class _TookTooLongError(Exception):
    """The server gave up a search that a second attempt often finishes."""


def _search_api(
    url: str, method: str, collections: tuple[str, ...], query: SceneQuery, io: StacApiIO
) -> list[Json]:
    """All items of a search, at most one beyond the cap, so that the cap can be seen to be passed."""
    from pystac_client import ItemSearch
    from pystac_client.exceptions import APIError

    area = query.area
    request = ItemSearch(
        url,
        method=method,
        stac_io=io,
        limit=PAGE_ITEMS,
        max_items=MAX_ITEMS + 1,
        collections=list(collections) or None,
        bbox=None if area is None else area.bbox,
        datetime=None if query.dates is None else str(query.dates),
    )
    try:
        return [mapping(item) for item in request.items_as_dicts()]
    except APIError as error:
        if _TOOK_TOO_LONG in str(error):
            raise _TookTooLongError(_TOOK_TOO_LONG) from error
        raise ProviderError(
            f"The search at {redact_href(url)} failed: {cause(error)}. Check the network, or try again later."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProviderError(
            f"{redact_href(url)} did not answer as a STAC API does ({type(error).__name__}: {cause(error)}). "
            "Check the address."
        ) from error


def _collections(provider: Provider, query: SceneQuery) -> tuple[str, ...]:
    """The collections to search, for the levels that can be used."""
    wanted = query.levels or LEVELS
    chosen = tuple(identifier for level, identifier in provider.collections if level in wanted)
    if provider.collections and not chosen:
        raise ModelError(
            f"{provider.name} serves {', '.join(level for level, _ in provider.collections)}; "
            f"{', '.join(wanted)} is needed. Choose another --model or --source."
        )
    return chosen


def _search_link(root: Json, location: str) -> tuple[str, str] | None:
    """URL and method of a STAC API's item search; None for a static catalogue."""
    methods = {}
    for link in map(mapping, sequence(root.get("links"))):
        url = urljoin(location, text(link.get("href")))
        if link.get("rel") == "search" and is_remote(url):
            methods[text(link.get("method")) or "GET"] = url
    for method in ("POST", "GET"):
        if method in methods:
            return methods[method], method
    return None


def _self_link(item: Json) -> str | None:
    """The item's own address on the web, to resolve relative hrefs against."""
    for link in map(mapping, sequence(item.get("links"))):
        href = text(link.get("href"))
        if link.get("rel") == "self" and is_remote(href):
            return href
    return None


def _fitting(
    found: Iterable[FoundItem], provider: Provider, location: str, query: SceneQuery
) -> list[_Candidate]:
    """The items inside the area, the dates and the cloud limit, as scenes.

    Raises:
        NothingFoundError: None is; the message says what removed how many.
    """
    removed: Counter[str] = Counter()
    clearest = 100.0
    faults: list[LanduseError] = []
    candidates: list[_Candidate] = []
    seen = 0
    for seen, entry in enumerate(found, start=1):
        if seen > MAX_ITEMS:
            raise UsageError(
                f"{provider.name} holds more than {MAX_ITEMS} items for this area and these dates. "
                "Narrow --date or --bbox."
            )
        try:
            reason = _misfit(entry.item, query)
            if reason is None:
                scene = scene_from_item(entry.item, _described_by(entry.item, provider), entry.location)
                candidates.append(_Candidate(scene=scene, item=entry.item))
                continue
        except LanduseError as error:
            # One's own catalogue can be mended; a stranger's faulty item must not stop the night's run.
            if not is_remote(location):
                raise
            log.warning("left out: %s", error)
            faults.append(error)
            reason = "not usable"
        if reason == "cloud":
            clearest = min(clearest, cloud_percent(entry.item) or 0.0)
            reason = f"cloudier than {query.max_cloud_percent:g} %"
        removed[reason] += 1
    if candidates:
        return candidates
    if faults and removed.total() == len(faults):
        raise faults[0]
    raise NothingFoundError(_nothing(provider, query, seen, removed, clearest))


def _misfit(item: Json, query: SceneQuery) -> str | None:
    """Why the item is not wanted, or None."""
    if query.area is not None:
        outline = footprint(item)
        wanted = query.area.geometry
        if not outline.intersects(wanted) or outline.touches(wanted):
            return "outside the area"
    if query.dates is not None and acquired_utc(item) not in query.dates:
        return "outside the dates"
    cloud = cloud_percent(item)
    return "cloud" if cloud is not None and cloud > query.max_cloud_percent else None


def _nothing(provider: Provider, query: SceneQuery, seen: int, removed: Counter[str], clearest: float) -> str:
    where = "" if query.area is None else " over " + ",".join(f"{edge:.6g}" for edge in query.area.bbox)
    when = "" if query.dates is None else f" in {query.dates}"
    if not seen:
        return (
            f"{provider.name} has no Sentinel-2 scene{where}{when}. Widen --date, or check the order of "
            "--bbox (W,S,E,N)."
        )
    mends = {"outside the area": "move --bbox", "outside the dates": "widen --date"}
    advice = [mend for reason, mend in mends.items() if removed[reason]]
    if any(reason.startswith("cloudier") for reason in removed):
        advice.append(f"raise --max-cloud (the clearest has {clearest:.1f} %)")
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(removed.items()))
    mend = " or ".join(advice) or "choose another source"
    return f"None of the {seen} items of {provider.name}{where}{when} fits: {counts}. To mend it, {mend}."


def _described_by(item: Json, provider: Provider) -> Provider:
    """The known provider that a saved item came from, so that it is read and signed as its own."""
    if provider.name in PROVIDERS:
        return provider
    links = [text(mapping(link).get("href")) for link in sequence(item.get("links"))]
    for known in PROVIDERS.values():
        served = text(item.get("collection")) in [identifier for _, identifier in known.collections]
        if served and any(link.startswith(known.endpoint + "/") for link in links):
            return known
    return provider


def _newest_copies(candidates: list[_Candidate]) -> list[Scene]:
    """One scene of each acquisition and level: the newest baseline, then the newest processing."""
    copies: dict[tuple[str, ...], _Candidate] = {}
    for candidate in candidates:
        key = (candidate.scene.level, *acquisition(candidate.item))
        kept = copies.get(key)
        if kept is None or _recency(candidate) > _recency(kept):
            copies[key] = candidate
    return [candidate.scene for candidate in copies.values()]


def _recency(candidate: _Candidate) -> tuple[tuple[int, ...], float, str, str]:
    # Id and content settle ties, so that the order in which a server answers never matters.
    content = json.dumps(candidate.item, sort_keys=True, default=str)
    return *processed(candidate.item), candidate.scene.id, content


def _usable(scenes: list[Scene], query: SceneQuery) -> list[Scene]:
    """The scenes of a level and with the bands that are needed."""
    of_level = [scene for scene in scenes if not query.levels or scene.level in query.levels]
    if not of_level:
        offered = ", ".join(sorted({scene.level for scene in scenes}))
        raise ModelError(
            f"The {len(scenes)} scenes found are {offered}; {', '.join(query.levels)} is needed. "
            "Choose another --model or --source."
        )
    complete = [scene for scene in of_level if set(query.bands) <= set(scene.bands)]
    if not complete:
        best = max((scene.bands for scene in of_level), key=lambda bands: len(set(bands) & set(query.bands)))
        missing = [band for band in query.bands if band not in best]
        raise ModelError(
            f"The model needs {len(query.bands)} bands ({', '.join(query.bands)}); the source offers "
            f"{', '.join(best)} (no {', '.join(missing)}). Choose a --model for these bands, or a source "
            "that has them."
        )
    if len(complete) < len(scenes):
        log.info("%d scenes lack the level or the bands that are needed", len(scenes) - len(complete))
    return complete


def _one_level(scenes: list[Scene]) -> list[Scene]:
    levels = sorted({scene.level for scene in scenes})
    if len(levels) > 1:
        raise UsageError(
            f"The source offers {' and '.join(levels)}, and the model reads both. A map is made of one: name "
            "a source, or a collection of it, that holds one level."
        )
    return scenes


def _preference(scene: Scene) -> tuple[float, float, str]:
    cloud = 101.0 if scene.cloud_percent is None else scene.cloud_percent
    return cloud, -scene.acquired_utc.timestamp(), scene.id

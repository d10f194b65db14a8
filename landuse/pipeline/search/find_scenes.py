"""IO: an area, a span of time and a source in; the scenes to map out of, hrefs unsigned.

Servers are asked for the area and the dates. Cloud cover is filtered here: a server drops items
that state none, and what it drops cannot be counted in the message that says why nothing is left.
Area and dates are checked again here, since some servers answer generously.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import shapely

from landuse.errors import LanduseError, ModelError, NothingFoundError, ProviderError, UsageError
from landuse.pipeline.geometry import footprint_of
from landuse.pipeline.providers import PROVIDERS, Provider
from landuse.pipeline.scene import mask_bands
from landuse.pipeline.search.acquisitions import Candidate, newest_copies, with_mirrors
from landuse.pipeline.search.item import footprint, scene_from_item
from landuse.pipeline.search.item_properties import acquired_utc
from landuse.pipeline.search.source import HeldItems, described_by, find_provider, split_collection
from landuse.pipeline.search.stac_files import (
    FoundItem,
    exists,
    read_document,
    read_items,
    self_address,
    stac_io,
)
from landuse.pipeline.stac_json import is_remote, mapping, sequence, text, web_address
from landuse.redact import printable, redact, redact_href
from landuse.sentinel2 import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from landuse.pipeline.remote.retry import RetryPolicy
    from landuse.pipeline.scene import Scene
    from landuse.pipeline.search.area import Area, DateRange
    from landuse.pipeline.search.season import Season
    from landuse.pipeline.search.source import Source
    from landuse.pipeline.search.stac_http import StacHttp
    from landuse.pipeline.stac_json import Json

log = logging.getLogger(__name__)

MAX_ITEMS = 10_000
"""Items that one search looks at; more is an error, never a silent cut."""

OUTSIDE_AREA = "outside the area"
OUTSIDE_SEASON = "outside the season"

LOOKED_AT = 200
"""Items outside the area that a guess at why is made from."""

CLOUD_TOLERANCE_PERCENT = 5.0
"""By so much a tile's stated cloud cover may exceed what the mask over the area will find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneQuery:
    """Which scenes are wanted."""

    area: Area | None
    """Where; None takes all that a local source or static catalogue holds."""
    dates: DateRange | None = None
    """When; None takes any date."""
    season: Season | None = None
    """In which months of the year; None takes any."""
    max_cloud_percent: float = 100.0
    """Limit of the cloud over the area. A scene whose cloud can be measured there is left out only where
    its tile's cover says that it must exceed the limit; any other where its tile does. One that states no
    cover is taken."""
    levels: tuple[str, ...] = ()
    """Processing levels that can be used; empty takes either."""
    bands: tuple[str, ...] = ()
    """Sentinel-2 bands that a scene must offer."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_cloud_percent <= 100:
            raise UsageError(f"--max-cloud {self.max_cloud_percent:g} is no percentage. Give 0 to 100.")
        if not set(self.levels) <= set(LEVELS):
            raise ValueError(f"levels {self.levels} are not among {LEVELS}")


def source_name(source: Source) -> str:
    """What messages and reports call a source: a provider's name, a path, a URL without its query."""
    return printable(redact_href(source)) if isinstance(source, str) else source.name


def search(
    source: Source, query: SceneQuery, policy: RetryPolicy | None = None, *, any_host: bool = False
) -> tuple[Scene, ...]:
    """The scenes of ``source`` that fit: clearest first, then newest, then by id.

    Of several copies of one acquisition the one with the newest processing baseline is taken.

    Args:
        source: a provider or its name; URL of a STAC API, of one of its collections, or of a static
            catalogue; path of a STAC item, ItemCollection, catalogue or stac-geoparquet file; items.
        query: which scenes are wanted.
        policy: patience with the source; its deadline is that of the whole search, every page included.
        any_host: whether what the source says may lead to private hosts other than its own.

    Raises:
        UsageError: The source is unknown; a local one is not STAC or an item of it lacks what is needed;
            or the source offers more than one level.
        ModelError: No scene has the level and the bands that are needed.
        ProviderError: The source cannot be reached, answers nonsense, or none of its items is of use.
        NothingFoundError: Nothing fits; the message says what removed how many.
    """
    found: Iterable[FoundItem]
    if isinstance(source, HeldItems):
        provider, location, found = Provider(name=source.name, endpoint=""), "", source.items
    else:
        provider, location = find_provider(source)
        io = stac_io(policy, location, any_host=any_host)
        remote = is_remote(location)
        if remote and provider.collections:
            _check_limits(provider, query)
        found = (
            _remote_items(provider, location, query, io)
            if remote
            else read_items(location, io, most_items=MAX_ITEMS)
        )
    candidates = _fitting(found, provider, location, query)
    scenes = _one_level(_usable(newest_copies(candidates), query))
    log.info("%d scenes of %s fit", len(scenes), provider.name)
    return tuple(sorted(scenes, key=_preference))


def _remote_items(provider: Provider, endpoint: str, query: SceneQuery, io: StacHttp) -> Iterator[FoundItem]:
    """Items of a STAC API, searched there; or every item of a static catalogue."""
    collections = _collections(provider, query)
    # A collection of an API: search the API it belongs to.
    parent, collection = split_collection(endpoint)
    root = link = None
    if collection is not None and not provider.collections:
        link = _search_link(read_document(parent, io), parent)
        collections = (collection,)
    if link is None:
        root = read_document(endpoint, io)
        link = _search_link(root, endpoint)
    if link is None:
        yield from read_items(endpoint, io, root)
        return
    boxes = _check_limits(provider, query).boxes
    known: set[tuple[str, str]] = set()
    for box in boxes:
        for item in _search_api(link, collections, box, query, provider, io):
            collection, key = text(item.get("collection")), text(item.get("id"))
            if collections and collection and collection not in collections:
                continue  # a server that does not know the filter answers with everything
            # What lies on both sides of the 180th meridian is found from either.
            if len(boxes) == 1 or (collection, key) not in known:
                known.add((collection, key))
                own = self_address(item)
                yield FoundItem(item=item, location=own or link[0], item_href=own)


def _check_limits(provider: Provider, query: SceneQuery) -> Area:
    """The area to search; UsageError where that, or the time, is without limit."""
    if query.area is None:
        raise UsageError(f"{provider.name} holds the whole world. Say where, with --bbox or --aoi.")
    if query.dates is None:
        raise UsageError(
            f"{provider.name} would be searched for all that it has, from 2015 to today. Say when, with "
            "--date, such as --date 2024-06; --date 2015-06-23/.. is really all."
        )
    return query.area


def _search_api(
    link: tuple[str, str],
    collections: tuple[str, ...],
    box: tuple[float, float, float, float],
    query: SceneQuery,
    provider: Provider,
    io: StacHttp,
) -> Iterator[Json]:
    """All items of a search, at most one beyond the cap, so that the cap can be seen to be passed."""
    from pystac_client import ItemSearch

    url, method = link
    request = ItemSearch(
        url,
        method=method,
        stac_io=io,
        limit=provider.page_items,
        max_items=MAX_ITEMS + 1,
        collections=list(collections) or None,
        bbox=box,
        datetime=None if query.dates is None else str(query.dates),
    )
    return (mapping(item) for item in request.items_as_dicts())


def _collections(provider: Provider, query: SceneQuery) -> tuple[str, ...]:
    """The collections to search, for the levels that can be used."""
    wanted = query.levels or LEVELS
    chosen = tuple(identifier for level, identifier in provider.collections if level in wanted)
    if provider.collections and not chosen:
        serving = [known.name for known in PROVIDERS.values() if set(known.levels) & set(wanted)]
        raise ModelError(
            f"{provider.name} serves {', '.join(provider.levels)}; {', '.join(wanted)} is needed. Choose "
            f"another --model, or another --source ({', '.join(serving)})."
        )
    return chosen


def _search_link(root: Json, location: str) -> tuple[str, str] | None:
    """URL and method of a STAC API's item search; None for a static catalogue.

    Raises:
        ProviderError: the link leads off the web.
    """
    methods = {}
    for link in map(mapping, sequence(root.get("links"))):
        if link.get("rel") == "search":
            url = web_address(text(link.get("href")), location, "search")
            methods[text(link.get("method")) or "GET"] = url
    for method in ("POST", "GET"):
        if method in methods:
            return methods[method], method
    return None


def _fitting(
    found: Iterable[FoundItem], provider: Provider, location: str, query: SceneQuery
) -> list[Candidate]:
    """The items inside the area, the dates and the cloud limit, as scenes.

    Raises:
        NothingFoundError: None is; the message says what removed how many.
        ProviderError: Every item of a source on the web is faulty.
        LanduseError: An item of one's own is faulty.
    """
    removed: Counter[str] = Counter()
    clearest = 100.0
    faults: list[LanduseError] = []
    candidates: list[Candidate] = []
    outside: list[Json] = []
    seen = 0
    if not is_remote(location):
        # To read items takes far less time than to understand them.
        found = list(islice(found, MAX_ITEMS + 1))
        if len(found) > MAX_ITEMS:
            raise UsageError(
                f"{provider.name} holds more than {MAX_ITEMS} items. Name a part of it as --source, such as "
                "one of its collections."
            )
    for seen, entry in enumerate(found, start=1):
        if seen > MAX_ITEMS:
            raise UsageError(
                f"{provider.name} holds more than {MAX_ITEMS} items for this area and these dates. "
                "Narrow --date or --bbox."
            )
        try:
            reason = _misfit(entry.item, query)
            if reason is None:
                known = _from_the_web(described_by(entry.item, provider), entry)
                scene = scene_from_item(entry.item, known, entry.location, entry.item_href)
        except LanduseError as error:
            # One's own catalogue can be mended; a stranger's faulty item must not stop the night's run.
            if not is_remote(location):
                raise
            log.warning("left out: %s", error)
            faults.append(error)
            reason = "not usable"
        if reason is None:
            cloud = _least_cloud_percent(scene, query)
            if cloud <= query.max_cloud_percent:
                candidates.append(Candidate(scene=scene, item=entry.item))
                continue
            clearest = min(clearest, cloud)
            reason = f"cloudier than {query.max_cloud_percent:g} %"
        removed[reason] += 1
        if reason == OUTSIDE_AREA and len(outside) < LOOKED_AT:
            outside.append(entry.item)
    if candidates:
        return candidates
    if faults and removed.total() == len(faults):
        raise ProviderError(
            f"None of the {seen} items of {provider.name} can be used; choose another source. The first: "
            f"{faults[0]}"
        )
    turned = _turned(query.area, outside)
    told = _nothing(provider, query, seen, removed, clearest)
    if turned is not None:
        told = f"{told} {order_hint(turned, '--bbox {}')}"
    raise NothingFoundError(told, turned=turned)


def _from_the_web(provider: Provider, entry: FoundItem) -> Provider:
    """A source on this machine may lead to an item on the web: what that names is not the user's word."""
    if is_remote(entry.location) and not is_remote(provider.endpoint):
        parts = urlsplit(redact_href(entry.location))
        return replace(provider, name=f"{parts.scheme}://{parts.netloc}")
    return provider


def _misfit(item: Json, query: SceneQuery) -> str | None:
    """Why the item is not wanted, whatever its cloud, or None."""
    if query.area is not None:
        shown = footprint(item)
        wanted = query.area.geometry
        if not shown.intersects(wanted) or shown.touches(wanted):
            return OUTSIDE_AREA
    if query.dates is not None and acquired_utc(item) not in query.dates:
        return "outside the dates"
    if query.season is not None and not query.season.has(acquired_utc(item), _latitude(item, query)):
        return OUTSIDE_SEASON
    return None


def _latitude(item: Json, query: SceneQuery) -> float:
    """Of the area, or of what the item shows: seasons are other months south of the equator."""
    place = footprint(item) if query.area is None else query.area.geometry
    return float(place.centroid.y)


def _least_cloud_percent(scene: Scene, query: SceneQuery) -> float:
    """The least cloud that the scene can have over the area, by what its tile is said to have.

    Where a mask will tell, a tile's cloud need not lie over the area: with a share c of the tile under
    cloud, and the area a share s of the tile, at most 1 - c of the tile is clear, so that at least
    1 - (1 - c) / s of the area is not. Where no mask can be made, the tile's cloud counts as the area's.
    """
    if scene.cloud_percent is None:
        return 0.0
    if not mask_bands(scene.level, scene.bands):
        return scene.cloud_percent
    share = 1.0
    if query.area is not None:
        tile = footprint_of(scene)
        share = float(tile.intersection(query.area.geometry).area / tile.area)
    if share <= 0:
        return 0.0
    return 100 - (100 - scene.cloud_percent) / share - CLOUD_TOLERANCE_PERCENT


def _nothing(provider: Provider, query: SceneQuery, seen: int, removed: Counter[str], clearest: float) -> str:
    where = "" if query.area is None else " over " + ",".join(f"{edge:.6g}" for edge in query.area.bbox)
    when = "" if query.dates is None else f" in {query.dates.label}"
    if not seen:
        return (
            f"{provider.name} has no Sentinel-2 scene{where}{when}. Widen --date, or check the order of "
            "--bbox (W,S,E,N)."
        )
    if query.season is not None and query.area is not None:
        when += f" in {query.season.label(query.area.geometry.centroid.y)}"
    mends = {
        OUTSIDE_AREA: "move --bbox or --aoi",
        "outside the dates": "widen --date",
        OUTSIDE_SEASON: "choose another --season",
    }
    advice = [mend for reason, mend in mends.items() if removed[reason]]
    if any(reason.startswith("cloudier") for reason in removed):
        advice.append(f"raise --max-cloud (the clearest has {clearest:.1f} % or more)")
    counts = ", ".join(f"{count} {reason}" for reason, count in sorted(removed.items()))
    mend = " or ".join(advice) or "choose another source"
    return f"None of the {seen} items of {provider.name}{where}{when} fits: {counts}. To mend it, {mend}."


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


def _turned(area: Area | None, outside: Sequence[Json]) -> tuple[float, float, float, float] | None:
    """The area's box with longitudes and latitudes exchanged, where items lie in it then; else None."""
    if area is None or not outside:
        return None
    turned = shapely.transform(area.geometry, lambda lonlat: lonlat[:, ::-1])
    if not any(footprint(item).intersects(turned) for item in outside):
        return None
    west, south, east, north = turned.bounds
    return west, south, east, north


def order_hint(turned: tuple[float, float, float, float], form: str) -> str:
    """A guess at why nothing was found.

    Args:
        turned: of a ``NothingFoundError``.
        form: how a user states a box, with ``{}`` for its four numbers.
    """
    box = form.format(",".join(f"{edge:.6g}" for edge in turned))
    return f"Latitude and longitude are probably swapped: with W,S,E,N there is imagery, as in {box}."


State = Literal["used", "standby", "nothing", "failed", "unfit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOutcome:
    """What became of one source."""

    source: str
    """Its name; of a URL without its query."""
    state: State
    """``used`` for the map, ``standby`` for its failing reads, ``nothing`` found, search ``failed``, or
    ``unfit``: it offers other levels or bands than the model's, or too much to choose from."""
    scenes: int
    """Scenes found; of one that stands by, those that are acquisitions of the source that is used."""
    reason: str
    """Why it is not used; empty where it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the sources have."""

    scenes: tuple[Scene, ...]
    """Of the source that is used, with their mirrors at those that stand by."""
    sources: tuple[SourceOutcome, ...]
    """One each, in the user's order."""


def search_sources(
    sources: Sequence[Source], query: SceneQuery, policy: RetryPolicy, *, any_host: bool = False
) -> Found:
    """Search every source; the first that has scenes is used.

    Args:
        sources: in order of preference, at least one.
        query: which scenes are wanted.
        policy: patience with each source.
        any_host: as of ``search``.

    Raises:
        UsageError: one of the sources is none, which is seen before any is searched; or a local one is to
            be mended.
        LanduseError: no source serves the area; with several, the message tells of each.
    """
    remote = [_is_served(source, sources[:number]) for number, source in enumerate(sources)]
    used: tuple[Scene, ...] = ()
    standing_by: list[tuple[Scene, ...]] = []
    outcomes: list[SourceOutcome] = []
    errors: list[LanduseError] = []
    for source, from_the_web in zip(sources, remote, strict=True):
        name = source_name(source)
        try:
            # The same acquisition at another level is other pixels.
            wanted = replace(query, levels=(used[0].level,)) if used else query
            scenes = search(source, wanted, policy, any_host=any_host)
        except LanduseError as error:
            # One's own files are to be mended; what a stranger serves must not stop the night's run.
            if not from_the_web and not isinstance(error, (NothingFoundError, ProviderError, ModelError)):
                raise
            errors.append(error)
            reason = redact(str(error))
            if len(sources) > 1:
                log.warning("source %s is passed over: %s", name, reason)
            outcomes.append(SourceOutcome(source=name, state=_state(error), scenes=0, reason=reason))
            continue
        if not used:
            used = scenes
            outcomes.append(SourceOutcome(source=name, state="used", scenes=len(scenes), reason=""))
            continue
        standing_by.append(scenes)
        mirrored = sum(bool(scene.mirrors) for scene in with_mirrors(used, [scenes]))
        outcomes.append(SourceOutcome(source=name, state="standby", scenes=mirrored, reason=""))
    if not used:
        raise _none_serves(errors, outcomes)
    return Found(scenes=with_mirrors(used, standing_by), sources=tuple(outcomes))


def _is_served(source: Source, before: Sequence[Source]) -> bool:
    """Whether a source is on the web; UsageError where it is none at all.

    What follows a comma after a URL may be the rest of that URL, password and all: it is not shown.
    """
    if isinstance(source, HeldItems):
        return False
    try:
        _, location = find_provider(source)
    except UsageError:
        is_rest = isinstance(source, str) and "://" not in source and not exists(source)
        if is_rest and any(isinstance(one, str) and "://" in one for one in before):
            raise UsageError(
                "--source: what follows the comma after a URL is neither a provider "
                f"({', '.join(PROVIDERS)}), a URL, nor a file here. Write a comma within a URL as %2C."
            ) from None
        raise
    return is_remote(location)


def _state(error: LanduseError) -> State:
    if isinstance(error, NothingFoundError):
        return "nothing"
    return "unfit" if isinstance(error, UsageError) else "failed"


def _none_serves(errors: Sequence[LanduseError], outcomes: Sequence[SourceOutcome]) -> LanduseError:
    if len(errors) == 1:
        return errors[0]
    # A provider that is down may have the scenes: that outweighs another that has none.
    kinds = (ProviderError, ModelError, UsageError, NothingFoundError)
    worst = next(kind for kind in kinds if any(isinstance(error, kind) for error in errors))
    told = " ".join(f"{outcome.source}: {outcome.reason}" for outcome in outcomes)
    message = f"No source serves the area. {told}"
    if worst is NothingFoundError:
        guesses = (error.turned for error in errors if isinstance(error, NothingFoundError))
        return NothingFoundError(message, turned=next(filter(None, guesses), None))
    return worst(message)


def search_items(
    source: str,
    collection: str,
    area: Area,
    dates: DateRange,
    policy: RetryPolicy | None = None,
    *,
    any_host: bool = False,
) -> tuple[Provider, tuple[FoundItem, ...]]:
    """The items of one collection over an area, whatever they show; found as scenes are.

    Args:
        source: a provider's name, the URL of a STAC API or catalogue, or a path of STAC metadata.
        collection: its id.
        area: where.
        dates: when.
        policy: patience with the source.
        any_host: whether what the source says may lead to private hosts other than its own.

    Returns:
        Who serves them, and the items, by id.

    Raises:
        UsageError: the source is unknown, or holds too many.
        ProviderError: it cannot be reached, or answers nonsense.
        NothingFoundError: it has none there.
    """
    provider, location = find_provider(source)
    # Of a collection's name alone a search needs to know: its items are of no level.
    asked = replace(provider, collections=((LEVELS[0], collection),))
    query = SceneQuery(area=area, dates=dates, levels=LEVELS[:1])
    io = stac_io(policy, location, any_host=any_host)
    if is_remote(location):
        entries = _remote_items(asked, location, query, io)
    else:
        entries = read_items(location, io, most_items=MAX_ITEMS)
    found, seen = [], 0
    for seen, entry in enumerate(islice(entries, MAX_ITEMS + 1), start=1):
        if seen > MAX_ITEMS:
            raise UsageError(f"{provider.name} holds more than {MAX_ITEMS} items. Name a part of it.")
        if text(entry.item.get("collection")) != collection:
            continue
        try:
            shown = footprint(entry.item)
        except LanduseError as error:
            log.warning("left out: %s", error)
            continue
        if shown.intersects(area.geometry) and not shown.touches(area.geometry):
            found.append(entry)
    if not found:
        raise NothingFoundError(
            f"{source_name(source)} has no item of the collection {printable(collection)} over the map, of "
            f"{seen} that it gave. Name another --reference or --source."
        )
    return provider, tuple(sorted(found, key=lambda entry: text(entry.item.get("id"))))

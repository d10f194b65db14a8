"""IO: several sources in the user's order; the first that serves the area is mapped, the rest stand by.

A later source is searched at once, not when the first one fails: the plan then holds, for each
scene, where else the same acquisition can be read, and a block needs nothing but the plan.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from landuse.errors import LanduseError, ModelError, NothingFoundError, ProviderError, UsageError
from landuse.pipeline.duplicates import with_mirrors
from landuse.pipeline.providers import PROVIDERS, find_provider
from landuse.pipeline.search import search, source_name
from landuse.pipeline.sources import exists
from landuse.pipeline.stac_json import is_remote
from landuse.redact import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from landuse.pipeline.providers import Provider
    from landuse.pipeline.remote.retry import RetryPolicy
    from landuse.pipeline.scene import Scene
    from landuse.pipeline.search import SceneQuery

log = logging.getLogger(__name__)

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


def split_sources(text: str) -> tuple[str, ...]:
    """The sources of ``a,b,c``.

    A comma may also be part of a path, of a URL's query or of a password, and nothing that belongs to
    these may be told as if it were a source of its own. So a comma parts sources only where what comes
    before it is a provider's name or a path that exists, or what comes after it is one of these or a URL.
    """
    if text and exists(text):
        return (text,)
    sources = [""]
    for part in text.split(","):
        if _is_known(sources[-1]) or "://" in part or (part.strip() and _is_known(part)):
            sources.append(part)
        else:
            sources[-1] += f",{part}"
    return tuple(source for source in (source.strip(", ") for source in sources) if source)


def _is_known(source: str) -> bool:
    """Whether it is a provider's name, a path, or nothing."""
    return not source.strip(", ") or source.strip() in PROVIDERS or exists(source.strip())


def search_sources(sources: Sequence[str | Provider], query: SceneQuery, policy: RetryPolicy) -> Found:
    """Search every source; the first that has scenes is used.

    Args:
        sources: in order of preference, at least one.
        query: which scenes are wanted.
        policy: patience with each source.

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
            scenes = search(source, replace(query, levels=(used[0].level,)) if used else query, policy)
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


def _is_served(source: str | Provider, before: Sequence[str | Provider]) -> bool:
    """Whether a source is on the web; UsageError where it is none at all.

    What follows a comma after a URL may be the rest of that URL, password and all: it is not shown.
    """
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
    return worst(f"No source serves the area. {told}")

"""IO: several sources in the user's order; the first that serves the area is mapped, the rest stand by.

A later source is searched at once, not when the first one fails: the plan then holds, for each
scene, where else the same acquisition can be read, and a block needs nothing but the plan.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from landuse.errors import LanduseError, ModelError, NothingFoundError, ProviderError
from landuse.pipeline.copies import with_mirrors
from landuse.pipeline.search import search, source_name
from landuse.redact import redact

if TYPE_CHECKING:
    from collections.abc import Sequence

    from landuse.pipeline.providers import Provider
    from landuse.pipeline.retry import RetryPolicy
    from landuse.pipeline.search import SceneQuery
    from landuse.records import Scene

log = logging.getLogger(__name__)

State = Literal["used", "standby", "nothing", "failed", "unfit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOutcome:
    """What became of one source."""

    source: str
    """Its name; of a URL without its query."""
    state: State
    """``used`` for the map, ``standby`` for its failing reads, ``nothing`` found, search ``failed``, or
    ``unfit``: its level or bands are not the model's."""
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
    """The sources of ``a,b,c``; a path that holds a comma is one source."""
    if Path(text).exists():
        return (text,)
    return tuple(part for part in (part.strip() for part in text.split(",")) if part)


def search_sources(sources: Sequence[str | Provider], query: SceneQuery, policy: RetryPolicy) -> Found:
    """Search every source; the first that has scenes is used.

    Args:
        sources: in order of preference, at least one.
        query: which scenes are wanted.
        policy: patience with each source.

    Raises:
        UsageError: a source is none.
        LanduseError: no source serves the area; with several, the message tells of each.
    """
    used: tuple[Scene, ...] = ()
    standing_by: list[tuple[Scene, ...]] = []
    outcomes: list[SourceOutcome] = []
    errors: list[LanduseError] = []
    for source in sources:
        name = source_name(source)
        try:
            # The same acquisition at another level is other pixels.
            scenes = search(source, replace(query, levels=(used[0].level,)) if used else query, policy)
        except (NothingFoundError, ProviderError, ModelError) as error:
            errors.append(error)
            if len(sources) > 1:
                log.warning("source %s is passed over: %s", name, error)
            outcomes.append(
                SourceOutcome(source=name, state=_state(error), scenes=0, reason=redact(str(error)))
            )
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


def _state(error: LanduseError) -> State:
    if isinstance(error, NothingFoundError):
        return "nothing"
    return "unfit" if isinstance(error, ModelError) else "failed"


def _none_serves(errors: Sequence[LanduseError], outcomes: Sequence[SourceOutcome]) -> LanduseError:
    if len(errors) == 1:
        return errors[0]
    # A provider that is down may have the scenes: that outweighs another that has none.
    worst = max(errors, key=lambda error: (isinstance(error, ProviderError), isinstance(error, ModelError)))
    told = " ".join(f"{outcome.source}: {outcome.reason}" for outcome in outcomes)
    return type(worst)(f"No source serves the area. {told}")

"""Pure: items of one acquisition: reprocessed copies at one provider, mirrors at several.

Providers agree on satellite and tile but not on the time: some state when the sensor's pass began, some
when it saw the tile. And one pass over a tile can come as two products that show a part of it each,
where the downlink was handed from one station to the next: these are no copies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from landuse.pipeline.lonlat import in_one_piece, outline
from landuse.pipeline.product import processed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from landuse.pipeline.fields import Json
    from landuse.records import Scene

SAME_PASS = timedelta(minutes=20)
"""Times of one acquisition differ by less; the next pass over a tile is most of an orbit (100 min) later."""

SHARED_FOOTPRINT = 0.5
"""Copies share at least this much of the smaller one's footprint; the parts of a divided tile do not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A scene that fits, and the item it was made of."""

    scene: Scene
    item: Json


def same_acquisition(one: Scene, other: Scene) -> bool:
    """Whether two scenes are of one level and show the same pass of one satellite over one tile.

    A scene that does not name its tile and its satellite can only be told by its id.
    """
    if one.level != other.level:
        return False
    if not (one.tile and one.platform and other.tile and other.platform):
        return one.id == other.id and one.provider == other.provider
    if (one.tile, one.platform) != (other.tile, other.platform):
        return False
    return abs(one.acquired_utc - other.acquired_utc) <= SAME_PASS and _show_the_same(one, other)


def _show_the_same(one: Scene, other: Scene) -> bool:
    first, second = in_one_piece(outline(one)), in_one_piece(outline(other))
    return bool(first.intersection(second).area >= SHARED_FOOTPRINT * min(first.area, second.area))


def newest_copies(candidates: Sequence[Candidate]) -> list[Scene]:
    """One scene of each acquisition and level: the newest baseline, then the newest processing."""
    kept: dict[tuple[str, ...], list[Candidate]] = {}
    # Newest first, so that what is kept never depends on the order in which a server answers.
    for candidate in sorted(candidates, key=_recency, reverse=True):
        scene = candidate.scene
        named = scene.tile and scene.platform
        rivals = kept.setdefault((scene.level, scene.platform, scene.tile) if named else (scene.id,), [])
        if not any(same_acquisition(rival.scene, scene) for rival in rivals):
            rivals.append(candidate)
    return [candidate.scene for rivals in kept.values() for candidate in rivals]


def _recency(candidate: Candidate) -> tuple[tuple[int, ...], float, str, str]:
    # Id and content settle ties.
    content = json.dumps(candidate.item, sort_keys=True, default=str)
    return *processed(candidate.item), candidate.scene.id, content


def with_mirrors(primary: Sequence[Scene], others: Sequence[Sequence[Scene]]) -> tuple[Scene, ...]:
    """The scenes with the same acquisitions at further sources, to be read where they fail.

    Args:
        primary: of the source that is used.
        others: of each further source, in the order in which they are tried.
    """
    by_tile: dict[tuple[str, str], list[Scene]] = {}
    for scenes in others:
        for scene in scenes:
            if scene.tile and scene.platform:
                by_tile.setdefault((scene.platform, scene.tile), []).append(replace(scene, mirrors=()))
    return tuple(
        replace(
            scene,
            mirrors=tuple(
                other
                for other in by_tile.get((scene.platform, scene.tile), ())
                if same_acquisition(scene, other)
            ),
        )
        for scene in primary
    )

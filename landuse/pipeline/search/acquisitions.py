"""Pure: items of one acquisition: duplicates at one provider, mirrors at several.

Providers agree on satellite and tile but not on the time: some state when the sensor's pass began, some
when it saw the tile. And one pass over a tile can come as two products that show a part of it each,
where the downlink was handed from one station to the next: these are no duplicates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from landuse.errors import UsageError
from landuse.pipeline.geometry import footprint_of
from landuse.pipeline.search.item_properties import processed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from landuse.pipeline.scene import Scene
    from landuse.pipeline.stac_json import Json

SAME_PASS = timedelta(minutes=20)
"""Times of one acquisition differ by less; the next pass over a tile is most of an orbit (100 min) later."""

SHARED_FOOTPRINT = 0.5
"""Duplicates share at least this much of the smaller one's footprint; the parts of a divided tile do not."""

MIRRORED_FOOTPRINT = 0.95
"""A mirror shows at least this much of what the scene shows, for which it is read instead. Providers
draw one and the same footprint with more or fewer corners."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A scene that fits, and the item it was made of."""

    scene: Scene
    item: Json


def same_acquisition(one: Scene, other: Scene) -> bool:
    """Whether two scenes are of one level and show the same pass of one satellite over one tile.

    A scene that does not name its tile and its satellite can only be told by its id.
    """
    if not (_is_named(one) and _is_named(other)):
        return (one.level, one.id, one.provider) == (other.level, other.id, other.provider)
    if not _of_one_pass(one, other):
        return False
    return _share_ground(one, other)


def _share_ground(one: Scene, other: Scene) -> bool:
    first, second = footprint_of(one), footprint_of(other)
    return bool(first.intersection(second).area >= SHARED_FOOTPRINT * min(first.area, second.area))


def is_mirror(other: Scene, scene: Scene) -> bool:
    """Whether ``other`` is of the same acquisition and shows what ``scene`` shows: all of it, not a part."""
    if not (_is_named(scene) and _is_named(other) and _of_one_pass(scene, other)):
        return False
    shown = footprint_of(scene)
    return bool(shown.intersection(footprint_of(other)).area >= MIRRORED_FOOTPRINT * shown.area)


def _is_named(scene: Scene) -> bool:
    return bool(scene.tile and scene.platform)


def _of_one_pass(one: Scene, other: Scene) -> bool:
    of_one = (one.level, one.tile, one.platform) == (other.level, other.tile, other.platform)
    return of_one and abs(one.acquired_utc - other.acquired_utc) <= SAME_PASS


def newest_copies(candidates: Sequence[Candidate]) -> list[Scene]:
    """One scene of each acquisition and level: the newest baseline, then the newest processing.

    Raises:
        UsageError: two scenes that can only be told by their id have the same one.
    """
    kept: dict[tuple[str, ...], list[Candidate]] = {}
    # Newest first, so that what is kept never depends on the order in which a server answers.
    for candidate in sorted(candidates, key=_recency, reverse=True):
        scene = candidate.scene
        key = (scene.level, scene.platform, scene.tile) if _is_named(scene) else (scene.id,)
        rivals = kept.setdefault(key, [])
        copies = [rival.scene for rival in rivals if same_acquisition(rival.scene, scene)]
        if not copies:
            rivals.append(candidate)
        elif not _is_named(scene):
            _check_copies(copies[0], scene)
    return [candidate.scene for rivals in kept.values() for candidate in rivals]


def _check_copies(one: Scene, other: Scene) -> None:
    """Two scenes with one id are to be of one time and place: catalogues that were joined may use it twice.

    The id is what reports and ledgers know a scene by, so both cannot be kept.
    """
    if abs(one.acquired_utc - other.acquired_utc) > SAME_PASS or not _share_ground(one, other):
        raise UsageError(
            f"Two scenes have the id {one.id!r}, of {one.acquired_utc:%Y-%m-%d %H:%M} and of "
            f"{other.acquired_utc:%Y-%m-%d %H:%M}, of other times or places. Give each an id of its own."
        )


def _recency(candidate: Candidate) -> tuple[tuple[int, ...], float, str, str]:
    # Id and content settle ties.
    content = json.dumps(candidate.item, sort_keys=True, default=str)
    return *processed(candidate.item), candidate.scene.id, content


def with_mirrors(primary: Sequence[Scene], others: Sequence[Sequence[Scene]]) -> tuple[Scene, ...]:
    """The scenes with the same acquisitions at further sources, to be read where they fail.

    Of a scene's mirrors those of its own processing baseline come first, whose pixels are the same.

    Args:
        primary: of the source that is used.
        others: of each further source, in the order in which they are tried.
    """
    by_tile: dict[tuple[str, str], list[Scene]] = {}
    for scenes in others:
        for scene in scenes:
            if _is_named(scene):
                by_tile.setdefault((scene.platform, scene.tile), []).append(replace(scene, mirrors=()))
    return tuple(
        replace(scene, mirrors=_mirrors(scene, by_tile.get((scene.platform, scene.tile), ())))
        for scene in primary
    )


def _mirrors(scene: Scene, others: Sequence[Scene]) -> tuple[Scene, ...]:
    found = (other for other in others if is_mirror(other, scene))
    return tuple(sorted(found, key=lambda other: other.baseline != scene.baseline))

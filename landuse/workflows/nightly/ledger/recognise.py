"""Pure: the period that a scene belongs to, and the scene of the ledger that it is.

A catalogue may list the same acquisition again under another id, and each provider has its own ids. A scene
with the acquisition and the processing baseline of a scene in the ledger is taken for that scene: so it is
mapped once, whatever its id is tonight.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import shapely

from landuse.pipeline.geometry import footprint_of, in_one_piece, outer_rings
from landuse.pipeline.scene import Scene
from landuse.pipeline.search.acquisitions import same_acquisition
from landuse.workflows.nightly.ledger.records import SceneState, Sighting, kept_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from landuse.pipeline.search.area import Area
    from landuse.workflows.nightly.ledger.records import SceneRow

OUTLINE_DEGREES = 0.01
"""How far the footprint in the ledger may be from the scene's true one: about 1 km, of a scene's 100 km."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A scene that was found tonight, and its name in the ledger."""

    scene: Scene
    """The scene as the source describes it."""
    sighting: Sighting
    """The scene as it is in the ledger, or is to be entered."""


def solar_shift(area: Area) -> timedelta:
    """How far local solar time over the area is ahead of UTC."""
    longitude = in_one_piece(area.geometry).centroid.x
    return timedelta(hours=((longitude + 180) % 360 - 180) / 15)


def period_of(moment_utc: datetime, shift: timedelta, window_days: int) -> date:
    """First day of the period that a moment lies in.

    A period has ``window_days`` solar days, counted from the first day of the calendar. So periods are the
    same on every night, and the scenes of one overpass are never in two of them.
    """
    ordinal = (moment_utc + shift).date().toordinal() - 1
    return date.fromordinal(ordinal - ordinal % window_days + 1)


def period_start_utc(period: date, shift: timedelta) -> datetime:
    """When a period begins."""
    return datetime(period.year, period.month, period.day, tzinfo=UTC) - shift


def recognise(
    scenes: Iterable[Scene], rows: Iterable[SceneRow], shift: timedelta, window_days: int
) -> list[Seen]:
    """The names of scenes in the ledger; those that it does not have keep their own ids.

    If a newer baseline of a scene's acquisition is mapped already, the scene is taken for the mapped one: a
    provider that is behind must not undo the map of a newer baseline.

    Args:
        scenes: found tonight.
        rows: all that the ledger holds of the area and the recipe.
        shift: of solar time.
        window_days: length of the periods.
    """
    by_key = {row.key: row for row in rows}
    by_tile: dict[str, list[tuple[SceneRow, Scene]]] = {}
    for row in by_key.values():
        if row.acquisition:
            known = _scene_of(row)
            by_tile.setdefault(known.tile, []).append((row, known))
    found = []
    for scene in scenes:
        own = Sighting(
            scene_id=kept_id(scene.id),
            baseline=scene.baseline or "",
            acquired_utc=scene.acquired_utc,
            period=period_of(scene.acquired_utc, shift, window_days).isoformat(),
            acquisition=_acquisition_of(scene),
        )
        same = by_key.get(own.key) or _same(scene, own.baseline, by_tile.get(scene.tile, ()))
        found.append(Seen(scene=scene, sighting=own if same is None else same.sighting))
    return found


def is_outdated(row: SceneRow, seen: Iterable[Seen]) -> bool:
    """Whether a newer baseline of the row's acquisition was found."""
    return bool(row.acquisition) and any(
        one.sighting.baseline > row.baseline and same_acquisition(one.scene, _scene_of(row)) for one in seen
    )


def _same(scene: Scene, baseline: str, known: Sequence[tuple[SceneRow, Scene]]) -> SceneRow | None:
    fitting = [
        row
        for row, other in known
        if (row.baseline == baseline or (row.baseline > baseline and row.state is SceneState.MAPPED))
        and same_acquisition(scene, other)
    ]
    # The newest baseline, and of that the first that was seen.
    return min(fitting, key=lambda row: (_falling(row.baseline), row.first_seen_utc), default=None)


def _falling(baseline: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in baseline)


def _acquisition_of(scene: Scene) -> str:
    """What identifies the scene's acquisition, as JSON; empty if the item does not state enough."""
    if not (scene.tile and scene.platform):
        return ""
    shown = shapely.simplify(footprint_of(scene), OUTLINE_DEGREES)
    values = {
        "level": scene.level,
        "platform": scene.platform,
        "tile": scene.tile,
        "outline": [[[round(lon, 4), round(lat, 4)] for lon, lat in ring] for ring in outer_rings(shown)],
    }
    return json.dumps(values, separators=(",", ":"))


def _scene_of(row: SceneRow) -> Scene:
    """A scene with those of its fields that identify the acquisition."""
    values = json.loads(row.acquisition)
    return Scene(
        id=row.scene_id,
        provider="",
        acquired_utc=row.acquired_utc,
        level=values["level"],
        baseline=row.baseline,
        cloud_percent=None,
        footprint=tuple(tuple((lon, lat) for lon, lat in ring) for ring in values["outline"]),
        crs=None,
        bounds_m=None,
        assets=(),
        platform=values["platform"],
        tile=values["tile"],
    )

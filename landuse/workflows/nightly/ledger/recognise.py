"""Pure: which period a scene belongs to, and which scene of the ledger it is.

A catalogue may list one acquisition again under another id, and another provider names it its own way. A
scene of the same acquisition and processing baseline as one that the ledger knows is that one: it is mapped
once, whatever it is called tonight.
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
"""How far the outline that the ledger keeps of a scene may be from the true one: a kilometre of a hundred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A scene that was found tonight, and what the ledger calls it."""

    scene: Scene
    """As the source has it."""
    sighting: Sighting
    """As the ledger has it."""


def solar_shift(area: Area) -> timedelta:
    """How far local solar time over the area is ahead of UTC."""
    longitude = in_one_piece(area.geometry).centroid.x
    return timedelta(hours=((longitude + 180) % 360 - 180) / 15)


def period_of(moment_utc: datetime, shift: timedelta, window_days: int) -> date:
    """First day of the period that a moment lies in.

    Periods are so many solar days, counted from the first day of the calendar: they stay the same whenever
    one looks, and part no overpass.
    """
    ordinal = (moment_utc + shift).date().toordinal() - 1
    return date.fromordinal(ordinal - ordinal % window_days + 1)


def period_start_utc(period: date, shift: timedelta) -> datetime:
    """When a period begins."""
    return datetime(period.year, period.month, period.day, tzinfo=UTC) - shift


def recognise(
    scenes: Iterable[Scene], rows: Iterable[SceneRow], shift: timedelta, window_days: int
) -> list[Seen]:
    """What the ledger calls some scenes; those that it does not know go by their own ids.

    A scene of a baseline older than what is mapped of its acquisition already is taken for the mapped one:
    a provider that is behind must not undo what a newer one gave.

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
    """What tells the scene's acquisition from others, as JSON; empty where the item does not say enough."""
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
    """As much of the scene as tells acquisitions apart."""
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

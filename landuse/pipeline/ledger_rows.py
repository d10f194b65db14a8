"""IO: the ledger's rows within one transaction: what is due, who holds a window, what becomes of a scene."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from landuse.errors import LeaseLostError
from landuse.pipeline.ledger_records import AreaStatus, MapRow, SceneKey, SceneRow, SceneState, StateCounts
from landuse.pipeline.ledger_schema import LEASES, MAPS, SCENES
from landuse.redact import printable, redact

if TYPE_CHECKING:
    from collections.abc import Iterable

    from landuse.pipeline.ledger_records import DueWindow, Lease, Sighting

NIGHT = timedelta(hours=12)
"""What failed is due again so long after: the next night, however often a run is started in one."""

MAX_REASON = 1000
"""Characters of a reason; an error may quote a whole page."""


def is_due(now_utc: datetime, attempts: int) -> sa.ColumnElement[bool]:
    """Scenes to be tried now: new ones, and failed ones another night.

    A parked one is due again once more attempts are allowed than it was given.
    """
    return sa.or_(
        SCENES.c.state == SceneState.FOUND,
        sa.and_(
            SCENES.c.state.in_([SceneState.FAILED, SceneState.PARKED]),
            SCENES.c.attempts < attempts,
            SCENES.c.updated_utc <= now_utc - NIGHT,
        ),
    )


def of_model(area: str, model_sha256: str) -> sa.ColumnElement[bool]:
    """The scenes of an area under a model."""
    return sa.and_(SCENES.c.area == area, SCENES.c.model_sha256 == model_sha256)


def of_window(window: DueWindow) -> sa.ColumnElement[bool]:
    """The scenes of a window under its model."""
    return sa.and_(of_model(window.area, window.model_sha256), SCENES.c.window == window.window)


def lease_on(window: DueWindow) -> sa.ColumnElement[bool]:
    """The lease on a window, whoever holds it."""
    return sa.and_(
        LEASES.c.area == window.area,
        LEASES.c.window == window.window,
        LEASES.c.model_sha256 == window.model_sha256,
    )


def scene(area: str, key: SceneKey, model_sha256: str) -> sa.ColumnElement[bool]:
    """One scene."""
    return sa.and_(
        of_model(area, model_sha256), SCENES.c.scene_id == key.scene_id, SCENES.c.baseline == key.baseline
    )


def read_scenes(connection: sa.Connection, where: sa.ColumnElement[bool]) -> tuple[SceneRow, ...]:
    """Rows of scenes, by window and time."""
    query = sa.select(SCENES).where(where)
    order = (SCENES.c.window, SCENES.c.acquired_utc, SCENES.c.scene_id, SCENES.c.baseline)
    return tuple(SceneRow(**row._asdict()) for row in connection.execute(query.order_by(*order)))


def read_maps(connection: sa.Connection, where: sa.ColumnElement[bool]) -> tuple[MapRow, ...]:
    """Rows of maps, by window and the time that they were made."""
    query = sa.select(MAPS).where(where).order_by(MAPS.c.window, MAPS.c.created_utc, MAPS.c.map_id)
    return tuple(
        MapRow(**row._asdict() | {"scene_ids": tuple(row.scene_ids), "change_paths": tuple(row.change_paths)})
        for row in connection.execute(query)
    )


def enter_scenes(
    connection: sa.Connection,
    area: str,
    sightings: Iterable[Sighting],
    model_sha256: str,
    now_utc: datetime,
) -> int:
    """Enter the scenes that are not there yet, as found; return how many."""
    keys = sa.select(SCENES.c.scene_id, SCENES.c.baseline).where(of_model(area, model_sha256))
    known = {SceneKey(scene_id=row.scene_id, baseline=row.baseline) for row in connection.execute(keys)}
    fresh = {sighting.key: sighting for sighting in sightings if sighting.key not in known}
    if fresh:
        connection.execute(
            sa.insert(SCENES),
            [
                {
                    "area": area,
                    "scene_id": sighting.scene_id,
                    "baseline": sighting.baseline,
                    "model_sha256": model_sha256,
                    "acquired_utc": sighting.acquired_utc,
                    "window": sighting.window,
                    "acquisition": sighting.acquisition,
                    "state": SceneState.FOUND,
                    "reason": "",
                    "attempts": 0,
                    "first_seen_utc": now_utc,
                    "updated_utc": now_utc,
                }
                for sighting in fresh.values()
            ],
        )
    return len(fresh)


def park_spent(connection: sa.Connection, window: DueWindow, now_utc: datetime, attempts: int) -> None:
    """Park the scenes of a window that were tried as often as allowed: the last tries ended in crashes."""
    crashed = f"{attempts} tries were cut off: the run was killed, or took longer than its lease"
    connection.execute(
        sa.update(SCENES)
        .where(
            of_window(window),
            SCENES.c.state.in_([SceneState.FOUND, SceneState.FAILED]),
            SCENES.c.attempts >= attempts,
        )
        .values(
            state=SceneState.PARKED,
            reason=sa.case((SCENES.c.reason == "", crashed), else_=SCENES.c.reason),
            updated_utc=now_utc,
        )
    )


def check_held(connection: sa.Connection, lease: Lease, now_utc: datetime) -> None:
    """See that a run still holds its window.

    Raises:
        LeaseLostError: it does not.
    """
    held = connection.execute(sa.select(LEASES).where(lease_on(lease.on))).one_or_none()
    if held is None or held.owner != lease.owner or held.expires_utc <= now_utc:
        raise LeaseLostError(
            f"Window {lease.on.window} of area {lease.on.area!r} is no longer held by {lease.owner!r}, who "
            f"had it until {lease.expires_utc:%Y-%m-%d %H:%M} UTC: another run may do it, and nothing of "
            "this one is entered. Raise lease_minutes."
        )


def settle_scene(
    connection: sa.Connection,
    lease: Lease,
    key: SceneKey,
    state: SceneState,
    *,
    reason: str = "",
    map_id: str | None = None,
    now_utc: datetime,
    seconds: float,
) -> None:
    """Write what became of a scene; one that is mapped already stays as it is."""
    connection.execute(
        sa.update(SCENES)
        .where(scene(lease.on.area, key, lease.on.model_sha256), SCENES.c.state != SceneState.MAPPED)
        .values(
            state=state,
            reason=printable(" ".join(redact(reason).split()))[:MAX_REASON],
            map_id=map_id,
            updated_utc=now_utc,
            seconds=seconds,
        )
    )


def give_back(connection: sa.Connection, lease: Lease) -> None:
    """End a lease."""
    connection.execute(sa.delete(LEASES).where(lease_on(lease.on)))


def read_status(
    connection: sa.Connection, area: str, model_sha256: str, looked_utc: datetime, now_utc: datetime
) -> AreaStatus:
    """How an area fares under the model that it was last looked at with."""
    counted = (
        sa.select(SCENES.c.state, sa.func.count().label("scenes"))
        .where(of_model(area, model_sha256))
        .group_by(SCENES.c.state)
    )
    counts = {row.state.value: row.scenes for row in connection.execute(counted)}
    leased = sa.select(sa.func.count()).where(LEASES.c.area == area, LEASES.c.expires_utc > now_utc)
    newest = sa.select(sa.func.max(SCENES.c.acquired_utc)).where(
        SCENES.c.area == area, SCENES.c.state == SceneState.MAPPED
    )
    maps = read_maps(connection, (MAPS.c.area == area) & MAPS.c.superseded_by.is_(None))
    return AreaStatus(
        area=area,
        model_sha256=model_sha256,
        looked_utc=looked_utc,
        counts=StateCounts(**counts),
        running=connection.execute(leased).scalar_one(),
        last_map=max(maps, key=lambda row: row.created_utc, default=None),
        newest_utc=connection.execute(newest).scalar(),
        failures=read_scenes(
            connection,
            of_model(area, model_sha256) & SCENES.c.state.in_([SceneState.FAILED, SceneState.PARKED]),
        ),
    )

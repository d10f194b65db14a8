"""IO: the ledger's rows within one transaction: what is due, who holds a period, what becomes of a scene.

Of each day there is at most one current map: by the recipe that came into force last, and of that the one
entered last. So where an area goes back to settings that it had before, the maps made by them are current
again; and a period that was not mapped anew, as it is from too long ago, keeps the map it has.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict
from datetime import date, datetime, timedelta
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import sqlalchemy as sa

from landuse.errors import LeaseLostError
from landuse.redact import printable, redact
from landuse.workflows.nightly.ledger.records import (
    AreaStatus,
    MapRow,
    Recipe,
    SceneKey,
    SceneRow,
    SceneState,
    StateCounts,
)
from landuse.workflows.nightly.ledger.schema import AREAS, LEASES, MAPS, RECIPES, SCENES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from landuse.workflows.nightly.ledger.records import DuePeriod, Lease, Sighting

NIGHT = timedelta(hours=12)
"""What failed is due again so long after: the next night, however often a run is started in one."""

MAX_REASON = 1000
"""Characters of a reason; an error may quote a whole page."""


def is_due(now_utc: datetime, attempts: int) -> sa.ColumnElement[bool]:
    """Scenes to be tried now: new ones, and failed ones another night.

    A parked one is due again once more attempts are allowed than it was given.
    """
    return sa.and_(
        SCENES.c.attempts < attempts,
        sa.or_(
            SCENES.c.state == SceneState.FOUND,
            sa.and_(
                SCENES.c.state.in_([SceneState.FAILED, SceneState.PARKED]),
                SCENES.c.updated_utc <= now_utc - NIGHT,
            ),
        ),
    )


def of_recipe(area: str, recipe: Recipe) -> sa.ColumnElement[bool]:
    """The scenes of an area under a recipe."""
    return sa.and_(SCENES.c.area == area, SCENES.c.recipe == recipe.digest)


def of_period(period: DuePeriod) -> sa.ColumnElement[bool]:
    """The scenes of a period under its recipe."""
    return sa.and_(of_recipe(period.area, period.recipe), SCENES.c.period == period.first_day)


def lease_on(period: DuePeriod) -> sa.ColumnElement[bool]:
    """The lease on a period, whoever holds it, and whatever recipe they follow."""
    return sa.and_(LEASES.c.area == period.area, LEASES.c.period == period.first_day)


def scene(area: str, key: SceneKey, recipe: Recipe) -> sa.ColumnElement[bool]:
    """One scene."""
    return sa.and_(
        of_recipe(area, recipe), SCENES.c.scene_id == key.scene_id, SCENES.c.baseline == key.baseline
    )


def _select(table: sa.Table) -> sa.Select[tuple[object, ...]]:
    """All columns of a table, by the names of the records' fields."""
    return sa.select(*(column.label(column.key) for column in table.columns))


def read_scenes(connection: sa.Connection, where: sa.ColumnElement[bool]) -> tuple[SceneRow, ...]:
    """Rows of scenes, by period and time."""
    query = _select(SCENES).where(where)
    order = (SCENES.c.period, SCENES.c.acquired_utc, SCENES.c.scene_id, SCENES.c.baseline)
    return tuple(SceneRow(**row._asdict()) for row in connection.execute(query.order_by(*order)))


def read_maps(connection: sa.Connection, where: sa.ColumnElement[bool]) -> tuple[MapRow, ...]:
    """Rows of maps, by period and in the order in which they were entered."""
    query = _select(MAPS).where(where).order_by(MAPS.c.period, MAPS.c.number)
    return tuple(
        MapRow(**row._asdict() | {"scene_ids": tuple(row.scene_ids), "change_paths": tuple(row.change_paths)})
        for row in connection.execute(query)
    )


def enter_scenes(
    connection: sa.Connection,
    area: str,
    sightings: Iterable[Sighting],
    recipe: Recipe,
    now_utc: datetime,
) -> int:
    """Enter the scenes that are not there yet, as found; return how many."""
    keys = sa.select(SCENES.c.scene_id, SCENES.c.baseline).where(of_recipe(area, recipe))
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
                    "recipe": recipe.digest,
                    "acquired_utc": sighting.acquired_utc,
                    "period": sighting.period,
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


def look_by(connection: sa.Connection, area: str, recipe: Recipe, now_utc: datetime) -> None:
    """Enter that an area was looked at, and put the recipe in force, unless a later look did another."""
    known = connection.execute(sa.select(AREAS).where(AREAS.c.area == area)).one_or_none()
    looked = {"recipe": recipe.digest, "looked_utc": now_utc}
    if known is None:
        connection.execute(sa.insert(AREAS).values(area=area, **looked))
    elif known.looked_utc <= now_utc:  # a run that began earlier may come later
        connection.execute(sa.update(AREAS).where(AREAS.c.area == area).values(**looked))
    else:
        return
    if known is None or known.recipe != recipe.digest:
        own = sa.and_(RECIPES.c.area == area, RECIPES.c.recipe == recipe.digest)
        last = connection.execute(sa.select(sa.func.max(RECIPES.c.turn)).where(RECIPES.c.area == area))
        turn = (last.scalar() or 0) + 1
        if not connection.execute(sa.update(RECIPES).where(own).values(turn=turn)).rowcount:
            values = {"area": area, "recipe": recipe.digest, "settings": asdict(recipe), "turn": turn}
            connection.execute(sa.insert(RECIPES).values(**values))
        put_in_succession(connection, area)


def put_in_succession(connection: sa.Connection, area: str) -> None:
    """Have every map of an area superseded by the right one."""
    turns = connection.execute(sa.select(RECIPES.c.recipe, RECIPES.c.turn).where(RECIPES.c.area == area))
    rows = read_maps(connection, MAPS.c.area == area)
    successors = succession(rows, {row.recipe: row.turn for row in turns})
    for row in rows:
        if row.superseded_by != successors[row.map_id]:
            connection.execute(
                sa.update(MAPS)
                .where(MAPS.c.map_id == row.map_id)
                .values(superseded_by=successors[row.map_id])
            )


def succession(maps: Iterable[MapRow], turns: Mapping[str, int]) -> dict[str, str | None]:
    """By each map's id, that of the map which supersedes it; None for those that are current.

    The maps of one period form one chain. Its last one is superseded by the last one of a period that has
    another length, where that shows some of its days and its recipe came into force later.

    Args:
        maps: all of one area.
        turns: by a recipe's digest, when it came into force last: the higher the later.
    """

    def rank(row: MapRow) -> tuple[int, int]:
        return turns.get(row.recipe, 0), row.number

    found: dict[str, str | None] = {}
    latest: list[MapRow] = []

    def period(row: MapRow) -> tuple[str, int]:
        return row.period, row.window_days

    for _, group in groupby(sorted(maps, key=lambda row: (period(row), rank(row))), period):
        chain = list(group)
        found |= {before.map_id: after.map_id for before, after in pairwise(chain)}
        latest.append(chain[-1])
    of_day: dict[int, list[MapRow]] = defaultdict(list)
    for row in latest:
        for day in _days(row):
            of_day[day].append(row)
    for row in latest:
        highest = max((other for day in _days(row) for other in of_day[day]), key=rank)
        found[row.map_id] = None if highest is row else highest.map_id
    return found


def _days(row: MapRow) -> range:
    first = date.fromisoformat(row.period).toordinal()
    return range(first, first + row.window_days)


def recipe_in_force(connection: sa.Connection, area: str) -> Recipe | None:
    """The recipe that an area was last looked at with; None for an area that never was."""
    joined = AREAS.join(RECIPES, (AREAS.c.area == RECIPES.c.area) & (AREAS.c.recipe == RECIPES.c.recipe))
    query = sa.select(RECIPES.c.settings).select_from(joined).where(AREAS.c.area == area)
    settings = connection.execute(query).scalar()
    return None if settings is None else Recipe(**settings)


def park_spent(
    connection: sa.Connection, area: str, recipe: Recipe, now_utc: datetime, attempts: int
) -> None:
    """Park the scenes that nobody is at and that were tried as often as allowed."""
    crashed = f"{attempts} tries were cut off: the run was killed, or took longer than its lease"
    leased = sa.select(LEASES.c.period).where(LEASES.c.area == area, LEASES.c.expires_utc > now_utc)
    connection.execute(
        sa.update(SCENES)
        .where(
            of_recipe(area, recipe),
            SCENES.c.state.in_([SceneState.FOUND, SceneState.FAILED]),
            SCENES.c.attempts >= attempts,
            SCENES.c.period.not_in(leased),
        )
        .values(
            state=SceneState.PARKED,
            reason=sa.case((SCENES.c.reason == "", crashed), else_=SCENES.c.reason),
            updated_utc=now_utc,
        )
    )


def check_held(connection: sa.Connection, lease: Lease, now_utc: datetime) -> None:
    """See that a run still holds its period.

    Raises:
        LeaseLostError: it does not.
    """
    held = connection.execute(sa.select(LEASES).where(lease_on(lease.on))).one_or_none()
    if held is None or held.owner != lease.owner or held.expires_utc <= now_utc:
        raise LeaseLostError(
            f"Period {lease.on.first_day} of area {lease.on.area!r} is no longer held by {lease.owner!r}, "
            f"who had it until {lease.expires_utc:%Y-%m-%d %H:%M} UTC: another run may do it, and nothing of "
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
        .where(scene(lease.on.area, key, lease.on.recipe), SCENES.c.state != SceneState.MAPPED)
        .values(
            state=state,
            reason=printable(" ".join(redact(reason).split()))[:MAX_REASON],
            map_id=map_id,
            updated_utc=now_utc,
            seconds=seconds,
        )
    )


def skip_scenes(
    connection: sa.Connection,
    lease: Lease,
    skipped: Mapping[Sighting, str],
    now_utc: datetime,
    seconds: float,
) -> None:
    """Write that scenes are in no map, each with the reason."""
    for sighting, reason in skipped.items():
        settle_scene(
            connection,
            lease,
            sighting.key,
            SceneState.SKIPPED,
            reason=reason,
            now_utc=now_utc,
            seconds=seconds,
        )


def count_tries(connection: sa.Connection, period: DuePeriod, key: SceneKey, tries: int) -> None:
    """Add to the tries of a scene."""
    connection.execute(
        sa.update(SCENES)
        .where(scene(period.area, key, period.recipe))
        .values(attempts=SCENES.c.attempts + tries)
    )


def give_back(connection: sa.Connection, lease: Lease) -> None:
    """End a lease."""
    connection.execute(sa.delete(LEASES).where(lease_on(lease.on)))


def read_status(
    connection: sa.Connection, area: str, recipe: Recipe, looked_utc: datetime, now_utc: datetime
) -> AreaStatus:
    """How an area fares under the recipe that it was last looked at with."""
    counted = (
        sa.select(SCENES.c.state, sa.func.count().label("scenes"))
        .where(of_recipe(area, recipe))
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
        model_sha256=recipe.model_sha256,
        looked_utc=looked_utc,
        counts=StateCounts(**counts),
        running=connection.execute(leased).scalar_one(),
        last_map=max(maps, key=lambda row: row.created_utc, default=None),
        newest_utc=connection.execute(newest).scalar(),
        failures=read_scenes(
            connection,
            of_recipe(area, recipe) & SCENES.c.state.in_([SceneState.FAILED, SceneState.PARKED]),
        ),
    )

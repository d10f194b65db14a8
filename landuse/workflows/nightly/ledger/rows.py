"""IO: the queries and statements of the ledger, each within a transaction of the caller's.

Of the maps that show a day, the one whose recipe came into force last is current, and among those of one
recipe the one entered last. So if an area goes back to earlier settings, the maps made with them become
current again. A period that is not mapped again, for instance because it is too old to be searched, keeps its
map; so does one of which maps of shorter periods show only a part so far.
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
)
from landuse.workflows.nightly.ledger.schema import AREAS, LEASES, MAPS, RECIPES, SCENES, SEARCHES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from landuse.workflows.nightly.ledger.records import DuePeriod, Lease, Sighting

NIGHT = timedelta(hours=12)
"""A failed scene is due again after this time: the next night, however often a run is started in one."""

MAX_REASON = 1000
"""Characters of a reason; an error may quote a whole page."""


def is_due(now_utc: datetime, attempts: int) -> sa.ColumnElement[bool]:
    """The scenes that are to be tried now: new ones, and those that failed on an earlier night.

    A parked scene is due again if more attempts are allowed than were made.
    """
    return sa.and_(
        SCENES.c.attempts < attempts,
        sa.or_(
            of_states(SceneState.FOUND),
            sa.and_(
                of_states(SceneState.FAILED, SceneState.PARKED),
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


def of_keys(keys: Iterable[SceneKey]) -> sa.ColumnElement[bool]:
    """The scenes of these names."""
    return sa.tuple_(SCENES.c.scene_id, SCENES.c.baseline).in_(list(keys))


def of_states(*states: SceneState) -> sa.ColumnElement[bool]:
    """The scenes in one of these states."""
    return SCENES.c.state.in_(states)


def of_current(area: str) -> sa.ColumnElement[bool]:
    """The maps of an area that no other one supersedes."""
    return sa.and_(MAPS.c.area == area, MAPS.c.superseded_by.is_(None))


def lease_on(period: DuePeriod) -> sa.ColumnElement[bool]:
    """The lease on a period, whatever its holder and recipe."""
    return sa.and_(LEASES.c.area == period.area, LEASES.c.period == period.first_day)


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
    return tuple(MapRow(**row._asdict()) for row in connection.execute(query))


def enter_scenes(
    connection: sa.Connection,
    area: str,
    sightings: Iterable[Sighting],
    recipe: Recipe,
    now_utc: datetime,
) -> int:
    """Enter the scenes that are not there yet, as found; return how many."""
    keys = sa.select(SCENES.c.scene_id, SCENES.c.baseline).where(of_recipe(area, recipe))
    known = {SceneKey(*row) for row in connection.execute(keys)}
    fresh = {sighting.key: sighting for sighting in sightings if sighting.key not in known}
    values = {
        "area": area,
        "recipe": recipe.digest,
        "state": SceneState.FOUND,
        "reason": "",
        "attempts": 0,
        "first_seen_utc": now_utc,
        "updated_utc": now_utc,
    }
    if fresh:
        connection.execute(sa.insert(SCENES), [asdict(entry) | values for entry in fresh.values()])
    return len(fresh)


def look_by(connection: sa.Connection, area: str, recipe: Recipe, now_utc: datetime) -> None:
    """Enter a search of an area and put its recipe in force, unless a later search was entered before."""
    known = connection.execute(sa.select(AREAS).where(AREAS.c.area == area)).one_or_none()
    own = sa.and_(RECIPES.c.area == area, RECIPES.c.recipe == recipe.digest)
    if connection.execute(sa.select(RECIPES.c.turn).where(own)).one_or_none() is None:
        values = {"area": area, "recipe": recipe.digest, "settings": asdict(recipe), "turn": 0}
        connection.execute(sa.insert(RECIPES).values(**values))
    looked = {"recipe": recipe.digest, "looked_utc": now_utc}
    if known is None:
        connection.execute(sa.insert(AREAS).values(area=area, **looked))
    elif known.looked_utc <= now_utc:  # a run that began earlier may come later
        connection.execute(sa.update(AREAS).where(AREAS.c.area == area).values(**looked))
    else:
        return
    if known is None or known.recipe != recipe.digest:
        last = connection.execute(sa.select(sa.func.max(RECIPES.c.turn)).where(RECIPES.c.area == area))
        connection.execute(sa.update(RECIPES).where(own).values(turn=(last.scalar() or 0) + 1))
        put_in_succession(connection, area)


def note_search(connection: sa.Connection, area: str, found: int, lost: int, now_utc: datetime) -> None:
    """Enter what a search of an area found: nothing, of so many scenes that are lost, or something again."""
    own = SEARCHES.c.area == area
    if found:
        connection.execute(sa.delete(SEARCHES).where(own))
    elif lost and connection.execute(sa.select(SEARCHES).where(own)).one_or_none() is None:
        connection.execute(sa.insert(SEARCHES).values(area=area, lost=lost, empty_utc=now_utc))


def put_in_succession(connection: sa.Connection, area: str) -> None:
    """Enter for every map of an area which map supersedes it."""
    rows = read_maps(connection, MAPS.c.area == area)
    moments: dict[str, list[datetime]] = {}
    if len({row.window_days for row in rows}) > 1:
        scenes = sa.select(SCENES.c.recipe, SCENES.c.scene_id, SCENES.c.acquired_utc)
        acquired = {row[:2]: row[2] for row in connection.execute(scenes.where(SCENES.c.area == area))}
        for row in rows:
            keys = [(row.recipe, name) for name in row.scene_ids]
            moments[row.map_id] = [acquired[key] for key in keys if key in acquired]
    successors = succession(rows, read_turns(connection, area), moments)
    for row in rows:
        if row.superseded_by != successors[row.map_id]:
            connection.execute(
                sa.update(MAPS)
                .where(MAPS.c.map_id == row.map_id)
                .values(superseded_by=successors[row.map_id])
            )


def read_turns(connection: sa.Connection, area: str) -> dict[str, int]:
    """When each recipe of an area came into force last: the higher the later."""
    turns = connection.execute(sa.select(RECIPES.c.recipe, RECIPES.c.turn).where(RECIPES.c.area == area))
    return {row.recipe: row.turn for row in turns}


def succession(
    maps: Iterable[MapRow], turns: Mapping[str, int], moments: Mapping[str, Sequence[datetime]]
) -> dict[str, str | None]:
    """By each map's id, that of the map which supersedes it; None for those that are current.

    The maps of one period form one chain. Its last one is superseded by the last ones of periods that have
    another length and whose recipes came into force later, once those show all of it: every day of its
    period, or something from each overpass that it shows.

    Args:
        maps: all of one area.
        turns: by a recipe's digest, when it came into force last: the higher the later.
        moments: by a map's id, when its scenes were acquired; of a map without any a part is enough.
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
        others = {other.map_id: other for day in _days(row) for other in of_day[day]}.values()
        later = [other for other in others if rank(other) > rank(row)]
        whole = any({*_days(row)} <= {*_days(other)} for other in later)
        shown = [moment for other in later for moment in moments.get(other.map_id, ())]
        if later and (whole or all(_near(moment, shown) for moment in moments.get(row.map_id, ()))):
            found[row.map_id] = max(later, key=rank).map_id
        else:
            found[row.map_id] = None
    return found


def _near(moment: datetime, others: Iterable[datetime]) -> bool:
    """Whether one of the others is of the same overpass, whatever its scene is called."""
    return any(abs(moment - other) < NIGHT for other in others)


def _days(row: MapRow) -> range:
    first = date.fromisoformat(row.period).toordinal()
    return range(first, first + row.window_days)


def recipe_in_force(connection: sa.Connection, area: str) -> Recipe | None:
    """The recipe of an area's last search; None for an area that was never searched."""
    joined = AREAS.join(RECIPES, (AREAS.c.area == RECIPES.c.area) & (AREAS.c.recipe == RECIPES.c.recipe))
    query = sa.select(RECIPES.c.settings).select_from(joined).where(AREAS.c.area == area)
    settings = connection.execute(query).scalar()
    return None if settings is None else Recipe(**settings)


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


def settle(
    connection: sa.Connection,
    lease: Lease,
    keys: Iterable[SceneKey],
    state: SceneState | sa.ColumnElement[SceneState],
    *,
    reason: str = "",
    map_id: str | None = None,
    now_utc: datetime,
    seconds: float,
) -> None:
    """Write what became of scenes; those that are mapped already stay as they are."""
    connection.execute(
        sa.update(SCENES)
        .where(of_recipe(lease.on.area, lease.on.recipe), of_keys(keys), ~of_states(SceneState.MAPPED))
        .values(
            state=state,
            reason=printable(" ".join(redact(reason).split()))[:MAX_REASON],
            updated_utc=now_utc,
            seconds=seconds,
            **({} if map_id is None else {"map_id": map_id}),
        )
    )


def count_tries(connection: sa.Connection, due: DuePeriod, tries: int) -> None:
    """Add to the tries of a period's scenes that are due."""
    connection.execute(
        sa.update(SCENES)
        .where(of_recipe(due.area, due.recipe), of_keys(due.scenes))
        .values(attempts=SCENES.c.attempts + tries)
    )


def read_status(
    connection: sa.Connection, area: str, recipe: Recipe, looked_utc: datetime, now_utc: datetime
) -> AreaStatus:
    """The status of an area under the recipe of its last search."""
    counted = sa.select(SCENES.c.state, sa.func.count().label("scenes")).group_by(SCENES.c.state)
    rows = connection.execute(counted.where(of_recipe(area, recipe)))
    counts = {row.state: row.scenes for row in rows}
    leased = sa.select(sa.func.count()).where(LEASES.c.area == area, LEASES.c.expires_utc > now_utc)
    mapped = sa.and_(SCENES.c.area == area, of_states(SceneState.MAPPED))
    maps = read_maps(connection, of_current(area))
    failed = of_states(SceneState.FAILED, SceneState.PARKED)
    search = connection.execute(sa.select(SEARCHES).where(SEARCHES.c.area == area)).one_or_none()
    settings = connection.execute(
        sa.select(RECIPES.c.recipe, RECIPES.c.settings).where(RECIPES.c.area == area)
    )
    here = [row.recipe for row in settings if Recipe(**row.settings).place_sha256 == recipe.place_sha256]
    listed = sa.exists().where(SCENES.c.area == area, SCENES.c.recipe.in_(here))
    return AreaStatus(
        area=area,
        looked_utc=looked_utc,
        last_map=maps[-1] if maps else None,
        newest_utc=connection.execute(sa.select(sa.func.max(SCENES.c.acquired_utc)).where(mapped)).scalar(),
        scenes={state: counts.get(state, 0) for state in SceneState},
        running=connection.execute(leased).scalar_one(),
        failures=read_scenes(connection, of_recipe(area, recipe) & failed),
        lost=0 if search is None else search.lost,
        empty_utc=None if search is None else search.empty_utc,
        never_listed=not connection.execute(sa.select(listed)).scalar_one(),
    )

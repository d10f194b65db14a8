"""IO: the ledger: which scenes of which area are mapped, which are to be, and who is at them.

A period is the unit of work: all its scenes make one map. A run takes a lease on it, maps it, and settles
it in one transaction. A run that dies leaves a lease that lapses; a run that comes too late settles
nothing. What is done is done under a recipe: under another one nothing is, and the maps of the one in force
are the current ones. The clock is the caller's: every method that needs it takes ``now_utc``.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from landuse.workflows.nightly.ledger import rows
from landuse.workflows.nightly.ledger.records import DuePeriod, Lease, MapRow, SceneRow, SceneState
from landuse.workflows.nightly.ledger.schema import AREAS, LEASES, MAPS, SCENES, Database, open_database

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from landuse.workflows.nightly.ledger.records import AreaStatus, NewMap, Recipe, Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The state of nightly runs. Threads and processes may share it.

    Every method raises ``LedgerError`` where the database cannot be used.
    """

    database: Database
    """Where it lies."""

    @classmethod
    @contextmanager
    def at(cls, url: str, *, create: bool = True) -> Iterator[Self]:
        """The ledger at an SQLAlchemy URL, as ``open_database`` tells.

        Raises:
            UsageError: the URL is malformed, of an unknown kind, or its driver is not installed.
            LedgerError: the database cannot be reached, or is no ledger.
        """
        with open_database(url, create=create) as database:
            yield cls(database=database)

    def note_found(self, area: str, sightings: Iterable[Sighting], recipe: Recipe, now_utc: datetime) -> int:
        """Enter the scenes that are new under this recipe, and that the area was looked at.

        The recipe is in force from now on: the maps made by it are current where there are any. Scenes that
        are known stay as they are, so it does no harm to note one twice, late or out of order.

        Returns:
            How many were new.
        """
        with self.database.writing() as connection:
            rows.look_by(connection, area, recipe, now_utc)
            return rows.enter_scenes(connection, area, sightings, recipe, now_utc)

    def recipe_of(self, area: str) -> Recipe | None:
        """The recipe in force: that by which the area was last looked at; None where it never was."""
        with self.database.reading() as connection:
            return rows.recipe_in_force(connection, area)

    def park_spent(self, area: str, recipe: Recipe, now_utc: datetime, attempts: int) -> None:
        """Park the scenes that nobody is at and whose tries are used up.

        Runs that crashed used them up, or fewer are allowed than there were.
        """
        crashed = f"{attempts} tries were cut off: the run was killed, or took longer than its lease"
        with self.database.writing() as connection:
            connection.execute(
                sa.update(SCENES)
                .where(
                    rows.of_recipe(area, recipe),
                    rows.of_states(SceneState.FOUND, SceneState.FAILED),
                    SCENES.c.attempts >= attempts,
                    SCENES.c.period.not_in(_leased(area, now_utc)),
                )
                .values(
                    state=SceneState.PARKED,
                    reason=sa.case((SCENES.c.reason == "", crashed), else_=SCENES.c.reason),
                    updated_utc=now_utc,
                )
            )

    def periods_to_do(
        self,
        area: str,
        recipe: Recipe,
        now_utc: datetime,
        attempts: int,
        sightings: Iterable[Sighting] = (),
    ) -> tuple[DuePeriod, ...]:
        """The periods with scenes that are due and that no run is at, oldest first.

        Args:
            area: name of the area.
            recipe: what its maps are made by.
            now_utc: the time.
            attempts: tries before a scene is parked; one parked after fewer is due again.
            sightings: taken as noted, though they are not: what a run would do, for a dry one.
        """
        with self.database.reading() as connection:
            busy = set(connection.execute(_leased(area, now_utc)).scalars())
            known_rows = rows.read_scenes(connection, rows.of_recipe(area, recipe))
            due = rows.read_scenes(connection, rows.of_recipe(area, recipe) & rows.is_due(now_utc, attempts))
        known = {row.key for row in known_rows}
        fresh = {sighting.key: sighting for sighting in sightings if sighting.key not in known}
        waiting: list[SceneRow | Sighting] = [*due, *fresh.values()]
        waiting.sort(key=lambda entry: (entry.period, entry.acquired_utc, entry.scene_id, entry.baseline))
        return tuple(
            DuePeriod(
                area=area,
                first_day=period,
                recipe=recipe,
                scenes=tuple(entry.key for entry in group),
            )
            for period, group in groupby(waiting, key=lambda entry: entry.period)
            if period not in busy
        )

    def lease(
        self, period: DuePeriod, owner: str, *, now_utc: datetime, minutes: float, attempts: int
    ) -> Lease | None:
        """Take a period, for one recipe at a time; a try of each of its due scenes is counted.

        Args:
            period: one of ``periods_to_do``. Whether its scenes are still due is looked up anew; others that
                were noted since are not the lease's.
            owner: names this run; no two have the same name.
            now_utc: the time.
            minutes: how long, unless it is renewed.
            attempts: tries before a scene is parked.

        Returns:
            The lease; None where another run is at the period, or has just done it.
        """
        expires_utc = now_utc + timedelta(minutes=minutes)
        with self.database.writing() as connection:
            held = connection.execute(sa.select(LEASES.c.expires_utc).where(rows.lease_on(period))).scalar()
            if held is not None and held > now_utc:
                return None
            connection.execute(sa.delete(LEASES).where(rows.lease_on(period)))
            own = rows.of_period(period) & rows.of_keys(period.scenes)
            due = rows.read_scenes(connection, own & rows.is_due(now_utc, attempts))
            keys = tuple(row.key for row in due)
            if not keys:
                return None
            lease = Lease(on=replace(period, scenes=keys), owner=owner, expires_utc=expires_utc)
            rows.count_tries(connection, lease.on, 1)
            connection.execute(
                sa.insert(LEASES).values(
                    area=period.area, period=period.first_day, owner=owner, expires_utc=expires_utc
                )
            )
        return lease

    def renew(self, lease: Lease, *, now_utc: datetime, minutes: float) -> Lease:
        """Hold a period for longer.

        Raises:
            LeaseLostError: it is not held any more.
        """
        expires_utc = now_utc + timedelta(minutes=minutes)
        with self.database.writing() as connection:
            rows.check_held(connection, lease, now_utc)
            connection.execute(
                sa.update(LEASES).where(rows.lease_on(lease.on)).values(expires_utc=expires_utc)
            )
        return replace(lease, expires_utc=expires_utc)

    def release(self, lease: Lease) -> None:
        """Give a period back untried, as when a run is asked to stop. One that is lost stays lost."""
        with self.database.writing() as connection:
            held = connection.execute(sa.select(LEASES.c.owner).where(rows.lease_on(lease.on))).scalar()
            if held == lease.owner:
                connection.execute(sa.delete(LEASES).where(rows.lease_on(lease.on)))
                rows.count_tries(connection, lease.on, -1)

    def settle_mapped(
        self,
        lease: Lease,
        made: NewMap,
        mapped: Sequence[Sighting],
        skipped: Mapping[Sighting, str],
        *,
        now_utc: datetime,
        seconds: float,
    ) -> MapRow:
        """Enter the period's map, which supersedes the one before it, and give the lease back.

        Where another recipe has come into force since, a map of that stays the current one.

        A scene that is in an earlier map keeps that one as its ``map_id``. One of the period that is named
        in neither ``mapped`` nor ``skipped`` stays due.

        Args:
            lease: on the period.
            made: the map.
            mapped: the scenes in it; those that nobody has noted are entered.
            skipped: scenes that were looked at and are not in it, each with the reason.
            now_utc: the time.
            seconds: how long it took.

        Raises:
            LeaseLostError: the lease is not held any more; nothing is changed.
        """
        if not mapped:
            raise ValueError(f"map {made.map_id!r} is of no scene")
        by_time = sorted(mapped, key=lambda sighting: (sighting.acquired_utc, sighting.scene_id))
        area, recipe = lease.on.area, lease.on.recipe
        with self._settling(lease, now_utc) as connection:
            last = connection.execute(sa.select(sa.func.max(MAPS.c.number)).where(MAPS.c.area == area))
            values = asdict(made) | {
                "area": area,
                "period": lease.on.first_day,
                "window_days": recipe.window_days,
                "number": (last.scalar() or 0) + 1,
                "model_sha256": recipe.model_sha256,
                "recipe": recipe.digest,
                "scene_ids": [sighting.scene_id for sighting in by_time],
            }
            connection.execute(sa.insert(MAPS).values(values))
            rows.put_in_succession(connection, area)
            rows.enter_scenes(connection, area, mapped, recipe, now_utc)
            keys = [sighting.key for sighting in mapped]
            rows.settle(
                connection,
                lease,
                keys,
                SceneState.MAPPED,
                map_id=made.map_id,
                now_utc=now_utc,
                seconds=seconds,
            )
            _skip(connection, lease, skipped, now_utc, seconds)
            (entered,) = rows.read_maps(connection, MAPS.c.map_id == made.map_id)
        return entered

    def settle_skipped(
        self, lease: Lease, skipped: Mapping[Sighting, str], *, now_utc: datetime, seconds: float
    ) -> None:
        """Enter that scenes of the period make no map, each with the reason, and give the lease back.

        Raises:
            LeaseLostError: the lease is not held any more; nothing is changed.
        """
        with self._settling(lease, now_utc) as connection:
            _skip(connection, lease, skipped, now_utc, seconds)

    def settle_failed(
        self, lease: Lease, reason: str, *, now_utc: datetime, attempts: int, seconds: float
    ) -> None:
        """Enter that the try failed, and give the lease back.

        What was due is failed and tried again another night, or parked where its tries are used up.

        Raises:
            LeaseLostError: the lease is not held any more; nothing is changed.
        """
        with self._settling(lease, now_utc) as connection:
            failed, parked = (
                sa.literal(state, SCENES.c.state.type) for state in (SceneState.FAILED, SceneState.PARKED)
            )
            state = sa.case((SCENES.c.attempts < attempts, failed), else_=parked)
            keys = lease.on.scenes
            rows.settle(connection, lease, keys, state, reason=reason, now_utc=now_utc, seconds=seconds)

    def note_changes(self, area: str, paths: Mapping[str, tuple[str, ...]]) -> None:
        """Enter where the change layers of an area's maps lie, by the later map's id; others have none."""
        with self.database.writing() as connection:
            for row in rows.read_maps(connection, MAPS.c.area == area):
                if row.change_paths != paths.get(row.map_id, ()):
                    connection.execute(
                        sa.update(MAPS)
                        .where(MAPS.c.map_id == row.map_id)
                        .values(change_paths=paths.get(row.map_id, ()))
                    )

    def scenes(self, area: str, recipe: Recipe) -> tuple[SceneRow, ...]:
        """All scenes of an area under a recipe, by period and time."""
        with self.database.reading() as connection:
            return rows.read_scenes(connection, rows.of_recipe(area, recipe))

    def latest_maps(self, area: str) -> tuple[MapRow, ...]:
        """The maps of an area that no other one supersedes: at most one of each day, by period."""
        with self.database.reading() as connection:
            return rows.read_maps(connection, rows.of_current(area))

    def all_maps(self, area: str) -> tuple[MapRow, ...]:
        """The maps of an area with those that are superseded, by period and in the order of entry."""
        with self.database.reading() as connection:
            return rows.read_maps(connection, MAPS.c.area == area)

    def mapped_areas(self) -> tuple[str, ...]:
        """Names of the areas that have a map."""
        with self.database.reading() as connection:
            return tuple(connection.execute(sa.select(MAPS.c.area).distinct()).scalars())

    def status(self, now_utc: datetime) -> tuple[AreaStatus, ...]:
        """How each area fares that was ever looked at, by name."""
        with self.database.reading() as connection:
            areas = connection.execute(sa.select(AREAS).order_by(AREAS.c.area)).all()
            return tuple(
                rows.read_status(connection, row.area, recipe, row.looked_utc, now_utc)
                for row in areas
                if (recipe := rows.recipe_in_force(connection, row.area)) is not None
            )

    @contextmanager
    def _settling(self, lease: Lease, now_utc: datetime) -> Iterator[sa.Connection]:
        """A transaction of whoever holds the lease, which it ends."""
        with self.database.writing() as connection:
            rows.check_held(connection, lease, now_utc)
            yield connection
            connection.execute(sa.delete(LEASES).where(rows.lease_on(lease.on)))


def _leased(area: str, now_utc: datetime) -> sa.Select[tuple[str]]:
    """The periods of an area that runs are at."""
    return sa.select(LEASES.c.period).where(LEASES.c.area == area, LEASES.c.expires_utc > now_utc)


def _skip(
    connection: sa.Connection,
    lease: Lease,
    skipped: Mapping[Sighting, str],
    now_utc: datetime,
    seconds: float,
) -> None:
    """Write that scenes are in no map, each with the reason; those that nobody has noted are entered."""
    rows.enter_scenes(connection, lease.on.area, skipped, lease.on.recipe, now_utc)
    for sighting, reason in skipped.items():
        rows.settle(
            connection,
            lease,
            [sighting.key],
            SceneState.SKIPPED,
            reason=reason,
            now_utc=now_utc,
            seconds=seconds,
        )

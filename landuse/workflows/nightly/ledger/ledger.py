"""IO: the ledger: which scenes of an area are mapped, which are still to be mapped, and by which run.

The unit of work is a period: all scenes of a period make one map. A run takes a lease on a period, maps it,
and enters the outcome and ends the lease in one transaction. If a run dies, its lease expires and another
run may take the period. A run whose lease has expired can enter nothing.

Each outcome belongs to a recipe, the settings that decide a map. After a change of the recipe every scene
counts as not yet mapped, and the maps made with the recipe in force are the current ones.

No method reads a clock: those that need the time take it as ``now_utc``.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from landuse.workflows.nightly.ledger import rows
from landuse.workflows.nightly.ledger.records import (
    DuePeriod,
    Lease,
    MapRecord,
    MapRow,
    Recipe,
    SceneRow,
    SceneState,
)
from landuse.workflows.nightly.ledger.schema import (
    AREAS,
    LEASES,
    MAPS,
    RECIPES,
    SCENES,
    Database,
    open_database,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from landuse.workflows.nightly.ledger.records import AreaStatus, NewMap, Sighting


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The record of nightly runs. Several threads and processes may use it at the same time.

    Every method raises ``LedgerError`` where the database cannot be used.
    """

    database: Database
    """The database that holds the tables."""

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

    def note_found(
        self,
        area: str,
        sightings: Iterable[Sighting],
        recipe: Recipe,
        now_utc: datetime,
        *,
        listed_before: int = 0,
    ) -> int:
        """Enter that the area was searched, and the scenes that are new under this recipe.

        From now on the recipe is in force: where it has maps, those are the current ones. Known scenes stay
        as they are, so a scene may be noted twice, late or out of order.

        Args:
            area: name of the area.
            sightings: what was found.
            recipe: what its maps are made by.
            now_utc: the time.
            listed_before: how many scenes of the days that were searched are known from earlier searches.

        Returns:
            How many were new.
        """
        sightings = tuple(sightings)
        with self.database.writing() as connection:
            rows.look_by(connection, area, recipe, now_utc)
            rows.note_search(connection, area, len(sightings), listed_before, now_utc)
            return rows.enter_scenes(connection, area, sightings, recipe, now_utc)

    def recipe_of(self, area: str) -> Recipe | None:
        """The recipe of the area's last search; None for an area that was never searched."""
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
        """The periods that have due scenes and no valid lease, oldest first.

        Args:
            area: name of the area.
            recipe: what its maps are made by.
            now_utc: the time.
            attempts: tries before a scene is parked; one parked after fewer is due again.
            sightings: scenes to be counted as noted although they are not entered, for a dry run.
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
        """Take a lease on a period, and count a try of each of its due scenes.

        A period has one lease at a time, whatever the recipe.

        Args:
            period: one of ``periods_to_do``. Its scenes that are no longer due are left out of the lease,
                and so are scenes that were noted since.
            owner: the name of this run; no two runs have the same name.
            now_utc: the time.
            minutes: how long the lease lasts unless it is renewed.
            attempts: tries before a scene is parked.

        Returns:
            The lease; None if another run holds the period or has finished it since.
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
        """Make a lease last for so many minutes from now on.

        Raises:
            LeaseLostError: it has expired, or another run holds the period.
        """
        expires_utc = now_utc + timedelta(minutes=minutes)
        with self.database.writing() as connection:
            rows.check_held(connection, lease, now_utc)
            connection.execute(
                sa.update(LEASES).where(rows.lease_on(lease.on)).values(expires_utc=expires_utc)
            )
        return replace(lease, expires_utc=expires_utc)

    def release(self, lease: Lease) -> None:
        """End a lease and take back its tries, as when a run is asked to stop; nothing if it is lost."""
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
        """Enter a map of the period, which supersedes the period's map before it, and end the lease.

        If another recipe has come into force since, its map of the period stays the current one.

        A map that is entered already was made again. A scene that is already in an earlier map keeps that
        map's id. A scene of the period that is in
        neither ``mapped`` nor ``skipped`` stays due.

        Args:
            lease: the lease on the period.
            made: the map.
            mapped: the scenes in the map; those that are not in the ledger yet are entered.
            skipped: the scenes that were considered and are not in the map, each with the reason.
            now_utc: the time.
            seconds: how long the map took.

        Raises:
            LeaseLostError: the lease is lost; nothing is changed.
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
                "model_sha256": recipe.model_sha256,
                "recipe": recipe.digest,
                "scene_ids": [sighting.scene_id for sighting in by_time],
            }
            again = sa.update(MAPS).where(MAPS.c.map_id == made.map_id)  # one whose files were damaged
            if not connection.execute(again.values(values)).rowcount:
                values["number"] = (last.scalar() or 0) + 1
                connection.execute(sa.insert(MAPS).values(values))
            rows.enter_scenes(connection, area, mapped, recipe, now_utc)
            rows.put_in_succession(connection, area)
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
        """Enter that the period gets no map of these scenes, each with the reason, and end the lease.

        Raises:
            LeaseLostError: the lease is lost; nothing is changed.
        """
        with self._settling(lease, now_utc) as connection:
            _skip(connection, lease, skipped, now_utc, seconds)

    def settle_failed(
        self, lease: Lease, reason: str, *, now_utc: datetime, attempts: int, seconds: float
    ) -> None:
        """Enter that the try failed, and end the lease.

        The leased scenes are tried again another night, or parked if their tries are used up.

        Raises:
            LeaseLostError: the lease is lost; nothing is changed.
        """
        with self._settling(lease, now_utc) as connection:
            failed, parked = (
                sa.literal(state, SCENES.c.state.type) for state in (SceneState.FAILED, SceneState.PARKED)
            )
            state = sa.case((SCENES.c.attempts < attempts, failed), else_=parked)
            keys = lease.on.scenes
            rows.settle(connection, lease, keys, state, reason=reason, now_utc=now_utc, seconds=seconds)

    def map_again(
        self,
        row: MapRow,
        recipe: Recipe,
        reason: str,
        now_utc: datetime,
        period_of: Callable[[datetime], str],
    ) -> None:
        """Have a current map made again whose files are damaged: its scenes are due once more.

        Nothing happens if a run is at its period, or has made it again or superseded it since.

        Args:
            row: the map, as it was when its files were looked at.
            recipe: what the area's maps are made by now. A map of other settings is not made again as it
                was: its scenes are entered under these, if they are not there yet.
            reason: what is wrong with it.
            now_utc: the time.
            period_of: the first day of the period that a moment lies in under the recipe.
        """
        with self.database.writing() as connection:
            now_there = rows.read_maps(connection, rows.of_current(row.area) & (MAPS.c.map_id == row.map_id))
            busy = _leased(row.area, now_utc).where(LEASES.c.period == row.period)
            is_busy = connection.execute(busy).scalar() is not None
            if is_busy or [entry.created_utc for entry in now_there] != [row.created_utc]:
                return
            own = sa.and_(
                SCENES.c.area == row.area,
                SCENES.c.recipe == row.recipe,
                SCENES.c.period == row.period,
                SCENES.c.scene_id.in_(row.scene_ids),
                rows.of_states(SceneState.MAPPED),
            )
            if row.recipe == recipe.digest:
                due = {"state": SceneState.FOUND, "attempts": 0, "map_id": row.map_id}
                values = {**due, "reason": reason[: rows.MAX_REASON], "updated_utc": now_utc}
                connection.execute(sa.update(SCENES).where(own).values(**values))
                return
            scenes = [scene.sighting for scene in rows.read_scenes(connection, own)]
            moved = [replace(scene, period=period_of(scene.acquired_utc)) for scene in scenes]
            rows.enter_scenes(connection, row.area, moved, recipe, now_utc)

    def records(self, area: str) -> tuple[MapRecord, ...]:
        """All that is needed to enter an area's maps in another ledger, in the order of ``all_maps``."""
        with self.database.reading() as connection:
            maps = rows.read_maps(connection, MAPS.c.area == area)
            scenes = rows.read_scenes(connection, SCENES.c.area == area)
            turns = rows.read_turns(connection, area)
            settings = sa.select(RECIPES.c.recipe, RECIPES.c.settings).where(RECIPES.c.area == area)
            recipes = {row.recipe: Recipe(**row.settings) for row in connection.execute(settings)}
        last = {(row.recipe, row.period): row.map_id for row in maps}
        of_map: dict[str | None, list[SceneRow]] = defaultdict(list)
        for scene in scenes:
            left_out = scene.map_id is None and scene.state is SceneState.SKIPPED
            of_map[last.get((scene.recipe, scene.period)) if left_out else scene.map_id].append(scene)
        return tuple(
            MapRecord(
                map=row, recipe=recipes[row.recipe], turn=turns[row.recipe], scenes=tuple(of_map[row.map_id])
            )
            for row in maps
        )

    def restore(self, area: str, records: Sequence[MapRecord]) -> int:
        """Enter maps and their scenes that the ledger has lost; what it has stays as it is.

        Returns:
            How many maps were entered.
        """
        with self.database.writing() as connection:
            known = {row.map_id for row in rows.read_maps(connection, MAPS.c.area == area)}
            lost = [record for record in records if record.map.map_id not in known]
            turns = rows.read_turns(connection, area)
            for record in sorted(lost, key=lambda record: record.turn):
                digest = record.recipe.digest
                if digest not in turns:
                    values = {"area": area, "recipe": digest, "settings": asdict(record.recipe)}
                    connection.execute(sa.insert(RECIPES).values(**values, turn=record.turn))
                    turns[digest] = record.turn
                connection.execute(sa.insert(MAPS).values(asdict(replace(record.map, superseded_by=None))))
                keys = rows.of_keys([scene.key for scene in record.scenes])
                mapped = rows.of_states(SceneState.MAPPED)
                own = rows.of_recipe(area, record.recipe) & keys
                connection.execute(sa.delete(SCENES).where(own, ~mapped))
                kept = {row.key for row in rows.read_scenes(connection, own)}
                fresh = [asdict(scene) for scene in record.scenes if scene.key not in kept]
                if fresh:
                    connection.execute(sa.insert(SCENES), fresh)
            if lost and not connection.execute(sa.select(AREAS).where(AREAS.c.area == area)).all():
                newest = max(lost, key=lambda record: record.turn)
                looked = max(record.map.created_utc for record in lost)
                entered = sa.insert(AREAS).values(area=area, recipe=newest.recipe.digest, looked_utc=looked)
                connection.execute(entered)
            rows.put_in_succession(connection, area)
        return len(lost)

    def note_changes(self, area: str, paths: Mapping[str, tuple[str, ...]]) -> None:
        """Enter the paths of an area's change layers, by the id of the later map; other maps have none."""
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
        """The current maps of an area, ordered by period."""
        with self.database.reading() as connection:
            return rows.read_maps(connection, rows.of_current(area))

    def all_maps(self, area: str) -> tuple[MapRow, ...]:
        """All maps of an area, also superseded ones, ordered by period and then by entry."""
        with self.database.reading() as connection:
            return rows.read_maps(connection, MAPS.c.area == area)

    def mapped_areas(self) -> tuple[str, ...]:
        """Names of the areas that have a map."""
        with self.database.reading() as connection:
            return tuple(connection.execute(sa.select(MAPS.c.area).distinct()).scalars())

    def status(self, now_utc: datetime) -> tuple[AreaStatus, ...]:
        """The status of each area that was ever searched, ordered by name."""
        with self.database.reading() as connection:
            areas = connection.execute(sa.select(AREAS).order_by(AREAS.c.area)).all()
            return tuple(
                rows.read_status(connection, row.area, recipe, row.looked_utc, now_utc)
                for row in areas
                if (recipe := rows.recipe_in_force(connection, row.area)) is not None
            )

    @contextmanager
    def _settling(self, lease: Lease, now_utc: datetime) -> Iterator[sa.Connection]:
        """A transaction of the lease's holder; the lease ends with it."""
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

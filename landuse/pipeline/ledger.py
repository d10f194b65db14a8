"""IO: the ledger: which scenes of which area are mapped, which are to be, and who is at them.

A window is the unit of work: all its scenes make one map. A run takes a lease on it, maps it, and settles
it in one transaction. A run that dies leaves a lease that lapses; a run that comes too late settles
nothing. The clock is the caller's: every method that needs it takes ``now_utc``.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from typing import TYPE_CHECKING, Self

import sqlalchemy as sa

from landuse.pipeline.ledger_records import (
    DueWindow,
    Lease,
    MapRow,
    SceneRow,
    SceneState,
)
from landuse.pipeline.ledger_rows import (
    check_held,
    enter_scenes,
    give_back,
    is_due,
    lease_on,
    of_model,
    of_window,
    park_spent,
    read_maps,
    read_scenes,
    read_status,
    scene,
    settle_scene,
)
from landuse.pipeline.ledger_schema import AREAS, LEASES, MAPS, SCENES, Database, open_database

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from landuse.pipeline.ledger_records import AreaStatus, NewMap, Sighting


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

    def note_found(
        self, area: str, sightings: Iterable[Sighting], model_sha256: str, now_utc: datetime
    ) -> int:
        """Enter the scenes that are new under this model, and that the area was looked at.

        Those known stay as they are, so it does no harm to note one twice, late or out of order.

        Returns:
            How many were new.
        """
        with self.database.writing() as connection:
            known = connection.execute(sa.select(AREAS.c.looked_utc).where(AREAS.c.area == area)).scalar()
            if known is None:
                connection.execute(
                    sa.insert(AREAS).values(area=area, model_sha256=model_sha256, looked_utc=now_utc)
                )
            elif known <= now_utc:  # a run that began earlier may come later
                connection.execute(
                    sa.update(AREAS)
                    .where(AREAS.c.area == area)
                    .values(model_sha256=model_sha256, looked_utc=now_utc)
                )
            return enter_scenes(connection, area, sightings, model_sha256, now_utc)

    def windows_to_do(
        self,
        area: str,
        model_sha256: str,
        now_utc: datetime,
        attempts: int,
        sightings: Iterable[Sighting] = (),
    ) -> tuple[DueWindow, ...]:
        """The windows with scenes that are due and that no run is at, oldest first.

        Args:
            area: name of the area.
            model_sha256: hash of the model's weights.
            now_utc: the time.
            attempts: tries before a scene is parked; one parked after fewer is due again.
            sightings: taken as noted, though they are not: what a run would do, for a dry one.
        """
        with self.database.reading() as connection:
            leased = connection.execute(
                sa.select(LEASES.c.window).where(
                    LEASES.c.area == area,
                    LEASES.c.model_sha256 == model_sha256,
                    LEASES.c.expires_utc > now_utc,
                )
            )
            busy = set(leased.scalars())
            rows = read_scenes(connection, of_model(area, model_sha256))
            due = read_scenes(connection, of_model(area, model_sha256) & is_due(now_utc, attempts))
        known = {row.key for row in rows}
        fresh = {sighting.key: sighting for sighting in sightings if sighting.key not in known}
        waiting: list[SceneRow | Sighting] = [*due, *fresh.values()]
        waiting.sort(key=lambda entry: (entry.window, entry.acquired_utc, entry.scene_id, entry.baseline))
        return tuple(
            DueWindow(
                area=area,
                window=window,
                model_sha256=model_sha256,
                scenes=tuple(entry.key for entry in group),
            )
            for window, group in groupby(waiting, key=lambda entry: entry.window)
            if window not in busy
        )

    def lease(
        self, window: DueWindow, owner: str, *, now_utc: datetime, minutes: float, attempts: int
    ) -> Lease | None:
        """Take a window; a try of each of its due scenes is counted.

        A scene whose tries are used up, the last of them cut off by a crash, is parked instead.

        Args:
            window: one of ``windows_to_do``; what is due in it is looked up anew.
            owner: names this run; no two have the same name.
            now_utc: the time.
            minutes: how long, unless it is renewed.
            attempts: tries before a scene is parked.

        Returns:
            The lease; None where another run is at the window, or has just done it.
        """
        expires_utc = now_utc + timedelta(minutes=minutes)
        with self.database.writing() as connection:
            held = connection.execute(sa.select(LEASES.c.expires_utc).where(lease_on(window))).scalar()
            if held is not None and held > now_utc:
                return None
            park_spent(connection, window, now_utc, attempts)
            due = of_window(window) & is_due(now_utc, attempts)
            rows = read_scenes(connection, due)
            connection.execute(sa.delete(LEASES).where(lease_on(window)))
            if not rows:
                return None
            connection.execute(sa.update(SCENES).where(due).values(attempts=SCENES.c.attempts + 1))
            connection.execute(
                sa.insert(LEASES).values(
                    area=window.area,
                    window=window.window,
                    model_sha256=window.model_sha256,
                    owner=owner,
                    expires_utc=expires_utc,
                )
            )
        taken = replace(window, scenes=tuple(row.key for row in rows))
        return Lease(on=taken, owner=owner, expires_utc=expires_utc)

    def renew(self, lease: Lease, *, now_utc: datetime, minutes: float) -> Lease:
        """Hold a window for longer.

        Raises:
            LeaseLostError: it is not held any more.
        """
        expires_utc = now_utc + timedelta(minutes=minutes)
        with self.database.writing() as connection:
            check_held(connection, lease, now_utc)
            connection.execute(sa.update(LEASES).where(lease_on(lease.on)).values(expires_utc=expires_utc))
        return replace(lease, expires_utc=expires_utc)

    def release(self, lease: Lease) -> None:
        """Give a window back untried, as when a run is asked to stop. One that is lost stays lost."""
        with self.database.writing() as connection:
            held = connection.execute(sa.select(LEASES.c.owner).where(lease_on(lease.on))).scalar()
            if held != lease.owner:
                return
            give_back(connection, lease)
            for key in lease.on.scenes:
                connection.execute(
                    sa.update(SCENES)
                    .where(scene(lease.on.area, key, lease.on.model_sha256))
                    .values(attempts=SCENES.c.attempts - 1)
                )

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
        """Enter the window's map, which supersedes the one before it, and give the lease back.

        A scene that is in an earlier map keeps that one as its ``map_id``. One of the window that is named
        in neither ``mapped`` nor ``skipped`` stays due.

        Args:
            lease: on the window.
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
        row = MapRow(
            map_id=made.map_id,
            area=lease.on.area,
            window=lease.on.window,
            created_utc=made.created_utc,
            model_sha256=lease.on.model_sha256,
            path=made.path,
            scene_ids=tuple(sighting.scene_id for sighting in by_time),
            valid=made.valid,
            superseded_by=None,
            change_paths=made.change_paths,
        )
        with self._settling(lease, now_utc) as connection:
            enter_scenes(connection, lease.on.area, (*mapped, *skipped), lease.on.model_sha256, now_utc)
            connection.execute(
                sa.insert(MAPS).values({column.name: getattr(row, column.name) for column in MAPS.columns})
            )
            connection.execute(
                sa.update(MAPS)
                .where(
                    MAPS.c.area == row.area,
                    MAPS.c.window == row.window,
                    MAPS.c.superseded_by.is_(None),
                    MAPS.c.map_id != row.map_id,
                )
                .values(superseded_by=row.map_id)
            )
            for sighting in mapped:
                settle_scene(
                    connection,
                    lease,
                    sighting.key,
                    SceneState.MAPPED,
                    map_id=row.map_id,
                    now_utc=now_utc,
                    seconds=seconds,
                )
            _skip(connection, lease, skipped, now_utc, seconds)
        return row

    def settle_skipped(
        self, lease: Lease, skipped: Mapping[Sighting, str], *, now_utc: datetime, seconds: float
    ) -> None:
        """Enter that scenes of the window make no map, each with the reason, and give the lease back.

        Raises:
            LeaseLostError: the lease is not held any more; nothing is changed.
        """
        with self._settling(lease, now_utc) as connection:
            enter_scenes(connection, lease.on.area, skipped, lease.on.model_sha256, now_utc)
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
            for key in lease.on.scenes:
                row = scene(lease.on.area, key, lease.on.model_sha256)
                tried = connection.execute(sa.select(SCENES.c.attempts).where(row)).scalar_one()
                settle_scene(
                    connection,
                    lease,
                    key,
                    SceneState.FAILED if tried < attempts else SceneState.PARKED,
                    reason=reason,
                    now_utc=now_utc,
                    seconds=seconds,
                )

    def note_changes(self, area: str, paths: Mapping[str, tuple[str, ...]]) -> None:
        """Enter where the change layers of an area's maps lie, by the later map's id; others have none."""
        with self.database.writing() as connection:
            for row in read_maps(connection, MAPS.c.area == area):
                if row.change_paths != paths.get(row.map_id, ()):
                    connection.execute(
                        sa.update(MAPS)
                        .where(MAPS.c.map_id == row.map_id)
                        .values(change_paths=paths.get(row.map_id, ()))
                    )

    def scenes(self, area: str, model_sha256: str) -> tuple[SceneRow, ...]:
        """All scenes of an area under a model, by window and time."""
        with self.database.reading() as connection:
            return read_scenes(connection, of_model(area, model_sha256))

    def latest_maps(self, area: str) -> tuple[MapRow, ...]:
        """The maps of an area that no later one supersedes: one a window, by window."""
        with self.database.reading() as connection:
            return read_maps(connection, (MAPS.c.area == area) & MAPS.c.superseded_by.is_(None))

    def all_maps(self, area: str) -> tuple[MapRow, ...]:
        """The maps of an area with those that are superseded, by window and the time they were made."""
        with self.database.reading() as connection:
            return read_maps(connection, MAPS.c.area == area)

    def status(self, now_utc: datetime) -> tuple[AreaStatus, ...]:
        """How each area fares that was ever looked at, by name."""
        with self.database.reading() as connection:
            areas = connection.execute(sa.select(AREAS).order_by(AREAS.c.area)).all()
            return tuple(
                read_status(connection, row.area, row.model_sha256, row.looked_utc, now_utc) for row in areas
            )

    @contextmanager
    def _settling(self, lease: Lease, now_utc: datetime) -> Iterator[sa.Connection]:
        """A transaction of whoever holds the lease, which it ends."""
        with self.database.writing() as connection:
            check_held(connection, lease, now_utc)
            yield connection
            give_back(connection, lease)


def _skip(
    connection: sa.Connection,
    lease: Lease,
    skipped: Mapping[Sighting, str],
    now_utc: datetime,
    seconds: float,
) -> None:
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

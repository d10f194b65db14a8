"""IO: a lock on a folder elsewhere, by files that are created only where there are none.

A file ``.lock-000001`` in the folder says who holds it, since when, and until when unless it is renewed.
Whoever finds that it has expired takes over by creating the next number: of two that try, one succeeds. The
highest number counts. So all that a store has to offer is to create a file only where there is none, and to
list what it has just been given; S3 does both.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from fsspec import AbstractFileSystem

from landuse.errors import BusyError, OutputError
from landuse.pipeline.stac_json import mapping, number, text
from landuse.redact import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from landuse.pipeline.write.folder import Store

log = logging.getLogger(__name__)

LOCK_S = 600.0
"""Seconds after which a lock counts for nothing whose holder has not renewed it."""

RENEW_S = 120.0
"""Seconds between renewals."""

_NAME = re.compile(r"\.lock-(\d{6})")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What a lock's file says."""

    number: int
    """The highest counts."""
    owner: str
    """Who made it; no other lock has the same."""
    shown: str
    """The same for people: host and process."""
    machine: str
    """Where process ids mean the same; empty where that is not known."""
    process: int
    """Id of the holder's process."""
    since_utc: datetime
    """When it was made."""
    until_utc: datetime
    """When it expires."""

    @property
    def is_over(self) -> bool:
        """Whether it has expired, or its process has ended on this machine."""
        if datetime.now(UTC) >= self.until_utc:
            return True
        if not self.machine or self.machine != _machine():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # somebody else's process
        return False

    def to_json(self) -> bytes:
        """The file's content."""
        told = {
            "owner": self.owner,
            "process": self.shown,
            "machine": self.machine,
            "pid": self.process,
            "since_utc": self.since_utc.isoformat(timespec="seconds"),
            "until_utc": self.until_utc.isoformat(timespec="seconds"),
        }
        return (json.dumps(told, indent=2) + "\n").encode()

    @classmethod
    def of(cls, count: int, content: bytes) -> _Held:
        """The lock that a file tells of; one that cannot be read is held by nobody that could renew it.

        Args:
            count: its number.
            content: of the file.
        """
        try:
            told = mapping(json.loads(content))
            since, until = (datetime.fromisoformat(text(told[name])) for name in ("since_utc", "until_utc"))
            _ = since < until < datetime.now(UTC)  # all of them have time zones
        except (ValueError, KeyError, TypeError, RecursionError):
            told, since, until = {}, datetime.min.replace(tzinfo=UTC), datetime.min.replace(tzinfo=UTC)
        return cls(
            number=count,
            owner=text(told.get("owner")),
            shown=printable(text(told.get("process"))),
            machine=text(told.get("machine")),
            process=int(number(told.get("pid")) or 0),
            since_utc=since,
            until_utc=until,
        )


class StoreLock:
    """A lock that is held, and renewed by a thread until it is released."""

    def __init__(self, store: Store, held: _Held) -> None:
        self._store = store
        self._held = held
        self._ended = threading.Event()
        self._until_utc = held.until_utc
        self._renewing = threading.Thread(target=self._renew, name="landuse-lock", daemon=True)

    def check(self) -> None:
        """See that this run still holds the lock; called before what others would see is written.

        Raises:
            BusyError: another run has taken over, since this one did not renew the lock in time.
            OutputError: the store cannot be asked.
        """
        others = [entry for entry in _locks(self._store) if entry.owner != self._held.owner]
        later = [entry for entry in others if entry.number > self._held.number]
        if later or datetime.now(UTC) >= self._until_utc:
            taken = f" and {later[-1].shown} has taken over" if later else ""
            raise BusyError(
                f"{self._store} is no longer this run's: its lock was not renewed for {LOCK_S / 60:.0f} "
                f"minutes{taken}. This run finishes no map there; run again, finished blocks are kept."
            )

    def _renew(self) -> None:
        while not self._ended.wait(RENEW_S):
            until = datetime.now(UTC) + timedelta(seconds=LOCK_S)
            renewed = replace(self._held, until_utc=until)
            try:
                self._store.write(_name(self._held.number), renewed.to_json())
            except OutputError as error:
                log.warning(
                    "The lock of %s could not be renewed, which is tried again: %s", self._store, error
                )
            else:
                self._until_utc = until

    def __enter__(self) -> StoreLock:
        self._renewing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewing.join()
        with suppress(OutputError):  # else it expires
            if self._held.owner in {entry.owner for entry in _locks(self._store)}:
                self._store.remove_file(_name(self._held.number))


@contextmanager
def locked_elsewhere(store: Store) -> Iterator[Callable[[], None]]:
    """For one run at a time, in a folder that is not on this machine.

    Args:
        store: the folder.

    Yields:
        What sees that the lock is still held.

    Raises:
        BusyError: another run is at work in the folder.
        OutputError: it cannot be written or read.
    """
    before = _locks(store)
    _refuse_held(store, before)
    now = datetime.now(UTC)
    mine = _Held(
        number=max((entry.number for entry in before), default=0) + 1,
        owner=uuid.uuid4().hex,
        shown=f"process {os.getpid()} of {socket.gethostname()}",
        machine=_machine(),
        process=os.getpid(),
        since_utc=now,
        until_utc=now + timedelta(seconds=LOCK_S),
    )
    name = _name(mine.number)
    if not store.create(name, mine.to_json()):
        after = _locks(store)
        _refuse_held(store, after)
        raise BusyError(f"Another run has just begun in {store}. Run again.")
    plain = isinstance(store.filesystem, AbstractFileSystem) and (
        type(store.filesystem).pipe_file is AbstractFileSystem.pipe_file  # looks first, and writes then
    )
    if plain or store.create(name, mine.to_json()):
        log.warning(
            "%s cannot create a file only where there is none: of two runs that begin there in the same "
            "moment, both may go on. Start one at a time.",
            store,
        )
    lock = StoreLock(store, mine)
    with lock:
        # Whoever has made a lock meanwhile sees this one, or is seen here.
        now_there = _locks(store)
        _refuse_held(store, [entry for entry in now_there if entry.owner != mine.owner])
        for entry in now_there:
            if entry.number < mine.number:
                with suppress(OutputError):
                    store.remove_file(_name(entry.number))
        yield lock.check


def _refuse_held(store: Store, locks: list[_Held]) -> None:
    """Refuse a folder that somebody holds.

    Raises:
        BusyError: somebody does.
    """
    for entry in locks:
        if not entry.is_over:
            raise BusyError(
                f"Another run is at work in {store}: {entry.shown or 'somebody'}, since "
                f"{entry.since_utc:%Y-%m-%d %H:%M} UTC. Wait for it or end it, or choose another --out. If "
                f"it has died, its lock {_name(entry.number)} expires at {entry.until_utc:%H:%M} UTC."
            )


def _locks(store: Store) -> list[_Held]:
    """The locks in a folder, by number."""
    found = []
    for name in store.names():
        if (match := _NAME.fullmatch(name)) and (content := store.read(name)) is not None:
            found.append(_Held.of(int(match[1]), content))
    return sorted(found, key=lambda entry: entry.number)


def _name(count: int) -> str:
    return f".lock-{count:06d}"


def _machine() -> str:
    """What tells processes with the same ids apart: the start of the system, and its space of process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""

"""IO: the ledger's tables and the database they lie in: SQLite, or PostgreSQL.

Only one transaction writes at a time: a write takes milliseconds, and the work between two writes takes
minutes. So what a writing transaction has read cannot change before it ends, and both databases behave the
same.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.pool import NullPool, Pool, StaticPool

from landuse.errors import LedgerError, UsageError
from landuse.redact import printable, redact
from landuse.workflows.nightly.ledger.records import SceneState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA_VERSION = 2
"""Raised whenever the tables change."""

URL_FORM = (
    "a SQLAlchemy URL, such as sqlite:////var/lib/landuse/ledger.sqlite or "
    "postgresql+psycopg://landuse:${LEDGER_PASSWORD}@db/landuse"
)
"""For messages: what to give."""

LOCK_SECONDS = 60
"""How long to wait for another writer; its writes take milliseconds."""

CONNECT_SECONDS = 15
"""How long to wait for a PostgreSQL server."""

_LOCK_KEY = 0x6C616E64
"""Names the writers' lock among the advisory locks of a PostgreSQL database: ``land`` in ASCII."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A time in UTC, aware of it on both sides; SQLite keeps none of the time zone."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """To the database: refuses a time that is not in UTC."""
        if value is None:
            return None
        if value.utcoffset() != UTC.utcoffset(None):
            raise ValueError(f"{value} is not in UTC")
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """From the database: PostgreSQL answers in the time zone of its session."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class Texts(sa.types.TypeDecorator[tuple[str, ...]]):
    """Some texts, kept as a JSON array."""

    impl = sa.JSON
    cache_ok = True

    def process_result_value(self, value: Sequence[str] | None, dialect: sa.Dialect) -> tuple[str, ...]:
        """From the database."""
        return tuple(value or ())


METADATA = sa.MetaData()
# A period is called a window in the names that outlive a release: those of these columns and indexes,
# the config's window_days, and the keys of the JSON that `nightly run` and `nightly status` print.

VERSION = sa.Table("landuse_ledger", METADATA, sa.Column("version", sa.Integer, primary_key=True))

AREAS = sa.Table(
    "areas",
    METADATA,
    sa.Column("area", sa.Text, primary_key=True),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("looked_utc", UtcDateTime, nullable=False),
)

SEARCHES = sa.Table(
    "searches",
    METADATA,
    sa.Column("area", sa.Text, primary_key=True),
    # Since when searches find nothing, and how many scenes they found before. Only such areas are here.
    sa.Column("empty_utc", UtcDateTime, nullable=False),
    sa.Column("lost", sa.Integer, nullable=False),
)

RECIPES = sa.Table(
    "recipes",
    METADATA,
    sa.Column("area", sa.Text, primary_key=True),
    sa.Column("recipe", sa.Text, primary_key=True),
    sa.Column("settings", sa.JSON, nullable=False),
    # Counts how often an area's recipe changed: the one with the highest turn is in force.
    sa.Column("turn", sa.Integer, nullable=False),
)

MAPS = sa.Table(
    "maps",
    METADATA,
    sa.Column("map_id", sa.Text, primary_key=True),
    sa.Column("area", sa.Text, nullable=False),
    sa.Column("window", sa.Text, key="period", nullable=False),
    sa.Column("window_days", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("created_utc", UtcDateTime, nullable=False),
    sa.Column("model_sha256", sa.Text, nullable=False),
    sa.Column("recipe", sa.Text, nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("scene_ids", Texts, nullable=False),
    sa.Column("valid", sa.Float, nullable=False),
    sa.Column("superseded_by", sa.Text, sa.ForeignKey("maps.map_id")),
    sa.Column("change_paths", Texts, nullable=False),
    sa.Index("maps_by_window", "area", "period"),
)

SCENES = sa.Table(
    "scenes",
    METADATA,
    sa.Column("area", sa.Text, primary_key=True),
    sa.Column("scene_id", sa.Text, primary_key=True),
    sa.Column("baseline", sa.Text, primary_key=True),
    sa.Column("recipe", sa.Text, primary_key=True),
    sa.Column("acquired_utc", UtcDateTime, nullable=False),
    sa.Column("window", sa.Text, key="period", nullable=False),
    sa.Column("acquisition", sa.Text, nullable=False),
    sa.Column(
        "state",
        sa.Enum(
            SceneState,
            native_enum=False,
            create_constraint=True,
            name="scene_state",
            values_callable=lambda states: [state.value for state in states],
        ),
        nullable=False,
    ),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("first_seen_utc", UtcDateTime, nullable=False),
    sa.Column("updated_utc", UtcDateTime, nullable=False),
    sa.Column("seconds", sa.Float),
    sa.Column("map_id", sa.Text, sa.ForeignKey("maps.map_id")),
    sa.Index("scenes_by_window", "area", "recipe", "period"),
)

LEASES = sa.Table(
    "leases",
    METADATA,
    sa.Column("area", sa.Text, primary_key=True),
    sa.Column("window", sa.Text, key="period", primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("expires_utc", UtcDateTime, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """A database with the ledger's tables. Between transactions it holds no connection."""

    engine: sa.Engine
    """Connects to it."""
    shown: str
    """Its URL without passwords, for messages."""

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A transaction that sees one state of the tables and waits for nobody.

        Raises:
            LedgerError: the database cannot be reached or read.
        """
        with self._explained(), self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A transaction that no other writer is beside; undone where the block raises.

        Raises:
            LedgerError: the database cannot be reached or written, or another writer stays too long.
        """
        with self._explained(), self.engine.connect() as connection:
            connection.execution_options(landuse_begin="BEGIN IMMEDIATE")
            with connection.begin():
                if self.engine.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK_KEY)))
                yield connection

    def version(self) -> int:
        """Which version of the tables is there; 0 for a database without any.

        Raises:
            LedgerError: the tables are of something else or of a newer version, or cannot be read.
        """
        with self.reading() as connection:
            return self._version(connection)

    def create_tables(self) -> None:
        """Make the tables that are not there, unless another run has just done so.

        Raises:
            LedgerError: they cannot be made.
        """
        if self.engine.dialect.name == "sqlite":
            self._use_wal()
        with self.writing() as connection:
            if self._version(connection) < SCHEMA_VERSION:
                METADATA.create_all(connection)  # version 2 has one table more than version 1
                connection.execute(sa.delete(VERSION))
                connection.execute(sa.insert(VERSION).values(version=SCHEMA_VERSION))

    def _version(self, connection: sa.Connection) -> int:
        there = set(sa.inspect(connection).get_table_names())
        if VERSION.name in there:
            version = connection.execute(sa.select(sa.func.max(VERSION.c.version))).scalar() or 0
            if version > SCHEMA_VERSION:
                raise LedgerError(
                    f"Ledger {self.shown} has version {version}, and this landuse knows {SCHEMA_VERSION}. "
                    "Install the release that wrote it, or name another database as ledger."
                )
            return version
        # A PostgreSQL database may well be shared; a file with other tables is another program's.
        foreign = there if self.engine.dialect.name == "sqlite" else there & set(METADATA.tables)
        if foreign:
            raise LedgerError(
                f"{self.shown} is no ledger: it holds {', '.join(map(repr, sorted(foreign)[:5]))} of another "
                "program. Name a database of its own as ledger."
            )
        return 0

    def _use_wal(self) -> None:
        """Let readers and a writer not wait for each other. Where a file system cannot, they wait."""
        until = time.monotonic() + LOCK_SECONDS
        with self._explained():
            while True:
                try:
                    with self.engine.connect() as connection:
                        connection.execution_options(landuse_begin="")
                        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                    return
                except OperationalError:
                    # SQLite does not wait by itself here, when two runs make one ledger.
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.01)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            cause = printable(redact(str(error.orig).strip().partition("\n")[0])).rstrip(".")
            raise LedgerError(
                f"Ledger {self.shown} cannot be used ({cause}). See that its folder or server is there, "
                "reachable and writable, and that no other program holds it."
            ) from error


@contextmanager
def open_database(url: str, *, create: bool) -> Iterator[Database]:
    """The ledger's database at an SQLAlchemy URL.

    Args:
        url: such as ``sqlite:////srv/maps/ledger.sqlite`` or ``postgresql://user:password@host/name``. A
            file has to be on a disk of this machine: SQLite's locks do not hold across a network.
        create: make the tables where there are none. Without it such a ledger reads as an empty one, and
            what is written to it is forgotten.

    Raises:
        UsageError: the URL is malformed, of an unknown kind, or its driver is not installed.
        LedgerError: the database cannot be reached, or is no ledger.
    """
    try:
        parsed = parse_url(url)
    except UsageError as error:
        raise UsageError(f"ledger: {error}") from None
    is_file = parsed.get_backend_name() == "sqlite"
    shown = str(parsed.database) if is_file else _without_secrets(parsed)
    if create or not is_file or Path(shown).exists():
        if is_file and not create:
            parsed = _readable(parsed, Path(shown))
        with _connected(parsed, shown) as database:
            version = database.version()
            if create and version < SCHEMA_VERSION:
                database.create_tables()
            elif 0 < version < SCHEMA_VERSION:
                raise LedgerError(
                    f"Ledger {shown} has version {version}; this landuse knows {SCHEMA_VERSION}. "
                    "`landuse nightly run` brings it up to that."
                )
            if create or version:
                yield database
                return
    with _connected(sa.make_url("sqlite://"), shown, StaticPool) as empty:
        empty.create_tables()
        yield empty


def _readable(url: sa.URL, path: Path) -> sa.URL:
    """The URL of a ledger's file for one who may not write beside it.

    SQLite makes files there even to read. Where another process has made them they can be used; without
    them nothing is being written, and the file can be read as one that nobody changes.
    """
    if os.access(path.absolute().parent, os.W_OK) or Path(f"{path}-wal").exists():
        return url
    return url.set(database=path.absolute().as_uri()).update_query_dict({"immutable": "1", "uri": "true"})


def _without_secrets(url: sa.URL) -> str:
    return str(sa.URL.create("postgresql", host=url.host, port=url.port, database=url.database))


def parse_url(url: str) -> sa.URL:
    """The SQLAlchemy URL of a ledger, with the driver that landuse uses.

    Raises:
        UsageError: it is malformed, of an unknown kind, or of a database that is forgotten. The message
            never quotes it: it may hold a password.
    """
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        raise UsageError(f"this is no URL of a database. Give {URL_FORM}.") from None
    kind = parsed.get_backend_name()
    if "@" in (parsed.host or ""):
        raise UsageError("an @ in its password ends the password. Write %40 in its place.")
    if kind not in ("sqlite", "postgresql"):
        raise UsageError(f"{kind!r} is no database for a ledger. Give {URL_FORM}.")
    if kind == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.database in (None, "", ":memory:"):
        raise UsageError(f"a database in memory is forgotten when the run ends. Give {URL_FORM}.")
    return parsed.set(drivername="sqlite")


@contextmanager
def _connected(url: sa.URL, shown: str, pool: type[Pool] = NullPool) -> Iterator[Database]:
    is_file = url.get_backend_name() == "sqlite"
    patience = {"timeout": LOCK_SECONDS} if is_file else {"connect_timeout": CONNECT_SECONDS}
    try:
        engine = sa.create_engine(url, poolclass=pool, hide_parameters=True, connect_args=patience)
    except (ImportError, NoSuchModuleError) as error:
        raise UsageError(
            f"ledger: {shown!r} needs psycopg ({error}). Install it: pip install 'landuse[postgres]'."
        ) from error
    if is_file:
        _own_transactions(engine)
    try:
        yield Database(engine=engine, shown=shown)
    finally:
        engine.dispose()


def _own_transactions(engine: sa.Engine) -> None:
    """Have SQLite begin transactions where SQLAlchemy does, and a writing one with the lock in hand.

    Python's module would begin at the first write: after a read that another writer then makes stale.
    """

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
        connection.isolation_level = None
        connection.cursor().execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        begin = connection.get_execution_options().get("landuse_begin", "BEGIN")
        if begin:
            connection.exec_driver_sql(begin)

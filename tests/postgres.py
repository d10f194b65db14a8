"""A real PostgreSQL server for tests, of the programs that Debian's package ``postgresql`` brings."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

START_SECONDS = 60.0
PASSWORD = "not-to-be-shown"

_names = count()


@dataclass(frozen=True)
class PostgresServer:
    """A server that listens on a socket in a folder of its own."""

    folder: Path
    port: int

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database, with the password in it."""
        return f"postgresql://landuse:{PASSWORD}@/{database}?host={self.folder}&port={self.port}"

    def connect(self, database: str) -> psycopg.Connection:
        """A connection that commits each statement."""
        return psycopg.connect(
            host=str(self.folder),
            port=self.port,
            user="landuse",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
        )

    def new_database(self) -> str:
        """Name of an empty database."""
        name = f"test_{next(_names)}"
        with self.connect("postgres") as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return name


def programs() -> Path | None:
    """The folder with ``initdb`` and ``postgres``, of the newest version there is."""
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")  # Debian keeps them out of the PATH
    newest = max(versions, key=lambda path: int(path.parents[1].name), default=None)
    found = newest or shutil.which("initdb")
    return Path(found).resolve().parent if found is not None else None


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server and stop it; the test is skipped where none is installed, but in the CI."""
    bin_folder = programs()
    if bin_folder is None:
        reason = "needs a PostgreSQL server (Debian: apt install postgresql)"
        if os.environ.get("CI", "").lower() in ("true", "1"):
            pytest.fail(f"{reason}, and CI=true forbids the skip")
        pytest.skip(reason)
    # Not in pytest's folder: a socket's path has to be short, and the server's user to reach it.
    folder = Path(tempfile.mkdtemp(prefix="landuse-pg-"))
    try:
        yield from _started(bin_folder, folder)
    finally:
        shutil.rmtree(folder)


def _started(bin_folder: Path, folder: Path) -> Iterator[PostgresServer]:
    runs_as: dict[str, Any] = {}
    if os.getuid() == 0:  # the server refuses to run as root
        account = pwd.getpwnam("postgres")
        os.chown(folder, account.pw_uid, account.pw_gid)
        runs_as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    data, password = folder / "data", folder / "password"
    password.write_text(PASSWORD, "utf-8")
    password.chmod(0o644)  # the folder is closed to others
    subprocess.run(
        [
            *(bin_folder / "initdb", "--pgdata", data, "--username", "landuse", "--pwfile", password),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
        ],
        check=True,
        capture_output=True,
        cwd=folder,
        **runs_as,
    )
    server = PostgresServer(folder=folder, port=_free_port())
    options = {
        "port": server.port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": "off",
        "full_page_writes": "off",
        "timezone": "America/St_Johns",  # whoever forgets the time zone is found out
    }
    settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [bin_folder / "postgres", "-D", data, *settings], stdout=log, stderr=log, cwd=folder, **runs_as
        )
    try:
        _await(server, process)
        yield server
    finally:
        process.send_signal(signal.SIGINT)  # sessions are ended, not waited for
        process.wait(START_SECONDS)


def _await(server: PostgresServer, process: subprocess.Popen) -> None:
    until = time.monotonic() + START_SECONDS
    while True:
        try:
            server.connect("postgres").close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > until:
                text = (server.folder / "log").read_text("utf-8", "replace")
                raise RuntimeError(f"PostgreSQL did not start: {text}") from error
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

"""The ledger's tables, as they lie in databases that exist: any change of them needs a new SCHEMA_VERSION.

Oracle: the committed text of the tables' DDL. For SQLite it is what the database itself keeps of it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateIndex, CreateTable

from landuse.workflows.nightly.ledger.ledger import Ledger
from landuse.workflows.nightly.ledger.schema import METADATA, SCHEMA_VERSION

FOLDER = Path(__file__).parent


def lines_of(text):
    """The lines of DDL without the space at their ends, which is of no account."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def test_the_tables_in_sqlite_are_those_of_the_committed_text(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger.at(f"sqlite:///{path}"), closing(sqlite3.connect(path)) as other:
        made = [
            sql for (sql,) in other.execute("SELECT sql FROM sqlite_master WHERE sql != '' ORDER BY name")
        ]
        assert other.execute("SELECT version FROM landuse_ledger").fetchall() == [(2,)]
    assert lines_of("\n".join(made)) == lines_of((FOLDER / "schema-sqlite.sql").read_text("utf-8"))
    assert SCHEMA_VERSION == 2


def test_the_tables_in_postgresql_are_those_of_the_committed_text():
    dialect = postgresql.dialect()
    made = []
    for table in sorted(METADATA.tables.values(), key=lambda table: table.name):
        made.append(str(CreateTable(table).compile(dialect=dialect)))
        made += [str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes]
    assert lines_of("\n".join(made)) == lines_of((FOLDER / "schema-postgresql.sql").read_text("utf-8"))

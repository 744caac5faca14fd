"""Revisions of the database's tables: our newest one, and that of a file."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from .outage import address

MIGRATIONS = Path(__file__).with_name("migrations")
BASE = "0021"  # the oldest revision that can be upgraded
# What a database of an older one needs, which only a checkout ever made.
UPGRADE_FIRST = "start slotproxy 0.1 (its last commit is 304cf8db) on it once, which upgrades it"


def newest_revision() -> str:
    """Return our newest migration: file names begin with increasing numbers."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def revision_of(connection: sqlite3.Connection) -> str:
    """Return the revision of the tables; "" if there are none, or if they have no revision."""
    try:
        row = connection.execute("select version_num from alembic_version").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_ERROR":  # "no such table"
            raise
        return ""
    return str(row[0]) if row else ""


def revision_of_file(file: Path, patience: float) -> str:
    """Return the revision of an existing file, which stays as it is. Raises sqlite3.Error if it is
    no database, cannot be written, or is locked for `patience` seconds."""
    with closing(
        sqlite3.connect(address(str(file)), timeout=patience, uri=True, isolation_level=None)
    ) as connection:
        connection.execute("begin immediate")  # as a gateway that wants to write
        try:
            return revision_of(connection)
        finally:
            connection.execute("rollback")

"""Revisions of the database's tables: our newest one, and that of a file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from .outage import address

# The statements that turn the tables of the revision before into those of this one. They may be
# interrupted, so they can run again. The first revision is the oldest that can be upgraded.
STEPS: dict[str, Sequence[str]] = {
    "0021": (),
    "0022": ("drop table if exists text_vector",),
    "0023": (
        "create table if not exists shared_conversation (id varchar not null primary key,"
        " owner varchar not null, conversation_id varchar not null references conversation (id)"
        " on delete cascade, created float not null, title text not null, messages json not null,"
        " size bigint not null)",
        "create index if not exists ix_shared_conversation_owner on shared_conversation (owner)",
        "create index if not exists ix_shared_conversation_conversation_id"
        " on shared_conversation (conversation_id)",
    ),
    "0024": (
        "create table if not exists ledger_measure (width bigint not null, at bigint not null,"
        " name varchar not null, bucket integer not null, count bigint not null,"
        " primary key (width, at, name, bucket))",
    ),
    "0025": ("alter table ledger_row add column tags varchar not null default ''",),
    "0026": ("alter table ledger_row drop column blocks",),
    "0027": ("drop table if exists account_team_member", "drop table if exists feedback"),
}
BASE, NEWEST = min(STEPS), max(STEPS)
# What a database of an older one needs, which only a checkout ever made.
UPGRADE_FIRST = "start slotproxy 0.1 (its last commit is 304cf8db) on it once, which upgrades it"


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

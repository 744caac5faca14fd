"""What ``slotproxy doctor`` finds out about stored data: the folder, the database and Redis."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from ..config import Settings
from ..errors import StoreUnavailable
from ..scheduling.shared.log import LogError, RedisLog
from ..store.revisions import newest_revision, revision_of_file
from .data_folder import database_file, folder_of
from .findings import Finding, of_space, of_tables
from .storage import NEEDED, are_installed

PATIENCE = 2.0  # seconds to wait for another writer; a gateway's are done in milliseconds


def examine(settings: Settings) -> Iterator[Finding]:
    folder = folder_of(settings)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = os.access(existing, os.W_OK | os.X_OK)
    yield of_space(str(folder), shutil.disk_usage(existing).free if writable else None)
    file = database_file(settings)
    if file is None:
        yield _server(settings.database)
    elif file.exists() and are_installed(NEEDED):
        yield _file(file)
    if settings.state:
        yield _shared_state(settings)


def _file(file: Path) -> Finding:
    """SQLite's file. It is only looked at, as a gateway may be using it."""
    try:
        revision = revision_of_file(file, PATIENCE)
    except sqlite3.Error as error:
        locked = error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
        remedy = (
            "end the program that keeps it locked"
            if locked
            else ("if it is damaged, stop slotproxy and use a backup: slotproxy restore FILE")
        )
        return Finding("problem", "database", f"{file} cannot be used: {error}", remedy)
    return of_tables("SQLite", revision, newest_revision(), "slotproxy backup FILE")


def _server(url: str) -> Finding:
    kind = url.partition(":")[0]
    try:
        from ..store.database import Database

        database = Database(url)
        try:
            revision = database.revision()
        finally:
            database.close()
    except ImportError:
        return Finding("problem", "database", "not installed", "pip install slotproxy[postgres]")
    except StoreUnavailable as error:
        return _away(kind, error.detail)
    except Exception as error:
        # Whatever a driver raises; its message may have the password, its type has not.
        return _away(kind, type(error).__name__)
    return of_tables(kind, revision, newest_revision(), "pg_dump")


def _away(kind: str, reason: str) -> Finding:
    remedy = "start it, or correct --database"
    return Finding("problem", "database", f"{kind} cannot be reached: {reason}", remedy)


def _shared_state(settings: Settings) -> Finding:
    try:
        RedisLog(settings.state, settings.state_name).ping()
    except ImportError:
        return Finding("problem", "state", "not installed", "pip install slotproxy[redis]")
    except (LogError, ValueError) as error:
        return Finding("problem", "state", str(error), "start Redis, or correct --state")
    return Finding("ok", "state", "Redis answers")

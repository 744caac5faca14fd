"""Maps errors of a database that is unavailable to the error that a client reads.

All code that talks to a database passes its errors to `outage`. A file that is locked, full,
missing or read-only, a server that is silent, starting or out of resources: all of these become
StoreUnavailable, a 503 in every dialect. Anything else (a wrong statement, say) is a defect of ours
and stays one. The log gets the reason, without statements and values.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import StoreUnavailable

MESSAGE = "what the gateway stores cannot be reached at the moment: try again"
RETRY_AFTER = 2.0  # seconds
QUIET = 60.0  # seconds in which the same reason is not logged again
SHOWN = 200  # characters of a reason
# SQLite's primary result codes (https://sqlite.org/rescode.html): PERM, BUSY, LOCKED, NOMEM,
# READONLY, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOLFS, AUTH, NOTADB.
SQLITE = frozenset({3, 5, 6, 7, 8, 10, 11, 13, 14, 15, 22, 23, 26})
# PostgreSQL's (https://www.postgresql.org/docs/current/errcodes-appendix.html): classes of
# connections, read-only servers, authorization, a database that is not there, conflicts, resources,
# locks, operators, the system and its own failures.
POSTGRES = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX"})
NO_PRIVILEGE = "42501"

log = logging.getLogger("slotproxy.store")
_logged: dict[str, float] = {}


def outage(error: BaseException | None) -> StoreUnavailable | None:
    """The client's error for this one of sqlite3, apsw, psycopg or the system; None if it says
    nothing about the database's health."""
    return unavailable(reason_of(error)) if error is not None and _is_outage(error) else None


def unavailable(reason: str) -> StoreUnavailable:
    """The database cannot be used, for this reason, which only the log gets."""
    now = time.monotonic()
    if now - _logged.get(reason, -QUIET) >= QUIET:
        if len(_logged) > 100:
            _logged.clear()
        _logged[reason] = now
        log.error("the database cannot be used: %s", reason)
    return StoreUnavailable(MESSAGE, retry_after=RETRY_AFTER, detail=reason)


def identity(file: str) -> tuple[int, int]:
    """Of the file under this name; (0, 0) where there is none. A connection to a file that was
    moved away or replaced would go on writing the old one."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


def address(file: str) -> str:
    """The URI with which SQLite opens a file that is there, and makes none: the file may be on a
    disk that is not mounted just now."""
    return f"{Path(file).absolute().as_uri()}?mode=rw"


def _is_outage(error: BaseException) -> bool:
    code: Any = getattr(error, "sqlite_errorcode", None)  # sqlite3's
    if code is None:
        code = getattr(error, "result", None)  # apsw's
    if isinstance(code, int):
        return code & 0xFF in SQLITE
    psycopg = sys.modules.get("psycopg")
    if psycopg is None or not isinstance(error, psycopg.Error):
        return isinstance(error, OSError)
    state = error.sqlstate
    if state is None:  # it is not from the server, but about the connection
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in POSTGRES or state == NO_PRIVILEGE


def reason_of(error: BaseException) -> str:
    """One line. (What follows the first may show a statement, or values.)"""
    first = str(error).strip().partition("\n")[0][:SHOWN]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__

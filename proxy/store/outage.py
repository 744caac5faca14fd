"""Maps database errors that mean "unavailable" (a locked, full or missing file, a silent server) to
a 503, StoreUnavailable. Others are bugs. The log gets the reason, without statements and values.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..errors import StoreUnavailable

MESSAGE = "the gateway's data store is temporarily unavailable: retry later"
RETRY_AFTER = 2.0  # seconds
QUIET = 60.0  # seconds until the same reason is logged again
SHOWN = 200  # characters of a reason
# SQLite's primary result codes (https://sqlite.org/rescode.html): PERM, BUSY, LOCKED, NOMEM,
# READONLY, IOERR, CORRUPT, FULL, CANTOPEN, PROTOCOL, NOLFS, AUTH, NOTADB.
SQLITE = frozenset({3, 5, 6, 7, 8, 10, 11, 13, 14, 15, 22, 23, 26})
# Classes of PostgreSQL's error codes
# (https://www.postgresql.org/docs/current/errcodes-appendix.html): connections, read-only servers,
# authorization, missing databases, conflicts, resources, locks, operator intervention, system
# errors and internal errors.
POSTGRES = frozenset({"08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX"})
NO_PRIVILEGE = "42501"

PATIENCE = 600.0  # seconds until a result that is stored nowhere else is given up
PAUSE = 1.0  # seconds between two attempts to store it

T = TypeVar("T")
log = logging.getLogger("slotproxy.store")
_logged: dict[str, float] = {}


def outage(error: BaseException | None) -> StoreUnavailable | None:
    """Return the client's error for one of sqlite3, apsw, psycopg or the system; None for a bug."""
    return unavailable(reason_of(error)) if error is not None and _is_outage(error) else None


def unavailable(reason: str) -> StoreUnavailable:
    """Return the error for an unavailable database; only the log gets the reason."""
    now = time.monotonic()
    if now - _logged.get(reason, -QUIET) >= QUIET:
        if len(_logged) > 100:
            _logged.clear()
        _logged[reason] = now
        log.error("the database is unavailable: %s", reason)
    return StoreUnavailable(MESSAGE, retry_after=RETRY_AFTER, detail=reason)


def identity(file: str) -> tuple[int, int]:
    """Return the identity of a file, (0, 0) if there is none: it may be moved or replaced."""
    try:
        status = os.stat(file)
    except OSError:
        return 0, 0
    return status.st_dev, status.st_ino


def address(file: str) -> str:
    """Return the URI with which SQLite creates no file: its disk may not be mounted."""
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
    if state is None:  # an error of the connection, not from the server
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return state[:2] in POSTGRES or state == NO_PRIVILEGE


def reason_of(error: BaseException) -> str:
    """Return the first line of the error; other lines may contain statements or values."""
    first = str(error).strip().partition("\n")[0][:SHOWN]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def retry_while_unavailable(
    work: Callable[[], T],
    *,
    patience: float = PATIENCE,
    pause: float = PAUSE,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Call `work` until the database is available or `patience` seconds are over."""
    deadline = clock() + patience
    while True:
        try:
            return work()
        except StoreUnavailable:
            if clock() >= deadline:
                raise
        sleep(pause)

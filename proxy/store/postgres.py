"""PostgreSQL through psycopg 3. Text has no NUL there: it is kept, and searched for, as U+FFFD."""

from __future__ import annotations

from functools import cache
from typing import Any

CONNECTING = 5  # seconds
# Parameters of a connection unless its address sets them. A stopped machine or a cut network does
# not close connections: the last four let the system find out within some ten seconds.
DEFAULTS = {
    "connect_timeout": CONNECTING,
    "keepalives_idle": 5,  # seconds
    "keepalives_interval": 2,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
}


def prepare(connection: Any, record: object) -> None:
    """Prepare a new psycopg connection; for SQLAlchemy's event `connect`."""
    for dumper in _dumpers():
        connection.adapters.register_dumper(str, dumper)


@cache
def _dumpers() -> tuple[type[Any], ...]:
    """Return the dumpers for str; the last is the default, as in psycopg."""
    from psycopg.types import string  # deferred: needed only with PostgreSQL

    class Binary(string.StrBinaryDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    class Text(string.StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    return Binary, Text

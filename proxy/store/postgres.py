"""PostgreSQL has no NUL in its texts. JSON may hold one, and so may an address or what a model
writes: it is kept, and looked for, as U+FFFD.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def prepare(connection: Any, record: object) -> None:
    """A new connection of psycopg's, as SQLAlchemy's event `connect` gives it."""
    for dumper in _dumpers():
        connection.adapters.register_dumper(str, dumper)


@cache
def _dumpers() -> tuple[type[Any], ...]:
    """The last is the default, as with psycopg's own."""
    from psycopg.types import string  # late: only where there is a PostgreSQL

    class Binary(string.StrBinaryDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    class Text(string.StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    return Binary, Text

"""PostgreSQL by psycopg 3, which lets other greenlets run while it waits.

A server that does not answer: a stopped machine, or a cut network, ends no connection. Where a
statement is silent for SILENCE seconds, the server is asked for another connection. If it gives one
it is at work, however long that takes; else the statement fails.

PostgreSQL has no NUL in its texts. JSON may hold one, and so may an address or what a model writes:
it is kept, and looked for, as U+FFFD.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from functools import cache
from typing import Any

SILENCE = 10.0  # seconds
CONNECTING = 5  # seconds
# Unless the address says otherwise. The last two are for a network that was cut.
DEFAULTS = {
    "connect_timeout": CONNECTING,
    "keepalives_idle": 30,
    "tcp_user_timeout": 30_000,
}


def connect(_: object, __: object, args: Sequence[Any], options: dict[str, Any]) -> Any:
    """A connection that ends with its server, as SQLAlchemy's event `do_connect` wants it."""
    return _watched().connect(*args, **{**DEFAULTS, **options})


def prepare(connection: Any, record: object) -> None:
    """A new connection of psycopg's, as SQLAlchemy's event `connect` gives it."""
    for dumper in _dumpers():
        connection.adapters.register_dumper(str, dumper)


@cache
def _watched() -> Any:
    import psycopg  # late: only where there is a PostgreSQL

    class Watched(psycopg.Connection[Any]):
        _again: dict[str, Any]  # how to reach its server

        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> Any:
            made = super().connect(conninfo, **options)
            made._again = {"conninfo": conninfo, **options, "connect_timeout": CONNECTING}
            return made

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return super().wait(self._heard(gen), *args, **options)

        def _heard(self, gen: Any) -> Generator[Any, Any, Any]:
            """The generator of psycopg's, which is sent a 0 each tenth of a second of silence."""
            heard = time.monotonic()
            try:
                wanted = next(gen)
                while True:
                    ready = yield wanted
                    if ready:
                        heard = time.monotonic()
                    elif time.monotonic() - heard > SILENCE:
                        if not self._server_answers():
                            self.pgconn.finish()
                            raise psycopg.OperationalError("the server does not answer")
                        heard = time.monotonic()
                    wanted = gen.send(ready)
            except StopIteration as over:
                return over.value

        def _server_answers(self) -> bool:
            try:
                psycopg.connect(**self._again).close()
            except psycopg.Error as error:
                return "FATAL" in str(error)  # it refuses, so it is there
            return True

    return Watched


@cache
def _dumpers() -> tuple[type[Any], ...]:
    """The last is the default, as with psycopg's own."""
    from psycopg.types import string

    class Binary(string.StrBinaryDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    class Text(string.StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    return Binary, Text

"""PostgreSQL through psycopg 3, which lets other greenlets run while it waits.

A stopped machine or a cut network does not close connections. So if a statement is silent for
SILENCE seconds, another connection to the server is tried. If that works, the server is alive and
the statement may take as long as it needs; otherwise the statement fails.

PostgreSQL does not allow NUL in text, but JSON, addresses and model output may contain it. NUL is
stored, and searched for, as U+FFFD.
"""

from __future__ import annotations

import _socket
import time
from collections.abc import Generator, Mapping, Sequence
from functools import cache, partial
from ipaddress import ip_address
from typing import Any

from ..runtime.blocking import NativeThreads, run_in_native_thread

# Looks up the addresses of PostgreSQL hosts in threads of its own, with a deadline.
#
# psycopg would look them up in the ten native threads that serve all blocking calls, without
# counting the time towards its connect_timeout: a silent name server would block all of them.
_threads = NativeThreads(2)


def with_addresses(options: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Return the connection options with `hostaddr` for host names. Raises OSError: a TimeoutError
    after `timeout` seconds."""
    hosts = str(options.get("host") or "").split(",")
    if "hostaddr" in options or not all(map(_is_name, hosts)):
        return dict(options)  # psycopg uses addresses and sockets unchanged
    ports = str(options.get("port") or "").split(",")
    if len(ports) != len(hosts):
        ports = ports[:1] * len(hosts)
    end = time.monotonic() + timeout
    located_hosts: list[tuple[str, str, str]] = []
    failure: OSError | None = None
    for host, port in zip(hosts, ports, strict=True):
        try:
            seconds = max(end - time.monotonic(), 0.01)
            addresses = run_in_native_thread(partial(_addresses, host), _threads, timeout=seconds)
            located_hosts += [(host, address, port) for address in addresses]
        except OSError as error:
            failure = error
    if failure is not None and not located_hosts:
        raise failure
    columns = (",".join(column) for column in zip(*located_hosts, strict=True))
    located = dict(zip(("host", "hostaddr", "port"), columns, strict=True))
    if not options.get("port"):
        del located["port"]  # the port may come from the environment
    return {**options, **located}


def _is_name(host: str) -> bool:
    if not host or host.startswith(("/", "@")):
        return False
    try:
        ip_address(host)
    except ValueError:
        return True
    return False


def _addresses(host: str) -> list[str]:
    answers = _socket.getaddrinfo(host, None, 0, _socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in answers]


SILENCE = 10.0  # seconds
CONNECTING = 5  # seconds
# Defaults for the database address. The last two detect a cut network.
DEFAULTS = {
    "connect_timeout": CONNECTING,
    "keepalives_idle": 30,
    "tcp_user_timeout": 30_000,
}


def connect(_: object, __: object, args: Sequence[Any], options: dict[str, Any]) -> Any:
    """Open a connection that fails when its server dies; for SQLAlchemy's event `do_connect`."""
    return _watched().connect(*args, **{**DEFAULTS, **options})


def prepare(connection: Any, record: object) -> None:
    """Prepare a new psycopg connection; for SQLAlchemy's event `connect`."""
    for dumper in _dumpers():
        connection.adapters.register_dumper(str, dumper)


@cache
def _watched() -> Any:
    import psycopg  # deferred: needed only with PostgreSQL

    class Watched(psycopg.Connection[Any]):
        _again: dict[str, Any]  # options to connect to its server

        @classmethod
        def connect(cls, conninfo: str = "", **options: Any) -> Any:
            try:
                options = with_addresses(options, CONNECTING)
            except OSError as error:
                raise psycopg.OperationalError(f"looking up the host: {error}") from error
            made = super().connect(conninfo, **options)
            made._again = {"conninfo": conninfo, **options, "connect_timeout": CONNECTING}
            return made

        def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
            return super().wait(self._heard(gen), *args, **options)

        def _heard(self, gen: Any) -> Generator[Any, Any, Any]:
            """Wrap psycopg's generator, which is sent a 0 every tenth of a second of silence."""
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
                            raise psycopg.OperationalError("the server is not responding")
                        heard = time.monotonic()
                    wanted = gen.send(ready)
            except StopIteration as over:
                return over.value

        def _server_answers(self) -> bool:
            try:
                psycopg.connect(**self._again).close()
            except psycopg.Error as error:
                return "FATAL" in str(error)  # the server refuses, so it is alive
            return True

    return Watched


@cache
def _dumpers() -> tuple[type[Any], ...]:
    """Return the dumpers for str; the last is the default, as in psycopg."""
    from psycopg.types import string

    class Binary(string.StrBinaryDumper):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    class Text(string.StrDumperUnknown):
        def dump(self, obj: str) -> Any:
            return super().dump(obj.replace("\0", "\ufffd"))

    return Binary, Text

"""The socket of a client under gevent's worker."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gevent
from gevent import socket

from proxy.gevent_worker import _Wire
from proxy.http1 import Connection, base_environ

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


def served(client: Any, *parts: bytes) -> tuple[Any, _Wire]:
    """A connection that answers with `parts`, and what it is served by."""

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [("Content-Length", str(sum(map(len, parts))))])
        return parts

    wire = _Wire(client)
    connection = Connection(wire, app, base_environ(client, ("h", 1), ("c", 2)))
    return gevent.spawn(connection.serve, lambda: False), wire


def test_requests_are_waited_for_one_after_the_other() -> None:
    ours, theirs = socket.socketpair()
    serving, wire = served(ours, b"answer")
    for _ in range(3):
        theirs.sendall(GET)
        seen = b""
        while not seen.endswith(b"answer"):
            seen += theirs.recv(65536)
        assert seen.count(b"HTTP/1.1 200 OK") == 1
    assert not serving.ready()
    theirs.close()
    serving.get(timeout=10)
    wire.close()
    ours.close()


def test_a_client_that_reads_late_gets_all_of_it() -> None:
    ours, theirs = socket.socketpair()
    parts = [bytes([number]) * 300_000 for number in range(10)]
    serving, wire = served(ours, *parts)
    theirs.sendall(GET)
    gevent.sleep(0.05)  # all buffers are full
    seen = b""
    while len(seen) < 3_000_000 or not seen.endswith(parts[-1]):
        seen += theirs.recv(1 << 20)
    assert seen.endswith(b"\r\n\r\n" + b"".join(parts))
    theirs.close()
    serving.get(timeout=10)
    wire.close()
    ours.close()

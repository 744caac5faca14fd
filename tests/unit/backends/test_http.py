"""The upstream client against a server that does everything wrong."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from proxy.backends.connections import ConnectionLimit
from proxy.backends.http import PIECE, ConnectionPool
from proxy.errors import (
    AnswerCut,
    BackendDown,
    Cancelled,
    ConnectionLost,
    GatewayStopping,
    PoolTimeout,
    UpstreamFault,
    UpstreamTimeout,
)
from proxy.runtime.cancel import Cancel

from .rawserver import LAST_CHUNK, RawServer, Step, chunk, hang_up, head, reset

OK = head(2) + b"ok"


@contextlib.contextmanager
def serving(*scripts: Any, **options: Any) -> Iterator[tuple[ConnectionPool, RawServer]]:
    """Connections to a server that plays these scripts."""
    with RawServer(*scripts) as server:
        pool = ConnectionPool(server.url, timeout=60, connect_timeout=20, **options)
        try:
            yield pool, server
        finally:
            pool.close()


def then_closes(data: bytes) -> Step:
    def play(sock: socket.socket) -> None:
        sock.sendall(data)
        sock.close()

    return play


def test_connection_is_kept_and_reused() -> None:
    with serving([OK, OK, OK]) as (pool, server):
        assert [pool.ask("POST", "/x", {"a": 1}) for _ in range(3)] == [(200, b"ok")] * 3
    assert all(b'{"a":1}' in request for request in server.requests)


def test_stale_kept_connection_is_replaced_silently() -> None:
    """server.cpp closes a connection after some requests, without notice."""
    with serving([OK, hang_up], [OK]) as (pool, _):
        assert pool.ask("POST", "/x", {}) == (200, b"ok")
        assert pool.ask("POST", "/x", {}) == (200, b"ok")


@pytest.mark.parametrize("fault", [hang_up, reset])
def test_new_connection_closed_before_first_byte_means_backend_down(fault: Step) -> None:
    with serving([fault]) as (pool, _), pytest.raises(ConnectionLost):
        pool.ask("POST", "/x", {})


GARBLED = (b"no http at all\r\n\r\n", head(None) + b"zz\r\n")


@pytest.mark.parametrize(
    "answer", [*GARBLED, head(10) + b"short", head(None) + chunk(b"data") + b"5\r\nda"]
)
def test_truncated_or_garbled_answer_is_upstream_fault(answer: bytes) -> None:
    with serving([then_closes(answer)]) as (pool, _), pytest.raises(UpstreamFault) as caught:
        pool.ask("POST", "/x", {})
    assert not isinstance(caught.value, BackendDown)
    assert isinstance(caught.value, AnswerCut) == (answer not in GARBLED)
    assert "127.0.0.1" not in caught.value.message


def test_body_without_length_ends_with_the_connection() -> None:
    with serving([then_closes(b"HTTP/1.0 200 OK\r\n\r\nwhole")]) as (pool, _):
        assert pool.ask("GET", "/x") == (200, b"whole")


def test_chunks_arrive_as_sent_with_ticks_during_silence() -> None:
    go_on = threading.Event()

    def play(sock: socket.socket) -> None:
        sock.sendall(head(None) + chunk(b"one"))
        go_on.wait(60)
        sock.sendall(chunk(b"two") + LAST_CHUNK)

    with serving([play]) as (pool, _):
        exchange = pool.send("POST", "/x", {}, tick=0.05)
        first = exchange.read()
        while first is None:
            first = exchange.read()
        assert first == b"one"
        assert exchange.read() is None
        go_on.set()
        assert exchange.read() in (b"two", None)
        exchange.close()


def test_silence_beyond_timeout_raises_timeout() -> None:
    over = threading.Event()

    def silent(sock: socket.socket) -> None:
        over.wait(60)

    with serving([silent]) as (pool, _):
        with pytest.raises(UpstreamTimeout):
            pool.ask("POST", "/x", {}, timeout=0.1)
        over.set()


def test_cancel_from_another_thread_wakes_blocked_read() -> None:
    asked = threading.Event()

    def play(sock: socket.socket) -> None:
        asked.set()

    with serving([play]) as (pool, server):
        cancel = Cancel()
        exchange = pool.send("POST", "/x", {}, cancel, tick=5)
        asked.wait(60)
        threading.Thread(target=cancel.cancel).start()
        with pytest.raises(Cancelled):
            exchange.read()
        exchange.close()
        assert server.closed[0].wait(60), "the server never learned of it"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the connect ends by its timeout")
def test_cancel_ends_a_connect() -> None:
    with socket.socket() as full, ThreadPoolExecutor(1) as threads:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        before = [socket.socket() for _ in range(4)]
        for sock in before:  # the backlog is full: the next connect gets no answer
            sock.setblocking(False)
            sock.connect_ex(full.getsockname())
        pool = ConnectionPool(f"http://127.0.0.1:{full.getsockname()[1]}", connect_timeout=60)
        cancel = Cancel()
        waits = threads.submit(pool.ask, "POST", "/x", {}, 60.0, cancel)
        time.sleep(0.3)
        assert not waits.done(), "the system accepts more connections than asked for"
        cancel.cancel()
        with pytest.raises(Cancelled):
            waits.result(10)
        for sock in before:
            sock.close()


def test_cancel_ends_the_sending_of_a_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor(1) as threads:
        pool = ConnectionPool(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=60)
        cancel = Cancel()
        waits = threads.submit(pool.ask, "POST", "/x", "x" * (32 << 20), 60.0, cancel)
        time.sleep(0.5)  # nobody reads: the buffers are full, and it still sends
        assert not waits.done()
        cancel.cancel()
        with pytest.raises(Cancelled):
            waits.result(10)


def test_error_says_why_a_request_was_cancelled() -> None:
    with serving([head(None) + chunk(b"one")]) as (pool, _):
        cancel = Cancel()
        exchange = pool.send("POST", "/x", {}, cancel)
        exchange.read()
        cancel.cancel(GatewayStopping)
        cancel.cancel()
        with pytest.raises(GatewayStopping):
            exchange.read()
        exchange.close()


def test_early_close_discards_the_connection() -> None:
    with serving([head(None) + chunk(b"one")], [OK]) as (pool, server):
        exchange = pool.send("POST", "/x", {})
        exchange.read()
        exchange.close()
        exchange.close()
        assert server.closed[0].wait(60)
        assert pool.ask("POST", "/x", {}) == (200, b"ok")


def test_cancel_ends_wait_for_connection() -> None:
    with (
        serving([head(None) + chunk(b"a")], limit=ConnectionLimit(1)) as (pool, _),
        ThreadPoolExecutor(1) as threads,
    ):
        held = pool.send("POST", "/x", {})
        cancel = Cancel()
        waits = threads.submit(pool.ask, "POST", "/x", {}, 60.0, cancel)
        time.sleep(0.05)
        cancel.cancel()
        with pytest.raises(Cancelled):
            waits.result(60)
        held.close()


def test_short_requests_do_not_queue_behind_streams() -> None:
    with serving([head(None) + chunk(b"a")], [OK], limit=ConnectionLimit(2, 1)) as (pool, _):
        held = pool.send("POST", "/x", {})
        with pytest.raises(PoolTimeout):
            pool.send("POST", "/x", {}, patience=0.0)
        assert pool.ask("GET", "/props", short=True) == (200, b"ok")
        held.close()


def test_large_request_is_resent_whole_on_stale_connection() -> None:
    with serving([OK, reset], [OK]) as (pool, server):
        pool.ask("GET", "/x")
        assert pool.ask("POST", "/x", {"text": "x" * (2 * PIECE)}) == (200, b"ok")
    assert server.requests[-1].endswith(b'{"text":"%b"}' % (b"x" * (2 * PIECE)))


def test_configured_headers_and_base_path_are_sent() -> None:
    with RawServer([OK]) as server:
        pool = ConnectionPool(f"{server.url}/base/", headers={"Authorization": "Bearer k"}, idle=0)
        pool.ask("GET", "/x")
    assert server.requests[0].startswith(b"GET /base/x HTTP/1.1\r\n")
    assert b"Authorization: Bearer k\r\n" in server.requests[0]


def test_gather_does_not_wait_for_missing_end() -> None:
    over = threading.Event()

    def stays(sock: socket.socket) -> None:
        sock.sendall(head(None) + chunk(b"one"))
        sock.sendall(chunk(b"two"))
        over.wait(60)

    with serving([stays]) as (pool, _):
        exchange = pool.send("POST", "/x", {})
        said = b""
        while len(said) < 6:
            said += exchange.read(gather=0.05) or b""
        exchange.close()
        over.set()
    assert said == b"onetwo"


def test_fault_behind_gathered_data_is_raised_by_the_next_read() -> None:
    def send(sock: socket.socket) -> None:
        sock.sendall(head(None) + chunk(b"a"))
        time.sleep(0.2)
        sock.sendall(chunk(b"b") + b"no chunk\r\n")

    with serving([send]) as (pool, _):
        exchange = pool.send("GET", "/", tick=0.1)
        while not exchange.headers_came():
            pass
        data = b""
        while data != b"ab":
            data += exchange.read(gather=2.0) or b""
        began = time.monotonic()
        with pytest.raises(UpstreamFault, match="invalid HTTP"):
            while True:
                assert exchange.read(gather=2.0) is None
                assert time.monotonic() - began < 20, "it is taken for silence"
        exchange.close()


def test_answer_that_drips_is_bounded_in_time() -> None:
    def drip(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            sock.sendall(head(100_000))
            for _ in range(300):
                sock.sendall(b"x")
                time.sleep(0.1)

    with serving([drip]) as (pool, _):
        began = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            pool.ask("GET", "/", timeout=1.0)
        assert time.monotonic() - began < 10


def test_cancel_during_reconnect_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept connection closes after the request was sent, and the client leaves meanwhile."""
    cancel = Cancel()
    connect, connected = ConnectionPool._connect, [0]

    def slow(pool: ConnectionPool, on_socket: Callable[[socket.socket], None]) -> socket.socket:
        connected[0] += 1
        if connected[0] == 2:
            cancel.cancel()
        return connect(pool, on_socket)

    monkeypatch.setattr(ConnectionPool, "_connect", slow)
    with serving([head(2) + b"ok", hang_up], [head(2) + b"ok"]) as (pool, _):
        pool.ask("GET", "/x")
        with pytest.raises(Cancelled):
            pool.ask("POST", "/x", {}, cancel=cancel)
    assert connected[0] == 2

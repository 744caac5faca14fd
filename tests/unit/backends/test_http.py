"""The upstream client against a server that does everything wrong."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.backends.http import Pool
from proxy.cancel import Cancel
from proxy.errors import (
    AnswerCut,
    BackendDown,
    Cancelled,
    ConnectionLost,
    PoolTimeout,
    UpstreamFault,
    UpstreamTimeout,
)
from tests.fakes import wait_until

from .rawserver import LAST_CHUNK, RawServer, Step, chunk, hang_up, head, reset

OK = head(2) + b"ok"


@pytest.fixture
def pools() -> Iterator[list[Pool]]:
    made: list[Pool] = []
    yield made
    for pool in made:
        pool.close()


def pool_of(server: RawServer, pools: list[Pool], **options: float) -> Pool:
    pool = Pool(server.url, timeout=5, connect_timeout=2, **options)  # type: ignore[arg-type]
    pools.append(pool)
    return pool


def test_a_connection_is_kept_and_used_again(pools: list[Pool]) -> None:
    with RawServer([OK, OK, OK]) as server:
        pool = pool_of(server, pools)
        assert [pool.ask("POST", "/x", {"a": 1}) for _ in range(3)] == [(200, b"ok")] * 3
    assert all(b'{"a":1}' in request for request in server.requests)


def test_a_kept_connection_that_was_closed_meanwhile_costs_nothing(pools: list[Pool]) -> None:
    """server.cpp closes after a number of requests, without a word."""
    with RawServer([OK, hang_up], [OK]) as server:
        pool = pool_of(server, pools)
        assert pool.ask("POST", "/x", {}) == (200, b"ok")
        assert pool.ask("POST", "/x", {}) == (200, b"ok")


@pytest.mark.parametrize("fault", [hang_up, reset])
def test_a_fresh_connection_that_ends_before_a_byte_is_a_dead_backend(
    pools: list[Pool], fault: Step
) -> None:
    with RawServer([fault]) as server, pytest.raises(ConnectionLost):
        pool_of(server, pools).ask("POST", "/x", {})


def test_nobody_listening_is_a_dead_backend(pools: list[Pool]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pool = Pool(f"http://127.0.0.1:{port}", connect_timeout=1)
    with pytest.raises(BackendDown) as caught:
        pool.ask("GET", "/x")
    assert not isinstance(caught.value, ConnectionLost), "it never took the request"


GARBLED = (b"no http at all\r\n\r\n", head(None) + b"zz\r\n")


@pytest.mark.parametrize(
    "answer", [*GARBLED, head(10) + b"short", head(None) + chunk(b"data") + b"5\r\nda"]
)
def test_an_answer_that_is_cut_or_garbled_is_an_upstream_fault(
    pools: list[Pool], answer: bytes
) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(answer)
        sock.close()

    with RawServer([play]) as server, pytest.raises(UpstreamFault) as caught:
        pool_of(server, pools).ask("POST", "/x", {})
    assert not isinstance(caught.value, BackendDown)
    assert isinstance(caught.value, AnswerCut) == (answer not in GARBLED)
    assert "127.0.0.1" not in caught.value.message


def test_a_body_without_a_length_ends_with_the_connection(pools: list[Pool]) -> None:
    def play(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.0 200 OK\r\n\r\nwhole")
        sock.close()

    with RawServer([play]) as server:
        assert pool_of(server, pools).ask("GET", "/x") == (200, b"whole")


def test_chunks_come_as_they_are_sent_and_silence_is_told(pools: list[Pool]) -> None:
    go_on = threading.Event()

    def play(sock: socket.socket) -> None:
        sock.sendall(head(None) + chunk(b"one"))
        go_on.wait(5)
        sock.sendall(chunk(b"two") + LAST_CHUNK)

    with RawServer([play]) as server:
        exchange = pool_of(server, pools).send("POST", "/x", {}, tick=0.05)
        first = exchange.read()
        while first is None:
            first = exchange.read()
        assert first == b"one"
        assert exchange.read() is None
        go_on.set()
        assert exchange.read() in (b"two", None)
        exchange.close()


def test_headers_in_several_reads_are_no_silence(pools: list[Pool]) -> None:
    go_on = threading.Event()

    def play(sock: socket.socket) -> None:
        sock.sendall(OK[:20])
        go_on.wait(5)
        sock.sendall(OK[20:])

    with RawServer([play]) as server:
        exchange = pool_of(server, pools).send("POST", "/x", {}, tick=5)
        threading.Timer(0.05, go_on.set).start()
        assert exchange.headers_came()
        assert exchange.read() == b"ok"
        exchange.close()


def test_silence_beyond_the_timeout_is_a_timeout(pools: list[Pool]) -> None:
    over = threading.Event()
    with RawServer([lambda sock: over.wait(5) and None]) as server:
        pool = pool_of(server, pools)
        with pytest.raises(UpstreamTimeout):
            pool.ask("POST", "/x", {}, timeout=0.1)
        over.set()


def test_a_cancel_from_another_thread_wakes_a_read_that_blocks(pools: list[Pool]) -> None:
    asked = threading.Event()

    def play(sock: socket.socket) -> None:
        asked.set()

    with RawServer([play]) as server:
        cancel = Cancel()
        exchange = pool_of(server, pools).send("POST", "/x", {}, cancel, tick=5)
        asked.wait(5)
        threading.Thread(target=cancel.cancel).start()
        with pytest.raises(Cancelled):
            exchange.read()
        exchange.close()
        assert server.closed[0].wait(5), "the server never learned of it"


def test_closing_early_gives_the_connection_up(pools: list[Pool]) -> None:
    with RawServer([head(None) + chunk(b"one")], [OK]) as server:
        pool = pool_of(server, pools)
        exchange = pool.send("POST", "/x", {})
        exchange.read()
        exchange.close()
        exchange.close()
        assert server.closed[0].wait(5)
        assert pool.ask("POST", "/x", {}) == (200, b"ok")


def test_no_more_connections_than_the_limit_are_open(pools: list[Pool]) -> None:
    with RawServer([head(None) + chunk(b"a")], [OK]) as server:
        pool = Pool(server.url, timeout=0.2, limit=1)
        pools.append(pool)
        held = pool.send("POST", "/x", {})
        with pytest.raises(PoolTimeout):
            pool.ask("POST", "/x", {})
        held.close()
        assert pool.ask("POST", "/x", {}) == (200, b"ok")


def test_wait_for_a_connection_ends_with_the_timeout_of_the_question(pools: list[Pool]) -> None:
    with RawServer([head(None) + chunk(b"a")]) as server:
        pool = pool_of(server, pools, limit=1)
        held = pool.send("POST", "/x", {})
        began = time.monotonic()
        with pytest.raises(PoolTimeout):
            pool.ask("GET", "/x", timeout=0.2)
        assert 0.2 <= time.monotonic() - began < 4.0, "the pool's own timeout is 5 s"
        held.close()


def test_cancel_ends_the_wait_for_a_connection(pools: list[Pool]) -> None:
    with RawServer([head(None) + chunk(b"a")]) as server, ThreadPoolExecutor(1) as threads:
        pool = pool_of(server, pools, limit=1)
        held = pool.send("POST", "/x", {})
        cancel = Cancel()
        waits = threads.submit(pool.ask, "POST", "/x", {}, 60.0, cancel)
        wait_until(lambda: bool(pool._room and pool._room._waiting))
        cancel.cancel()
        with pytest.raises(Cancelled):
            waits.result(5)
        held.close()


def test_waiting_request_gets_the_connection_that_comes_free(pools: list[Pool]) -> None:
    with (
        RawServer([head(None) + chunk(b"a")], [OK]) as server,
        ThreadPoolExecutor(1) as threads,
    ):
        pool = pool_of(server, pools, limit=1)
        held = pool.send("POST", "/x", {})
        waits = threads.submit(pool.ask, "POST", "/x", {}, 60.0)
        wait_until(lambda: bool(pool._room and pool._room._waiting))
        held.close()
        assert waits.result(5) == (200, b"ok")


def test_short_questions_do_not_stand_behind_answers(pools: list[Pool]) -> None:
    with RawServer([head(None) + chunk(b"a")], [OK]) as server:
        pool = pool_of(server, pools, limit=2, reserve=1)
        held = pool.send("POST", "/x", {})
        with pytest.raises(PoolTimeout):
            pool.send("POST", "/x", {}, patience=0.0)
        assert pool.ask("GET", "/props", short=True) == (200, b"ok")
        held.close()


def test_headers_and_paths_are_sent_as_configured(pools: list[Pool]) -> None:
    with RawServer([OK]) as server:
        pool = Pool(server.url + "/base/", timeout=5, headers={"Authorization": "Bearer k"})
        pools.append(pool)
        pool.ask("GET", "/x")
    assert server.requests[0].startswith(b"GET /base/x HTTP/1.1\r\n")
    assert b"Authorization: Bearer k\r\n" in server.requests[0]


def test_what_is_gathered_never_waits_for_an_end_that_does_not_come(pools: list[Pool]) -> None:
    over = threading.Event()

    def stays(sock: socket.socket) -> None:
        sock.sendall(head(None) + chunk(b"one"))
        sock.sendall(chunk(b"two"))
        over.wait(5)

    with RawServer([stays]) as server:
        exchange = pool_of(server, pools).send("POST", "/x", {})
        said = b""
        while len(said) < 6:
            said += exchange.read(gather=0.05) or b""
        exchange.close()
        over.set()
    assert said == b"onetwo"


def test_what_was_gathered_before_a_fault_is_not_lost(pools: list[Pool]) -> None:
    def breaks(sock: socket.socket) -> None:
        sock.sendall(head(None) + chunk(b"one"))
        sock.close()

    with RawServer([breaks]) as server:
        exchange = pool_of(server, pools).send("POST", "/x", {})
        assert exchange.read(gather=5.0) == b"one"
        with pytest.raises(UpstreamFault):
            exchange.read(gather=5.0)
        exchange.close()


def test_cancel_while_a_stale_connection_is_made_anew_is_heeded(
    pools: list[Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kept connection ends with the request on it, and the client leaves meanwhile."""
    cancel = Cancel()
    connect, connected = Pool._connect, [0]

    def slow(pool: Pool) -> socket.socket:
        connected[0] += 1
        if connected[0] == 2:
            cancel.cancel()
        return connect(pool)

    monkeypatch.setattr(Pool, "_connect", slow)
    with RawServer([head(2) + b"ok", hang_up], [head(2) + b"ok"]) as server:
        pool = pool_of(server, pools)
        pool.ask("GET", "/x")
        with pytest.raises(Cancelled):
            pool.ask("POST", "/x", {}, cancel=cancel)
    assert connected[0] == 2

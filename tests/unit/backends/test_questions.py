"""Small documents of a hostile backend: reading them is bounded in size and time."""

from __future__ import annotations

import contextlib
import gzip
import socket
import subprocess
import sys
import time

import pytest

from proxy.backends.probe import MAX_ANSWER, MAX_HEAD, ProbeSession
from proxy.errors import BackendDown
from tests.contract.test_faults import FORMS, Play, endless, slowly

from .rawserver import LAST_CHUNK, RawServer, chunk, hang_up, head

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def asked(play: Play | bytes, seconds: float = 60) -> tuple[int, bytes]:
    step = play if isinstance(play, bytes) else lambda sock: play(sock, FORMS[0])
    with RawServer([step]) as server, ProbeSession({}) as session:
        return session.get(server.url + "/props", seconds)


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"", CONTINUE * 1000),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 5_000),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 50_000),
        (head(None), chunk(b"x" * 50_000)),
        (head(None) + chunk(b"{}") + b"0\r\n", b"X: y\r\n" * 5_000),
    ],
    ids=["interim answers", "header", "body", "chunks", "trailers"],
)
def test_endless_answer_is_discarded(start: bytes, more: bytes) -> None:
    began = time.monotonic()
    with contextlib.suppress(BackendDown):  # http.client itself refuses some
        assert asked(endless(lambda _: start, lambda *_: more)) == (0, b"")
    assert time.monotonic() - began < 40  # without a deadline it would take a minute


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX: ", head(None) + b"2000\r\n"])
def test_dripping_server_is_abandoned_at_the_deadline(start: bytes) -> None:
    began = time.monotonic()
    assert asked(slowly(lambda _: start, b"x"), 0.4) == (0, b"")
    assert time.monotonic() - began < 40


def test_compressed_answer_is_never_decompressed() -> None:
    packed = gzip.compress(b" " * (64 << 20))
    answer = head(len(packed), extra="Content-Encoding: gzip\r\n") + packed
    assert asked(answer) == (200, packed)


def test_answer_up_to_the_bound_is_read() -> None:
    data = b"x" * (MAX_ANSWER - 70_000)
    assert asked(head(len(data)) + data) == (200, data)
    small = head(2, extra="X: " + "x" * (MAX_HEAD - 1000) + "\r\n") + b"{}"
    assert asked(small) == (200, b"{}")


@pytest.mark.parametrize(
    "start",
    [head(500_000, extra="Connection: close\r\n"), b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["announced", "without a length"],
)
def test_answer_that_ends_with_its_connection_is_read(start: bytes) -> None:
    data = b"x" * 500_000

    def play(sock: socket.socket) -> None:
        sock.sendall(start)
        for at in range(0, len(data), 50_000):
            time.sleep(0.005)  # it comes in several reads
            sock.sendall(data[at : at + 50_000])
        hang_up(sock)

    with RawServer([play]) as server, ProbeSession({}) as session:
        assert session.get(server.url + "/props", 30.0) == (200, data)


def test_every_request_has_its_own_connection() -> None:
    """The server keeps the connection until the next request and closes it then, unannounced."""
    answer = head(2) + b"{}"
    with RawServer([answer, hang_up], [answer, hang_up]) as server, ProbeSession({}) as session:
        for path in ("/props", "/slots"):
            assert session.get(server.url + path, 30.0) == (200, b"{}")
        assert all(closed.wait(30) for closed in server.closed)


def test_redirect_is_an_answer_and_refused_connection_is_down() -> None:
    assert asked(head(0, "302 Found", "Location: http://x.example/\r\n"))[0] == 302
    assert asked(head(None) + chunk(b"{}") + LAST_CHUNK) == (200, b"{}")
    with pytest.raises(BackendDown), ProbeSession({}) as session:
        session.get("http://127.0.0.1:9/props", 5)


STALL = """
import gevent.monkey
gevent.monkey.patch_all()
import gevent, sys, time
from proxy.backends.probe import outline
gaps = []
def tick():
    before = time.monotonic()
    while True:
        gevent.sleep(0.002)
        now = time.monotonic()
        gaps.append(now - before)
        before = now
gevent.spawn(tick)
try:
    outline(sys.argv[1], {})
except Exception as error:
    print(type(error).__name__)
print(f"{max(gaps):.3f}")
"""


def test_gevent_worker_keeps_serving_while_it_probes() -> None:
    """The server sends endless interim answers."""
    play = endless(lambda _: b"", lambda *_: CONTINUE * 1000)
    with RawServer(*[[lambda sock: play(sock, FORMS[0])]] * 4) as server:
        done = subprocess.run(
            [sys.executable, "-c", STALL, server.url], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 4  # seconds; without the bound eight per request

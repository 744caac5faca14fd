"""Small documents of a hostile backend: reading them is bounded in size and time."""

from __future__ import annotations

import time
from typing import Any

import pytest

from proxy.backends.http import ConnectionPool
from proxy.backends.probe import MAX_ANSWER, document
from proxy.errors import BackendDown
from tests.contract.test_faults import FORMS, Play, endless, slowly

from .rawserver import RawServer, chunk, head

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def asked(play: Play | bytes, seconds: float = 60) -> tuple[int, Any]:
    step = play if isinstance(play, bytes) else lambda sock: play(sock, FORMS[0])
    with RawServer([step]) as server:
        return document(ConnectionPool(server.url, idle=0), "/props", seconds=seconds)


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
    assert asked(endless(lambda _: start, lambda *_: more)) == (0, {})
    assert time.monotonic() - began < 40  # without a deadline it would take a minute


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK\r\nX: ", head(None) + b"2000\r\n"])
def test_dripping_server_is_abandoned_at_the_deadline(start: bytes) -> None:
    began = time.monotonic()
    assert asked(slowly(lambda _: start, b"x"), 0.4) == (0, {})
    assert time.monotonic() - began < 40


def test_answer_up_to_the_bound_is_read() -> None:
    data = b'{"a": "' + b"x" * (MAX_ANSWER - 70_000) + b'"}'
    assert asked(head(len(data)) + data) == (200, {"a": data[7:-2].decode()})
    data = b" " * (MAX_ANSWER + 1)
    assert asked(head(len(data)) + data) == (0, {})


def test_refused_connection_is_down() -> None:
    assert asked(head(0, "302 Found", "Location: http://x.example/\r\n")) == (302, {})
    with pytest.raises(BackendDown):
        document(ConnectionPool("http://127.0.0.1:9"), "/props")

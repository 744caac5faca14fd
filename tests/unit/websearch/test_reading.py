"""The child that reads pages, with web servers that do their worst: nobody waits for them."""

from __future__ import annotations

import gzip
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from proxy.runtime.cancel import Cancel
from proxy.websearch.reading import GRACE, START, PageReader
from tests.contract.test_faults import FORMS, Play, endless, slowly
from tests.unit.backends.rawserver import RawServer

FORM = FORMS[0]  # those plays are made for drivers; no page has a form
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
PAGE = PLAIN + b"Content-Length: 5\r\n\r\ntides"
SECONDS = 8.0

HOSTILE: dict[str, Play | bytes] = {
    "100 Continue": endless(lambda _: b"", lambda *_: CONTINUE * 1000),
    "header": endless(lambda _: b"HTTP/1.1 200 OK\r\nX: ", lambda *_: b"x" * 50_000),
    "headers": endless(lambda _: b"HTTP/1.1 200 OK\r\n", lambda *_: b"X: y\r\n" * 5000),
    "body": endless(lambda _: PLAIN + b"\r\n", lambda *_: b"x" * 50_000),
    "trailers": endless(
        lambda _: PLAIN + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", lambda *_: b"X: y\r\n" * 5000
    ),
    "gzip": lambda sock, _: sock.sendall(bomb()),
    "drip": slowly(lambda _: PLAIN + b"\r\n" + b"tides " * 1000, b"x"),
}


def bomb() -> bytes:
    packed = gzip.compress(b"tides " * 10_000_000)
    head = b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    return PLAIN + head % len(packed) + packed


@pytest.fixture
def reading() -> Iterator[PageReader]:
    found = PageReader()
    yield found
    found.close()


def test_hostile_servers_delay_no_other_page(reading: PageReader) -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        urls = []
        for step in (*HOSTILE.values(), PAGE):
            play = step if isinstance(step, bytes) else lambda sock, step=step: step(sock, FORM)
            urls.append(stack.enter_context(RawServer([play])).url + "/")
        texts = reading.passages(urls, "tides", 4, Cancel(), SECONDS, open_only=False)
    assert time.monotonic() - began < SECONDS + GRACE + START + 30
    assert texts[-1] == "tides"
    found = dict(zip(HOSTILE, texts, strict=False))
    assert found.pop("drip") in ("", "tides")
    assert set(found.values()) == {""}


def test_non_public_addresses_are_not_fetched(reading: PageReader) -> None:
    with RawServer([PAGE]) as server:
        port = server.url.rpartition(":")[2]
        hosts = ("127.0.0.1", "localhost", "[::1]", "[fec0::1]", "[::ffff:127.0.0.1]", "0.0.0.0")
        urls = [f"http://{host}:{port}/" for host in hosts]
        assert reading.passages(urls, "x", 4, Cancel(), SECONDS, open_only=True) == [""] * len(urls)
        assert server.requests == []


def test_redirect_is_not_followed_to_a_private_address(reading: PageReader) -> None:
    with RawServer([PAGE]) as private:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {private.url}/\r\nContent-Length: 0\r\n\r\n"
        with RawServer([moved.encode()]) as server:
            urls = [server.url + "/"]
            assert reading.passages(urls, "x", 4, Cancel(), SECONDS, open_only=False) == [""]
            assert len(server.requests) == 1
        assert private.requests == []

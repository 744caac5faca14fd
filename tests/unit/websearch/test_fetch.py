"""What a web server can do to who asks it: nothing but fail."""

from __future__ import annotations

import time

import pytest

from proxy.errors import Cancelled, UpstreamFault, UpstreamTimeout
from proxy.runtime.cancel import Cancel
from proxy.websearch.fetch import LARGEST, EngineRequest, WebPage, fetch
from tests.contract.test_faults import FORMS, Play, endless, slowly
from tests.unit.backends.rawserver import RawServer, chunk, head

from .conftest import Web

FORM = FORMS[0]  # those plays are made for drivers; no page has a form
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def fetched(play: Play | bytes, seconds: float = 60) -> WebPage:
    step = play if isinstance(play, bytes) else lambda sock: play(sock, FORM)
    with RawServer([step]) as server:
        return fetch(EngineRequest(server.url + "/"), seconds)


def test_endless_body_is_truncated() -> None:
    page = fetched(endless(lambda _: head(None), lambda *_: chunk(b"x" * 60_000)))
    assert page.data == b"x" * LARGEST


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nX: ", head(None) + b"2000\r\n", CONTINUE + b"HTTP/1.1 200 OK\r\nX: "],
)
def test_dripping_server_is_abandoned_at_the_deadline(start: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        fetched(slowly(lambda _: start, b"x"), 0.4)
    assert time.monotonic() - began < 40


def test_silent_server_is_abandoned_and_no_redirect_is_followed(web: Web) -> None:
    web.silent.add("/slow")
    with pytest.raises(UpstreamTimeout):
        fetch(EngineRequest(web.url + "/slow"), 0.3)
    web.pages["/"] = 302, {"Location": "/secret"}, b""
    assert fetch(EngineRequest(web.url), 60).status == 302
    assert [path for _, path, _, _ in web.seen] == ["/slow", "/"]


def test_trace_of_a_request_is_not_told(web: Web) -> None:
    cancel = Cancel()
    cancel.headers = "traceparent: 00-1-2-01\r\n"
    fetch(EngineRequest(web.url), 60, cancel)
    assert "traceparent" not in str(web.seen)
    cancel.cancel()
    with pytest.raises(Cancelled):
        fetch(EngineRequest(web.url), 60, cancel)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "http://", "gopher://x", "http://x/\n"])
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(UpstreamFault, match="invalid"):
        fetch(EngineRequest(url), 5)

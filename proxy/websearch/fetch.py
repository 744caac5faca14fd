"""Asks servers that the operator names (search engines, an OpenID provider, a webhook), with limits
on bytes and time.

It uses the client for backends, with a connection for each request. Redirects are not followed, and
proxies from the environment are ignored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from urllib.parse import urlsplit

from msgspec import Struct

from ..backends.http import ConnectionPool, Exchange
from ..core.task import Call, CallBody
from ..errors import (
    BackendDown,
    Cancelled,
    ConnectionLost,
    GatewayError,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.cancel import Cancel

LARGEST = 2 << 20  # bytes of a body
TICK = 0.5  # seconds: how much a server that sends little may exceed the time limit
AGENT = "slotproxy (+a reader of search results)"


class EngineRequest(Struct, frozen=True):
    """An HTTP request; POST if there is a `body`."""

    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None


class WebPage(Struct, frozen=True):
    status: int
    data: bytes
    url: str


def fetch(request: EngineRequest, seconds: float, cancel: Cancel | None = None) -> WebPage:
    """The response, cut at LARGEST bytes. Raises UpstreamFault, UpstreamTimeout, Cancelled."""
    end = time.monotonic() + seconds
    origin, call = _call(request)
    pool = ConnectionPool(origin, timeout=seconds, connect_timeout=seconds, idle=0)
    own = Cancel()  # without the lines of a trace, which are for backends
    stop = cancel.pass_on(own) if cancel is not None else None
    try:
        with closing(pool.forward(call, call.path, own, TICK)) as exchange:
            data = _body(exchange, end)
    except Cancelled:
        raise
    except GatewayError as error:
        if isinstance(error, UpstreamTimeout) or time.monotonic() >= end:
            raise UpstreamTimeout("the web server timed out") from None
        message = error.message.replace("the backend", "the web server")
        if isinstance(error, BackendDown) and not isinstance(error, ConnectionLost):
            message = "the web server is unreachable"
        raise UpstreamFault(message, detail=error.detail) from None
    finally:
        if stop is not None:
            stop()
    return WebPage(exchange.status, data, request.url)


def _body(exchange: Exchange, end: float) -> bytes:
    """The body; one that is too long or ends early is used as it came. Raises GatewayError."""
    while not exchange.headers_came():
        _check(end)
    data = bytearray()
    while len(data) < LARGEST:
        try:
            part = exchange.read()
        except UpstreamFault:
            break
        if part == b"":
            break
        data += part or b""
        _check(end)
    return bytes(data[:LARGEST])


def _check(end: float) -> None:
    if time.monotonic() >= end:
        raise UpstreamTimeout("the web server timed out")


def _call(request: EngineRequest) -> tuple[str, Call]:
    """The origin of a URL and the request for its server. Raises UpstreamFault."""
    headers = {
        "User-Agent": AGENT,
        "Accept-Encoding": "identity",
        "Connection": "close",
        **request.headers,
    }
    sent = (request.url, *headers.values())
    try:
        parts = urlsplit(request.url)
        is_usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not all(text.isascii() and text.isprintable() for text in sent):
        raise UpstreamFault("the URL of the web server is invalid")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    body = None if request.body is None else CallBody(len(request.body), (request.body,))
    method = "GET" if body is None else "POST"
    return f"{parts.scheme}://{parts.netloc}", Call(method, path, headers, body)

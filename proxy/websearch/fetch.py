"""Fetches pages from untrusted servers, with limits on bytes and time, and connects to checked
addresses only.

The client is the one for backends: it bounds what a server sends besides the body (headers, interim
responses, trailers, chunk framing). Each request has a connection of its own, which goes to the
address that was checked. Redirects are followed here, and every target is checked. Proxies from the
environment are ignored: they would bypass the check.
"""

from __future__ import annotations

import time
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from ..backends.http import ConnectionPool, Exchange
from ..core.task import Call, CallBody
from ..errors import (
    BackendDown,
    ConnectionLost,
    Forbidden,
    GatewayError,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.cancel import Cancel
from .guard import EngineRequest, resolve

LARGEST = 2 << 20  # bytes of a body
MOST_REDIRECTS = 3
TICK = 0.5  # seconds: how much a server that sends little may exceed the time limit
AGENT = "slotproxy (+a reader of search results)"
REDIRECTS = (301, 302, 303, 307, 308)


class WebPage(Struct, frozen=True):
    """A response; `url` is the final URL after redirects."""

    status: int
    content_type: str
    data: bytes
    url: str


def fetch(request: EngineRequest, seconds: float, *, open_only: bool = True) -> WebPage:
    """Sends a request and returns the response. With `open_only`, only public addresses are
    allowed; without it, redirects are not followed. A body is cut at LARGEST bytes. `seconds`
    limits everything except name resolution, which has its own timeout.

    Raises Forbidden, UpstreamFault, UpstreamTimeout."""
    end = time.monotonic() + seconds
    for _ in range(MOST_REDIRECTS + 1):
        page, onward = _once(request, end, open_only)
        if not onward or not open_only:
            return page
        request = EngineRequest(urljoin(page.url, onward))
    raise UpstreamFault("the page has too many redirects")


def _once(request: EngineRequest, end: float, open_only: bool) -> tuple[WebPage, str]:
    """A response, and the target if it is a redirect."""
    try:
        parts = urlsplit(request.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise UpstreamFault("the page's URL is invalid") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise Forbidden("only http and https pages are supported")
    origin, call = _call(request)
    address = resolve(host, port, open_only=open_only)
    left = end - time.monotonic()
    if left <= 0:
        raise UpstreamTimeout("the web server timed out")
    pool = ConnectionPool(origin, timeout=left, connect_timeout=left, idle=0, address=address)
    try:
        exchange = pool.forward(call, call.path, Cancel(), TICK)
        try:
            data = _body(exchange, end)
        finally:
            exchange.close()
    except GatewayError as error:
        late = isinstance(error, UpstreamTimeout) or time.monotonic() >= end
        if late:
            raise UpstreamTimeout("the web server timed out") from None
        message = error.message.replace("the backend", "the web server")
        if isinstance(error, BackendDown) and not isinstance(error, ConnectionLost):
            message = "the web server is unreachable"
        raise UpstreamFault(message, detail=error.detail) from None
    headers = exchange.headers
    if exchange.status in REDIRECTS:
        return WebPage(exchange.status, "", b"", request.url), headers.get("location", "")
    kind = headers.get("content-type", "")
    return WebPage(exchange.status, kind, data, request.url), ""


def _body(exchange: Exchange, end: float) -> bytes:
    """The body, or its beginning: one that is too long or ends early is used as it came. Raises
    GatewayError."""
    while not exchange.headers_came():
        _check(end)
    data = bytearray()
    while len(data) < LARGEST and exchange.status not in REDIRECTS:
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
    """The origin of a URL and the request for its server. Raises UpstreamFault if the URL contains
    invalid characters."""
    parts = urlsplit(request.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    path = "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in path)
    headers = {
        "User-Agent": AGENT,
        "Accept-Encoding": "identity",
        "Connection": "close",
        **request.headers,
    }
    try:
        place = parts.netloc
        if not place.isascii():
            place = (parts.hostname or "").encode("idna").decode()
            place += f":{parts.port}" if parts.port else ""
        if " " in path or not all(map(str.isprintable, [place, path, *map(str, headers.values())])):
            raise ValueError
        [text.encode("ascii") for text in (*headers, *headers.values())]
    except ValueError:
        raise UpstreamFault("the page's URL is invalid") from None
    body = None if request.body is None else CallBody(len(request.body), (request.body,))
    method = "GET" if body is None else "POST"
    return f"{parts.scheme}://{place}", Call(method, path, headers, body)

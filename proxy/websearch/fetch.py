"""An HTTP client for untrusted servers, with limits on bytes and time, that connects to checked
addresses only.

Built on httptools. It connects to the address that was checked, and everything a server sends is
limited (headers, interim responses, chunk framing, the body). Redirects are followed here, and
every target is checked. Proxies from the environment are ignored: they would bypass the check.
"""

from __future__ import annotations

import functools
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

import httptools
from msgspec import Struct

from ..errors import Forbidden, UpstreamFault, UpstreamTimeout
from .guard import EngineRequest, resolve

LARGEST = 2 << 20  # bytes of a body
MAX_HEAD = 64 << 10  # consecutive bytes other than the body: headers, trailers, chunk sizes
MOST_INTERIM = 4  # 1xx responses before the final one
MOST_REDIRECTS = 3
PIECE = 1 << 16
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
    head = _head(request, host, port, parts.scheme == "https")
    address = resolve(host, port, open_only=open_only)
    try:
        with socket.create_connection((address, port), _left(end)) as plain:
            sock = plain
            if parts.scheme == "https":
                sock = _trust().wrap_socket(plain, server_hostname=host)
            with sock:
                sock.settimeout(_left(end))
                sock.sendall(head + (request.body or b""))
                answer = _Answer()
                while not answer.over:
                    sock.settimeout(_left(end))
                    answer.feed(sock.recv(PIECE))
    except TimeoutError:
        raise UpstreamTimeout("the web server timed out") from None
    except (OSError, UnicodeError) as error:
        raise UpstreamFault("the web server is unreachable", detail=repr(error)) from None
    if answer.status in REDIRECTS:
        return WebPage(answer.status, "", b"", request.url), answer.headers.get("location", "")
    kind = answer.headers.get("content-type", "")
    return WebPage(answer.status, kind, bytes(answer.data[:LARGEST]), request.url), ""


def _ascii(host: str) -> str:
    """Raises UpstreamFault."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise UpstreamFault("the page's URL is invalid") from None


@functools.cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _head(request: EngineRequest, host: str, port: int, secure: bool) -> bytes:
    """The request line and headers. Raises UpstreamFault if the URL contains invalid characters."""
    parts = urlsplit(request.url)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    path = "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in path)
    name = f"[{host}]" if ":" in host else _ascii(host)
    fields = {
        "Host": name if port == (443 if secure else 80) else f"{name}:{port}",
        "User-Agent": AGENT,
        "Accept-Encoding": "identity",
        "Connection": "close",
        **request.headers,
    }
    if request.body is not None:
        fields["Content-Length"] = str(len(request.body))
    lines = [f"{'GET' if request.body is None else 'POST'} {path} HTTP/1.1"]
    lines += [f"{key}: {value}" for key, value in fields.items()]
    try:
        if any(not line.isprintable() for line in lines) or " " in path:
            raise ValueError
        return "\r\n".join([*lines, "", ""]).encode("ascii")
    except ValueError:
        raise UpstreamFault("the page's URL is invalid") from None


class _Answer:
    """Parses a response as it arrives. `over` is set once no more data is needed."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  # by lower-case name, the first of each
        self.data = bytearray()
        self.over = False
        self._parser = httptools.HttpResponseParser(self)
        self._interim = 0
        self._in_body = False
        self._bare = 0  # bytes since the last byte of the body

    def feed(self, received: bytes) -> None:
        """Raises UpstreamFault."""
        if not received:
            self._end()
            return
        before = len(self.data)
        try:
            self._parser.feed_data(received)
        except httptools.HttpParserError as error:
            if not self.over:
                raise UpstreamFault(
                    "the web server sent invalid HTTP", detail=repr(error)
                ) from None
        if self._interim > MOST_INTERIM:
            raise UpstreamFault("the web server sent only interim responses")
        self._bare = 0 if len(self.data) > before else self._bare + len(received)
        if len(self.data) >= LARGEST or (self._in_body and self._bare > MAX_HEAD):
            self.over = True
        elif self._bare > MAX_HEAD:
            raise UpstreamFault("the web server's response headers are too large")

    def _end(self) -> None:
        """The connection was closed, which ends a body without length. A body shorter than its
        length is accepted."""
        if not self._in_body:
            raise UpstreamFault("the web server closed the connection")
        self.over = True

    # Callbacks of httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:
            self.headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            self.headers.clear()
        else:
            self.status, self._in_body = status, True
            self.over = status in REDIRECTS

    def on_body(self, body: bytes) -> None:
        if len(self.data) < LARGEST:
            self.data += body

    def on_message_complete(self) -> None:
        self.over = self._in_body

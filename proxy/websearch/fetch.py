"""HTTP to strangers, in the child that reads pages: bounded in bytes and time, to an address that
was judged.

A small client of our own on httptools: the connection goes to the judged address in the name of the
host, and each thing a server sends has its bound (heads, interim answers, what is no body, the
body). Redirects are followed here, each judged anew. No proxy of the environment is used: it would
undo the judging.
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
from .guard import resolve
from .values import Request

LARGEST = 2 << 20  # bytes of an answer
MAX_HEAD = 64 << 10  # bytes that come without a byte of body: heads, trailers, sizes of chunks
MOST_INTERIM = 4  # answers 1xx before the answer
MOST_REDIRECTS = 3
PIECE = 1 << 16
AGENT = "slotproxy (+a reader of search results)"
REDIRECTS = (301, 302, 303, 307, 308)


class Page(Struct, frozen=True):
    """An answer. `url` is where it came from in the end."""

    status: int
    content_type: str
    data: bytes
    url: str


def fetch(request: Request, seconds: float, *, open_only: bool = True) -> Page:
    """The answer to a request. `open_only`: of the open internet alone; without it redirects are
    not followed. A body larger than LARGEST is cut there. `seconds` are for all of it but the
    resolver, which has a time limit of its own.

    Raises Forbidden, UpstreamFault, UpstreamTimeout."""
    end = time.monotonic() + seconds
    for _ in range(MOST_REDIRECTS + 1):
        page, onward = _once(request, end, open_only)
        if not onward or not open_only:
            return page
        request = Request(urljoin(page.url, onward))
    raise UpstreamFault("the page leads from one address to the next")


def _once(request: Request, end: float, open_only: bool) -> tuple[Page, str]:
    """An answer, and where it leads to."""
    try:
        parts = urlsplit(request.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise UpstreamFault("the address of a page is none") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise Forbidden("only pages of http and https are read")
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
        raise UpstreamTimeout("a web server did not answer in time") from None
    except (OSError, UnicodeError) as error:
        raise UpstreamFault("a web server cannot be reached", detail=repr(error)) from None
    if answer.status in REDIRECTS:
        return Page(answer.status, "", b"", request.url), answer.headers.get("location", "")
    kind = answer.headers.get("content-type", "")
    return Page(answer.status, kind, bytes(answer.data[:LARGEST]), request.url), ""


def _ascii(host: str) -> str:
    """Raises UpstreamFault."""
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise UpstreamFault("the address of a page is none") from None


@functools.cache
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _head(request: Request, host: str, port: int, secure: bool) -> bytes:
    """The request's line and headers. Raises UpstreamFault where they cannot stand there."""
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
        raise UpstreamFault("the address of a page is none") from None


class _Answer:
    """An HTTP answer as it comes in. `over` when nothing more is wanted."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}  # by lower names, the first of each
        self.data = bytearray()
        self.over = False
        self._parser = httptools.HttpResponseParser(self)
        self._interim = 0
        self._in_body = False
        self._bare = 0  # bytes since the last of the body

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
                raise UpstreamFault("a web server sent no HTTP", detail=repr(error)) from None
        if self._interim > MOST_INTERIM:
            raise UpstreamFault("a web server gave only interim answers")
        self._bare = 0 if len(self.data) > before else self._bare + len(received)
        if len(self.data) >= LARGEST or (self._in_body and self._bare > MAX_HEAD):
            self.over = True
        elif self._bare > MAX_HEAD:
            raise UpstreamFault("a web server sent too long a head")

    def _end(self) -> None:
        """The connection has ended: so has a body without length; one that is short is taken."""
        if not self._in_body:
            raise UpstreamFault("a web server hung up")
        self.over = True

    # httptools calls these by their names

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

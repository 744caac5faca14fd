"""HTTP to strangers: bounded in size and time, to an address that was judged, and ended on cancel.

The standard library's client, since it is the one that lets the connection be made by hand: name
for certificate and Host, judged address for the socket. Redirects are followed here, each judged
anew. No proxy of the environment is used: it would undo the judging.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

from msgspec import Struct

from ..cancel import Cancel
from ..errors import Cancelled, Forbidden, UpstreamFault, UpstreamTimeout
from .guard import resolve
from .values import Request

LARGEST = 2 << 20  # bytes of an answer
MOST_REDIRECTS = 3
PIECE = 1 << 16
AGENT = "slotproxy (+a reader of search results)"


class Page(Struct, frozen=True):
    """An answer. `url` is where it came from in the end."""

    status: int
    content_type: str
    data: bytes
    url: str


def fetch(request: Request, cancel: Cancel, seconds: float, *, open_only: bool = True) -> Page:
    """The answer to a request. `open_only`: of the open internet alone; without it redirects are
    not followed. What is larger than LARGEST is cut there.

    Raises Forbidden, UpstreamFault, UpstreamTimeout, Cancelled."""
    end = time.monotonic() + seconds
    for _ in range(MOST_REDIRECTS + 1):
        page, onward = _once(request, cancel, end, open_only)
        if not onward or not open_only:
            return page
        request = Request(urljoin(page.url, onward))
    raise UpstreamFault("the page leads from one address to the next")


def _once(request: Request, cancel: Cancel, end: float, open_only: bool) -> tuple[Page, str]:
    try:
        parts = urlsplit(request.url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise UpstreamFault("the address of a page is none") from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise Forbidden("only pages of http and https are read")
    address = resolve(host, port, open_only=open_only)
    connection = _Pinned(host, port, address, parts.scheme == "https", _left(end))
    cancel.add(connection.cut)
    try:
        headers = {"User-Agent": AGENT, "Accept-Encoding": "identity", **request.headers}
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        method = "GET" if request.body is None else "POST"
        connection.request(method, _ascii(path), request.body, headers)
        answer = connection.getresponse()
        if answer.status in (301, 302, 303, 307, 308):
            return Page(answer.status, "", b"", request.url), answer.headers.get("Location", "")
        data = bytearray()
        while len(data) < LARGEST:
            connection.patience(_left(end))
            piece = answer.read1(PIECE)
            if not piece:
                break
            data += piece
        kind = answer.headers.get("Content-Type", "")
        return Page(answer.status, kind, bytes(data[:LARGEST]), request.url), ""
    except TimeoutError:
        raise UpstreamTimeout("a web server did not answer in time") from None
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        if cancel.cancelled:
            raise Cancelled("nobody waits for it any more") from None
        raise UpstreamFault("a web server cannot be reached", detail=repr(error)) from None
    finally:
        cancel.remove(connection.cut)
        connection.close()


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _ascii(path: str) -> str:
    """A path as it may stand in a request line; http.client refuses what would end the line."""
    return "".join(c if c.isascii() else "".join(f"%{b:02X}" for b in c.encode()) for c in path)


class _Pinned(http.client.HTTPConnection):
    """A connection to an address, in the name of a host."""

    def __init__(self, host: str, port: int, address: str, secure: bool, seconds: float) -> None:
        super().__init__(host, port, timeout=seconds)
        self.default_port = 443 if secure else 80
        self._address = address
        self._secure = secure
        self._cut = False

    def connect(self) -> None:
        sock = socket.create_connection((self._address, self.port), self.timeout)
        if self._secure:
            try:
                context = ssl.create_default_context()
                sock = context.wrap_socket(sock, server_hostname=self.host)
            except BaseException:
                sock.close()
                raise
        self.sock = sock
        if self._cut:
            self.cut()

    def patience(self, seconds: float) -> None:
        if self.sock is not None:
            self.sock.settimeout(seconds)

    def cut(self) -> None:
        """Wake whoever waits on it."""
        self._cut = True
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)

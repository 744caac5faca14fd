"""HTTP/1.1 for a WSGI application: one connection, served request by request.

Strategy. gunicorn's own reader and writer of HTTP are written in Python for every case there is;
for the plain case they cost a fourth of what a short answer costs altogether. Here llhttp (by
httptools) parses: it is strict about what request smuggling lives on (lengths given twice, a length
beside a transfer coding, bare line feeds). An answer's head leaves together with its first bytes,
and a chunk with its frame, in one send each.

A body that came with its head, as nearly all do, is handed on as it is; a longer one is read from
the socket when the application asks for it, and a client that waits for "100 Continue" is told then
and not before. What the application leaves unread is taken and dropped, up to a bound; more than
that costs the connection.

How long a connection may be silent is not looked at here: `waiting` tells, and whoever keeps the
connections hangs up.
"""

from __future__ import annotations

import io
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes, urlsplit

import httptools

MAX_HEAD = 65536  # bytes of a request's line and headers
READ_SIZE = 65536
LEAVE = 1 << 20  # bytes of an unread body that are still taken, so that the answer arrives
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"

Headers = list[tuple[str, str]]
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Sock(Protocol):
    """What is needed of a socket; reads and writes that wait let others run."""

    def recv(self, size: int, /) -> bytes: ...

    def send(self, data: bytes, /) -> int: ...

    def sendall(self, data: bytes, /) -> None: ...


class Last(bytes):
    """The last part of a body: what ends the body leaves with it. Other servers see bytes."""


class Refused(Exception):
    """No such request is answered here; `status` is what the client is told."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Request:
    """A request whose head is whole; `body` grows until `complete`. `environ` is what the
    application gets, but for the path and the body."""

    __slots__ = ("body", "complete", "environ", "keep", "method", "url", "version")

    def __init__(
        self, method: str, url: bytes, version: str, environ: dict[str, Any], keep: bool
    ) -> None:
        self.method = method
        self.url = url
        self.version = version
        self.environ = environ
        self.keep = keep
        self.body: list[bytes] = []
        self.complete = False

    def is_last(self) -> None:
        """The connection ends with the answer to this one, which says so if it has not begun."""
        self.keep = False


class _Nowhere(dict[str, Any]):
    """For headers behind a body, which pass for none before it."""

    def __setitem__(self, key: str, value: Any) -> None:
        pass


class Connection:
    """`environ` is what all requests of the connection have in common."""

    def __init__(self, sock: Sock, app: Application, environ: dict[str, Any]) -> None:
        self._sock = sock
        self._app = app
        self._environ = environ
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._into: dict[str, Any] = _NOWHERE  # the environment that headers go into
        self._coming: Request  # the one whose head came last
        self._ready: deque[Request] = deque()
        self._broken = False  # what came is no HTTP
        self.waiting = False  # for the client
        self.answered = 0

    # called by the parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._into = self._environ.copy()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = _KEYS[name]
        into = self._into
        if key in into:
            into[key] += f",{value.decode('latin-1')}"
        elif key:
            into[key] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        parser = self._parser
        request = self._coming = Request(
            parser.get_method().decode("latin-1"),
            self._url,
            parser.get_http_version(),
            self._into,
            parser.should_keep_alive(),
        )
        self._into = _NOWHERE
        self._ready.append(request)

    def on_body(self, data: bytes) -> None:
        self._coming.body.append(data)

    def on_message_complete(self) -> None:
        self._coming.complete = True

    # called by who keeps the connection

    def serve(self, last: Callable[[], bool]) -> None:
        """Answer requests until the client has no more, or `last` says that the one that came is
        the last. Raises OSError when the client is gone, and what the application raises."""
        try:
            while (request := self._next()) is not None:
                request.keep = request.keep and not last()
                if not self._answer(request):
                    return
        except Refused as refused:
            text = refused.status.encode()
            head = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b\n"
            self._sock.sendall(head % (text, len(text) + 1, text))
        finally:
            del self._parser  # which knows us: all that the connection held goes with it, at once

    def _next(self) -> Request | None:
        """The next request, None when there is none. Raises Refused."""
        size = 0
        self.waiting = True
        while not self._ready:
            data = self._sock.recv(READ_SIZE)
            if not data:
                return None
            size += len(data)
            self._feed(data)
            if size > MAX_HEAD and not self._ready:
                raise Refused("431 Request Header Fields Too Large")
        self.waiting = False
        return self._ready.popleft()

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._coming.method == "CONNECT":
                raise Refused("400 Bad Request") from None
            self._feed(self._plain(self._ready.pop()) + data[upgrade.args[0] :])
        except httptools.HttpParserError:
            raise Refused("400 Bad Request") from None

    def _plain(self, request: Request) -> bytes:
        """The head of a request that offers another protocol, without that, for a new parser:
        nobody upgrades here, and the old one takes what follows for the other protocol."""
        self._parser = httptools.HttpRequestParser(self)
        lines = [
            f"{key.removeprefix('HTTP_').replace('_', '-')}: {value}\r\n"
            for key, value in request.environ.items()
            if key.startswith(("HTTP_", "CONTENT_")) and key != "HTTP_UPGRADE"
        ]
        head = f"{request.method} ".encode("latin-1") + request.url
        return head + f" HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")

    def more(self, request: Request) -> bytes:
        """Some more of a body that is not complete; b"" at its end, or when the client is gone."""
        while not request.body and not request.complete:
            data = b"" if self._broken else self._sock.recv(READ_SIZE)
            if not data:
                return b""
            try:
                self._feed(data)
            except Refused:
                self._broken = True
        data = b"".join(request.body)
        request.body.clear()
        return data

    def _answer(self, request: Request) -> bool:
        """Whether the connection goes on."""
        environ = self._environ_of(request)
        answer = Answer(self._sock, request)
        parts = self._app(environ, answer.start)
        try:
            for part in parts:
                if part:
                    answer.write(part)
            answer.end()
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()
        self.answered += 1
        if not request.complete:
            self._leave(request)
        return answer.keep and request.complete and not self._broken

    def _leave(self, request: Request) -> None:
        """Take what the client is still sending, up to a bound: a client that sends head and body
        apart counts on its connection, and to close at once would take the answer from it too."""
        self.waiting = True
        left = LEAVE
        while left > 0 and not request.complete:
            data = self.more(request)
            if not data:
                return
            left -= len(data)

    def _environ_of(self, request: Request) -> dict[str, Any]:
        path, _, query = request.url.decode("latin-1").partition("?")
        if not path.startswith("/"):
            path = urlsplit(path).path or ("*" if path == "*" else "/")
        if "%" in path:
            path = unquote_to_bytes(path).decode("latin-1")
        environ, request.environ = request.environ, _NOWHERE  # it knows the request from here on
        environ["REQUEST_METHOD"] = request.method
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = query
        environ["SERVER_PROTOCOL"] = f"HTTP/{request.version}"
        environ["slotproxy.is_last"] = request.is_last
        if request.complete:
            environ["wsgi.input"] = io.BytesIO(b"".join(request.body))
        else:
            tell = environ.get("HTTP_EXPECT", "").lower() == "100-continue"
            environ["wsgi.input"] = io.BufferedReader(_Coming(self, request, tell))
        return environ

    def tell_to_continue(self) -> None:
        self._sock.sendall(CONTINUE)


class _Coming(io.RawIOBase):
    """A body that is still being sent."""

    def __init__(self, connection: Connection, request: Request, tell: bool) -> None:
        self._connection = connection
        self._request = request
        self._tell = tell
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if self._tell:
            self._tell = False
            self._connection.tell_to_continue()
        data = self._rest or self._connection.more(self._request)
        size = min(len(data), len(target))
        target[:size] = data[:size]
        self._rest = data[size:]
        return size


class Answer:
    """What goes back: its head with the first bytes, then bytes or chunks."""

    __slots__ = ("_chunked", "_head", "_request", "_silent", "_sock", "keep")

    def __init__(self, sock: Sock, request: Request) -> None:
        self._sock = sock
        self._request = request
        self._head = b""
        self._chunked = self._silent = False
        self.keep = request.keep

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[..., Any]:
        """WSGI's start_response. Raises ValueError for a header that is two."""
        request = self._request
        lines = "\r\n".join((f"HTTP/1.1 {status}", *map(": ".join, headers)))
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError("a header holds the end of a line")
        silent = request.method == "HEAD" or status.startswith(("204", "304", "1"))
        ends = silent or "\r\ncontent-length:" in lines.lower()
        chunked = not ends and request.version == "1.1"
        keep = request.keep and (ends or chunked)
        self._silent, self._chunked, self.keep = silent, chunked, keep
        self._head = (
            f"{lines}\r\nDate: {_date()}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n"
            f"{CHUNKED if chunked else ''}\r\n"
        ).encode("latin-1")
        return self.write

    def write(self, data: bytes) -> None:
        if self._silent:
            return
        if self._chunked:
            self._chunked = type(data) is not Last
            end = b"" if self._chunked else LAST_CHUNK
            data = b"%b%x\r\n%b\r\n%b" % (self._head, len(data), data, end)
        elif self._head:
            data = self._head + data
        self._head = b""
        self._send(data)

    def end(self) -> None:
        if self._chunked:
            self._send(self._head + LAST_CHUNK)
        elif self._head:
            self._send(self._head)

    def _send(self, data: bytes) -> None:
        sent = self._sock.send(data)
        if sent < len(data):
            self._sock.sendall(data[sent:])


class _Keys(dict[bytes, str]):
    """The names of headers in the environment; "" for one with an underscore, which could pass for
    another with a hyphen. Kept are those of the first few hundred."""

    def __missing__(self, raw: bytes) -> str:
        name = raw.decode("latin-1").upper()
        key = name.replace("-", "_")
        if "_" in name:
            key = ""
        elif key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        if len(self) < 256:
            self[raw] = key
        return key


_KEYS = _Keys()
_NOWHERE = _Nowhere()
_today = (0, "")


def _date() -> str:
    """Now, as HTTP writes it; made once a second."""
    global _today
    now = int(time.time())
    if _today[0] != now:
        _today = now, formatdate(now, usegmt=True)
    return _today[1]


def base_environ(sock: Any, server: Any, client: Any) -> dict[str, Any]:
    """What all requests of a connection have in common; `server` and `client` are the names of the
    two ends, pairs (host, port, …), or paths of a Unix socket."""
    host, port = (server[0], str(server[1])) if isinstance(server, tuple) else (str(server), "")
    environ = {
        "SCRIPT_NAME": "",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "SERVER_SOFTWARE": "slotproxy",
        "REMOTE_ADDR": client[0] if isinstance(client, tuple) else "",
        "gunicorn.socket": sock,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    if isinstance(client, tuple):
        environ["REMOTE_PORT"] = str(client[1])
    return environ

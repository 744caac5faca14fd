"""HTTP/1.1 for a WSGI application: one connection, served request by request.

Strategy. llhttp (by httptools) parses; this module frames what it finds as WSGI requests and writes
the answers. gunicorn's own reader and writer are written in Python for every case there is; for the
plain case they cost a fourth of what a short answer costs altogether.

One state. A connection is in exactly one `State` at any moment, and `since` says from when. Each
state that waits for the client has a time limit (`Limits`). Nothing here starts a timer: whoever
keeps the connections asks `overdue` now and then, calls `expire`, and wakes the reader.

One bound. `MAX_INCOMPLETE` holds for everything that is not complete yet: a request's head, blank
lines before it, the line of a chunk's size with its extensions, the trailers. Bytes are counted
from the read after the last progress (a head, a piece of a body, the end of a message), whoever
asks for them, so no path around the bound exists.

Smuggling. llhttp refuses what request smuggling lives on (a length given twice, a length beside a
transfer coding, bare line feeds). This module refuses in addition: transfer codings but `chunked`,
transfer codings in HTTP/1.0, a Host that is missing, double or malformed, other protocol versions
and request targets that are no path and no http address. After the first refusal nothing of the
connection is parsed any more. `tests/fuzz/http1.py` compares all of it with h11.

A body that came with its head, as nearly all do, is handed on as it is; a longer one is read from
the socket when the application asks for it, and a client that waits for "100 Continue" gets it then
and not before. What the application leaves unread is taken and dropped, up to a bound; more than
that costs the connection. A body that breaks off raises `BodyError`, so an application never takes
a part of it for the whole.
"""

from __future__ import annotations

import enum
import io
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

import httptools

# Bytes of anything that is incomplete: a head, a chunk's size line, the trailers. The largest heads
# of real clients (cookies, tokens) have 16 kB.
MAX_INCOMPLETE = 65536
# Times one header may be repeated in a head: each one is copied behind those before it.
MAX_REPEATS = 100
# Bytes of one read.
READ_SIZE = 65536
# Bytes that are still taken and dropped behind an answer, so that the client gets to read it.
MAX_DROPPED = 1 << 20

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"

# What ends a connection: the status, and for its text the reason.
BAD = "400 Bad Request: this is no valid HTTP/1.1"
BAD_HOST = "400 Bad Request: exactly one valid Host is needed"
BAD_TARGET = "400 Bad Request: the target is neither a path nor an http address"
BAD_CODING = "400 Bad Request: HTTP/1.0 has no Transfer-Encoding"
LATE = "408 Request Timeout: the head came too slowly"
TOO_LONG = f"431 Request Header Fields Too Large: {MAX_INCOMPLETE} bytes are allowed"
TOO_MANY = f"431 Request Header Fields Too Large: {MAX_REPEATS} repeated headers are allowed"
NOT_CODED = "501 Not Implemented: the only Transfer-Encoding is chunked"
OTHER_VERSION = "505 HTTP Version Not Supported: use HTTP/1.1"

Headers = list[tuple[str, str]]
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
Clock = Callable[[], float]


class State(enum.Enum):
    """What a connection does."""

    IDLE = "waits for a request, of which nothing came yet"
    HEAD = "waits for the rest of a head"
    ANSWERING = "the application works, or the client takes the answer"
    BODY = "the application waits for more of the body"
    DROPPING = "answered; waits for the rest of a body, to drop it"
    CLOSED = "no request is served any more"


class Limits(NamedTuple):
    """Seconds a client may take. Beyond `idle` and `dropping` the connection is closed, beyond
    `head` and `body` the client gets a 408 first. A body may take one second more for every
    `body_rate` bytes of it that came."""

    idle: float = 75.0  # longer than the 60 s after which common load balancers drop a connection
    head: float = 30.0  # heads are one packet, or a few
    body: float = 60.0  # as nginx's client_body_timeout
    body_rate: float = 500.0  # bytes a second: a phone at the edge of its network has ten times it
    dropping: float = 10.0  # a client that is still sending when it has been answered


class Sock(Protocol):
    """What is needed of a socket. What waits lets others run."""

    def recv(self, size: int, /) -> bytes:
        """Some bytes, b"" at the end."""

    def send(self, data: bytes, /) -> object:
        """Send all of it, now or as soon as the client takes it. May wait."""

    def flush(self) -> None:
        """Wait until the client has taken all."""

    def finish(self) -> None:
        """Tell the client that no more is sent."""

    def give_way(self) -> None:
        """Let others run."""


class Last(bytes):
    """The last part of a body: what ends the body leaves with it. Other servers see bytes."""


class Refused(Exception):
    """The connection ends with this status."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class BodyError(OSError):
    """A body that broke off: the client is gone, or what it sends is no HTTP."""


class BodyTimeout(TimeoutError):
    """A body that came too slowly."""


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
    """`environ` is what all requests of the connection have in common. `parts` is what the
    application is answering with, None between two answers."""

    def __init__(
        self,
        sock: Sock,
        app: Application,
        environ: dict[str, Any],
        limits: Limits = Limits(),  # noqa: B008  (it cannot be changed)
        clock: Clock = time.monotonic,
    ) -> None:
        self._sock = sock
        self._app = app
        self._environ = environ
        self._limits = limits
        self._clock = clock
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._into: dict[str, Any] = _NOWHERE  # the environment that headers go into
        self._coming: Request  # the one whose head came last
        self._ready: deque[Request] = deque()
        self._held = 0  # bytes since the last progress
        self._progress = False  # made by what is being parsed
        self._repeats = 0  # of headers in this head
        self._refusal = ""  # the status that ends the connection, once what came before is answered
        self._body_since = 0.0  # when the application first waited for this body
        self._body_came = 0  # bytes of it, since then
        self.state = State.IDLE
        self.since = clock()
        self.expired = False
        self.parts: Iterable[bytes] | None = None
        self.refused = ""  # what the client was told in place of an answer

    # called by the parser

    def on_message_begin(self) -> None:
        self._url = b""
        self._into = self._environ.copy()
        self._repeats = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        key = _KEYS[name]
        into = self._into
        text = value.rstrip(b" \t").decode("latin-1")
        if key in into:
            into[key] += f",{text}"
            self._repeats += 1
            if self._repeats > MAX_REPEATS:
                self._refuse(TOO_MANY)
        elif key:
            into[key] = text

    def on_headers_complete(self) -> None:
        parser, head = self._parser, self._into
        version = parser.get_http_version()
        if "HTTP_TRANSFER_ENCODING" in head or version != "1.1":
            self._check_coding(version, head.get("HTTP_TRANSFER_ENCODING"))
        # A second Host would have put a comma into it.
        host = head.get("HTTP_HOST")
        if version == "1.1" if host is None else not _HOSTS[host]:
            self._refuse(BAD_HOST)
        request = self._coming = Request(
            parser.get_method().decode("latin-1"),
            self._url,
            version,
            head,
            parser.should_keep_alive(),
        )
        self._into = _NOWHERE
        self._ready.append(request)
        self._progress = True

    def on_body(self, data: bytes) -> None:
        self._coming.body.append(data)
        self._progress = True

    def on_message_complete(self) -> None:
        self._coming.complete = True
        self._progress = True

    def _check_coding(self, version: str, coding: str | None) -> None:
        """llhttp takes a message for chunked whose last coding is that, whatever came before."""
        if version not in ("1.1", "1.0"):
            self._refuse(OTHER_VERSION)
        if coding is not None and version == "1.0":
            self._refuse(BAD_CODING)
        if coding is not None and coding.strip().lower() != "chunked":
            self._refuse(NOT_CODED)

    def _refuse(self, status: str) -> None:
        """Raises Refused, which makes the parser stop."""
        self._refusal = status
        raise Refused(status)

    def _stop(self, status: str) -> None:
        """Parse no more; the first reason counts."""
        self._refusal = self._refusal or status

    # called by who keeps the connection

    def serve(self, last: Callable[[], bool]) -> None:
        """Answer requests until the client has no more, or `last` says that the one that came is
        the last. Raises OSError when the client is gone, and what the application raises."""
        try:
            while (request := self._next()) is not None:
                request.keep = request.keep and not last() and not self.expired
                if not self._answer(request):
                    return
        except Refused as refused:
            self._turn_away(refused.status)
        finally:
            self._enter(State.CLOSED)
            del self._parser  # which knows us: all that the connection held goes with it, at once

    def overdue(self, now: float) -> bool:
        """Whether the client has taken longer than it may, in the state the connection is in."""
        state, limits = self.state, self._limits
        if state is State.ANSWERING or state is State.CLOSED:
            return False
        if state is State.BODY:
            allowed = limits.body + self._body_came / limits.body_rate
            return now - self._body_since > allowed
        if state is State.IDLE:
            return now - self.since > limits.idle
        return now - self.since > (limits.head if state is State.HEAD else limits.dropping)

    def expire(self) -> None:
        """No more of what the connection waits for is taken. It notices with its next read, which
        the caller makes return."""
        self.expired = True

    # the reader

    def _enter(self, state: State) -> None:
        self.state = state
        self.since = self._clock()

    def _next(self) -> Request | None:
        """The next request, None when there is none. Raises Refused."""
        self._enter(State.IDLE)
        if self._ready:  # a burst of requests in one read: each gets its turn, like other clients'
            self._sock.give_way()
        while not self._ready:
            if self._refusal:
                raise Refused(self._refusal)
            data = self._sock.recv(READ_SIZE)
            if self.expired and self.state is State.HEAD:
                raise Refused(LATE)
            if not data:
                return None
            self._feed(data)
            if self.state is State.IDLE and not self._ready:
                self._enter(State.HEAD)
        self._enter(State.ANSWERING)
        return self._ready.popleft()

    def _feed(self, data: bytes) -> None:
        """Parse what came. What is refused is kept in `_refusal`: requests before it are answered
        first, wherever the client's bytes were cut."""
        room = MAX_INCOMPLETE - self._held
        while len(data) > room and not self._refusal:
            self._parse(data[:room])
            data, room = data[room:], MAX_INCOMPLETE
            if not self._progress:
                self._stop(TOO_LONG)
            self._held, self._progress = 0, False
        if not self._refusal:
            self._parse(data)
            self._held = 0 if self._progress else self._held + len(data)
            self._progress = False

    def _parse(self, data: bytes) -> None:
        rest: bytes | memoryview = data
        try:
            while rest:
                try:
                    self._parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    rest = memoryview(rest)[upgrade.args[0] :]
                    self._without_upgrade()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._stop(BAD)

    def _without_upgrade(self) -> None:
        """Nobody upgrades here: give the head of a request that offers another protocol, without
        the offer, to a new parser. The old one takes what follows for the other protocol."""
        request = self._ready.pop()
        if request.method == "CONNECT":
            self._refusal = BAD
            raise httptools.HttpParserError("nothing is connected here")
        self._parser = httptools.HttpRequestParser(self)
        lines = [
            f"{key.removeprefix('HTTP_').replace('_', '-')}: {value}\r\n"
            for key, value in request.environ.items()
            if key.startswith(("HTTP_", "CONTENT_")) and key != "HTTP_UPGRADE"
        ]
        head = f"{request.method} ".encode("latin-1") + request.url
        lines.insert(0, f" HTTP/{request.version}\r\n")
        self._parser.feed_data(head + f"{''.join(lines)}\r\n".encode("latin-1"))

    def more(self, request: Request) -> bytes:
        """Some more of a body, b"" at its end. Raises BodyError, BodyTimeout."""
        if not request.body and not request.complete:
            self.state = State.BODY
            while not request.body and not request.complete:
                if self._refusal:
                    raise BodyError("the body is no valid HTTP")
                data = self._sock.recv(READ_SIZE)
                if self.expired:
                    self.state = State.ANSWERING
                    raise BodyTimeout("the body came too slowly")
                if not data:
                    raise BodyError("the client hung up")
                self._feed(data)
            self.state = State.ANSWERING
        data = b"".join(request.body)
        request.body.clear()
        self._body_came += len(data)
        return data

    def _drop_body(self, request: Request) -> bool:
        """Take what the client is still sending, up to a bound; whether that was all. A client
        that sends head and body apart counts on its connection, and to close at once would take
        the answer from it too."""
        self._enter(State.DROPPING)
        left = MAX_DROPPED
        while not request.complete and not self._refusal:
            data = self._sock.recv(READ_SIZE) if left > 0 else b""
            if not data or self.expired:
                return False
            left -= len(data)
            self._feed(data)
            request.body.clear()
        if self._refusal and not request.complete:
            self._drop(left)
            return False
        return True

    def _drop(self, left: int) -> None:
        """Tell the client that the answer is whole, and take up to `left` bytes of what it is still
        sending, unparsed: to close at once could take the answer from it."""
        self._sock.finish()
        while left > 0 and not self.expired and (data := self._sock.recv(READ_SIZE)):
            left -= len(data)

    def _turn_away(self, status: str) -> None:
        """Answer what is no request."""
        text, line = status.encode(), status.partition(":")[0].encode()
        head = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b\n"
        self.refused = status
        self._enter(State.ANSWERING)
        self._sock.send(head % (line, len(text) + 1, text))
        self._sock.flush()
        self._enter(State.DROPPING)
        self._drop(MAX_DROPPED)

    # the application

    def _answer(self, request: Request) -> bool:
        """Whether the connection goes on. Raises Refused for a target that is none."""
        environ = self._environ_of(request)
        answer = Answer(self._sock, request)
        parts = self.parts = self._app(environ, answer.start)
        try:
            for part in parts:
                if part:
                    answer.write(part)
            answer.end()
        finally:
            self.parts = None
            close = getattr(parts, "close", None)
            if close is not None:
                close()
        self._sock.flush()
        if not request.complete and not self._drop_body(request):
            return False
        return answer.keep

    def _environ_of(self, request: Request) -> dict[str, Any]:
        """Raises Refused."""
        environ, request.environ = request.environ, _NOWHERE  # it knows the request from here on
        path, _, query = request.url.decode("latin-1").partition("?")
        if not path.startswith("/"):
            path = _path_of(request, path, environ)
        if "%" in path:
            path = unquote_to_bytes(path).decode("latin-1")
        environ["REQUEST_METHOD"] = request.method
        environ["PATH_INFO"] = path
        environ["QUERY_STRING"] = query
        environ["SERVER_PROTOCOL"] = f"HTTP/{request.version}"
        environ["slotproxy.is_last"] = request.is_last
        if request.complete:
            environ["wsgi.input"] = io.BytesIO(b"".join(request.body))
        else:
            self._body_since, self._body_came = self._clock(), 0
            tell = environ.get("HTTP_EXPECT", "").lower() == "100-continue"
            environ["wsgi.input"] = io.BufferedReader(_Coming(self, request, tell))
        return environ

    def tell_to_continue(self) -> None:
        """The time for the body counts from here."""
        self._sock.send(CONTINUE)
        self._body_since = self._clock()


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
        """Raises BodyError, BodyTimeout."""
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

    __slots__ = ("_chunked", "_head", "_request", "_send", "_silent", "keep")

    def __init__(self, sock: Sock, request: Request) -> None:
        self._send = sock.send
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
        if len(self) < 256 and len(raw) < 64:
            self[raw] = key
        return key


class _Hosts(dict[str, bool]):
    """Whether a Host may be one. Kept are the first few hundred."""

    def __missing__(self, host: str) -> bool:
        good = _is_host(host) is not None
        if len(self) < 256 and len(host) < 256:
            self[host] = good
        return good


_KEYS = _Keys()
_HOSTS = _Hosts()
_NOWHERE = _Nowhere()
_HOST = r"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?"
# Of a Host header; RFC 9110 allows none of a comma, which two headers leave behind.
_is_host = re.compile(_HOST).fullmatch
_absolute = re.compile(rf"https?://({_HOST})(/.*)?", re.IGNORECASE).fullmatch
_today = (0, "")


def _path_of(request: Request, target: str, environ: dict[str, Any]) -> str:
    """The path of a target that is none by itself: `*` of OPTIONS, or an address, which stands for
    the Host as well (RFC 9112, 3.2.2). Raises Refused."""
    if target == "*" and request.method == "OPTIONS":
        return target
    found = _absolute(target)
    if found is None or not found[1]:
        raise Refused(BAD_TARGET)
    environ["HTTP_HOST"] = found[1]
    return found[2] or "/"


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

"""HTTP/1.1 for a WSGI application: one connection, served request by request.

`reader` parses the client's bytes into requests; this module waits for them, passes them to the
WSGI application and writes the answers. With gunicorn's own reader and writer, a short answer costs
two fifths more.

Each `State` that waits for the client has a time limit (`ConnectionLimits`). There are no timers
here: the worker checks `overdue` now and then, calls `expire`, and wakes the reader.

A body that does not come with its head is read when the application asks for it; only then does a
client that waits for "100 Continue" get it. What the application leaves unread is discarded, up to
a bound. An incomplete body raises `BodyError`, so that a part never passes for the whole.

No client is reset, which could delete an answer that it has not read yet: see `linger`.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import io
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from .reader import HOST, Reader, Refused, Request

log = logging.getLogger("slotproxy")

READ_SIZE = 65536  # bytes
BODY_READ_SIZE = 1 << 19  # the same for the rest of a body
MAX_DROPPED = 1 << 20  # bytes of an unread body that are discarded for the next request
# Bytes that are discarded before a connection closes: twice the usual --max-body, since many
# clients read a 401 or 413 only when they have sent everything.
MAX_LINGERED = 64 << 20

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
# Final answers to invalid or late requests: the status, whose text is the reason.
BAD_TARGET = "400 Bad Request: the request target must be a path or an http URL"
LATE = "408 Request Timeout: the request headers took too long"

Headers = list[tuple[str, str]]
Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class State(enum.Enum):
    """The states of a connection."""

    IDLE = "waits for a request, of which nothing came yet"
    HEAD = "waits for the rest of a head"
    ANSWERING = "the application works, or the client takes the answer"
    BODY = "the application waits for more of the body"
    DROPPING = "answered; waits for the rest of a body, to drop it"
    LINGERING = "no request is served any more; waits for the client to close"
    UPGRADED = "the application waits for a message of a WebSocket"
    REFUSING = "a refusal is sent"
    CLOSED = "over"

    __hash__ = object.__hash__  # that of Enum is written in Python


class ConnectionLimits(NamedTuple):
    """Time limits for clients, in seconds. After `head` and `body` the client gets a 408 before the
    end. A body may take one more second for every `body_rate` bytes received."""

    idle: float = 75.0  # longer than the 60 s after which common load balancers close a connection
    head: float = 30.0  # a head is one packet, or a few
    body: float = 60.0  # like nginx's client_body_timeout
    body_rate: float = 500.0  # bytes per second; a phone with a weak signal has ten times that
    dropping: float = 10.0  # for a client that still sends, or stays, after its last answer


class Sock(Protocol):
    """Methods that wait let other greenlets run; `give_way` does only that. `flush` waits until all
    that was sent is accepted. `finish` tells the client that no more data follows."""

    def recv(self, size: int, /) -> bytes: ...

    def send(self, data: bytes, /) -> object: ...

    def flush(self) -> None: ...

    def finish(self) -> None: ...

    def give_way(self) -> None: ...


class Last(bytes):
    """The last part of a body, sent together with the end of the body. Other servers see bytes."""


class BrokenAnswer(ConnectionError):
    """An answer that cannot carry an error ended early: it must not look complete."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.ECONNRESET, reason)


class BodyError(OSError):
    """An incomplete body: the client has disconnected or sent invalid HTTP."""


class BodyTimeout(TimeoutError):
    """A body that arrives too slowly."""


class ServerConnection:
    """A client. Its requests share `environ`; `parts` is the answer under way, or None."""

    __slots__ = tuple(
        """_app _body_came _body_since _clock _limits _reader _sock at_once expired parts refused
        since state""".split()
    )

    def __init__(
        self,
        sock: Sock,
        app: Application,
        environ: dict[str, Any],
        limits: ConnectionLimits = ConnectionLimits(),  # noqa: B008  (it cannot be changed)
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sock, self._app, self._limits, self._clock = sock, app, limits, clock
        self._reader = Reader(environ)
        self._body_since = 0.0  # when the application began to wait for this body
        self._body_came = 0  # bytes received since then
        self.state = State.IDLE
        self.since = clock()
        self.expired = False
        self.at_once = False  # it must not linger
        self.parts: Iterable[bytes] | None = None
        self.refused = ""  # the status that ended the connection in place of an answer

    # for the worker

    def serve(self, last: Callable[[], bool]) -> None:
        """Answer requests until the client sends no more, or `last` returns true for one. Raises
        OSError, and the application's exceptions. The connection must `linger` after that too."""
        try:
            while (request := self._next()) is not None:
                request.keep = request.keep and not last() and not self.expired
                if not self._answer(request):
                    return
        except Refused as refused:  # a final answer to an invalid or late request
            self.refused = refused.status
            self._enter(State.REFUSING)
            text, line = refused.status.encode(), refused.status.partition(":")[0].encode()
            head = b"HTTP/1.1 %b\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b\n"
            self._sock.send(head % (line, len(text) + 1, text))
        finally:
            self._reader.close()

    def linger(self) -> None:
        """Say that no more data follows, and discard what still comes. Never raises OSError."""
        self._enter(State.LINGERING)
        left = 0 if self.at_once else MAX_LINGERED
        with contextlib.suppress(OSError):
            self._sock.flush()
            self._sock.finish()
            while left > 0 and (data := self._sock.recv(READ_SIZE)):
                left -= len(data)
        self._enter(State.CLOSED)

    def overdue(self, now: float) -> bool:
        """Whether the client has exceeded the time limit of the current state."""
        limits, waited = self._limits, now - self.since
        match self.state:
            case State.IDLE:
                return waited > limits.idle
            case State.HEAD:
                return waited > limits.head
            case State.BODY:
                allowed = limits.body + self._body_came / limits.body_rate
                return now - self._body_since > allowed
            case State.DROPPING | State.LINGERING:
                return waited > limits.dropping or (self.expired and self.state is State.LINGERING)
        return False

    def expire(self, at_once: bool = False) -> None:
        """End the wait for the client; with `at_once`, the connection will not linger. Takes effect
        with the next read, which the caller must make return."""
        self.expired = True
        self.at_once = self.at_once or at_once

    # the reader

    def _enter(self, state: State) -> None:
        self.state, self.since = state, self._clock()

    def _next(self) -> Request | None:
        """The next request, None if there is none. Raises Refused."""
        reader = self._reader
        if reader.requests or reader.unparsed:
            # Pipelined in one read: let other clients' requests run in between.
            self._sock.give_way()
        while not reader.requests:
            if reader.refusal:
                raise Refused(reader.refusal)
            data = reader.unparsed or self._sock.recv(READ_SIZE)
            if self.expired and self.state is State.HEAD:
                raise Refused(LATE)
            if not data:
                return None
            reader.feed(data)
            if not reader.requests and self.state is State.IDLE:
                self._enter(State.HEAD)
        self.state, self.since = State.ANSWERING, self._clock()
        return reader.requests.pop(0)

    def more(self, request: Request) -> bytes:
        """The next part of a body, b"" at its end. Raises BodyError, BodyTimeout."""
        reader = self._reader
        while not request.body and not request.complete:
            if reader.refusal:
                raise BodyError("the request body is not valid HTTP")
            self.state = State.BODY  # of its answer: who sends slowly must not count as new
            try:
                data = reader.unparsed or self._sock.recv(BODY_READ_SIZE)
            finally:
                self.state = State.ANSWERING
            if self.expired:
                raise BodyTimeout("the request body took too long")
            if not data:
                raise BodyError("the client disconnected")
            reader.feed(data)
        data = b"".join(request.body)
        request.body.clear()
        self._body_came += len(data)
        return data

    def _drop_body(self, request: Request) -> bool:
        """Read and discard the rest of a body, up to a bound. Returns whether it ended: a client
        that sends head and body separately relies on the connection."""
        self._enter(State.DROPPING)
        reader, left = self._reader, MAX_DROPPED
        while not request.complete and not reader.refusal:
            data = reader.unparsed or (self._sock.recv(READ_SIZE) if left > 0 else b"")
            if not data or self.expired:
                return False
            left -= len(data)
            reader.feed(data)
            request.body.clear()
        if request.complete:
            self._enter(State.IDLE)
        return request.complete

    # the application

    def _answer(self, request: Request) -> bool:
        """Answer a request. Returns whether the connection stays open. Raises Refused."""
        answer = ResponseWriter(self._sock, request)
        # The environment is not kept for the time of a stream.
        parts = self.parts = self._app(self._environ_of(request), answer.start)
        if getattr(parts, "holds_slot", False):
            self._reader.rest()
        try:
            try:
                for part in filter(None, parts):
                    answer.write(part)
                if not answer.whole:
                    answer.end()
            finally:
                self.parts = None
                close = getattr(parts, "close", None)
                if close is not None:
                    close()
        except Exception:
            if not answer.whole:
                raise
            # The client has all of it, and may have sent its next request.
            log.exception("failed after the whole answer")
        self._sock.flush()
        if not answer.keep:
            return False
        if not request.complete:
            return self._drop_body(request)
        self.state, self.since = State.IDLE, self._clock()
        return True

    def _environ_of(self, request: Request) -> dict[str, Any]:
        """Raises Refused."""
        environ, request.environ = request.environ, {}  # breaks a reference cycle
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
        if "HTTP_UPGRADE" in environ:
            # Called by an application that took the connection over for a WebSocket.
            environ["slotproxy.waits"] = lambda waits: self._enter(
                State.UPGRADED if waits else State.ANSWERING
            )
        if request.complete:
            environ["wsgi.input"] = io.BytesIO(b"".join(request.body))
            request.body.clear()
        else:
            self._body_since, self._body_came = self._clock(), 0
            tell = environ.get("HTTP_EXPECT", "").lower() == "100-continue"
            environ["wsgi.input"] = io.BufferedReader(_Coming(self, request, tell))
        return environ

    def tell_to_continue(self) -> None:
        """Send "100 Continue". The time limit of the body starts here."""
        self._sock.send(CONTINUE)
        self._body_since = self._clock()


class _Coming(io.RawIOBase):
    """A body that is still being received."""

    def __init__(self, connection: ServerConnection, request: Request, tell: bool) -> None:
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


class ResponseWriter:
    """Writes the head with the first bytes, then bytes or chunks. `whole`: all was written."""

    __slots__ = ("_chunked", "_head", "_request", "_send", "_silent", "keep", "whole")

    def __init__(self, sock: Sock, request: Request) -> None:
        self._send = sock.send
        self._request = request
        self._head = b""
        self._chunked = self._silent = self.whole = False
        self.keep = request.keep

    def start(self, status: str, headers: Headers, exc_info: Any = None) -> Callable[..., Any]:
        """WSGI's start_response. Raises ValueError for a header with a line break."""
        request = self._request
        lines = "\r\n".join((f"HTTP/1.1 {status}", *map(": ".join, headers)))
        if not lines.count("\n") == lines.count("\r") == len(headers):
            raise ValueError("a header contains a line break")
        silent = request.method == "HEAD" or status.startswith(("204", "304", "1"))
        ends = silent or "\r\ncontent-length:" in lines.lower()
        chunked = not ends and request.version == "1.1"
        keep = request.keep and (ends or chunked)
        self._silent, self._chunked, self.keep = silent, chunked, keep
        self._head = (
            f"{lines}\r\nDate: {_date(int(time.time()))}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n"
            f"{CHUNKED if chunked else ''}\r\n"
        ).encode("latin-1")
        return self.write

    def write(self, data: bytes) -> None:
        if self._chunked:
            if type(data) is Last:
                self.end(data)
                return
            data = b"%x\r\n%b\r\n" % (len(data), data)
        elif self._silent:
            return
        if self._head:
            data, self._head = self._head + data, b""
        self._send(data)

    def end(self, data: bytes = b"") -> None:
        """Write the end of the body, after its last data."""
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            self._send(self._head + chunk + LAST_CHUNK)
        elif self._head:
            self._send(self._head)
        self.whole = True


_absolute = re.compile(rf"https?://({HOST})(/.*)?", re.IGNORECASE).fullmatch


def _path_of(request: Request, target: str, environ: dict[str, Any]) -> str:
    """The path of `*` with OPTIONS, or of a URL, which also replaces the Host. Raises Refused."""
    if target == "*" and request.method == "OPTIONS":
        return target
    absolute = _absolute(target)
    if absolute is None or not absolute[1]:
        raise Refused(BAD_TARGET)
    environ["HTTP_HOST"] = absolute[1]
    return absolute[2] or "/"


@lru_cache(maxsize=1)
def _date(now: int) -> str:
    """A time in HTTP's format; formatted once a second."""
    return formatdate(now, usegmt=True)


def base_environ(sock: Any, server: Any, client: Any) -> dict[str, Any]:
    """The WSGI environment shared by all requests of a connection. `server` and `client` are the
    addresses of the two ends: (host, port, …), or the path of a Unix socket."""
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

"""The upstream HTTP client: keep-alive sockets, a C parser, and exchanges that any thread can end.

The hot path pays for every layer (for a relayed token: this client 10 µs, urllib3 40, requests 45),
and no common client has what is needed: `abort()` from another thread ends a blocking read; a
request on a keep-alive connection that the server had closed (server.cpp does so after 5 or 100
requests) is sent again; a read reports a tick of silence and can be continued. It speaks HTTP/1.1,
without redirects, cookies or proxies, and raises errors of `proxy.errors` only.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from ..core.task import Call
from ..core.usage import Usage
from ..errors import (
    AnswerCut,
    BackendDown,
    ConnectionLost,
    GatewayError,
    Unreachable,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.blocking import give_way
from ..runtime.cancel import Cancel, client_left
from ..runtime.locks import native_lock
from .connections import Connection, ConnectionLimit, SocketReader, shut_down, stale

# An old server sends the head and the body of a short answer in two packets, and its kernel holds
# the second until the first is acknowledged: 40 ms on a keep-alive connection, without QUICKACK.
QUICKACK = getattr(socket, "TCP_QUICKACK", None)  # Linux
WARM = 0.5  # seconds for which an idle connection is assumed to be still open
MAX_WHOLE = 64 << 20  # bytes of an answer that is read whole
PIECE = 512 << 10  # bytes of a request that are sent in one call
MAX_FRAME = 256 << 10  # bytes of a head, or of trailers and chunk framing
NOTHING: tuple[bytes, ...] = ()
_json = msgspec.json.Encoder().encode
CheckPeer = Callable[[socket.socket], None]


@functools.cache  # reading the certificates takes some 20 ms
def _trust() -> ssl.SSLContext:
    return ssl.create_default_context()


def _send_in_pieces(sock: socket.socket, parts: Iterable[bytes], timeout: float) -> None:
    """Send large data, letting other greenlets run between the pieces: a send never waits while
    the backend reads as fast as this writes. Raises TimeoutError and OSError."""
    deadline = time.monotonic() + timeout
    for part in parts:
        rest = memoryview(part)
        while rest:
            give_way()
            if time.monotonic() > deadline:
                raise TimeoutError
            rest = rest[sock.send(rest[:PIECE]) :]


def discard(connection: Connection) -> None:
    shut_down(connection.sock)
    connection.close()


class Exchange:
    """A request and its answer. `status` is 0 until the headers have arrived."""

    status = 0
    _connection: Any = None  # a Connection, until it is over
    _sock: socket.socket | None = None  # of the connection, also while it is made
    _reader: SocketReader | None = None
    _fault: UpstreamFault | None = None
    _seen: Callable[[bytes], None] | None = None  # gets the body, too
    _complete = _aborted = _keep = False

    def __init__(
        self,
        pool: ConnectionPool,
        message: bytes,
        rest: Iterable[bytes],
        cancel: Cancel | None,
        tick: float,
    ) -> None:
        self._pool = pool
        self._message = message  # sent in one call
        self._rest = rest  # sent after it, in pieces; perhaps again on another connection
        self._cancel = cancel
        self.tick = tick
        self._body: list[bytes] = []
        if cancel is not None and cancel.on_exchange is not None:
            self._seen = cancel.on_exchange(self, message, rest)
        self._headers: dict[bytes, bytes] = {}
        # The parser calls these for every piece of a body (a token's) and every header.
        self.on_body = self._body.append
        self.on_header = self._headers.setdefault
        self._parser: Any = httptools.HttpResponseParser(self)  # None when it is over
        try:
            if cancel is not None:
                cancel.add(self.abort)  # before the first step that may take long
            self._send(fresh=False)
        except BaseException:
            self.close()
            raise

    # called by the parser

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # an interim response, which the answer follows
            self._headers.clear()
        else:
            self.status = status

    def on_message_complete(self) -> None:
        if self.status and self._parser is not None:
            self._complete = True
            self._keep = self._parser.should_keep_alive()

    # called by drivers

    @property
    def timeout(self) -> float:
        return self._pool.timeout

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer by their names in lower case; of equal ones the first."""
        return {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in reversed(self._headers.items())
        }

    def headers_came(self) -> bool:
        """Wait for the headers, at most one tick. Returns whether they arrived. Raises like `read`;
        BackendDown if the connection ended before the first byte."""
        return self._parse_until(body=False)

    def read(self, gather: float = 0.0) -> bytes | None:
        """The data of one read; b"" at the end, None after a tick of silence. With `gather`, all
        that arrives within so many seconds, or until the end. Raises Cancelled, BackendDown,
        UpstreamFault (incomplete or invalid HTTP)."""
        body = self._body
        end = time.monotonic() + gather if gather else 0.0
        if not body and not self._complete:
            if not self._fill():
                return None
            if not body and not self._parse_until(body=True):
                return None
        if gather:
            with contextlib.suppress(GatewayError):  # the next read raises it again
                while not self._complete and (left := end - time.monotonic()) > 0:
                    self._fill(left)
        data = b"".join(body)  # no copy of a single one
        body.clear()
        if self._seen is not None:
            self._seen(data)
        if self._complete:
            self.close()
        return data

    def _parse_until(self, *, body: bool) -> bool:
        """Parse until data of the body has come, or else the headers, or the answer is complete.
        False after a tick of silence. An answer in pieces is bounded in time and size."""
        end, size = time.monotonic() + self.tick, 0
        while not (self._body if body else self.status) and not self._complete:
            received = self._fill()
            size += received
            if size > MAX_FRAME:
                raise UpstreamFault("the backend's response headers are too large")
            if not received or time.monotonic() >= end:
                break
        return bool((self._body if body else self.status) or self._complete)

    def read_within(self, timeout: float) -> bytes:
        """The same as `read`. Raises UpstreamTimeout after `timeout` seconds of silence."""
        silence = 0.0
        while (part := self.read()) is None:
            silence += self.tick
            if silence >= timeout:
                raise UpstreamTimeout("the backend timed out")
        return part

    def read_all(self, timeout: float, most: int = MAX_WHOLE) -> bytes:
        """Read the whole body of at most `most` bytes. Raises UpstreamTimeout after `timeout`
        seconds of silence, or twice as many in all."""
        data, end = bytearray(), time.monotonic() + 2 * timeout
        while part := self.read_within(timeout):
            data += part
            if len(data) > most:
                raise UpstreamFault("the backend's response is too large")
            if time.monotonic() >= end:
                raise UpstreamTimeout("the backend timed out")
        return bytes(data)

    def hurry(self) -> None:
        """Have the next packet acknowledged immediately, for a short answer."""
        if QUICKACK is not None and self._connection is not None:
            with contextlib.suppress(OSError):  # if the socket is closed, the read reports it
                self._connection.sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 1)

    def finish(self, seconds: float) -> None:
        """Wait at most so many seconds for the end of the body, discarding it, so that the
        connection can be reused. The exchange is over in any case."""
        if self._parser is None:
            return  # the end was read already
        end = time.monotonic() + seconds
        with contextlib.suppress(GatewayError):  # the answer was complete
            while not self._complete and (left := end - time.monotonic()) > 0:
                self._fill(left)
                if self._seen is not None:
                    self._seen(b"".join(self._body))
                self._body.clear()
        self.close()

    def close(self) -> None:
        """End the exchange. Closes the connection if the answer did not come to its end, which is
        how a server notices that the client left. Safe to call again."""
        if self._parser is None:
            return  # already over
        pool, reader = self._pool, self._reader
        with pool.lock:
            connection, self._connection, self._sock = self._connection, None, None
        self._reader = self._parser = None  # the parser is in a reference cycle
        if reader is not None:
            reader.stop()
        if self._cancel is not None:
            self._cancel.remove(self.abort)
        if connection is not None:
            if self._complete and self._keep and not self._aborted:
                pool.give_back(connection)
            else:
                discard(connection)
        if pool.limit is not None:
            pool.limit.leave()

    def abort(self) -> None:
        """End what blocks, from any thread: connecting, sending or reading."""
        with self._pool.lock:
            self._aborted = True
            if self._sock is not None:
                shut_down(self._sock)

    def _on_socket(self, sock: socket.socket) -> None:
        """Called with each socket before it connects. Raises Cancelled."""
        self._sock = sock
        if self._aborted:  # set before `abort` looks for the socket
            raise self._broken("it was aborted")

    def _send(self, fresh: bool) -> None:
        pool, message = self._pool, self._message
        try:
            connection = pool.take(fresh, self._on_socket)
        except BackendDown as error:
            raise self._broken(error.detail) if self._aborted else error from None
        sock = connection.sock
        self._connection, self._sock = connection, sock
        if self._aborted:  # between two steps
            raise self._broken("it was aborted")
        try:
            # What fits the socket's buffer, which is empty, does not wait.
            sent = sock.send(message)
            if sent < len(message) or self._rest is not NOTHING:
                sock.settimeout(pool.timeout)
                sock.sendall(message[sent:])
                _send_in_pieces(sock, self._rest, pool.timeout)
            self._reader = connection.reader(self.tick)
        except TimeoutError:
            raise UpstreamTimeout("the backend did not accept the request") from None
        except OSError as error:
            if connection.used and not self._aborted:
                self._resend()
                return
            raise self._broken(str(error)) from None

    def _resend(self) -> None:
        """Send the request again on a new connection, because the server had closed the old one."""
        with self._pool.lock:
            old, self._connection, self._sock = self._connection, None, None
        self._reader = None
        if old is not None:
            discard(old)
        self._send(fresh=True)

    def _fill(self, limit: float = 0.0) -> int:
        """Parse the data of one recv. Returns its size, at least 1 if the connection ended or was
        replaced; 0 after a tick of silence, or after `limit` seconds."""
        reader = self._reader
        if reader is None:
            raise self._fault or self._broken("the exchange was closed")
        broken = ""
        try:
            data = reader.read(limit)
        except OSError as error:
            data, broken = b"", str(error)
        if data is None:
            return 0
        if data:
            if self._message:  # the answer has begun, so the request must not be sent again
                self._message, self._rest = b"", NOTHING
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
                self._fault = UpstreamFault("the backend sent invalid HTTP", detail=str(error))
                self._keep = False
                reader.stop()
                self._reader = None  # nothing that follows could be parsed
                raise self._fault from None
        elif self._message and not self._aborted and self._connection.used:
            self._resend()
        elif not broken and not self._aborted and self._ends_with_connection():
            self._complete = True
        else:
            raise self._broken(broken or "end of file")
        return len(data) or 1

    def _ends_with_connection(self) -> bool:
        """Whether nothing else ends the body, as in HTTP/1.0."""
        names = {name.lower(): value for name, value in self._headers.items()}
        chunked = b"chunked" in names.get(b"transfer-encoding", b"")
        return self.status > 0 and b"content-length" not in names and not chunked

    def _broken(self, detail: str) -> GatewayError:
        if self._aborted:
            return client_left() if self._cancel is None else self._cancel.error()
        if self._message:
            return ConnectionLost("the backend closed the connection", detail=detail)
        return AnswerCut("the backend's response ended early", detail=detail)


class ConnectionPool:
    """The connections to one backend: at most `limit` in use, and at most `idle` kept open.
    `check_peer` is called with each new socket before anything is sent, and raises BackendDown."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float = 600.0,
        connect_timeout: float = 5.0,
        limit: ConnectionLimit | None = None,
        idle: int = 64,
        headers: Mapping[str, str] | None = None,
        check_peer: CheckPeer | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.timeout = timeout
        self._tls = _trust() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/")
        self._connect_timeout = connect_timeout
        self._max_idle = idle
        self._check_peer = check_peer
        self.lock = native_lock()  # orders aborting an exchange and ending it
        self._idle: deque[Connection] = deque()  # append and pop are atomic: no lock
        self.limit = limit  # of exchanges: each takes a place, and gives it back
        fixed = {"Host": parts.netloc.rpartition("@")[2], "Content-Type": "application/json"}
        fixed.update(headers or {})
        self._fixed = fixed
        self._headers = "".join(f"{k}: {v}\r\n" for k, v in fixed.items())

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        cancel: Cancel | None = None,
        tick: float = 15.0,
        *,
        patience: float | None = None,
        short: bool = False,
    ) -> Exchange:
        """Send a request, with `body` as JSON. Reads of the answer return after `tick` seconds of
        silence. `patience` is how many seconds to wait for a free connection (default: the pool's
        timeout); a `short` request may use a reserved one. Raises BackendDown, UpstreamTimeout,
        PoolTimeout, Cancelled."""
        data = b"" if body is None else _json(body)
        traced = "" if cancel is None else cancel.headers
        head = f"{method} {self._base}{path} HTTP/1.1\r\n{self._headers}{traced}".encode("latin-1")
        size, rest = len(data), NOTHING
        if size > PIECE:  # joining it with the head would block the loop with a copy
            data, rest = b"", (data,)
        message = b"%bContent-Length: %d\r\n\r\n%b" % (head, size, data)
        if self.limit is not None:
            self.limit.enter(self.timeout if patience is None else patience, cancel, short)
        return Exchange(self, message, rest, cancel, tick)

    def forward(self, call: Call, path: str, cancel: Cancel, tick: float) -> Exchange:
        """Send a client's request to `path`, with its own headers and body. Raises like `send`."""
        body = call.body
        lines = [f"{call.method} {self._base}{path} HTTP/1.1"]
        # Headers of ours come last, so that none of the client's replaces them.
        sent = {name: value for name, value in self._fixed.items() if name != "Content-Type"}
        lines += [f"{name}: {value}" for name, value in {**call.headers, **sent}.items()]
        if body is not None:
            lines.append(f"Content-Length: {body.size}")
        message = ("\r\n".join(lines) + f"\r\n{cancel.headers}\r\n").encode("latin-1")
        rest = NOTHING if body is None else body.parts
        if self.limit is not None:
            self.limit.enter(self.timeout, cancel)
        return Exchange(self, message, rest, cancel, tick)

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        timeout: float | None = None,
        cancel: Cancel | None = None,
        *,
        patience: float | None = None,
        short: bool = False,
        most: int = MAX_WHOLE,
    ) -> tuple[int, bytes]:
        """Send a request and read the whole answer of at most `most` bytes. Returns its status and
        body. `timeout` bounds the silence in seconds, and the wait for a connection unless
        `patience` does. Raises like `send` and `read`."""
        timeout = timeout or self.timeout
        patience = timeout if patience is None else patience
        tick = min(timeout, 15.0)
        exchange = self.send(method, path, body, cancel, tick, patience=patience, short=short)
        try:
            exchange.hurry()
            data = exchange.read_all(timeout, most)
            return exchange.status, data
        finally:
            exchange.close()

    def take(self, fresh: bool, on_socket: Callable[[socket.socket], None]) -> Connection:
        """A connection to send on. `on_socket` is called with a new socket before it connects.
        Raises BackendDown, Cancelled."""
        while not fresh:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            # A connection used just now is not checked. If the server closed it, the request is
            # sent again, as it may be even after a check.
            if time.monotonic() - connection.since < WARM or not stale(connection.sock):
                return connection
            connection.close()
        return Connection(self._connect(on_socket))

    def give_back(self, connection: Connection) -> None:
        connection.used, connection.since = True, time.monotonic()
        self._idle.append(connection)
        if len(self._idle) > self._max_idle:  # perhaps because the pool was closed just now
            with contextlib.suppress(IndexError):
                self._idle.popleft().close()

    def close(self) -> None:
        """Close the idle connections. Those in use are closed when their answers end."""
        self._max_idle = 0
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _connect(self, on_socket: Callable[[socket.socket], None]) -> socket.socket:
        """Connect to the backend, at the first of its addresses that accepts."""
        fault, family, plain = OSError(), socket.AF_INET, (self._host, self._port)
        infos: list[Any] = [(family, 0, 0, "", plain)]
        # For a numeric IPv4 address, too, getaddrinfo would use a thread pool under gevent.
        if not self._host.replace(".", "").isdigit():
            try:
                infos = socket.getaddrinfo(*plain, 0, socket.SOCK_STREAM)
            except OSError as error:
                raise _unreachable(error) from None
        for family, _, _, _, address in infos:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                on_socket(sock)
                sock.settimeout(self._connect_timeout)
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._check_peer is not None:
                    self._check_peer(sock)
                if self._tls is not None:
                    sock = self._tls.wrap_socket(
                        sock, server_hostname=self._host, do_handshake_on_connect=False
                    )
                    on_socket(sock)
                    sock.do_handshake()
                return sock
            except OSError as error:
                sock.close()
                fault = error.with_traceback(None)  # which has this frame: a cycle
            except BaseException:
                sock.close()
                raise
        raise _unreachable(fault)


def _unreachable(error: OSError) -> Unreachable:
    """Why there is no connection, without the address."""
    reason = error.strerror or ""
    if isinstance(error, socket.gaierror):
        reason = "no such host"
    elif isinstance(error, TimeoutError):
        reason = "connection timed out"
    elif isinstance(error, ssl.SSLError):
        reason = "it does not speak TLS, or its certificate is not trusted"
    reason = f": {reason[:1].lower()}{reason[1:]}" if reason else ""
    return Unreachable(f"the backend is not responding{reason}", detail=str(error))


# -- requests that a server gets as the client sent them, and their answers ------------------------

MAX_READ = 16 << 20  # bytes of an answer that is read here
# Headers about the content of an answer. All others end here: those of the connection, cookies
# (the gateway has its own), and rules for browsers, which are the gateway's too.
KEPT = frozenset(
    "accept-ranges cache-control content-disposition content-encoding content-language"
    " content-length content-range content-type etag last-modified retry-after".split()
)


class ForwardedAnswer:
    """The answer to a call that was sent to `path`. Redirects are not followed."""

    usage: Usage | None = None
    _written: bytes | None = None  # what replaces the body
    _whole = False

    def __init__(
        self,
        pool: ConnectionPool,
        call: Call,
        path: str,
        cancel: Cancel,
        *,
        tick: float,
        timeout: float,
    ) -> None:
        """Wait for the head. Raises UpstreamTimeout after `timeout` seconds of silence, and like
        `ConnectionPool.send`."""
        self._exchange = exchange = pool.forward(call, path, cancel, tick)
        self._timeout = timeout
        self.closing: list[Callable[[bool], object]] = []
        silence = 0.0
        try:
            while not exchange.headers_came():
                silence += tick
                if silence >= timeout:
                    raise UpstreamTimeout("the model's server did not answer in time")
        except BaseException:
            exchange.close()
            raise
        self.status = exchange.status
        self.headers = {name: text for name, text in exchange.headers.items() if name in KEPT}

    def read_all(self) -> bytes:
        """The whole body, which `rewrite` may then replace. Raises like `Exchange.read_all`."""
        with contextlib.closing(self._exchange):
            return self._exchange.read_all(self._timeout, MAX_READ)

    def rewrite(self, kind: str, data: bytes, usage: Usage) -> None:
        """Answer with this body of this type instead, which has so many tokens."""
        self.headers, self._written, self.usage = {"content-type": kind}, data, usage

    def __iter__(self) -> Iterator[bytes]:
        if self._written is not None:
            yield self._written
        else:
            while part := self._exchange.read_within(self._timeout):
                yield part
        self._whole = True

    def close(self) -> None:
        self._exchange.close()
        closing, self.closing = self.closing, []
        for close in closing:
            close(self._whole)

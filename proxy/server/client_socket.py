"""A client's socket under gevent, for `proxy.server.http1`.

A read waits first: an exception costs as much as parsing a request. What the socket does not accept
of a write is buffered, up to `MAX_BEHIND`, and sent by a greenlet of its own, so that the
application can read its model server to the end and release the slot.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub
from gevent.event import Event

MAX_BEHIND = 4 << 20  # bytes that a client may lag behind an answer before the answer waits
MAX_BEHIND_ALL = 256 << 20  # the same for all clients of a process together
_PIECE = 256 << 10  # bytes that are joined for one write


class _Woken(Exception):
    """Ends the wait of a read."""


class ClientSocket:
    """Wraps a gevent socket, which `close` leaves open. `broken`: a read or write has failed."""

    __slots__ = tuple(
        """_behind _client _error _for_good _held_up _io _recv _rest _send _sender _taken _timeout
        _took _wait _waits_since _woken broken""".split()
    )

    behind_all = 0

    def __init__(self, client: Any, send_timeout: float = 60.0) -> None:
        self._client = client
        self._timeout = send_timeout
        self._wait = get_hub().wait
        self._io = client._read_event  # the socket's own watcher
        system = client._sock  # the native socket, which never blocks
        self._recv: Callable[[int], bytes] = system.recv
        self._send: Callable[[bytes], int] = system.send
        self._behind = 0  # bytes that the socket has not accepted yet
        self._rest: list[bytes] = []  # a deque takes 700 bytes more
        self._sender: Any = None  # a greenlet, while data is buffered
        self._took = Event()  # the client has accepted data
        self._taken = 0.0  # when it last did
        self._held_up = 0.0  # seconds that the answer has waited since the buffer was last empty
        self._waits_since = 0.0
        self._error: OSError | None = None
        self._woken = self._for_good = False
        self.broken = False

    def recv(self, size: int, /) -> bytes:
        while True:
            if not self._woken:
                try:  # noqa: SIM105  (contextlib.suppress is slower)
                    self._wait(self._io)
                except _Woken:
                    pass
            try:
                data = self._recv(size)
                self._woken = self._for_good
                return data
            except BlockingIOError:
                if self._woken:
                    return b""
            except OSError:
                self.broken = True
                raise

    def wake(self, for_good: bool) -> None:
        """Have reads not wait any more: they return b"" if nothing has come. `for_good`: until
        `finish`; otherwise until something comes, since the rest of a request that crosses with
        a stop is waited for."""
        self._woken = True
        self._for_good = self._for_good or for_good
        get_hub().cancel_wait(self._io, _Woken())

    def send(self, data: bytes, /) -> None:
        """Send data, or buffer it. Raises OSError if the client has disconnected."""
        if not self._behind:
            try:
                sent = self._send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.broken = True
                raise
            if sent == len(data):
                return
            data = data[sent:]
        self._keep(data)

    def flush(self) -> None:
        """Wait until all data is sent. Raises OSError if the client has disconnected."""
        if self._behind:
            self._wait_for(0)
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        self._woken = self._for_good = False
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def give_way(self) -> None:
        gevent.sleep(0)

    def is_stuck(self, now: float, holds_slot: bool) -> bool:
        """Whether the client has accepted nothing for too long. If the answer holds a slot that
        other requests wait for, also whether it has delayed the answer for too long."""
        if not self._behind:
            return False
        waits = now - self._waits_since if self._waits_since else 0.0
        held_up = self._held_up + waits if holds_slot else 0.0
        return now - self._taken > self._timeout or held_up > self._timeout

    def close(self) -> None:
        """Stop reading and writing. The socket stays open."""
        if self._sender is not None:
            self._sender.kill()
        self._count(-self._behind)
        self._io.stop()

    def _count(self, size: int) -> None:
        self._behind += size
        ClientSocket.behind_all += size

    def _keep(self, data: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._rest.append(data)
        self._count(len(data))
        if self._sender is None:
            self._taken, self._held_up = time.monotonic(), 0.0
            self._sender = gevent.spawn(self._send_rest)
        if self._behind > MAX_BEHIND or ClientSocket.behind_all > MAX_BEHIND_ALL:
            self._waits_since = time.monotonic()
            try:
                self._wait_for(MAX_BEHIND)
            finally:
                self._held_up += time.monotonic() - self._waits_since
                self._waits_since = 0.0

    def _wait_for(self, behind: int) -> None:
        """Wait until the client lags at most so many bytes. Raises OSError if it has left."""
        while self._error is None and self._behind:
            if self._behind <= behind and ClientSocket.behind_all <= MAX_BEHIND_ALL:
                return
            self._took.clear()
            self._took.wait()
        if self._error is not None:
            raise self._error

    def _send_rest(self) -> None:
        hub = get_hub()
        io = hub.loop.io(self._client.fileno(), 2)
        try:
            while self._rest:
                piece = memoryview(self._next_piece())
                while piece:
                    hub.wait(io)
                    try:
                        sent = self._send(piece)  # type: ignore[arg-type]  # bytes-like
                    except BlockingIOError:
                        continue
                    piece = piece[sent:]
                    self._taken = time.monotonic()
                    self._count(-sent)
                    self._took.set()
        except OSError as error:
            self._error, self.broken = error, True
        except Exception as defect:  # otherwise a waiting writer would wait forever
            self._error = ConnectionError(f"the response could not be sent: {defect}")
            raise
        finally:
            io.stop()
            io.close()
            self._sender = None
            self._took.set()

    def _next_piece(self) -> bytes:
        count = size = 0
        while size < _PIECE and count < len(self._rest):
            size += len(self._rest[count])
            count += 1
        parts, self._rest = self._rest[:count], self._rest[count:]
        return b"".join(parts)


def hang_up(client: Any, how: int) -> None:
    """Shut a client's socket down. SHUT_RD: a request that has just arrived is still answered.
    The reading greenlet sees an ordinary end; gevent's shutdown() would raise in it."""
    with contextlib.suppress(OSError):
        client._sock.shutdown(how)

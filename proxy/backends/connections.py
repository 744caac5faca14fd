"""Sockets to model servers: how many are in use at once, and how they are read.

A read returns data, or None after a tick of silence: with threads, the socket's own timeout.
Under gevent, a timer for every single read is a third of the cost of a relayed token, so one timer
beats for the whole answer, and lives as long as the connection. There, a read waits first: a paced
stream has nothing to read yet, and a fast one brings more data after other greenlets have run.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from ..errors import PoolTimeout
from ..runtime.cancel import Cancel

READ_SIZE = 65536
FOREVER = 1e6  # seconds
LOOK = 0.1  # seconds between two looks for a cancellation
BEATS = 4  # of the timer in a tick: silence is noticed after 1 to 1.25 ticks


class SocketReader:
    """Reads one socket, answer after answer. `tick` is in seconds."""

    __slots__ = ("_sock", "tick")

    def __init__(self, sock: socket.socket, tick: float) -> None:
        self._sock = sock
        self.tick = tick

    def start(self) -> None:
        """Begin to read an answer."""

    def read(self, limit: float = 0.0) -> bytes | None:
        """The data of one read, b"" at the end; None after a tick of silence, or after `limit`
        seconds if that is not 0. Raises OSError."""
        sock, seconds = self._sock, limit or self.tick
        if sock.gettimeout() != seconds:  # to set it is a system call
            sock.settimeout(seconds)
        try:
            return sock.recv(READ_SIZE)
        except (TimeoutError, ssl.SSLWantReadError):
            return None

    def stop(self) -> None:
        """Pause until the next `start`; a waiting `read` is woken."""

    def close(self) -> None:
        """Release the timer and the watcher. The socket stays open."""


def stale(sock: socket.socket) -> bool:
    """Whether the server closed an idle connection, or sent data without a request."""
    raw: Any = sock
    try:
        if _is_green(sock):
            raw = sock._sock  # type: ignore[attr-defined]  # the native socket, which never blocks
        else:
            sock.settimeout(0)
        raw.recv(1, 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_PEEK)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    return True


def _is_green(sock: socket.socket) -> bool:
    """Whether it is a plain gevent socket. TLS buffers data that no watcher sees."""
    return type(sock).__module__ == "gevent._socket3"


class _InHub(SocketReader):
    """Under gevent. `_waiting` is the greenlet that waits in `read`, if any."""

    __slots__ = ("_beats", "_current", "_hub", "_io", "_recv", "_timer", "_waiting")

    def __init__(self, sock: Any, tick: float) -> None:
        gevent: Any = sys.modules["gevent"]
        self.tick = tick
        self._hub = gevent.get_hub()
        self._current = gevent.getcurrent
        self._recv = sock._sock.recv
        self._io = sock._read_event  # the socket's own watcher; nothing else reads from it
        self._timer = self._hub.loop.timer(tick / BEATS, tick / BEATS)
        self._waiting: Any = None
        self._beats = 0

    def start(self) -> None:
        self._timer.start(self._beat)

    def read(self, limit: float = 0.0) -> bytes | None:
        if limit:
            return self._read_within(limit)
        while True:
            self._beats = 0
            self._waiting = waiting = self._current()
            self._io.start(waiting.switch, True)
            try:
                readable = self._hub.switch()
            finally:
                self._io.stop()
                self._waiting = None
            if not readable:
                return None
            try:
                data: bytes = self._recv(READ_SIZE)
            except BlockingIOError:
                continue
            return data

    def _read_within(self, limit: float) -> bytes | None:
        timer = self._hub.loop.timer(limit)
        timer.start(self._enough)
        try:
            return self.read()
        finally:
            timer.stop()
            timer.close()

    def stop(self) -> None:
        self._timer.stop()
        if self._waiting is not None:
            self._hub.loop.run_callback(self._enough)

    def close(self) -> None:
        self.stop()
        self._timer.close()
        self._io.stop()

    # in the hub

    def _beat(self) -> None:
        self._beats += 1
        if self._beats > BEATS:
            self._enough()

    def _enough(self) -> None:
        if self._waiting is not None:
            self._waiting.switch(False)


class Connection:
    """A socket to a backend. `used`: it has had an answer before; the last ended at `since`."""

    __slots__ = ("_reader", "since", "sock", "used")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.used = False
        self.since = 0.0
        self._reader: SocketReader | None = None

    def reader(self, tick: float) -> SocketReader:
        reader = self._reader
        if reader is None or reader.tick != tick:
            if reader is not None:
                reader.close()
            kind = _InHub if _is_green(self.sock) else SocketReader
            reader = self._reader = kind(self.sock, tick)
        reader.start()
        return reader

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self.sock.close()


def shut_down(sock: socket.socket) -> None:
    """End what another thread does with a socket."""
    with contextlib.suppress(OSError):  # the other side may have closed it
        sock.shutdown(socket.SHUT_RDWR)


class ConnectionLimit:
    """How much one backend does at a time: `limit` places, the last `reserve` of them only for
    `short` requests (health, tokenize), which must not wait for answers that stream for minutes.
    `used` places are taken."""

    def __init__(self, limit: int, reserve: int = 0) -> None:
        self._limit = limit
        self._reserve = reserve
        self.used = 0
        self._changed = threading.Condition()

    def enter(self, seconds: float, cancel: Cancel | None = None, short: bool = False) -> None:
        """Take a place. Raises PoolTimeout after so many seconds, Cancelled."""
        end = time.monotonic() + seconds
        with self._changed:
            while self.used >= self._limit - (0 if short else self._reserve):
                left = end - time.monotonic()
                if left <= 0:
                    raise PoolTimeout("all connections to the backend are in use", retry_after=1.0)
                self._changed.wait(min(LOOK, left))
                if cancel is not None:
                    cancel.check()
            self.used += 1

    @contextlib.contextmanager
    def place(self, cancel: Cancel) -> Iterator[None]:
        """Take a place, without a timeout, and give it back. Raises Cancelled."""
        self.enter(FOREVER, cancel)
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        with self._changed:
            self.used -= 1
            self._changed.notify_all()

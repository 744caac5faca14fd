"""Detects that a client has disconnected, even while nothing is written to it.

gunicorn passes the client's socket in environ["gunicorn.socket"], waitress a callable in
environ["waitress.client_disconnected"]. Under gevent, a watcher of the hub watches the socket and
costs nothing while no data comes; otherwise, one thread polls all sockets and callables. Our own
worker keeps the watcher for all requests of a connection in environ["slotproxy.kept"], and closes
it before the socket.

A readable socket means that the client disconnected, or has already sent its next request
(pipelining). In the second case nothing more can be learned, and the watch ends. So read the body
before starting a watch: body bytes that arrive later would end it.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..runtime.cancel import Cancel
from ..runtime.lasting import Lasting

INTERVAL = 0.2  # seconds between two polls of waitress' callables

CANCEL = "slotproxy.cancel"  # environ key with the Cancel of a request without a connection
KEPT = "disconnect"  # key of the watcher in environ["slotproxy.kept"]

Stop = Callable[[], None]


def nothing() -> None:
    """Does nothing: ends a watch that was never started."""


def watch(environ: Mapping[str, Any], cancel: Cancel) -> Stop:
    """Set `cancel` when the client disconnects. Returns a function that ends the watch. A
    connection can have one watch at a time."""
    kept = environ.get("slotproxy.kept")
    if kept and KEPT in kept:
        watcher: _InHub = kept[KEPT]
        return watcher.start(cancel)
    given: Cancel | None = environ.get(CANCEL)
    if given is not None:
        return given.pass_on(cancel)
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        if "gevent" in sys.modules and type(sock).__module__.startswith("gevent"):
            return _watch_in_hub(sock, cancel, kept)
        return _poller().connection(sock, cancel)
    gone = environ.get("waitress.client_disconnected")
    return _poller().callable(gone, cancel) if gone is not None else nothing


@contextlib.contextmanager
def watched(environ: Mapping[str, Any]) -> Iterator[Cancel]:
    """Yield a Cancel that is set when the client disconnects. Read the body first."""
    cancel = Cancel()
    stop = watch(environ, cancel)
    try:
        yield cancel
    finally:
        stop()


def _hung_up(sock: Any) -> bool | None:
    """Return True if the client disconnected, False if it sent data, None if there is nothing to
    read."""
    try:
        data = sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except (BlockingIOError, InterruptedError):
        return None
    except (OSError, ValueError):
        return True
    return not data


def _watch_in_hub(sock: Any, cancel: Cancel, kept: dict[str, Any] | None) -> Stop:
    watcher = _InHub(sock)
    stop = watcher.start(cancel)
    if kept is None:
        return watcher.close
    kept[KEPT] = watcher
    return stop


class _InHub:
    """A watcher of gevent's hub, for one request of a connection after the other."""

    def __init__(self, sock: Any) -> None:
        self._gevent: Any = sys.modules["gevent"]
        self._sock = sock
        self._watcher = self._gevent.get_hub().loop.io(sock.fileno(), 1)

    def start(self, cancel: Cancel) -> Stop:
        self._watcher.start(self._look, cancel)
        stop: Stop = self._watcher.stop
        return stop

    def close(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    def _look(self, cancel: Cancel) -> None:
        gone = _hung_up(self._sock._sock)
        if gone is not None:
            self._watcher.stop()
        if gone:
            # Callbacks may take locks, and the hub must not block.
            self._gevent.spawn(cancel.cancel)


class _Poller:
    """One thread that watches all clients of a threaded server."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._callables: dict[int, tuple[Callable[[], bool], Cancel]] = {}
        self._commands: list[Callable[[], None]] = []
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._selector.register(self._reader, selectors.EVENT_READ)
        self._next = 0
        threading.Thread(target=self._run, name="disconnects", daemon=True).start()

    def connection(self, sock: socket.socket, cancel: Cancel) -> Stop:
        # A duplicate, since the server may close the original while it is watched.
        twin = sock.dup()

        def add() -> None:
            self._selector.register(twin, selectors.EVENT_READ, cancel)

        def stop() -> None:
            self._do(lambda: self._drop(twin))

        self._do(add)
        return stop

    def callable(self, gone: Callable[[], bool], cancel: Cancel) -> Stop:
        with self._lock:
            self._next += 1
            number = self._next
            self._callables[number] = (gone, cancel)
            first = len(self._callables) == 1
        if first:
            self._do(nothing)  # wake the thread: there is a callable to poll now

        def stop() -> None:
            with self._lock:
                self._callables.pop(number, None)

        return stop

    def _do(self, command: Callable[[], None]) -> None:
        """Run the command in the thread, since the selector belongs to it."""
        with self._lock:
            self._commands.append(command)
        self._writer.send(b"x")

    def _drop(self, twin: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(twin)
        twin.close()

    def _run(self) -> None:
        looking = Lasting("checking for disconnected clients")
        while True:
            looking.turn(self._look)

    def _look(self) -> None:
        with self._lock:
            callables = list(self._callables.values())
        for key, _ in self._selector.select(INTERVAL if callables else None):
            if key.fileobj is self._reader:
                with contextlib.suppress(BlockingIOError):
                    self._reader.recv(4096)
            else:
                gone = _hung_up(key.fileobj)
                if gone is not None:
                    self._selector.unregister(key.fileobj)
                if gone:
                    key.data.cancel()
        while self._commands:
            with self._lock:
                command = self._commands.pop(0)
            command()
        for gone_now, cancel in callables:
            if gone_now():
                cancel.cancel()


_one: _Poller | None = None
_one_lock = threading.Lock()


def _poller() -> _Poller:
    global _one
    with _one_lock:
        if _one is None:
            _one = _Poller()
        return _one

"""Detects that a client has disconnected, even while nothing is written to it.

Under our own worker, a watcher of gevent's hub watches the client's socket,
environ["gunicorn.socket"]. It serves all requests of a connection and is kept in
environ["slotproxy.kept"], which the worker closes before the socket. waitress tells by a callable,
environ["waitress.client_disconnected"], which one thread calls several times a second.

A readable socket means that the client disconnected, or has already sent its next request. In the
second case the watch ends. So read the body before starting a watch.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..runtime.cancel import Cancel
from ..runtime.keep_alive import WhileNeeded

INTERVAL = 0.2  # seconds between two polls of waitress' callables

CANCEL = "slotproxy.cancel"  # environ key with the Cancel of a request without a connection
KEPT = "disconnect"  # key of the watcher in environ["slotproxy.kept"]

Stop = Callable[[], None]


def nothing() -> None:
    """Does nothing: ends a watch that was never started."""


def watch(environ: Mapping[str, Any], cancel: Cancel) -> Stop:
    """Set `cancel` when the client disconnects, until the returned function is called."""
    resources = environ.get("slotproxy.kept")
    if resources is not None:
        watcher = resources.get(KEPT)
        if watcher is None:
            watcher = resources[KEPT] = _InHub(environ["gunicorn.socket"])
        stop: Stop = watcher.start(cancel)
        return stop
    outer: Cancel | None = environ.get(CANCEL)
    if outer is not None:
        return outer.pass_on(cancel)
    is_gone = environ.get("waitress.client_disconnected")
    return _poller.watch(is_gone, cancel) if is_gone is not None else nothing


@contextlib.contextmanager
def watched(environ: Mapping[str, Any]) -> Iterator[Cancel]:
    """Yield a Cancel that is set when the client disconnects. Read the body first."""
    cancel = Cancel()
    stop = watch(environ, cancel)
    try:
        yield cancel
    finally:
        stop()


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
        try:
            data = self._sock._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except (OSError, ValueError):
            data = b""
        self._watcher.stop()  # the client has left, or has sent its next request
        if not data:
            # Callbacks may take locks, and the hub must not block.
            self._gevent.spawn(cancel.cancel)


class _Poller:
    """Asks waitress about all of its clients, as long as there are any."""

    def __init__(self) -> None:
        self._watched: dict[object, tuple[Callable[[], bool], Cancel]] = {}
        self._looking = WhileNeeded("disconnects", INTERVAL, lambda: self._watched, self._look)

    def watch(self, is_gone: Callable[[], bool], cancel: Cancel) -> Stop:
        client = object()
        self._watched[client] = is_gone, cancel
        self._looking.start()

        def stop() -> None:
            self._watched.pop(client, None)

        return stop

    def _look(self) -> None:
        for is_gone, cancel in list(self._watched.values()):
            if is_gone():
                cancel.cancel()


_poller = _Poller()

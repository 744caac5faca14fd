"""gunicorn's gevent worker, with our own HTTP/1.1 (`proxy.server.http1`) and a faster shutdown.

On a stop, it only waits for running answers, which end with an error when their time is over (see
`runtime.life`). A check once a second ends connections whose client takes too long. When few of the
``worker_connections`` are left, those that wait longest for their client are closed; if there are
none, the last places are for health checks, and other requests get a 503.

Objects that the application keeps with a connection are in environ["slotproxy.kept"] by name, and
closed with it.
"""

from __future__ import annotations

import errno
import gc
import heapq
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import Any

import gevent
from gevent import GreenletExit, events, sleep
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker

from ..runtime.confinement import trim_malloc
from ..runtime.keep_alive import KeepAlive
from ..runtime.life import CUT, GRACE, Life, Wakeup
from .client_socket import ClientSocket, hang_up
from .http1 import BrokenAnswer, ConnectionLimits, ServerConnection, State, base_environ

log = logging.getLogger("slotproxy")

# Otherwise each greenlet keeps a list of the frames in which it was spawned.
gevent.config.track_greenlet_tree = False
# Otherwise patching looks 25 times for plugins among all packages, a fifth of the start.
events.notify_and_call_entry_points = events.notify  # type: ignore[attr-defined]

LOOK = 1.0  # seconds between two checks of the connections, and two heartbeats to the master
LAST_LOOK = 0.2  # the same while the worker stops
TRIM = 60  # looks between two returns of free memory
# Errors when a client disconnects, or its network fails.
GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH)
# Errors of accept() that end when connections close, and the seconds until the next try.
NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
NO_FILES_PAUSE = 0.2
QUIET = 60.0  # seconds between two log lines of one kind about places and files
SPARE = 16  # places kept for health checks, and for requests when others wait for their clients
MAKE_ROOM = 64  # connections closed in one go: finding the longest wait looks at all of them
# The states that make room, last resort last: a body that is being read belongs to an accepted
# request.
ROOM = (State.IDLE, State.HEAD, State.DROPPING, State.LINGERING, State.UPGRADED, State.BODY)
HEALTH = ("/livez", "/readyz", "/health")


class Worker(GeventWorker):
    """``_seats`` are the connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seats: set[_ClientConnection] = set()
        self.limits = ConnectionLimits(idle=self.cfg.keepalive)
        self.send_timeout = 60.0
        self._warned: dict[str, float] = {}
        self.grace: float = GRACE
        self.life: Life | None = None
        self._quitting = False
        self._looking = KeepAlive("handling a connection")
        self._wake: Wakeup | None = None  # created in the process of its hub

    def run(self) -> None:
        self._wake = Wakeup()
        pools = [Pool(self.worker_connections) for _ in self.sockets]
        servers, looks = [], count(1)
        for sock, pool in zip(self.sockets, pools, strict=True):
            sock.setblocking(True)
            server = _Server(sock, handle=partial(self.handle, sock), spawn=pool)
            server.worker = self
            if self.cfg.workers > 1:
                server.max_accept = 1
            server.start()
            servers.append(server)
        while self.alive:
            self.notify()
            self._wake.wait(LOOK)
            if not next(looks) % TRIM:
                gc.collect()  # by itself it waits for megabytes of cycles, between what stays
                trim_malloc()
            if os.getppid() != self.ppid:  # for systems on which it outlives the master
                self.handle_quit(None, None)
        for server in servers:
            server.stop_accepting()
        sleep(0)  # a connection accepted just now still needs the listener's name
        end = time.monotonic() + LAST_LOOK
        while any([server.accept_rest() for server in servers]) and time.monotonic() < end:
            sleep(0)
        for server in servers:
            server.close()
        self._finish(pools)
        for server in servers:
            server.stop(timeout=1)

    def _finish(self, pools: Sequence[Pool]) -> None:
        """Wait for the answers under way, and end those that take longer than the grace."""
        if self.life is not None:
            self.life.leave()
        if self._wait_for(pools, self.grace, lambda: self._quitting):
            return
        if not self._quitting:
            self.log.warning("stopping: answers that still run after %g s are ended", self.grace)
        if self.life is not None:
            self.life.end_requests()
        self._wait_for(pools, CUT)

    def _wait_for(
        self, pools: Sequence[Pool], seconds: float, given_up: Callable[[], bool] = lambda: False
    ) -> bool:
        """Returns whether all answers have ended."""
        end = time.monotonic() + seconds
        while any(pools) or (self.life is not None and self.life.busy):
            if time.monotonic() >= end or given_up():
                return False
            self.notify()
            for pool in pools:
                pool.join(LAST_LOOK / len(pools))
            if not any(pools):
                sleep(LAST_LOOK / 4)
        return True

    def handle_exit(self, sig: Any, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self._wake is not None:
            self._wake.set()

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """Stop without the grace, by leaving `run`: gunicorn's own way, an exception, would
        interrupt the cleanup. And only once: Ctrl-C comes from the master too."""
        if self._wake is None:
            super().handle_quit(sig, frame)
        elif not self._quitting:
            self._quitting = True
            self.handle_exit(sig, frame)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        environ = base_environ(client, listener.getsockname(), addr)
        resources: dict[str, Any] = {}
        environ["slotproxy.kept"] = resources
        left = self.worker_connections - len(self._seats)
        has_room = left > min(SPARE, self.worker_connections // 4) or self.make_room()
        app = self.wsgi if has_room else self._crowded
        wire = ClientSocket(client, self.send_timeout)
        seat = _ClientConnection(client, wire, ServerConnection(wire, app, environ, self.limits))
        self._seats.add(seat)
        try:
            if isinstance(addr, tuple):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._answer_all(seat)
            if seat.connection.refused:
                peer = environ["REMOTE_ADDR"] or "a Unix socket"
                log.info("refused a request from %s: %s", peer, seat.connection.refused)
            seat.connection.linger()
        except GreenletExit:
            pass  # the time for a clean end is over
        finally:
            self._seats.discard(seat)
            for resource in (*resources.values(), wire):
                resource.close()
            client.close()

    def _answer_all(self, seat: _ClientConnection) -> None:
        try:
            seat.connection.serve(self._is_last)
        except BrokenAnswer:
            pass  # the end of the connection tells the client
        except OSError as error:
            # One that another socket raised, a backend's, is a defect.
            if error.errno not in GONE or not seat.wire.broken:
                self.log.exception("connection failed")
        except Exception:
            self.log.exception("response aborted")

    def make_room(self) -> bool:
        """Close the connections that wait longest for their client. False if there are none."""
        waiting = [seat for seat in self._seats if seat.connection.state in ROOM]
        if any(seat.connection.at_once for seat in waiting):
            return True  # soon

        def last_resort(seat: _ClientConnection) -> tuple[bool, float]:
            return seat.connection.state is State.BODY, seat.connection.since

        for seat in heapq.nsmallest(MAKE_ROOM, waiting, key=last_resort):
            seat.leave(at_once=True)
        self.warn("connection limit is near: closing the longest-idle connections")
        return bool(waiting)

    def warn(self, text: str) -> None:
        now = time.monotonic()
        if now - self._warned.get(text, -QUIET) >= QUIET:
            self._warned[text] = now
            self.log.warning("%s", text)

    def _crowded(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        environ["slotproxy.is_last"]()
        if environ["PATH_INFO"].endswith(HEALTH):
            return self.wsgi(environ, start)  # type: ignore[no-any-return]
        self.warn("connection limit reached: new connections get 503, except health checks")
        text = b'{"error":{"message":"too many connections","type":"unavailable_error","code":503}}'
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(text)))]
        start("503 Service Unavailable", [*headers, ("Retry-After", "1")])
        return (text,)

    def _is_last(self) -> bool:
        """Whether the connection closes after the current request."""
        self.nr += 1
        if self.nr >= self.max_requests:
            self.alive = False
        return not self.alive

    def notify(self) -> None:
        super().notify()
        now = time.monotonic()
        for seat in list(self._seats):
            self._looking.turn(partial(seat.look, now))
        if not self.alive:
            for seat in self._seats:
                seat.stop()


class _Server(StreamServer):
    """Pauses accepting without files, and makes room. gevent would log a traceback each time."""

    worker: Worker

    def do_read(self) -> Any:
        try:
            return super().do_read()
        except OSError as error:
            if error.errno not in NO_FILES:
                raise
        self.worker.make_room()
        self.worker.warn("out of file descriptors: raise the limit (ulimit -n)")
        self.stop_accepting()
        loop: Any = self.loop
        self._timer = loop.timer(NO_FILES_PAUSE)
        self._timer.start(self._again)
        return None

    def accept_rest(self) -> bool:
        """Accept the connections that wait in the listener's queue, which closing it would reset:
        their clients may have sent a request. Returns whether there were any."""
        accepted = False
        while not self.full() and (connection := self.do_read()):
            self.do_handle(*connection)
            accepted = True
        return accepted

    def _again(self) -> None:
        if self.started:
            self.start_accepting()


class _ClientConnection:
    """A connection with the means to end it."""

    __slots__ = ("client", "connection", "leaving", "wire")

    def __init__(
        self, client: socket.socket, wire: ClientSocket, connection: ServerConnection
    ) -> None:
        self.client = client
        self.wire = wire
        self.connection = connection
        self.leaving = False

    def look(self, now: float) -> None:
        """End a connection that takes too long: with an answer, at the next check for good."""
        connection = self.connection
        holds_slot = getattr(connection.parts, "holds_slot", False)
        if self.wire.is_stuck(now, holds_slot):
            hang_up(self.client, socket.SHUT_RDWR)
        elif connection.overdue(now):
            self.leave()

    def stop(self) -> None:
        """Close the connection when the server stops, unless something would be lost."""
        match self.connection.state:
            case State.IDLE | State.HEAD:
                self.wire.wake(for_good=False)
            case State.UPGRADED:
                hang_up(self.client, socket.SHUT_RD)
            case State.DROPPING | State.LINGERING:
                self.leave()

    def leave(self, at_once: bool = False) -> None:
        """Close the connection while it waits for the client. A request that has just arrived is
        still answered. With `at_once`, do not wait until the client has closed it too."""
        again, self.leaving = self.leaving, True
        self.connection.expire(at_once)
        if again:
            hang_up(self.client, socket.SHUT_RDWR)
        elif self.connection.state is State.UPGRADED:
            hang_up(self.client, socket.SHUT_RD)
        else:
            self.wire.wake(for_good=True)

"""gunicorn's gevent worker, with a shorter way for plain HTTP/1.1, a quicker start and end.

Connections are served by `proxy.http1`, a greenlet each; whoever asks gunicorn for what only
gunicorn has (TLS, the PROXY protocol, an access log) gets gunicorn's own way.

The stock worker counts open connections when it is told to stop, also those that only keep alive:
one browser tab makes every restart last the whole ``graceful_timeout``. Here connections between
two requests are hung up, and only answers in the making are waited for. And the stock worker looks
once a second whether it is to stop and whether all is answered, where this one is woken.

The look of once a second ends connections that were silent for ``keepalive`` seconds, so that no
request has to start a timer for itself.

What the application keeps with a connection, for all its requests, is put by name into
environ["slotproxy.kept"] and closed with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gevent import GreenletExit, events, get_hub, getcurrent, monkey, sleep
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.sock import ssl_context
from gunicorn.workers.ggevent import GeventWorker

from .http1 import Connection, base_environ

LOOK = 1.0  # seconds between two looks at the connections, and signs of life for the master
GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)


class Worker(GeventWorker):
    """``_seats`` are the connections of `proxy.http1`. Of gunicorn's own, ``_idle``
    are the greenlets that wait for the next request's head."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._clients: dict[Any, socket.socket] = {}
        self._idle: set[Any] = set()
        self._seats: set[_Seat] = set()
        self._quitting = False
        self._stopping: Any = None  # an Event, made beside the hub it wakes
        cfg = self.cfg
        # gunicorn 24 turned proxy_protocol from a flag into "off" or a version.
        proxied = cfg.proxy_protocol not in (False, "off")
        self._plain = not (cfg.is_ssl or proxied or cfg.accesslog)

    def patch(self) -> None:
        # At each of its 25 steps gevent looks through all installed packages for one that wants to
        # hear of it: a sixth of a start, for plugins that nobody has.
        told: Any = events
        through_packages = told.notify_and_call_entry_points
        told.notify_and_call_entry_points = told.notify
        try:
            super().patch()
        finally:
            told.notify_and_call_entry_points = through_packages

    def run(self) -> None:
        self._stopping = Event()
        tls = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        servers, pools = [], []
        for sock in self.sockets:
            sock.setblocking(True)
            pool = Pool(self.worker_connections)
            server = StreamServer(sock, handle=partial(self.handle, sock), spawn=pool, **tls)
            if self.cfg.workers > 1:
                server.max_accept = 1
            server.start()
            servers.append(server)
            pools.append(pool)
        while self.alive:
            self.notify()
            self._stopping.wait(LOOK)
        for server in servers:
            server.stop_accepting()
        if self._quitting:
            return
        sleep(0)  # whoever was accepted in this very moment still asks for the listener's name
        for server in servers:
            server.close()
        end = time.monotonic() + self.cfg.graceful_timeout
        while any(pools) and time.monotonic() < end and not self._quitting:
            self.notify()
            for pool in pools:
                pool.join(LOOK / len(pools))
        if any(pools) and not self._quitting:
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
        for server in servers:
            server.stop(timeout=1)

    def handle_exit(self, sig: Any, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self._stopping is not None:
            self._stopping.set()

    def handle_quit(self, sig: Any, frame: Any) -> None:
        """At once, by leaving `run`: gunicorn's own way, an exception a tenth of a second later,
        breaks into what is being closed by then. And once: Ctrl-C comes from the keyboard and again
        from the master."""
        if self._stopping is None:
            super().handle_quit(sig, frame)
        elif not self._quitting:
            self._quitting = True
            self.cfg.worker_int(self)
            self.handle_exit(sig, frame)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        if self._plain:
            self._serve(listener, client, addr)
            return
        me = getcurrent()
        self._clients[me] = client
        try:
            super().handle(listener, client, addr)
        finally:
            del self._clients[me]

    def _serve(self, listener: Any, client: Any, addr: Any) -> None:
        environ = base_environ(client, listener.getsockname(), addr)
        kept: dict[str, Any] = {}
        environ["slotproxy.kept"] = kept
        wire = _Wire(client)
        seat = _Seat(client, Connection(wire, self.wsgi, environ))
        self._seats.add(seat)
        try:
            if isinstance(addr, tuple):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            seat.connection.serve(self._is_last)
        except GreenletExit:
            pass  # the time to end is over
        except OSError as error:
            if error.errno not in GONE:
                self.log.exception("a connection broke")
        except Exception:
            self.log.exception("an answer broke off")
        finally:
            self._seats.discard(seat)
            for one in (*kept.values(), wire):
                one.close()
            client.close()

    def _is_last(self) -> bool:
        """Whether the connection of the request that came is to be closed after it."""
        self.nr += 1
        if self.nr >= self.max_requests:
            self.alive = False
        return not self.alive

    @contextlib.contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        # gunicorn enters this exactly while it waits for, and reads, a request's head.
        me = getcurrent()
        with super().timeout_ctx():
            self._idle.add(me)
            try:
                yield
            finally:
                self._idle.discard(me)

    def notify(self) -> None:
        super().notify()
        now = time.monotonic()
        for seat in self._seats:
            silent = seat.look(now)
            if seat.connection.waiting and (not self.alive or silent > self.cfg.keepalive):
                _hang_up(seat.client)
        if not self.alive:
            for greenlet in self._idle:
                _hang_up(self._clients[greenlet])


class _Wire:
    """A client's socket. A read begins with waiting: between two requests there is nothing to read
    yet, and to be told so by an exception costs as much as parsing a request does."""

    def __init__(self, client: Any) -> None:
        hub = get_hub()
        self._wait = hub.wait
        self._io = hub.loop.io(client.fileno(), 1)
        system = client._sock  # which never waits
        self._recv: Callable[[int], bytes] = system.recv
        self._send: Callable[[bytes], int] = system.send
        self.sendall = client.sendall

    def recv(self, size: int, /) -> bytes:
        while True:
            self._wait(self._io)
            try:
                return self._recv(size)
            except BlockingIOError:
                continue

    def send(self, data: bytes, /) -> int:
        try:
            return self._send(data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """No more reads come. The socket stays as it is."""
        self._io.stop()
        self._io.close()


class _Seat:
    """A connection, and since when it was seen to wait for its client."""

    def __init__(self, client: socket.socket, connection: Connection) -> None:
        self.client = client
        self.connection = connection
        self._answered = -1
        self._since = 0.0

    def look(self, now: float) -> float:
        """For how many seconds nothing has been asked, as far as was seen."""
        if not self.connection.waiting or self.connection.answered != self._answered:
            self._answered, self._since = self.connection.answered, now
        return now - self._since


def _hang_up(client: socket.socket) -> None:
    """The reading side only: a request that has just come in is still answered. By the system's
    own call: gevent's shutdown() raises in the greenlet that reads, and gunicorn would log that as
    an error; this way it sees an ordinary end of file."""
    with contextlib.suppress(OSError):
        real = monkey.get_original("socket", "socket")
        with real(fileno=os.dup(client.fileno())) as twin:
            twin.shutdown(socket.SHUT_RD)

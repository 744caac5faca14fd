"""Client sockets under gevent's worker."""

from __future__ import annotations

import errno
import os
import select
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.server import StreamServer

from proxy.server import client_socket
from proxy.server import worker as worker_module
from proxy.server.client_socket import ClientSocket
from proxy.server.http1 import ConnectionLimits, ServerConnection, State, base_environ
from proxy.server.worker import NO_FILES_PAUSE, Worker, _ClientConnection, _Server

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
PIECE = b"x" * 65536


class Served:
    """A connection over a socket pair that answers with `parts`; `made` counts them."""

    def __init__(self, parts: Iterable[bytes], send_timeout: float = 60.0) -> None:
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):  # small buffers, whatever the system's default
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.parts = parts
        self.made = 0
        self.over = False  # all parts were read, as those of a model server are
        self.wire = ClientSocket(self.ours, send_timeout)
        environ = base_environ(self.ours, ("h", 1), ("c", 2))
        self.connection = ServerConnection(self.wire, self._app, environ)
        self.serving = gevent.spawn(self.connection.serve, lambda: False)
        self.seat = _ClientConnection(self.ours, self.wire, self.connection)

    def _app(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [("Connection", "x")])
        return Parts(self)

    def close(self) -> None:
        self.theirs.close()
        self.serving.kill()
        self.wire.close()
        self.ours.close()
        assert ClientSocket.behind_all == 0


class Parts:
    holds_slot = True

    def __init__(self, served: Served) -> None:
        self._served = served

    def __iter__(self) -> Iterator[bytes]:
        for part in self._served.parts:
            self._served.made += 1
            yield part
        self._served.over = True


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    made: list[Served] = []

    def begin(parts: Iterable[bytes], send_timeout: float = 60.0) -> Served:
        made.append(Served(parts, send_timeout))
        return made[-1]

    yield begin
    for served in made:
        served.close()


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true"
        gevent.sleep(0.005)


def read_answer(client: Any) -> bytes:
    seen = bytearray()
    while not seen.endswith(b"0\r\n\r\n"):
        data = client.recv(1 << 20)
        assert data, "the answer broke off"
        seen += data
    return bytes(seen)


def test_slow_reader_gets_the_whole_answer_in_order(serve: Callable[..., Served]) -> None:
    parts = [bytes([number]) * 300_000 for number in range(10)]
    served = serve(parts)
    served.theirs.sendall(GET)
    until(lambda: served.over)
    body = b"".join(b"493e0\r\n%b\r\n" % part for part in parts)
    assert read_answer(served.theirs).endswith(b"\r\n\r\n" + body + b"0\r\n\r\n")
    served.theirs.sendall(GET)  # the connection is still usable
    assert read_answer(served.theirs).count(b"HTTP/1.1 200 OK") == 1


def test_unsent_bytes_per_client_are_bounded(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "MAX_BEHIND", 1 << 20)
    served = serve([PIECE] * 60)
    served.theirs.sendall(GET)
    until(lambda: ClientSocket.behind_all > 1 << 20)
    gevent.sleep(0.05)
    assert ClientSocket.behind_all <= (1 << 20) + 2 * len(PIECE)
    assert not served.over
    read_answer(served.theirs)
    assert served.over


def test_unsent_bytes_of_all_clients_are_bounded(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_socket, "MAX_BEHIND_ALL", 1 << 20)
    many = [serve([PIECE] * 60) for _ in range(5)]
    for served in many:
        served.theirs.sendall(GET)
    until(lambda: ClientSocket.behind_all > 1 << 20)
    gevent.sleep(0.05)
    assert ClientSocket.behind_all <= (1 << 20) + 5 * 2 * len(PIECE)
    readers = [gevent.spawn(read_answer, served.theirs) for served in many]
    gevent.joinall(readers, timeout=60, raise_error=True)
    assert all(served.over for served in many)


def test_client_reading_nothing_is_disconnected_after_timeout(serve: Callable[..., Served]) -> None:
    served = serve([PIECE] * 200)
    served.theirs.sendall(GET)
    until(lambda: ClientSocket.behind_all > client_socket.MAX_BEHIND)
    now = time.monotonic()
    served.seat.look(now + 59)
    gevent.sleep(0.02)
    assert not served.serving.ready()
    served.seat.look(now + 61)
    with pytest.raises(OSError, match=r"."):
        served.serving.get(timeout=60)
    assert served.connection.parts is None


def test_client_reading_too_slowly_is_disconnected(serve: Callable[..., Served]) -> None:
    """The timeout counts the total blocked time, however often the client reads a little."""
    served = serve([PIECE] * 200, 0.4)
    served.theirs.sendall(GET)
    until(lambda: ClientSocket.behind_all > client_socket.MAX_BEHIND)
    end = time.monotonic() + 60
    while not served.wire.is_stuck(time.monotonic(), True):
        assert time.monotonic() < end, "it may go on for ever"
        assert not served.wire.is_stuck(time.monotonic(), False)
        served.theirs.recv(70_000)
        gevent.sleep(0.02)


def test_expired_connection_is_closed_even_while_it_keeps_sending() -> None:
    """Only the reading side is shut first, which Linux ignores while bytes arrive."""
    ours, theirs = socket.socketpair()
    wire = ClientSocket(ours)
    environ = base_environ(ours, ("h", 1), ("c", 2))
    connection = ServerConnection(wire, lambda *_: [], environ, ConnectionLimits(head=0.0))
    serving = gevent.spawn(connection.serve, lambda: False)
    theirs.sendall(b"GET / HTTP/1.1\r\nX: ")

    def send() -> None:
        while True:
            theirs.sendall(b"a")
            gevent.sleep(0)

    sending = gevent.spawn(send)
    until(lambda: connection.state is State.HEAD)
    _ClientConnection(ours, wire, connection).look(time.monotonic() + 1)
    serving.get(timeout=60)
    assert theirs.recv(1000).startswith(b"HTTP/1.1 408 ")
    sending.kill()
    wire.close()
    ours.close()
    theirs.close()


class Connected:
    """A connection over TCP, served as by the worker, which lingers at its end."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            self.theirs = socket.create_connection(listener.getsockname(), timeout=60)
            self.ours, _ = listener.accept()
        wire = ClientSocket(self.ours)
        self.connection = ServerConnection(wire, app, base_environ(self.ours, ("h", 1), ("c", 2)))
        self.seat = _ClientConnection(self.ours, wire, self.connection)
        self.serving = gevent.spawn(self._serve)

    def _serve(self) -> None:
        try:
            self.connection.serve(lambda: False)
            self.connection.linger()
        finally:
            self.seat.wire.close()
            self.ours.close()


def short(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "1")])
    return [b"x"]


@pytest.fixture
def connected() -> Iterator[Connected]:
    served = Connected(short)
    served.theirs.sendall(GET)
    assert served.theirs.recv(1000).startswith(b"HTTP/1.1 200 OK")
    until(lambda: served.connection.state is State.IDLE)
    yield served
    served.theirs.close()
    served.serving.get(timeout=60)


@pytest.mark.parametrize("how", ["leave", "stop"])
def test_request_that_crosses_with_the_end_of_an_idle_connection_is_not_reset(
    connected: Connected, how: str
) -> None:
    getattr(connected.seat, how)()
    assert connected.theirs.recv(1000) == b""
    for _ in range(3):  # a reset fails the second send
        connected.theirs.sendall(GET)
        gevent.sleep(0.01)
    assert connected.theirs.recv(1000) == b""
    assert not connected.serving.ready()


@pytest.mark.parametrize("how", ["leave", "stop"])
def test_idle_connection_whose_client_stays_is_closed_soon(connected: Connected, how: str) -> None:
    for _ in range(3):  # once a second, or more often when the server stops
        getattr(connected.seat, how)()
        gevent.sleep(0.01)
    connected.serving.get(timeout=60)


def test_request_that_arrived_before_the_end_of_an_idle_connection_is_answered(
    connected: Connected,
) -> None:
    native: Any = connected.theirs
    native._sock.sendall(GET)  # without letting the server read it
    assert select.select([connected.ours.fileno()], [], [], 60)[0]  # nor does this
    connected.seat.leave(at_once=True)
    answer = connected.theirs.recv(1000)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"Connection: close" in answer
    connected.serving.get(timeout=60)


@pytest.mark.parametrize("whose", ["a backend's", "the client's"])
def test_broken_connection_of_a_backend_is_logged_as_a_defect(whose: str) -> None:
    ours, theirs = socket.socketpair()
    wire = ClientSocket(ours)

    def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        start("200 OK", [])
        if whose == "the client's":
            theirs.close()
        for _ in range(3):
            yield b"x"
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    connection = ServerConnection(wire, app, base_environ(ours, ("h", 1), ("c", 2)))
    logged: list[str] = []

    class FakeWorker:
        log = SimpleNamespace(exception=logged.append)

        def _is_last(self) -> bool:
            return False

    theirs.sendall(GET)
    Worker._answer_all(FakeWorker(), _ClientConnection(ours, wire, connection))  # type: ignore[arg-type]
    assert logged == (["connection failed"] if whose == "a backend's" else [])
    wire.close()
    ours.close()
    theirs.close()


# -- places ----------------------------------------------------------------------------------------


def test_accepting_pauses_without_file_descriptors_and_idle_connections_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[float] = []
    logged: list[str] = []
    real = StreamServer.do_read

    def refused(server: Any) -> Any:
        tries.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    class FakeWorker:
        made = 0

        warn = logged.append

        def make_room(self) -> bool:
            self.made += 1
            return True

    handled: list[Any] = []
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(5)
    server = _Server(listener, handle=lambda client, addr: handled.append(client.close()))
    server.worker = worker = FakeWorker()  # type: ignore[assignment]
    monkeypatch.setattr(StreamServer, "do_read", refused)
    server.start()
    began = time.monotonic()
    with socket.create_connection(listener.getsockname()):
        until(lambda: len(tries) > 2)
        assert len(tries) <= 2 + (time.monotonic() - began) / NO_FILES_PAUSE
        assert worker.made == len(tries)
        assert len(logged) == len(tries)  # of which the worker logs one per minute
        monkeypatch.setattr(StreamServer, "do_read", real)
        until(lambda: bool(handled))
    server.stop()


def test_free_memory_is_returned_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    class Looking(Worker):
        looks = 0

        def notify(self) -> None:
            self.looks += 1
            cycle = Cycle()
            cycle.own = cycle
            cycles.add(cycle)
            del cycle
            self.alive = self.looks < 2 * worker_module.TRIM

    class Cycle:
        own: Any = None

    cycles: weakref.WeakSet[Cycle] = weakref.WeakSet()
    trims: list[tuple[int, int]] = []
    worker = Looking.__new__(Looking)
    wakeup = SimpleNamespace(wait=lambda seconds: False)
    monkeypatch.setattr(worker_module, "Wakeup", lambda: wakeup)
    monkeypatch.setattr(
        worker_module, "trim_malloc", lambda: trims.append((worker.looks, len(cycles)))
    )
    worker.sockets, worker.alive = [], True
    worker.ppid, worker.grace, worker.life, worker._quitting = os.getppid(), 1.0, None, False
    worker.run()
    assert trims == [(worker_module.TRIM, 0), (2 * worker_module.TRIM, 0)]

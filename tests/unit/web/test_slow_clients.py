"""Clients that read or write slowly: slots, bodies and forms."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from flask import request
from gevent import socket
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.test import EnvironBuilder

from proxy.backends.driver import Capabilities
from proxy.config.settings import RefereeConfig
from proxy.core.task import Task
from proxy.errors import BadRequest, BodyTooLarge
from proxy.runtime.cancel import Cancel
from proxy.server.client_socket import MAX_BEHIND, ClientSocket
from proxy.server.http1 import ServerConnection, base_environ
from proxy.web import body
from proxy.web.body import BodyLate
from proxy.web.form import read_form
from tests.fakes import ScriptedDriver, ScriptedRun, make_app, say, services_of
from tests.unit.server.test_worker import until


class Waiting(ScriptedDriver):
    """Plays a script and records whether it was cancelled."""

    cancel: Cancel

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        self.cancel = cancel
        return super().stream(task, slot, caps, cancel)


def chat(ours: Any, driver: ScriptedDriver) -> tuple[Any, ClientSocket, Any]:
    app = make_app(driver, referee=RefereeConfig(loops="off"))
    wire = ClientSocket(ours)
    connection = ServerConnection(wire, app, base_environ(ours, ("h", 1), ("c", 2)))
    return app, wire, gevent.spawn(connection.serve, lambda: False)


def ask(client: Any) -> None:
    fields = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    data = json.dumps(fields).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    client.sendall(head % len(data) + data)


def test_slot_is_released_when_generation_ends_before_the_client_reads() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    driver = Waiting(say(*["word " * 2000] * (MAX_BEHIND // 10_000 - 20)))
    app, wire, serving = chat(ours, driver)
    ask(theirs)
    until(lambda: bool(driver.runs) and driver.runs[0].closed.is_set())
    until(lambda: services_of(app).gateway.scheduler.outstanding == 0)
    assert not serving.ready()
    seen = bytearray()  # a client that reads late gets all of it
    while not seen.endswith(b"0\r\n\r\n"):
        seen += theirs.recv(1 << 20)
    assert seen.count(b"word ") == 2000 * len(driver.script[1:-1])
    assert b"[DONE]" in seen
    theirs.close()
    serving.get(timeout=60)
    wire.close()
    ours.close()


def test_client_that_is_cut_off_cancels_its_answer() -> None:
    ours, theirs = socket.socketpair()
    driver = Waiting(say(*["word " * 2000] * (2 * MAX_BEHIND // 10_000)))
    app, wire, serving = chat(ours, driver)
    ask(theirs)
    until(lambda: ClientSocket.behind_all > MAX_BEHIND)
    assert services_of(app).gateway.scheduler.outstanding == 1
    assert wire.is_stuck(time.monotonic() + 61, True)
    serving.kill()  # as the worker does when it closes the connection
    assert driver.runs[0].closed.is_set()
    assert services_of(app).gateway.scheduler.outstanding == 0
    wire.close()
    ours.close()
    theirs.close()


# -- bodies that do not come whole -----------------------------------------------------------------


class Breaking(io.RawIOBase):
    """A body that gives some bytes and then raises an error of the server's own kind."""

    def __init__(self, data: bytes, error: Exception) -> None:
        self._data = data
        self._error = error

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if not self._data:
            raise self._error
        size = min(len(target), len(self._data))
        target[:size], self._data = self._data[:size], self._data[size:]
        return size


class ServersOwn(Exception):
    pass


READERS: dict[str, Callable[[body.Environ], Any]] = {
    "read": lambda environ: body.read(environ, 1000),
    "spooled": lambda environ: body.spooled(environ, 1000).close(),
    "form": lambda environ: read_form(environ, 1000, 1000),
}
FORM_HEAD = b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\n'


@pytest.fixture(params=[True, False], ids=["length", "chunked"])
def environ(request: pytest.FixtureRequest) -> Iterator[body.Environ]:
    made: body.Environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": "multipart/form-data; boundary=b",
    }
    if request.param:
        made["CONTENT_LENGTH"] = "900"
    made["wsgi.input_terminated"] = True
    made["is_last"] = []
    made["slotproxy.is_last"] = lambda: made["is_last"].append(True)
    yield made


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TimeoutError("late"), 408),
        (BlockingIOError(11, "late"), 408),
        (ConnectionResetError(), 400),
        (ServersOwn("no chunk"), 400),
    ],
)
def test_incomplete_body_gets_an_answer_and_ends_the_connection(
    environ: body.Environ, reader: str, error: Exception, status: int
) -> None:
    environ["wsgi.input"] = io.BufferedReader(Breaking(FORM_HEAD, error))
    with pytest.raises(BadRequest) as raised:
        READERS[reader](environ)
    assert raised.value.status == status
    assert isinstance(raised.value, BodyLate) is (status == 408)
    assert environ["is_last"]


@pytest.mark.parametrize("reader", ["read", "spooled"])
def test_request_body_size_is_bounded(environ: body.Environ, reader: str) -> None:
    for size, fits in ((1000, True), (1001, False)):
        environ["wsgi.input"] = io.BytesIO(b"a" * size)
        if "CONTENT_LENGTH" in environ:
            environ["CONTENT_LENGTH"] = str(size)
        with contextlib.nullcontext() if fits else pytest.raises(BodyTooLarge):
            READERS[reader](environ)


def test_bodies_read_by_flask_are_bounded() -> None:
    app = make_app(ScriptedDriver())
    chunked = {"wsgi.input_terminated": True}
    for size, fits in ((body.NET, True), (body.NET + 1, False)):
        builder = EnvironBuilder(
            method="POST", input_stream=io.BytesIO(b"a" * size), environ_overrides=chunked
        )
        refused = contextlib.nullcontext() if fits else pytest.raises(RequestEntityTooLarge)
        with app.request_context(builder.get_environ()), refused:
            assert len(request.get_data()) == size

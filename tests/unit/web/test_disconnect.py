"""Detection of client disconnects through gevent's hub."""

from __future__ import annotations

import json
from typing import Any

import gevent
import pytest
from gevent import socket

from proxy.backends.driver import Capabilities
from proxy.core.task import Task
from proxy.runtime.cancel import Cancel
from proxy.server.client_socket import ClientSocket
from proxy.server.http1 import ServerConnection, State, base_environ
from proxy.web import disconnect
from tests.fakes import ScriptedDriver, ScriptedRun, make_app
from tests.unit.server.test_worker import until

CHAT = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
    CHAT
)


def closed(watchers: dict[str, Any]) -> None:
    for watcher in watchers.values():
        watcher.close()


def test_one_watcher_serves_successive_requests() -> None:
    ours, theirs = socket.socketpair()
    watchers: dict[str, Any] = {}
    environ = {"gunicorn.socket": ours, "slotproxy.kept": watchers}
    first, second = Cancel(), Cancel()
    disconnect.watch(environ, first)()
    (watcher,) = watchers.values()
    stop = disconnect.watch(environ, second)
    theirs.close()
    until(lambda: second.cancelled)
    stop()
    assert not first.cancelled
    assert list(watchers.values()) == [watcher]
    closed(watchers)
    ours.close()


def test_ended_watch_cancels_nothing() -> None:
    ours, theirs = socket.socketpair()
    watchers: dict[str, Any] = {}
    environ = {"gunicorn.socket": ours, "slotproxy.kept": watchers}
    cancel = Cancel()
    disconnect.watch(environ, cancel)()
    theirs.close()
    gevent.sleep(0.05)
    assert not cancel.cancelled
    closed(watchers)
    ours.close()


class Endless(ScriptedDriver):
    """Answers only when it is cancelled."""

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        self.tasks.append(task)
        until(lambda: cancel.cancelled)
        return super().stream(task, slot, caps, cancel)


@pytest.mark.parametrize("late", [0, 1, len(CHAT)])
def test_disconnect_is_detected_when_the_body_arrived_late(late: int) -> None:
    driver = Endless()
    ours, theirs = socket.socketpair()
    environ = base_environ(ours, ("h", 1), ("c", 2))
    watchers: dict[str, Any] = {}
    wire = ClientSocket(ours)
    connection = ServerConnection(wire, make_app(driver), {**environ, "slotproxy.kept": watchers})
    serving = gevent.spawn(connection.serve, lambda: False)
    cut = len(HEAD) + len(CHAT) - late
    theirs.sendall((HEAD + CHAT)[:cut])
    until(lambda: connection.state not in (State.IDLE, State.HEAD))
    gevent.sleep(0.01)  # the gateway waits for its body
    theirs.sendall((HEAD + CHAT)[cut:])
    until(lambda: bool(driver.tasks))
    theirs.close()
    with pytest.raises(OSError, match="pipe"):
        serving.get(timeout=60)
    closed(watchers)
    wire.close()
    ours.close()

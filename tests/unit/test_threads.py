"""Threads and greenlets: those that last survive unforeseen errors, log them once and go on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.backends import registry as registries
from proxy.config import Settings
from proxy.knowledge import ingest
from proxy.runtime import keep_alive
from proxy.runtime.cancel import Cancel
from proxy.runtime.keep_alive import KeepAlive
from proxy.server import serve
from proxy.web import disconnect
from tests.fakes import wait_until


class Defect(Exception):
    pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keep_alive, "PAUSE", 0.001)
    monkeypatch.setattr(ingest, "LOOK", 0.001)
    monkeypatch.setattr(registries, "PAUSE", 0.001)


class Twice:
    """Raises a defect when it is called, but for the third time, when it lets `then` go on."""

    def __init__(self, then: Callable[[], Any] = lambda: None) -> None:
        self.calls = 0
        self._then = then

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls < 3:
            raise Defect("nobody foresaw it")
        return self._then()


def _logged_once(caplog: pytest.LogCaptureFixture) -> bool:
    return caplog.text.count("Defect: nobody foresaw it") == 1


def test_same_exception_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    work = Twice(lambda: None)
    turns = KeepAlive("a test")
    assert [turns.turn(work) for _ in range(4)] == [False, False, True, True]
    assert _logged_once(caplog)
    assert caplog.text.count("a test failed; retrying") == 1


def test_needed_thread_goes_on_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    needed = [True]
    turn = Twice(needed.clear)
    thread = keep_alive.WhileNeeded("a test", 0.001, lambda: bool(needed), turn)
    for _ in range(2):  # it can begin again
        thread.start()
        wait_until(lambda: not thread.running)
    assert turn.calls == 3
    assert _logged_once(caplog)


def test_disconnects_are_noticed_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"waitress.client_disconnected": Twice()}
    disconnect.watch(environ, Cancel())
    wait_until(lambda: "retrying" in caplog.text)
    cancel = Cancel()
    disconnect.watch({"waitress.client_disconnected": lambda: True}, cancel)
    wait_until(lambda: cancel.cancelled)
    assert _logged_once(caplog)


def test_documents_are_read_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    ingester: Any

    def end() -> list[str]:
        ingester._over = True
        return []

    readers = Twice(end)
    store: Any = SimpleNamespace(readers=readers, let_go=lambda names: None)
    ingester = ingest.Ingester(store, cast(Any, None), cast(Any, None), lambda: 0.0)
    ingester.read_one = lambda: False
    ingester._run()
    assert readers.calls == 3
    assert _logged_once(caplog)


def test_reload_works_after_a_failed_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        serve._reload(cast(Any, None), Settings(), Twice())
    assert "not reloaded: unhandled exception" in caplog.text

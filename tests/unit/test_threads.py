"""Threads and greenlets: those that last survive what nobody foresaw, log it once and go on."""

from __future__ import annotations

import ast
import logging
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.backends import registry as registries
from proxy.knowledge import ingest
from proxy.runtime import lasting
from proxy.runtime.cancel import Cancel
from proxy.runtime.lasting import Lasting, no_pause
from proxy.server import serve
from proxy.web import callers, disconnect
from proxy.web.pages import answers
from tests.fakes import wait_until

PACKAGE = Path(__file__).resolve().parents[2] / "proxy"

LASTS = "lasts"
"""Its exception must not end it: a test below (or the one that is named) raises one in it."""

ENDS = "ends"
"""It does one piece of work, and tells whoever waits for it how that went."""

CHILD = "child"
"""It runs in a process of its own, which ends with it, and which others watch."""

THREADS = {
    ("accounts/key_cache.py", "self._run"): LASTS,  # accounts/test_key_cache.py
    ("accounts/limiting/shared.py", "self._serve"): LASTS,  # accounts/limiting/test_shared.py
    ("app/limits.py", "self._run"): LASTS,  # app/test_budget_alerts.py
    ("app/life.py", "work"): ENDS,
    ("app/storage.py", "once"): ENDS,
    ("backends/chatglm/supervisor.py", "self._unload"): ENDS,
    ("backends/chatglm/supervisor.py", "self._write"): ENDS,
    ("backends/chatglm/supervisor.py", "self._run"): ENDS,
    ("backends/registry.py", "self._monitor"): LASTS,
    ("dialogue/loop.py", "run"): ENDS,
    ("gateway/answer.py", "work"): ENDS,
    ("gateway/embedder.py", "run"): ENDS,
    ("hosting/model.py", "self._run"): LASTS,  # hosting/test_model.py
    ("hosting/process.py", "self._read"): ENDS,
    ("knowledge/reading.py", "reader.end"): ENDS,
    ("knowledge/extract.py", "_end_with_parent"): CHILD,
    ("knowledge/ingest.py", "beats"): LASTS,
    ("knowledge/ingest.py", "self._run"): LASTS,
    ("runtime/lasting.py", "self._run"): LASTS,
    ("runtime/subprocesses.py", "read"): CHILD,
    ("runtime/subprocesses.py", "self._end_unused"): ENDS,
    ("runtime/subprocesses.py", "self.close"): ENDS,
    ("runtime/subprocesses.py", "self._read"): ENDS,
    ("scheduling/shared/follower.py", "self._follow"): LASTS,  # test_shared_scheduler.py
    ("scheduling/shared/follower.py", "self._write"): LASTS,  # test_shared_scheduler.py
    ("server/websocket.py", "self._read"): ENDS,
    ("server/gevent_wire.py", "self._send_rest"): ENDS,
    ("server/serve.py", "reload"): LASTS,
    ("web/background.py", "work"): ENDS,
    ("batches/batch_run.py", "work"): ENDS,
    ("batches/batch_run.py", "self._run"): LASTS,  # web/batches/test_batches.py
    ("web/disconnect.py", "cancel.cancel"): ENDS,
    ("web/callers.py", "self._run"): LASTS,
    ("web/ledger/writer.py", "self._run"): LASTS,  # web/ledger/test_writer.py
    ("web/pages/answers.py", "work"): ENDS,
}


def _started() -> Iterator[tuple[str, str]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func).rpartition(".")[2]
            if name == "Thread":
                yield where, next(ast.unparse(k.value) for k in node.keywords if k.arg == "target")
            elif name == "Timer":
                yield where, ast.unparse(node.args[1])
            elif name == "spawn" and node.args:
                yield where, ast.unparse(node.args[0])
            elif (
                name in ("start", "start_thread", "start_new_thread")
                and len(node.args) == 2
                and isinstance(node.args[1], ast.Tuple)
            ):  # the interpreter's own
                yield where, ast.unparse(node.args[0])


def test_every_thread_is_in_the_table() -> None:
    found = set(_started())
    assert found == set(THREADS), "a new thread needs a row, and a test if it lasts"


class Defect(Exception):
    pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lasting, "PAUSE", 0.001)
    monkeypatch.setattr(callers, "INTERVAL", 0.001)
    monkeypatch.setattr(ingest, "LOOK", 0.001)
    monkeypatch.setattr(ingest, "BEAT", 0.001)
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
    turns = Lasting("a test", no_pause)
    assert [turns.turn(work) for _ in range(4)] == [False, False, True, True]
    assert _logged_once(caplog)
    assert caplog.text.count("a test failed; retrying") == 1


def test_disconnects_are_noticed_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    environ = {"waitress.client_disconnected": Twice()}
    disconnect.watch(environ, Cancel())
    wait_until(lambda: "retrying" in caplog.text)
    cancel = Cancel()
    disconnect.watch({"waitress.client_disconnected": lambda: True}, cancel)
    wait_until(lambda: cancel.cancelled)
    assert _logged_once(caplog)


def test_backend_is_checked_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    registry: Any = object.__new__(registries.Registry)
    registry._stopped = threading.Event()
    registry._interval = 0.001
    registry._scheduler = SimpleNamespace(waiting=0)
    registry.looked = threading.Event()
    registry.check = Twice(registry._stopped.set)
    registry.__class__ = type("Settled", (registries.Registry,), {"settled": False})
    backend: Any = SimpleNamespace(
        wake=threading.Event(), up=True, router=None, leaving=False, closed=False, name="x"
    )
    registry._monitor(backend)
    assert registry.check.calls == 3
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


def test_reader_sends_heartbeats_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    store: Any = SimpleNamespace(beat=lambda *about: True)
    ingester = ingest.Ingester(store, cast(Any, None), cast(Any, None), lambda: 0.0)
    hurry = Twice(lambda: None)
    reading: Any = SimpleNamespace(hurry=hurry, end=lambda: None)
    with ingester._alive(cast(Any, SimpleNamespace(id="x")), reading):
        wait_until(lambda: hurry.calls > 3)
    assert _logged_once(caplog)


def test_needed_thread_goes_on_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    needed = [True]
    turn = Twice(needed.clear)
    thread = lasting.WhileNeeded("a test", 0.001, lambda: bool(needed), turn)
    thread.start()
    wait_until(lambda: not thread.running)
    assert turn.calls == 3
    assert _logged_once(caplog)
    thread.start()  # once more
    wait_until(lambda: not thread.running)


def test_answers_send_heartbeats_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    writing = answers.Answers(beat=0.001)
    cancel = Cancel()

    def end() -> bool:
        writing._writers.clear()
        return False

    renew = Twice(end)
    writer: Any = object.__new__(answers.LiveAnswer)
    writer._store, writer._id = SimpleNamespace(renew=lambda _: renew()), "x"
    writer.cancel, writer._flushing = cancel, threading.Lock()
    writer._flushed = math.inf
    writing._writers = {"x": writer}
    writing._looking.start()
    wait_until(lambda: cancel.cancelled)
    assert renew.calls == 3
    assert _logged_once(caplog)


def test_keys_are_looked_at_after_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    watching = callers.KeyWatch(cast(Any, None), cast(Any, None))
    look = Twice(watching.close)
    watching.look = look  # type: ignore[method-assign]
    watching._run()
    assert look.calls == 3
    assert _logged_once(caplog)


def test_reload_works_after_a_failed_one(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        serve._reload(cast(Any, None), Twice())
    assert "not reloaded: unhandled exception" in caplog.text

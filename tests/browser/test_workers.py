"""The chat page with several workers: another worker may follow an answer than generates it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests import redis_servers
from tests.fakes import wait_until
from tests.integration.child_processes import children
from tests.integration.slow_model import SlowModel
from tests.redis_servers import RedisServer
from tools.processes import Gateway

from .conftest import Open, running
from .test_chat import ask, letters, until

API = "/pages/api/chat"


@pytest.fixture
def each(workers: Gateway) -> Iterator[dict[int, HTTPConnection]]:
    """A connection to each worker, by pid."""
    from tests.integration.test_state import _one_of_each

    connections = _one_of_each(workers.url, children(workers.pid))
    yield connections
    for connection in connections.values():
        connection.close()


def tell(worker: HTTPConnection, path: str, value: Any = None) -> Any:
    """A request of the page's script to the worker at the other end of a connection."""
    headers = {"Authorization": "Bearer any", "Content-Type": "application/json"}
    body = None if value is None else json.dumps(value)
    worker.request("POST" if body else "GET", API + path, body, headers)
    answer = worker.getresponse()
    text = answer.read()
    assert answer.status < 300, text
    return json.loads(text or b"null")


def begun(worker: HTTPConnection, text: str = "Tell me everything.") -> tuple[str, str]:
    """Asks in a new conversation. Returns its id and the answer's."""
    talk = tell(worker, "/conversations", {})["id"]
    options = {"kind": "chat"}
    made = tell(worker, f"/conversations/{talk}/ask", {"text": text, "options": options})
    return talk, made["answer"]["id"]


@pytest.fixture
def workers(endless_server: SlowModel, tmp_path: Path) -> Iterator[Gateway]:
    redis = RedisServer(redis_servers.first(), tmp_path)
    flags = ["--llama-api", endless_server.url, "--slots", "2", "--data", str(tmp_path / "data")]
    flags += ["--chat-template", "chatml"]
    flags += ["--workers", "3", "--state", redis.url]
    gateway = Gateway(flags, tmp_path / "gateway.log")
    with running(redis, gateway):
        yield gateway


def test_answer_is_followed_and_stopped_through_any_worker(workers: Gateway, visit: Open) -> None:
    page = visit(f"{workers.url}/")
    ask(page, "Tell me everything.")
    said = page.locator(".message.assistant .said")

    def shown(letters: int) -> bool:
        return said.count() == 1 and len(said.inner_text()) >= letters

    for _ in range(3):  # each time with new connections, so perhaps to another worker
        until(page, partial(shown, 21))
        before = len(said.inner_text())
        page.reload()
        until(page, partial(shown, before))
    page.get_by_role("button", name="Stop").click()
    page.locator('.message.assistant[data-status="stopped"]').wait_for()
    length = len(said.inner_text())
    page.reload()
    said.wait_for()
    until(page, lambda: len(said.inner_text()) == length)


def last(worker: HTTPConnection, talk: str) -> Any:
    return tell(worker, f"/conversations/{talk}/messages")[-1]


def test_answer_of_killed_worker_is_interrupted_with_all_its_text(
    workers: Gateway, each: dict[int, HTTPConnection], visit: Open
) -> None:
    """Within seconds, and without a Stop."""
    (killed, writer), (_, other), *_ = each.items()
    talk, _ = begun(writer)
    wait_until(lambda: len(last(other, talk)["content"]) > 100)
    page = visit(f"{workers.url}/#{talk}")
    said = page.locator(".message.assistant .said")
    until(page, lambda: said.count() == 1 and len(said.inner_text()) > 100)
    os.kill(killed, signal.SIGKILL)
    shown = letters(said.inner_text())
    page.locator('.message.assistant[data-status="interrupted"]').wait_for(timeout=40_000)
    assert "interrupted" in page.locator(".foot").last.inner_text()
    assert letters(said.inner_text()).startswith(shown)
    page.get_by_role("button", name="Regenerate").click()
    until(page, lambda: "2 of 2" in page.locator(".foot").last.inner_text())
    until(page, lambda: len(said.inner_text()) > 20)
    page.get_by_role("button", name="Stop").click()
    page.locator('.message.assistant[data-status="stopped"]').wait_for()


def test_stop_through_another_worker_works_during_silence(
    workers: Gateway, each: dict[int, HTTPConnection], endless_server: SlowModel
) -> None:
    """While the answer is queued, and while its prompt is evaluated by a stopped server."""
    from tests.integration.test_state import _slots, _states

    writer, other, *_ = each.values()
    busy = [begun(writer), begun(writer)]
    for talk, _ in busy:
        wait_until(lambda talk=talk: len(last(other, talk)["content"]) > 0)  # type: ignore[misc]
    _, waits = begun(writer)
    wait_until(lambda: len(_slots(workers.url)["queue"]) == 1)
    tell(other, f"/answers/{waits}/stop", {})
    wait_until(lambda: len(_slots(workers.url)["queue"]) == 0)
    assert _states(workers.url) == ["busy", "busy"]
    for _, answer in busy:
        tell(writer, f"/answers/{answer}/stop", {})
    wait_until(lambda: "busy" not in _states(workers.url))
    endless_server.send(signal.SIGSTOP)
    try:
        talk, waiting = begun(writer, "And this?")
        wait_until(lambda: "busy" in _states(workers.url))
        tell(other, f"/answers/{waiting}/stop", {})
        wait_until(lambda: "busy" not in _states(workers.url))
    finally:
        endless_server.send(signal.SIGCONT)
    wait_until(lambda: last(other, talk)["status"] == "stopped")
    assert last(other, talk)["content"] == ""
    talk, waiting = begun(writer)
    wait_until(lambda: len(last(other, talk)["content"]) > 0)
    tell(other, f"/answers/{waiting}/stop", {})
    wait_until(lambda: "busy" not in _states(workers.url))

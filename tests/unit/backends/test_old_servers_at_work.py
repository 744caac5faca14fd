"""Old servers under load: as many answers at once as they can give, and broken ones."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from proxy.backends import llamacpp
from proxy.backends.llamacpp import LlamaCpp
from tests import threaded_server
from tests.fakes import make_app, services_of, wait_until
from tests.threaded_server import ThreadedServer

Serve = Callable[..., ThreadedServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[ThreadedServer] = []

    def start(slots: int, threads: int, state: str = "") -> ThreadedServer:
        servers.append(ThreadedServer(slots, threads, state))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


class Clients:
    """Requests of one gateway, each in a thread of its own."""

    def __init__(self, server: ThreadedServer, slots: int = 0, **settings: Any) -> None:
        driver: Any = LlamaCpp(server.url, timeout=60, slots=slots)
        self.app = make_app(driver, **settings)
        self.backend = services_of(self.app).gateway.registry.backends["b0"]
        wait_until(lambda: bool(self.backend.up))
        self.statuses: list[int] = []
        self.texts: list[str] = []

    def ask(self, count: int, **fields: Any) -> list[threading.Thread]:
        def one(number: int) -> None:
            body = {"prompt": f"question {number}", "max_tokens": 8, **fields}
            answer = self.app.test_client().post("/v1/completions", json=body)
            self.texts.append(answer.text)
            self.statuses.append(answer.status_code)

        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        return threads


@pytest.mark.parametrize(("slots", "threads", "together"), [(16, 8, 7), (4, 8, 4)])
def test_old_server_gives_as_many_answers_at_once_as_it_can(
    serve: Serve, slots: int, threads: int, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threaded_server, "KEPT", 60.0)  # an idle connection gives up no thread
    server = serve(slots, threads)
    clients = Clients(server)
    running = clients.ask(together + 2)
    wait_until(lambda: server.running == together)
    began = time.monotonic()
    time.sleep(1.5)  # longer than a request waits for a connection
    answer = clients.app.test_client().post("/tokenize", json={"content": "abc"})
    assert answer.json == {"tokens": [97, 98, 99]}
    assert time.monotonic() - began < 20.0, "other requests have a thread of the server"
    assert clients.backend.driver.alive()
    assert clients.backend.up and clients.backend.slots == together
    server.go.set()
    for thread in running:
        thread.join(60)
    assert clients.statuses == [200] * (together + 2)
    assert server.most == together


def test_server_whose_threads_all_answer_is_not_down(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llamacpp, "ALIVE_TIMEOUT", 0.3)
    server = serve(slots=8, threads=8)
    clients = Clients(server, slots=8)
    running = clients.ask(8)
    wait_until(lambda: server.running == 8)
    assert clients.backend.driver.alive()
    server.go.set()
    for thread in running:
        thread.join(60)
    assert clients.statuses == [200] * 8


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("state", ["broken", "silent"])
def test_backend_that_always_answers_nothing_is_a_fault(
    serve: Serve, state: str, stream: bool
) -> None:
    """Also one that claims a free slot ("silent")."""
    server = serve(2, 32, state)
    clients = Clients(server)
    began = time.monotonic()
    for thread in clients.ask(2, stream=stream):
        thread.join(60)
    assert time.monotonic() - began < 10.0
    assert clients.statuses == [502, 502]
    assert "the backend returned an empty response" in clients.texts[0]


@pytest.mark.parametrize("stream", [False, True])
def test_request_for_no_tokens_gets_none_from_a_server_that_writes_on(
    serve: Serve, stream: bool
) -> None:
    server = serve(2, 32, "talkative")
    clients = Clients(server)
    for thread in clients.ask(1, max_tokens=0, stream=stream):
        thread.join(60)
    assert clients.statuses == [200]
    assert "word" not in clients.texts[0] and '"finish_reason":"length"' in clients.texts[0]

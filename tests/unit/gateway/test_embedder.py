"""Embeddings of servers of 2023: one text at a time, with nothing else under way there."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.registry import Backend, Registry
from proxy.backends.vectors import Input
from proxy.cancel import Cancel
from proxy.config import BackendConfig
from proxy.core.task import Task
from proxy.core.vectors import Embedded, Ranked
from proxy.errors import BackendBusy, Cancelled, NoBackend, QueueTimeout
from proxy.gateway import embedder as module
from proxy.gateway.embedder import TEXTS, Embedder
from proxy.scheduling.scheduler import Scheduler
from proxy.scheduling.state import Want
from tests.fakes import CAPS, ScriptedDriver, wait_until


class Vectors(ScriptedDriver):
    """A server of 2023: what it embeds while anything else runs there is wrong. `texts` are those
    it got; each waits for `go`; `busy` of them are refused."""

    def __init__(self, caps: Capabilities = CAPS) -> None:
        super().__init__(caps=caps)
        self.texts: list[Input] = []
        self.busy = 0
        self.go = threading.Event()
        self.go.set()
        self.running = 0
        self.overlapped = False

    def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
        if self.busy:
            self.busy -= 1
            raise BackendBusy("slot unavailable")
        self.running += 1
        self.overlapped |= self.running > 1
        self.texts += inputs
        assert self.go.wait(20)
        self.running -= 1
        return Embedded(tuple([float(len(text))] for text in inputs), len(inputs))

    def rerank(
        self, query: str, documents: Sequence[str], caps: Capabilities, cancel: Cancel
    ) -> Ranked:
        raise AssertionError("not asked here")


class House:
    def __init__(self, *drivers: Vectors, timeout: float = 20.0) -> None:
        self.scheduler = Scheduler(time.monotonic, queue_timeout=timeout)
        backends = [Backend(f"b{n}", f"test://{n}", driver) for n, driver in enumerate(drivers)]
        self.registry = Registry(backends, self.scheduler, interval=3600.0)
        self.registry.start()
        self.embedder = Embedder(self.registry, self.scheduler)
        wait_until(lambda: self.registry.settled)

    def embed(self, *texts: str, cancel: Cancel | None = None) -> list[list[float]]:
        return list(self.embedder.embed("", texts, cancel or Cancel())[1].vectors)


def test_texts_are_embedded_in_order_and_the_backend_is_given_back() -> None:
    house = House(Vectors())
    texts = ["x" * n for n in range(1, 2 * TEXTS + 3)]
    assert house.embed(*texts) == [[float(n)] for n in range(1, 2 * TEXTS + 3)]
    assert house.scheduler.outstanding == 0
    house.registry.close()


def test_two_embedders_of_one_server_do_not_lock_each_other_out() -> None:
    driver = Vectors()
    house = House(driver)
    other = Embedder(house.registry, house.scheduler)
    with ThreadPoolExecutor(12) as pool:
        calls = [
            pool.submit(one.embed, "", ["some", "text"], Cancel())
            for one in (house.embedder, other) * 6
        ]
        for call in calls:
            call.result(20)
    assert len(driver.texts) == 24
    assert not driver.overlapped
    house.registry.close()


def test_backend_that_a_reload_added_makes_embeddings() -> None:
    driver = Vectors()
    house = House(Vectors())
    config = BackendConfig(name="new", url="test://new")
    house.registry.reload([config], lambda c: Backend(c.name, c.url, driver, config=c))
    wait_until(lambda: house.registry.settled and "b0" not in house.registry.backends)
    assert house.embed("text") == [[4.0]]
    assert driver.texts == ["text"]
    house.registry.close()


def test_chat_has_its_turn_between_the_texts_of_one_long_request() -> None:
    driver = Vectors()
    house = House(driver)
    driver.go.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(house.embed, *["text"] * (3 * TEXTS))
        wait_until(lambda: len(driver.texts) == 1)
        chat = house.scheduler.enter(Want("scripted", Task(prompt="hi", max_tokens=4)))
        driver.go.set()
        lease = chat.wait(Cancel(), 20.0)  # type: ignore[union-attr]
        assert lease is not None
        assert len(driver.texts) == TEXTS
        lease.release()
        call.result(20)
    assert len(driver.texts) == 3 * TEXTS
    house.registry.close()


def test_slow_texts_are_given_back_earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.0)
    driver = Vectors()
    house = House(driver)
    driver.go.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(house.embed, *["text"] * 3)
        wait_until(lambda: len(driver.texts) == 1)
        chat = house.scheduler.enter(Want("scripted", Task(prompt="hi", max_tokens=4)))
        driver.go.set()
        lease = chat.wait(Cancel(), 20.0)  # type: ignore[union-attr]
        assert lease is not None and len(driver.texts) == 1
        lease.release()
        call.result(20)
    house.registry.close()


def test_busy_server_is_asked_again_for_what_is_left_until_the_queue_timeout() -> None:
    driver = Vectors()
    house = House(driver)
    driver.busy = 3
    assert house.embed("a", "b") == [[1.0], [1.0]]
    driver.busy = 10**6
    hasty = House(driver, timeout=0.3)
    with pytest.raises(QueueTimeout):
        hasty.embed("a")
    for one in (house, hasty):
        assert one.scheduler.outstanding == one.scheduler.waiting == 0
        one.registry.close()


def test_cancel_ends_the_wait_for_a_backend() -> None:
    house = House(Vectors())
    held = house.scheduler.acquire(Want("scripted", Task(prompt="hi")), Cancel())
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(house.embed, "a", cancel=cancel)
        wait_until(lambda: house.scheduler.waiting == 1)
        cancel.cancel()
        with pytest.raises(Cancelled):
            call.result(20)
    held.release()
    house.registry.close()


def test_servers_of_both_kinds_behind_one_model_are_each_asked_in_their_way() -> None:
    modern = Capabilities(dialect="llama-server", slots=2, queues=True, models=("scripted",))
    old, new = Vectors(), Vectors(modern)
    house = House(old, new)
    assert len(house.embed(*["text"] * 8)) == 8
    assert bool(old.texts) is not bool(new.texts)
    house.registry.close()


def test_without_a_backend_there_is_no_embedding() -> None:
    house = House(Vectors())
    house.registry.reload([], pytest.fail)
    with pytest.raises(NoBackend):
        house.embed("a")
    house.registry.close()

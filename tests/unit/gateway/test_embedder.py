"""Embeddings of servers of 2023: one text at a time, with nothing else running on the server; and
requests that are forwarded."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from proxy.accounts.rights import Permissions, Rights
from proxy.backends.driver import AT_ONCE, Capabilities, Input
from proxy.backends.pools import Backend
from proxy.backends.registry import Registry
from proxy.config.keys import ApiKey, Secret
from proxy.config.routes import Place
from proxy.core.task import Call, CallMaker, Embedded, Forwarded, Ranked, Tier
from proxy.errors import (
    BackendBusy,
    Cancelled,
    LimitReached,
    MissingRoute,
    NoIdleSlot,
    QueueTimeout,
)
from proxy.gateway import Forwarder, Info, admission
from proxy.gateway import embedder as module
from proxy.gateway.context import Caller
from proxy.gateway.embedder import MOST, TEXTS, Embedder
from proxy.runtime.cancel import Cancel
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import SlotRequest
from tests.fakes import CAPS, ScriptedDriver, make_app, services_of, wait_until


class EmbeddingDriver(ScriptedDriver):
    """A server of 2023, where an embedding is wrong if anything else runs at the same time.
    `texts` are those received; each waits for `go`; the first `busy` calls are refused."""

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
        assert self.go.wait(60)
        self.running -= 1
        return Embedded(tuple([float(len(text))] for text in inputs), len(inputs))

    def rerank(
        self, query: str, documents: Sequence[str], caps: Capabilities, cancel: Cancel
    ) -> Ranked:
        self.embed((query,), caps, cancel)
        return Ranked((0.0,) * len(documents), 1)


class NoReranking(EmbeddingDriver):
    def rerank(self, *_: object) -> Ranked:
        raise MissingRoute("404")


MADE: list[Harness] = []


@pytest.fixture(autouse=True)
def every_backend_is_released() -> Iterator[None]:
    yield
    for harness in MADE:
        harness.registry.close()
    MADE.clear()


class Harness:
    """Each of `tiers` has one of the drivers."""

    def __init__(
        self, *drivers: EmbeddingDriver, timeout: float = 20.0, tiers: Sequence[str] = ()
    ) -> None:
        self.scheduler = LocalScheduler(time.monotonic, queue_timeout=timeout)
        backends = [Backend(f"b{n}", f"test://{n}", driver) for n, driver in enumerate(drivers)]
        for n, name in enumerate(tiers):
            backends[n].place = Place("scripted", Tier(n, name, 10.0))
        self.registry = Registry(backends, self.scheduler, interval=3600.0)
        self.registry.start()
        self.embedder = Embedder(self.registry, self.scheduler)
        wait_until(lambda: self.registry.settled)
        MADE.append(self)

    def embed(self, *texts: str, cancel: Cancel | None = None) -> list[Sequence[float]]:
        return list(self.embedder.embed("", texts, cancel or Cancel())[1].vectors)


def test_texts_are_embedded_in_order_and_backend_is_released() -> None:
    harness = Harness(EmbeddingDriver())
    texts = ["x" * n for n in range(1, 2 * TEXTS + 3)]
    assert harness.embed(*texts) == [[float(n)] for n in range(1, 2 * TEXTS + 3)]


@pytest.mark.parametrize(("seconds", "texts"), [(60.0, TEXTS), (0.0, 1)])  # either ends a batch
def test_chat_runs_between_batches_of_a_long_embedding_request(
    monkeypatch: pytest.MonkeyPatch, seconds: float, texts: int
) -> None:
    monkeypatch.setattr(module, "SECONDS", seconds)
    driver = EmbeddingDriver()
    harness = Harness(driver)
    driver.go.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(harness.embed, *["text"] * (3 * TEXTS))
        wait_until(lambda: len(driver.texts) == 1)
        chat = harness.scheduler.enter(SlotRequest(model="scripted", max_tokens=4))
        driver.go.set()
        lease = chat.wait(Cancel(), 20.0)
        assert lease is not None
        assert len(driver.texts) == texts
        lease.release()
        call.result(60)
    assert len(driver.texts) == 3 * TEXTS


def test_one_text_is_embedded_between_the_parts_of_a_long_request() -> None:
    driver = EmbeddingDriver(msgspec.structs.replace(CAPS, slots=1, queues=True))
    harness = Harness(driver)
    driver.go.clear()
    with ThreadPoolExecutor(2) as pool:
        long = pool.submit(harness.embed, *["long"] * (MOST * AT_ONCE))
        wait_until(lambda: harness.scheduler.waiting == MOST - 1)
        question = pool.submit(harness.embed, "question")
        wait_until(lambda: harness.scheduler.waiting == MOST)
        driver.go.set()
        assert question.result(60) == [[8.0]]
        assert len(long.result(60)) == MOST * AT_ONCE
    # After the call under way, and one that was to be next.
    assert driver.texts.index("question") <= 2 * AT_ONCE
    assert not driver.overlapped


QUEUES = msgspec.structs.replace(CAPS, slots=1, queues=True)


@pytest.mark.parametrize("route", ["embeddings", "rerank"])
@pytest.mark.parametrize("modern", [True, False])
def test_each_key_has_its_share_of_embeddings_and_rankings(route: str, modern: bool) -> None:
    driver = EmbeddingDriver(msgspec.structs.replace(QUEUES, queues=modern))
    keys = [ApiKey(name, Secret(f"key-of-{name}")) for name in ("greedy", "modest")]
    http = make_app(driver, file_keys=tuple(keys)).test_client()
    driver.go.clear()

    def ask(key: str, text: str) -> int:
        body = {"model": "", "input": text, "query": text, "documents": ["d"]}
        headers = {"Authorization": f"Bearer key-of-{key}"}
        ours = http.application.test_client()
        return ours.post(f"/v1/{route}", json=body, headers=headers).status_code

    scheduler = services_of(http.application).embedder.scheduler
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, "greedy", f"of greedy {number}") for number in range(12)]
        wait_until(lambda: scheduler.waiting == 11)
        asked.append(pool.submit(ask, "modest", "of modest"))
        wait_until(lambda: scheduler.waiting == 12)
        driver.go.set()
        assert [one.result(60) for one in asked] == [200] * 13
    # After the call under way, and one that was to be next.
    assert driver.texts.index("of modest") <= 2, driver.texts


def test_embeddings_in_idle_slots_give_way() -> None:
    class Patient(EmbeddingDriver):
        def embed(self, inputs: Sequence[Input], caps: Capabilities, cancel: Cancel) -> Embedded:
            self.texts += inputs
            while not self.go.wait(0.01):
                cancel.check()
            return Embedded(tuple([float(len(text))] for text in inputs), len(inputs))

    driver = Patient(QUEUES)
    harness = Harness(driver)
    driver.go.clear()
    with ThreadPoolExecutor(1) as pool:
        texts = ["idle"] * (AT_ONCE + 1)
        call = pool.submit(harness.embedder.embed, "", texts, Cancel(), Caller(idle=True))
        wait_until(lambda: len(driver.texts) == AT_ONCE)
        lease = harness.scheduler.acquire(SlotRequest(model="scripted", max_tokens=4), Cancel())
        driver.go.set()
        assert not call.done()
        lease.release()
        assert len(call.result(60)[1].vectors) == AT_ONCE + 1, "it goes on later"


def test_missing_rerank_endpoint_does_not_pause_the_backend_for_chats() -> None:
    modern = Capabilities(dialect="llama-server", slots=2, queues=True, models=("scripted",))
    harness = Harness(NoReranking(modern), timeout=5.0)
    for _ in range(10):
        with pytest.raises(MissingRoute):
            harness.embedder.rerank("", "question", ["text"], Cancel())
    chat = SlotRequest(model="scripted", max_tokens=4)
    harness.scheduler.acquire(chat, Cancel()).release()


def test_busy_server_is_retried_for_remaining_texts_until_queue_timeout() -> None:
    driver = EmbeddingDriver()
    harness = Harness(driver)
    driver.busy = 3
    assert harness.embed("a", "b") == [[1.0], [1.0]]
    driver.busy = 10**6
    hasty = Harness(driver, timeout=0.3)
    with pytest.raises(QueueTimeout):
        hasty.embed("a")


def test_cancel_ends_the_wait_for_a_backend() -> None:
    harness = Harness(EmbeddingDriver())
    held = harness.scheduler.acquire(SlotRequest(model="scripted"), Cancel())
    cancel = Cancel()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(harness.embed, "a", cancel=cancel)
        wait_until(lambda: harness.scheduler.waiting == 1)
        cancel.cancel()
        with pytest.raises(Cancelled):
            call.result(60)
    held.release()


def test_old_and_new_servers_of_one_model_each_get_their_own_requests() -> None:
    modern = Capabilities(dialect="llama-server", slots=2, queues=True, models=("scripted",))
    old, new = EmbeddingDriver(), EmbeddingDriver(modern)
    harness = Harness(old, new)
    assert len(harness.embed(*["text"] * 8)) == 8
    assert bool(old.texts) is not bool(new.texts)


def test_backend_of_a_barred_tier_counts_no_text() -> None:
    class Counting(EmbeddingDriver):
        counted = False

        def tokenize(self, text: str, *more: Any, **named: Any) -> list[int]:
            self.counted = True
            return super().tokenize(text, *more, **named)

    cloud, own = Counting(), Counting()
    harness = Harness(cloud, own, tiers=("cloud", "own"))
    caller = Caller(may=Permissions((Rights(barred_tiers=("cloud",)),)))
    harness.embedder.embed("", ["a text"], Cancel(), caller)
    assert not cloud.counted and not cloud.texts
    assert own.counted and own.texts == ["a text"]


class Answer:
    status, usage = 200, None
    headers: Mapping[str, str] = {}

    def __init__(self) -> None:
        self.closing: list[Callable[[bool], object]] = []

    def __iter__(self) -> Iterator[bytes]:
        yield b"{}"

    def close(self) -> None:
        while self.closing:
            self.closing.pop()(True)


class Server(ScriptedDriver):
    def forward(self, make: CallMaker, cancel: Cancel) -> Forwarded:
        return Answer()


class World:
    def __init__(self, *names: str) -> None:
        self.scheduler = LocalScheduler(time.monotonic)
        backends = [Backend(name, f"test://{name}", Server()) for name in names or ("b",)]
        registry = Registry(backends, self.scheduler, interval=3600.0)
        registry.start()
        wait_until(lambda: registry.settled)
        self.model = next(iter(registry.backends.values())).model
        self.forwarder = Forwarder(registry, self.scheduler)

    def forward(self, caller: Caller, on_slot: admission.OnSlot = admission.nothing) -> Forwarded:
        def make(name: str) -> Call:
            return Call("POST", "/v1/embeddings", {})

        return self.forwarder.forward(
            self.model, make, Cancel(), caller, info=Info(), on_slot=on_slot
        )

    def take(self) -> None:
        self.scheduler.acquire(SlotRequest(model=self.model), Cancel())


def test_line_of_a_batch_takes_an_idle_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "PATIENCE", 0.0)
    world, slots = World(), []
    world.forward(Caller(idle=True), lambda: slots.append(True)).close()
    assert slots == [True]
    world.take()
    with pytest.raises(NoIdleSlot):
        world.forward(Caller(idle=True))
    assert (world.scheduler.waiting, world.scheduler.outstanding) == (0, 1)


def test_place_of_a_line_beyond_its_limits_is_given_back() -> None:
    def refused() -> None:
        raise LimitReached("no more")

    world = World()
    with pytest.raises(LimitReached):
        world.forward(Caller(idle=True), refused)
    assert world.scheduler.outstanding == 0


def test_backend_removed_after_the_grant_is_replaced() -> None:
    world = World("b", "other")
    registry = world.forwarder.registry
    registry.backends = {"other": registry.backends["other"]}
    answer = world.forward(Caller())
    assert answer.status == 200
    answer.close()
    assert world.scheduler.outstanding == 0

"""Counting the slots of an old server, idle and while others use it."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.driver import Capabilities
from proxy.backends.llamacpp import MOST_SLOTS, count_slots
from proxy.backends.pools import Backend
from proxy.config import Settings
from proxy.core.task import Task
from proxy.gateway import Gateway
from proxy.runtime.cancel import Cancel
from tests.apps import app_on
from tests.fakes import ScriptedDriver, ScriptedRun, make_app, services_of, wait_until

from .rawserver import head, llama


class OldServer:
    """Chooses slots like an old server: the requested one, else the least recently used idle one.
    `order` lists its slots, least recently used first."""

    def __init__(self, order: list[int]) -> None:
        self.order = list(order)
        self.busy: set[int] = set()
        self.asked: list[int] = []

    def take(self, slot: int) -> int | None:
        self.asked.append(slot)
        idle = [one for one in self.order if one not in self.busy]
        if slot not in idle:
            if not idle:
                return None
            slot = idle[0]
        self.order.remove(slot)
        self.order.append(slot)
        return slot


warm = st.integers(1, 20).flatmap(lambda count: st.permutations(range(count)))


@given(warm)
def test_idle_server_is_counted_regardless_of_earlier_use(order: list[int]) -> None:
    server = OldServer(order)
    assert count_slots(server.take) == len(order)
    assert len(server.asked) == 2 * len(order) + 1


@given(warm, st.data())
def test_requests_of_others_do_not_disturb_the_count(order: list[int], data: st.DataObject) -> None:
    """Nor do other gateways that count at the same time with equally short requests."""
    server = OldServer(order)
    theirs = data.draw(st.lists(st.integers(-1, len(order)), max_size=60))

    def ask(slot: int) -> int | None:
        for _ in range(data.draw(st.integers(0, 2))):
            if theirs:
                server.take(theirs.pop())
        return server.take(slot)

    assert count_slots(ask) == len(order)


def test_server_without_idle_slot_is_not_counted() -> None:
    server = OldServer([0, 1])
    server.busy = {0, 1}
    assert count_slots(server.take) == 0
    assert len(server.asked) == 1


def test_count_requests_are_bounded() -> None:
    server = OldServer(list(range(MOST_SLOTS + 9)))
    assert count_slots(server.take) == 0
    assert len(server.asked) <= MOST_SLOTS + 1
    assert count_slots(lambda slot: 10**12) == 0
    assert count_slots(lambda slot: -1) == 0


# the driver


def answer(slot: int) -> bytes:
    body = json.dumps({"content": "", "slot_id": slot}).encode()
    return head(len(body)) + body


BUSY = head(14, "404 Not Found") + b"File Not Found"


def test_count_waits_for_a_slot_about_to_be_free() -> None:
    with llama([answer(0), BUSY, answer(0), BUSY, answer(0)]) as (driver, server):
        assert driver.count_slots() == 1
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests]
    assert [body["slot_id"] for body in bodies] == [0, 1, 1, 1, 1]
    assert {body["prompt"] for body in bodies} == {""}, "an empty prompt leaves what a slot holds"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"slot_id": "x"}', b'{"slot_id": null}'])
def test_answer_without_slot_number_ends_the_count(body: bytes) -> None:
    with llama([head(len(body)) + body]) as (driver, server):
        assert driver.count_slots() == 0
    assert len(server.requests) == 1


# when slots are counted

UNTOLD = Capabilities(dialect="powerinfer", n_ctx=2048, models=("scripted",))


class Counted(ScriptedDriver):
    """A backend whose slot count is `count`, and which answers on `slot`."""

    def __init__(self, count: int, caps: Capabilities = UNTOLD) -> None:
        super().__init__(caps=caps)
        self.count = count
        self.counted = 0
        self.slot = self.looks = 0
        self.until: threading.Event | None = None  # answers wait for this

    def alive(self) -> bool:
        self.looks += 1
        return True

    def count_slots(self) -> int:
        self.counted += 1
        return self.count

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        if self.until is not None:
            self.until.wait(60)
        run = super().stream(task, slot, caps, cancel)
        run.slot = self.slot
        return run


def gateway(driver: Counted) -> Gateway:
    found = services_of(make_app(driver, health_interval=0.02)).gateway
    assert isinstance(found, Gateway)
    return found


def test_slots_are_counted_when_a_backend_comes_up() -> None:
    driver = Counted(6)
    here = gateway(driver)
    assert here.scheduler.slots("b0") == 6
    assert driver.counted == 1
    (backend,) = here.registry.backends.values()
    assert backend.caps is not None and backend.caps.slots == 6, "GET /v1/backends tells it"


def test_failed_count_is_repeated_later() -> None:
    driver = Counted(0)
    here = gateway(driver)
    assert here.scheduler.slots("b0") > 0, "a guess, until it is known"
    driver.count = 6
    wait_until(lambda: here.scheduler.slots("b0") == 6)


def test_configured_slot_count_wins() -> None:
    driver = Counted(6)
    backend = Backend("b0", "test://0", driver, set_slots=3)
    app = app_on([backend], Settings(health_interval=0.02))
    here = services_of(app).gateway
    wait_until(lambda: here.registry.settled)
    assert here.scheduler.slots("b0") == 3
    assert not backend.uncounted
    assert driver.counted == 0


def test_slots_are_not_counted_while_own_requests_run() -> None:
    driver = Counted(0)
    app = make_app(driver, health_interval=0.02)
    here = services_of(app).gateway
    release = threading.Event()
    driver.until = release
    body = {"messages": [{"role": "user", "content": "x"}]}
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(app.test_client().post, "/v1/chat/completions", json=body)
        wait_until(lambda: here.scheduler.in_flight("b0") == 1)
        looks, counted = driver.looks, driver.counted
        wait_until(lambda: driver.looks > looks + 3)
        assert driver.counted == counted
        release.set()
        assert answer.result(60).status_code == 200
    wait_until(lambda: driver.counted > counted)

"""Requests of other APIs, which use places of the backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import pytest

from proxy.backends.pools import Backend
from proxy.backends.registry import Registry
from proxy.core.task import Call, CallMaker, Forwarded
from proxy.errors import LimitReached, NoIdleSlot
from proxy.gateway import Caller, Forwarder, Info, admission
from proxy.runtime.cancel import Cancel
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import SlotRequest
from tests.fakes import ScriptedDriver, wait_until


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

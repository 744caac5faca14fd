"""A slot that is prepared for its request: what was saved is restored once its server is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.backends.driver import SlotAction
from proxy.errors import Cancelled, GatewayError, UpstreamFault
from proxy.gateway.leased_slot import LeasedSlot
from proxy.runtime.cancel import Cancel
from proxy.scheduling.state import BackendFacts
from tests.fakes import CAPS, ScriptedDriver
from tests.unit.scheduling.fakes import World

LONG = "a question " * 100


class Unloaded(ScriptedDriver):
    """A driver whose server takes two ticks to load, or fails to."""

    def __init__(self, fault: GatewayError | None = None) -> None:
        super().__init__()
        self.fault = fault
        self.done: list[str] = []

    @property
    def status(self) -> str:
        return "loaded" if self.done else "unloaded"

    def load(self, cancel: Cancel) -> Iterator[None]:
        yield
        yield
        if self.fault is not None:
            raise self.fault
        self.done.append("loaded")

    def slot_action(
        self, action: SlotAction, slot: int, file: str, seconds: float | None = None
    ) -> tuple[int, int]:
        if self.fault is not None:
            raise self.fault
        self.done.append(action)
        return 279, 1000


def leased(driver: Unloaded) -> LeasedSlot:
    """A slot that is to be restored."""
    world = World(slots=1, disk=10_000_000)
    facts = BackendFacts(model="m", slots=1, cache_kind="files", keeps_files=True)
    world.scheduler.update("b0", facts, up=True)
    world.turn(LONG)
    saved = world.scheduler.saved_slots
    (save,) = saved.to_save("b0")
    saved.saved("b0", save, save.tokens, 1000, 0.01)
    world.scheduler.update("b0", facts, up=True, anew=True)
    lease = world.take(LONG + "and?", (len(LONG), len(LONG) + 4), key="alice")
    assert lease.grant.restore is not None
    context = SimpleNamespace(clock=world.clock, scheduler=world.scheduler)
    return LeasedSlot(cast(Any, context), lease, cast(Any, SimpleNamespace(driver=driver)), CAPS)


def test_request_ticks_until_its_server_is_loaded_and_restores_then() -> None:
    driver = Unloaded()
    slot = leased(driver)
    assert len(list(slot.prepare(Cancel()))) == 2
    assert driver.done == ["loaded", "restore"]
    assert slot.lease.grant.restore is not None


def test_failed_load_leaves_the_reason_to_the_run() -> None:
    slot = leased(Unloaded(UpstreamFault("no memory")))
    assert len(list(slot.prepare(Cancel()))) == 2
    assert slot.lease.grant.restore is None  # everything is evaluated


def test_cancelled_wait_ends_the_request() -> None:
    with pytest.raises(Cancelled):
        list(leased(Unloaded(Cancelled("gone"))).prepare(Cancel()))

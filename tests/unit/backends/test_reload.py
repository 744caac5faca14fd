"""Reloads of the configuration while answers are running."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from proxy.backends.pools import Backend
from proxy.backends.registry import Registry
from proxy.config import BackendConfig
from proxy.config.routes import Place
from proxy.core.task import Tier
from proxy.errors import ModelNotFound, NoBackend
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import SlotRequest
from tests.fakes import ScriptedDriver, wait_until


class Driver(ScriptedDriver):
    closed = False

    def close(self) -> None:
        self.closed = True


class Harness:
    """A registry to reload. `made` are the backends in order of creation."""

    def __init__(self) -> None:
        self.scheduler = LocalScheduler(time.monotonic, wait_for_backend=5.0)
        self.registry = Registry([], self.scheduler, interval=3600.0)
        self.made: list[Backend] = []
        self.registry.start()

    def make(self, config: BackendConfig) -> Backend:
        self.made.append(
            Backend(config.name, config.url, Driver(), set_model=config.model, config=config)
        )
        return self.made[-1]

    def reload(self, *configs: BackendConfig) -> None:
        self.registry.reload(configs, self.make)

    def settle(self) -> None:
        wait_until(lambda: self.registry.settled)

    def take(self, model: str = "scripted") -> tuple[Lease, Backend]:
        lease = self.scheduler.acquire(SlotRequest(model=model), Cancel())
        backend = self.registry.borrow(lease.backend)
        assert backend is not None
        return lease, backend

    def end(self, lease: Lease, backend: Backend) -> None:
        lease.release(Outcome(end="whole"))
        self.registry.give_back(backend)

    def closed(self) -> list[bool]:
        return [one.driver.closed for one in self.made]  # type: ignore[attr-defined]


def config(name: str, url: str = "", **more: object) -> BackendConfig:
    return BackendConfig(name=name, url=url or f"test://{name}", **more)  # type: ignore[arg-type]


@pytest.fixture
def harness() -> Iterator[Harness]:
    harness = Harness()
    harness.reload(config("b0"))
    harness.settle()
    yield harness
    harness.registry.close()


def test_changed_url_serves_at_once_while_old_answers_finish(harness: Harness) -> None:
    old = [harness.take() for _ in range(2)]  # all slots of the new server
    waiting = harness.scheduler.enter(SlotRequest(model="scripted"))
    assert isinstance(waiting, Ticket)
    harness.reload(config("b0", "test://elsewhere"))
    lease = waiting.wait(Cancel(), 5.0)
    assert lease is not None
    backend = harness.registry.borrow("b0")
    assert backend is not None and backend.url == "test://elsewhere"
    harness.end(lease, backend)
    assert harness.closed() == [False, False]
    for one in old:
        harness.end(*one)
    wait_until(lambda: harness.closed() == [True, False])
    assert harness.scheduler.outstanding == 0


def test_registry_without_backends_raises_no_backend(harness: Harness) -> None:
    harness.reload()
    for name in ("", "scripted", "anything"):
        with pytest.raises(NoBackend, match="no backend is configured"):
            harness.registry.resolve(name)
    assert harness.registry.names() == ()
    harness.reload(config("b0"), config("b1", model="another"))
    harness.settle()
    with pytest.raises(ModelNotFound):
        harness.registry.resolve("anything")


def test_models_are_listed_in_configuration_order(harness: Harness) -> None:
    """In whichever order they come up: the first one is the default."""
    harness.reload(config("b", model="late"))
    harness.settle()
    harness.reload(config("a", model="first"), config("b", model="late"))
    harness.settle()
    assert harness.registry.models() == ("first", "late")
    harness.reload(config("b", model="late"), config("a", model="first"))
    assert harness.registry.models() == ("late", "first")


def test_backend_that_moves_in_a_route_keeps_its_server(harness: Harness) -> None:
    driver = harness.made[0].driver
    place = Place("assistant", Tier(0, "own", 5.0))
    for moved, model in ((place, "assistant"), (None, "scripted")):
        harness.reload(config("b0", place=moved))
        harness.settle()
        assert harness.registry.models() == (model,)
        lease, backend = harness.take(model)
        assert backend.driver is driver
        assert lease.grant.backend.tier.name == ("own" if moved else "")
        harness.end(lease, backend)
    assert len(harness.made) == 1


def test_backends_of_earlier_tiers_come_first_in_a_pool(harness: Harness) -> None:
    places = {"b2": Tier(2, "far"), "b1": Tier(1, "near"), "b0": Tier(0, "own")}
    harness.reload(*(config(n, place=Place("assistant", tier)) for n, tier in places.items()))
    harness.settle()
    assert [one.name for one in harness.registry.pool("assistant")] == ["b0", "b1", "b2"]

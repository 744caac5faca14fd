"""What a reload of the configuration does to backends, with answers under way."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from proxy.backends.registry import Backend, Registry
from proxy.cancel import Cancel
from proxy.config import BackendConfig, Secret, SettingsError
from proxy.core.task import Task
from proxy.errors import ModelNotFound, NoBackend
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.scheduler import Scheduler
from proxy.scheduling.state import Want
from proxy.scheduling.ticket import Ticket
from tests.fakes import ScriptedDriver, wait_until


class Driver(ScriptedDriver):
    closed = False

    def close(self) -> None:
        self.closed = True


class House:
    """A registry that is reloaded. `made` are the backends in the order of their making; a url of
    "broken" cannot be used."""

    def __init__(self, kind: type[Registry] = Registry) -> None:
        self.scheduler = Scheduler(time.monotonic, wait_for_backend=5.0)
        self.registry = kind([], self.scheduler, interval=3600.0)
        self.made: list[Backend] = []
        self.registry.start()

    def make(self, config: BackendConfig) -> Backend:
        if config.url == "broken":
            raise SettingsError("it cannot be used")
        self.made.append(
            Backend(
                config.name,
                config.url,
                Driver(),
                model=config.model,
                slots=config.slots,
                n_ctx=config.ctx_size,
                weight=config.weight,
                config=config,
            )
        )
        return self.made[-1]

    def reload(self, *configs: BackendConfig) -> None:
        self.registry.reload(configs, self.make)

    def settle(self) -> None:
        wait_until(lambda: self.registry.settled)

    def take(self, model: str = "scripted") -> tuple[Lease, Backend]:
        lease = self.scheduler.acquire(Want(model, Task(prompt="hi")), Cancel())
        backend = self.registry.borrow(lease.backend)
        assert backend is not None
        return lease, backend

    def end(self, lease: Lease, backend: Backend) -> None:
        lease.release(Outcome("whole"))
        self.registry.give_back(backend)

    def closed(self) -> list[bool]:
        return [one.driver.closed for one in self.made]  # type: ignore[attr-defined]


def config(name: str, url: str = "", **more: object) -> BackendConfig:
    return BackendConfig(name=name, url=url or f"test://{name}", **more)  # type: ignore[arg-type]


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    house.reload(config("b0"))
    house.settle()
    yield house
    house.registry.close()


def test_setting_that_cannot_be_used_changes_nothing(house: House) -> None:
    with pytest.raises(SettingsError):
        house.reload(config("b1"), config("b2", "broken"))
    assert list(house.registry.backends) == ["b0"]
    assert house.closed() == [False, True]  # what was made before it is closed again
    house.end(*house.take())


def test_backend_named_again_while_it_drains_comes_back(house: House) -> None:
    lease, backend = house.take()
    house.reload(config("b1"))
    house.settle()
    assert backend.leaving
    house.reload(config("b0"), config("b1"))
    house.end(lease, backend)
    backends = house.registry.backends
    assert backends["b0"] is backend and not backend.leaving
    both = [house.take() for _ in range(4)]
    assert {lease.backend for lease, _ in both} == {"b0", "b1"}
    for one in both:
        house.end(*one)
    assert house.closed() == [False, False]


def test_backend_named_again_with_other_settings_while_it_drains_has_these(house: House) -> None:
    old = house.take()
    house.reload(config("b1"))
    house.reload(config("b0", slots=3), config("b1"))
    house.settle()
    assert house.scheduler.slots("b0") == 3
    assert house.registry.backends["b0"] is not old[1]
    house.end(*old)
    wait_until(lambda: house.closed() == [True, False, False])


def test_backend_that_is_configured_no_more_ends_its_answers_and_is_closed(house: House) -> None:
    lease, backend = house.take()
    house.reload()
    wait_until(lambda: backend.wake.is_set() is False)
    assert house.closed() == [False]
    house.end(lease, backend)
    wait_until(lambda: house.closed() == [True])
    assert not house.registry.backends


def test_changed_url_serves_at_once_while_the_old_server_ends_its_answers(house: House) -> None:
    old = [house.take() for _ in range(2)]  # all its slots
    waiting = house.scheduler.enter(Want("scripted", Task(prompt="hi")))
    assert isinstance(waiting, Ticket)
    house.reload(config("b0", "test://elsewhere"))
    lease = waiting.wait(Cancel(), 5.0)
    assert lease is not None
    backend = house.registry.borrow("b0")
    assert backend is not None and backend.url == "test://elsewhere"
    house.end(lease, backend)
    assert house.closed() == [False, False]
    for one in old:
        house.end(*one)
    wait_until(lambda: house.closed() == [True, False])
    assert house.scheduler.outstanding == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "named"},
        {"slots": 1},
        {"ctx_size": 512},
        {"weight": 2.0},
        {"api_key": Secret("another-key-123")},
        {"chat_mode": "completion"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_changed_settings_take_effect_and_no_slot_is_given_twice(
    house: House, changed: dict[str, object]
) -> None:
    old = house.take()
    house.reload(config("b0", **changed))
    house.settle()
    backend = house.registry.backends["b0"]
    assert backend is house.made[1]
    assert backend.config == config("b0", **changed)
    model = str(changed.get("model", "scripted"))
    assert house.registry.models() == (model,)
    # The server is the same: the slot of the old answer is not free yet.
    assert house.scheduler.in_flight("b0") == 1
    second = house.scheduler.enter(Want(model, Task(prompt="hi")))
    assert isinstance(second, Ticket) is (changed.get("slots") == 1)
    house.end(*old)
    if isinstance(second, Ticket):
        lease = second.wait(Cancel(), 5.0)
        assert lease is not None
        second = lease
    second.release()
    wait_until(lambda: house.closed() == [True, False])


def test_settings_that_did_not_change_keep_the_backend(house: House) -> None:
    house.reload(config("b0"))
    assert len(house.made) == 1


def test_registry_without_backends_says_so(house: House) -> None:
    house.reload()
    for name in ("", "scripted", "anything"):
        with pytest.raises(NoBackend, match="no backend is configured"):
            house.registry.resolve(name)
    assert house.registry.names() == ()
    house.reload(config("b0"), config("b1", model="another"))
    house.settle()
    with pytest.raises(ModelNotFound):
        house.registry.resolve("anything")


def test_models_stand_in_the_order_of_the_configuration(house: House) -> None:
    """Whichever came first: the first one is the default."""
    house.reload(config("b", model="late"))
    house.settle()
    house.reload(config("a", model="first"), config("b", model="late"))
    house.settle()
    assert house.registry.models() == ("first", "late")
    house.reload(config("b", model="late"), config("a", model="first"))
    assert house.registry.models() == ("late", "first")


class Watched(Registry):
    """Whoever changes its table of backends has the lock: without it two changes at once, as
    native threads make them, would lose one."""

    changes = 0

    @property
    def backends(self) -> dict[str, Backend]:
        return self._table

    @backends.setter
    def backends(self, table: dict[str, Backend]) -> None:
        if hasattr(self, "_table"):
            assert self._changing.locked()
            self.changes += 1
        self._table = table


def test_table_of_backends_is_changed_under_its_lock() -> None:
    house = House(Watched)
    house.reload(config("b0"), config("b1"))
    house.settle()
    house.reload(config("b1", slots=3))
    house.reload(config("b0"))
    wait_until(lambda: list(house.registry.backends) == ["b0"])
    assert house.registry.changes >= 4  # type: ignore[attr-defined]
    house.registry.close()

"""Health of backends as the registry follows it, on scripted drivers."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.backends import registry
from proxy.backends.driver import Capabilities, Learned, ignore
from proxy.backends.registry import FIRST_PAUSE, Backend, Registry
from proxy.cancel import Cancel
from proxy.core.task import Task
from proxy.errors import AnswerCut, BackendDown, ConnectionLost, NoBackend, UpstreamTimeout
from proxy.scheduling.lease import Lease
from proxy.scheduling.scheduler import Scheduler
from proxy.scheduling.state import Want
from tests.fakes import CAPS, ScriptedDriver, wait_until

FOREVER = 3600.0
REFUSED = BackendDown("the backend does not answer")


class Watched(ScriptedDriver):
    """`probes` and `looks` count what the registry asked; a look waits for `go`."""

    def __init__(self, up: bool = True) -> None:
        super().__init__(up=up)
        self.probes: list[float] = []
        self.looks = 0
        self.go = threading.Event()
        self.go.set()
        self.defect: Exception | None = None

    def probe(self, deadline: float, learned: Learned = ignore) -> Capabilities:
        self.probes.append(time.monotonic())
        if self.defect is not None:
            raise self.defect
        if self.up:
            learned(Capabilities(dialect="2023", models=("scripted",), n_ctx=512))
        self.go.wait(10)
        return super().probe(deadline)

    def alive(self) -> bool:
        self.looks += 1
        if self.defect is not None:
            raise self.defect
        return super().alive()


class House:
    """A registry of one backend, `b`, with a scheduler of its own."""

    def __init__(self, driver: Watched, interval: float = FOREVER, wait: float = 10.0) -> None:
        self.driver = driver
        self.backend = Backend("b", "test://b", driver)
        self.scheduler = Scheduler(time.monotonic, wait_for_backend=wait)
        self.registry = Registry([self.backend], self.scheduler, interval=interval)

    def up(self) -> bool:
        return self.backend.up is True

    def acquire(self) -> Lease:
        return self.scheduler.acquire(Want("scripted", Task(prompt="hi")), Cancel())


@pytest.fixture
def houses() -> Iterator[list[House]]:
    made: list[House] = []
    yield made
    for house in made:
        house.driver.go.set()
        house.registry.close()


def started(houses: list[House], driver: Watched, **options: float) -> House:
    house = House(driver, **options)
    houses.append(house)
    house.registry.start()
    wait_until(lambda: house.registry.settled or not driver.go.is_set())
    return house


def test_refused_connection_marks_backend_down_and_looks_at_once(houses: list[House]) -> None:
    house = started(houses, Watched())
    house.driver.go.clear()
    house.registry.failed("b", REFUSED)
    assert house.backend.up is False
    assert not house.registry.ready
    house.driver.go.set()
    wait_until(house.up)  # the interval is an hour: only the fault can have asked for this look
    house.acquire().release()


@pytest.mark.parametrize("error", [ConnectionLost("closed"), AnswerCut("broke off")])
def test_lost_connection_does_not_take_a_healthy_backend_from_others(
    houses: list[House], error: Exception
) -> None:
    house = started(houses, Watched())
    house.registry.failed("b", error)  # type: ignore[arg-type]
    assert house.backend.up is True
    wait_until(lambda: house.driver.looks == 1)
    assert house.backend.up is True
    assert len(house.driver.probes) == 1


def test_lost_connection_to_a_dead_backend_marks_it_down(houses: list[House]) -> None:
    house = started(houses, Watched())
    house.driver.up = False
    house.registry.failed("b", ConnectionLost("closed"))
    wait_until(lambda: house.backend.up is False)


def test_timeout_marks_backend_down(houses: list[House]) -> None:
    house = started(houses, Watched())
    house.driver.go.clear()
    house.registry.failed("b", UpstreamTimeout("silent"))
    assert house.backend.up is False


def test_fault_of_a_backend_that_was_removed_is_ignored(houses: list[House]) -> None:
    started(houses, Watched()).registry.failed("gone", REFUSED)


def test_many_requests_share_one_look_and_a_dead_backend_is_not_hammered(
    houses: list[House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "IDLE_PAUSE", FOREVER)
    house = started(houses, Watched())
    house.driver.up = False
    house.registry.failed("b", REFUSED)
    with ThreadPoolExecutor(16) as threads:
        waits = [threads.submit(house.acquire) for _ in range(16)]
        wait_until(lambda: house.scheduler.waiting == 16)
        wait_until(lambda: len(house.driver.probes) >= 5)
        house.driver.up = True
        for wait in waits:
            wait.result(10).release()
    times = house.driver.probes[1:]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert min(pauses) >= FIRST_PAUSE


def test_request_looks_at_once_at_a_backend_that_was_down_for_long(
    houses: list[House], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "IDLE_PAUSE", FOREVER)  # nothing but the request asks
    house = started(houses, Watched(up=False))
    wait_until(lambda: house.backend.up is False)
    house.driver.up = True
    # It never told its model, so this is the name that requests come under.
    ticket = house.scheduler.enter(Want("default", Task(prompt="hi")))
    assert not isinstance(ticket, Lease)
    wait_until(house.up)
    ticket.leave()


def test_waiting_request_gives_up_after_its_time(houses: list[House]) -> None:
    house = started(houses, Watched(), wait=0.3)
    house.driver.up = False
    house.registry.failed("b", REFUSED)
    with pytest.raises(NoBackend) as caught:
        house.acquire()
    assert caught.value.retry_after
    assert house.scheduler.waiting == 0


def test_backend_that_seems_up_can_be_used(houses: list[House]) -> None:
    """The scheduler knows before anybody sees it."""
    house = House(Watched())
    houses.append(house)
    seen: list[bool | None] = []
    update = house.scheduler.update

    def slow(*args: object, **options: object) -> None:
        update(*args, **options)  # type: ignore[arg-type]
        seen.append(house.backend.up)

    house.scheduler.update = slow  # type: ignore[method-assign, assignment]
    house.registry.start()
    wait_until(house.up)
    assert True not in seen
    assert house.registry.pool("scripted") == (house.backend,)


def test_first_answers_are_shown_before_the_first_token(houses: list[House]) -> None:
    driver = Watched()
    driver.go.clear()
    house = started(houses, driver)
    wait_until(lambda: house.backend.caps is not None)
    assert house.backend.up is None
    assert house.registry.models() == ("scripted",)
    assert house.backend.n_ctx == 512
    driver.go.set()
    wait_until(house.up)
    assert house.backend.n_ctx == CAPS.n_ctx


def test_backend_that_has_not_answered_yet_adds_no_model(houses: list[House]) -> None:
    """Else any name would mean one of two models, and be refused, while one of them starts."""
    house = started(houses, Watched())
    silent = Backend("late", "test://late", Watched(up=False))
    both = Registry([silent, house.backend], house.scheduler)
    assert both.models() == ("scripted",)
    assert both.resolve("any") == ("scripted", "scripted")
    assert Registry([silent], Scheduler(time.monotonic)).models() == ("default",)


def test_health_thread_survives_any_exception_and_logs_it_once(
    houses: list[House], caplog: pytest.LogCaptureFixture
) -> None:
    driver = Watched()
    driver.defect = ZeroDivisionError("odd")
    with caplog.at_level(logging.ERROR, "slotproxy.backends"):
        house = started(houses, driver, interval=0.01)
        wait_until(lambda: len(driver.probes) >= 4)
        assert house.backend.up is False
        assert house.registry.settled
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    driver.defect = None
    wait_until(house.up)


def test_defect_of_a_look_leaves_a_backend_up(houses: list[House]) -> None:
    house = started(houses, Watched(), interval=0.01)
    house.driver.defect = KeyError("odd")
    looks = house.driver.looks
    wait_until(lambda: house.driver.looks >= looks + 3)
    assert house.backend.up is True


def test_failed_look_marks_backend_down(houses: list[House]) -> None:
    house = started(houses, Watched(), interval=0.01)
    house.driver.up = False
    wait_until(lambda: house.backend.up is False)
    house.driver.up = True
    wait_until(house.up)

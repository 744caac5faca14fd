"""Health of backends in the registry, with scripted drivers."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from proxy.backends import registry
from proxy.backends.driver import Capabilities, OnCapabilities, ignore
from proxy.backends.local_embeddings import LOCAL
from proxy.backends.pools import Backend
from proxy.backends.registry import PAUSE, Registry
from proxy.config import BackendConfig, ModelConfig
from proxy.errors import AnswerCut, BackendDown, ConnectionLost, UpstreamTimeout
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import SlotRequest
from tests.fakes import CAPS, ScriptedDriver, wait_until

FOREVER = 3600.0
REFUSED = BackendDown("the backend is not responding")


class Watched(ScriptedDriver):
    """`probes` and `looks` count probes and health checks; a health check waits for `go`."""

    def __init__(self, up: bool = True) -> None:
        super().__init__(up=up)
        self.probes: list[float] = []
        self.looks = 0
        self.go = threading.Event()
        self.go.set()
        self.defect: Exception | None = None

    def probe(self, deadline: float, learned: OnCapabilities = ignore) -> Capabilities:
        self.probes.append(time.monotonic())
        if self.defect is not None:
            raise self.defect
        if self.up:
            learned(Capabilities(dialect="2023", models=("scripted",), n_ctx=512))
        self.go.wait(60)
        return super().probe(deadline)

    def alive(self) -> bool:
        self.looks += 1
        if self.defect is not None:
            raise self.defect
        return super().alive()


class Harness:
    """A registry with one backend, `b`, and its own scheduler."""

    def __init__(self, driver: Watched, interval: float = FOREVER, wait: float = 10.0) -> None:
        self.driver = driver
        self.backend = Backend("b", "test://b", driver)
        self.scheduler = LocalScheduler(time.monotonic, wait_for_backend=wait)
        self.registry = Registry([self.backend], self.scheduler, interval=interval)

    def up(self) -> bool:
        return self.backend.up is True

    def acquire(self) -> Lease:
        return self.scheduler.acquire(SlotRequest(model="scripted"), Cancel())


Start = Callable[..., Harness]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[Harness] = []

    def started(driver: Watched | None = None, **options: float) -> Harness:
        harness = Harness(driver or Watched(), **options)
        made.append(harness)
        harness.registry.start()
        wait_until(lambda: harness.registry.settled or not harness.driver.go.is_set())
        return harness

    yield started
    for harness in made:
        harness.driver.go.set()
        harness.registry.close()


def test_refused_connection_marks_backend_down_and_probes_at_once(start: Start) -> None:
    harness = start()
    harness.driver.go.clear()
    harness.registry.failed(harness.backend, REFUSED)
    assert harness.backend.up is False
    assert not harness.registry.ready
    harness.driver.go.set()
    wait_until(harness.up)  # the interval is an hour: only the fault can have caused this check
    harness.acquire().release()


@pytest.mark.parametrize("error", [ConnectionLost("closed"), AnswerCut("broke off")])
def test_lost_connection_keeps_healthy_backend_up(start: Start, error: Exception) -> None:
    harness = start()
    harness.registry.failed(harness.backend, error)  # type: ignore[arg-type]
    assert harness.backend.up is True
    wait_until(lambda: harness.driver.looks == 1)
    assert harness.backend.up is True
    assert len(harness.driver.probes) == 1


def test_lost_connection_to_dead_backend_marks_it_down(start: Start) -> None:
    harness = start()
    harness.driver.up = False
    harness.registry.failed(harness.backend, ConnectionLost("closed"))
    wait_until(lambda: harness.backend.up is False)


def test_timeout_marks_backend_down(start: Start) -> None:
    harness = start()
    harness.driver.go.clear()
    harness.registry.failed(harness.backend, UpstreamTimeout("silent"))
    assert harness.backend.up is False


def test_concurrent_requests_share_one_probe_of_a_down_backend(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "IDLE_PAUSE", FOREVER)
    harness = start()
    harness.driver.up = False
    harness.registry.failed(harness.backend, REFUSED)
    with ThreadPoolExecutor(16) as threads:
        waits = [threads.submit(harness.acquire) for _ in range(16)]
        wait_until(lambda: harness.scheduler.waiting == 16)
        wait_until(lambda: len(harness.driver.probes) >= 5)
        harness.driver.up = True
        for wait in waits:
            wait.result(60).release()
    times = harness.driver.probes[1:]
    pauses = [after - before for before, after in itertools.pairwise(times)]
    assert min(pauses) >= PAUSE


def test_request_probes_long_down_backend_at_once(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "IDLE_PAUSE", FOREVER)  # only the request triggers a check
    harness = start(Watched(up=False))
    wait_until(lambda: harness.backend.up is False)
    harness.driver.up = True
    # It never reported its model, so requests use this name.
    ticket = harness.scheduler.enter(SlotRequest(model="default"))
    assert not isinstance(ticket, Lease)
    wait_until(harness.up)
    ticket.leave()


def test_first_probe_answers_are_visible_before_the_first_token(start: Start) -> None:
    driver = Watched()
    driver.go.clear()
    harness = start(driver)
    wait_until(lambda: harness.registry.models() == ("scripted",))
    assert harness.backend.up is None
    assert harness.backend.n_ctx == 512
    driver.go.set()
    wait_until(harness.up)
    assert harness.backend.n_ctx == CAPS.n_ctx


def test_unprobed_backend_adds_no_model(start: Start) -> None:
    """Otherwise an unknown model name would be ambiguous, and refused, while one backend starts."""
    harness = start()
    silent = Backend("late", "test://late", Watched(up=False))
    both = Registry([silent, harness.backend], harness.scheduler)
    assert both.models() == ("scripted",)
    assert both.resolve("any") == ("scripted", "scripted")
    assert Registry([silent], LocalScheduler(time.monotonic)).models() == ("default",)


def test_health_thread_survives_exceptions_and_logs_each_once(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Watched()
    driver.defect = ZeroDivisionError("odd")
    with caplog.at_level(logging.ERROR, "slotproxy.backends"):
        harness = start(driver, interval=0.01)
        wait_until(lambda: len(driver.probes) >= 4)
        assert harness.backend.up is False
        assert harness.registry.settled
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    driver.defect = None
    wait_until(harness.up)


def test_exception_in_health_check_leaves_backend_up(start: Start) -> None:
    harness = start(interval=0.01)
    harness.driver.defect = KeyError("odd")
    looks = harness.driver.looks
    wait_until(lambda: harness.driver.looks >= looks + 3)
    assert harness.backend.up is True


def test_failed_health_check_marks_backend_down(start: Start) -> None:
    harness = start(interval=0.01)
    harness.driver.up = False
    wait_until(lambda: harness.backend.up is False)
    harness.driver.up = True
    wait_until(harness.up)


@pytest.mark.parametrize("status", ["failed", "unloaded"])
def test_model_that_failed_is_not_called_available(
    start: Start, caplog: pytest.LogCaptureFixture, status: str
) -> None:
    class OnDemand(Watched):
        @property
        def status(self) -> str:
            return status

    with caplog.at_level(logging.INFO, "slotproxy.backends"):
        harness = start(OnDemand(), interval=0.01)
        wait_until(lambda: harness.driver.looks >= 1)  # after the line, in the same thread
    lines = [line for line in caplog.messages if " is up" in line]
    assert len(lines) == (status == "unloaded")


@pytest.mark.parametrize(
    ("backend", "caps", "text"),
    [
        ("model", {"provisional": True}, "model m: available, loads on first request"),
        ("model", {"dialect": "llama-server"}, "model m is up: llama-server, model m"),
        ("url", {"dialect": "2023"}, "backend m is up: llama.cpp's server of 2023, model m"),
        ("url", {"dialect": LOCAL}, "embeddings: the model m is available"),
    ],
)
def test_log_says_in_plain_words_that_a_backend_is_up(
    backend: str, caps: dict[str, object], text: str
) -> None:
    launch = ModelConfig(name="m", command=("m",)) if backend == "model" else None
    config = BackendConfig(name="m", launch=launch)
    known = msgspec.structs.replace(CAPS, models=("m",), **caps)
    of = Backend("m", "test://m", ScriptedDriver(), set_model="m", config=config)
    assert registry._is_up(of, known) == text

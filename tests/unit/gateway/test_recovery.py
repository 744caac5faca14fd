"""Retries, waits and resumes of a request, with scripted backends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.backends.driver import Capabilities
from proxy.config import fixed
from proxy.core.events import Batch, Failed, Finished, TextDelta
from proxy.core.request import CompletionRequest
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import (
    AnswerCut,
    BackendDown,
    ConnectionLost,
    GatewayError,
    NoBackend,
    QueueTimeout,
)
from proxy.gateway import Answer, Gateway
from proxy.runtime.cancel import Cancel
from tests.fakes import (
    Script,
    ScriptedRun,
    ScriptsInTurn,
    say,
    wait_until,
)

REQUEST = CompletionRequest(prompts=("Say it",), max_tokens=8)
REFUSED = BackendDown("the backend is not responding")
LOST = ConnectionLost("the backend closed the connection")
CUT = AnswerCut("the backend's response ended early")


class Faulty(ScriptsInTurn):
    """Refuses every connection while it is down; `probes` counts probes."""

    def __init__(self, *scripts: Script | GatewayError) -> None:
        super().__init__(*scripts)
        self.probes = 0

    def probe(self, deadline: float, *learned: object) -> Capabilities:
        self.probes += 1
        return super().probe(deadline)

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        if not self.up:
            self.tasks.append(task)
            raise REFUSED
        return super().stream(task, slot, caps, cancel)


MakeGateway = Callable[..., Gateway]


def batches(answer: Answer) -> list[Batch]:
    try:
        return [batch for _, batch in answer]
    finally:
        answer.close()


def text(found: Sequence[Batch]) -> str:
    """The answer's text. Raises the error that the answer ended with."""
    for batch in found:
        for event in batch:
            if isinstance(event, Failed):
                raise event.error
    return "".join(e.text for batch in found for e in batch if isinstance(e, TextDelta))


def ask(gateway: Gateway, cancel: Cancel | None = None) -> str:
    return text(batches(gateway.answer(REQUEST, cancel or Cancel())))


# busy backends


# down backends


def test_request_with_refused_connection_is_answered_after_recovery(
    serve: MakeGateway,
) -> None:
    driver = Faulty(REFUSED)
    assert ask(serve(driver)) == "Hello"
    assert len(driver.tasks) == 2
    assert driver.probes == 2, "it was given a request without a look"


def test_requests_wait_for_a_down_backend(serve: MakeGateway) -> None:
    driver = Faulty()
    gateway = serve(driver, slots=2)
    driver.up = False
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(ask, gateway) for _ in range(8)]
        wait_until(lambda: gateway.scheduler.waiting == 8 and not gateway.scheduler.outstanding)
        assert not gateway.registry.ready
        driver.up = True
        assert [answer.result(60) for answer in answers] == ["Hello"] * 8


def test_wait_for_backend_ends_with_503_and_retry_after(serve: MakeGateway) -> None:
    driver = Faulty()
    gateway = serve(driver, wait_for_backend=0.4)
    driver.up = False
    began = time.monotonic()
    with pytest.raises(NoBackend) as caught:
        ask(gateway)
    assert 0.4 <= time.monotonic() - began < 20.0
    assert caught.value.status == 503
    assert caught.value.retry_after


def test_wait_for_backend_is_bounded_by_queue_timeout(serve: MakeGateway) -> None:
    driver = Faulty()
    gateway = serve(driver, queue_timeout=0.4)
    driver.up = False
    with pytest.raises(QueueTimeout):
        ask(gateway)


def test_stream_gets_heartbeats_while_waiting_for_backend(
    serve: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Faulty()
    monkeypatch.setattr(fixed, "PING", 0.05)
    gateway = serve(driver)
    driver.up = False
    answer = gateway.answer(REQUEST, Cancel())
    found: list[Batch] = []
    for _, batch in answer:
        found.append(batch)
        if len(found) == 3:
            assert found == [[], [], []]
            driver.up = True
    answer.close()
    assert text(found) == "Hello"


# faults of one request


@pytest.mark.parametrize("fault", [LOST, CUT])
@pytest.mark.parametrize("when", ["connecting", "waiting for the first token"])
def test_lost_connection_before_first_token_is_retried(
    serve: MakeGateway, fault: GatewayError, when: str
) -> None:
    driver = Faulty(fault if when == "connecting" else [fault])
    gateway = serve(driver, wait_for_backend=0.0)
    assert ask(gateway) == "Hello"
    assert len(driver.tasks) == 2
    assert driver.probes == 1, "one lost connection took the backend from everybody"


def test_retries_after_refused_connections_are_bounded(
    serve: MakeGateway,
) -> None:
    driver = Faulty(*[REFUSED] * 9)
    with pytest.raises(NoBackend):
        ask(serve(driver))
    assert len(driver.tasks) == 3


# interrupted answers


def cut_after(*pieces: str) -> list[Batch | GatewayError]:
    return [*say(*pieces)[:-1], CUT]


def test_interrupted_answer_resumes_when_its_only_backend_recovers(
    serve: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed, "PING", 0.05)
    driver = Faulty(cut_after("one ", "two "), say("three", usage=Usage(9, 1, 0)))
    gateway = serve(driver)
    answer = gateway.answer(REQUEST, Cancel())
    found: list[Batch] = []
    waited = 0
    for _, batch in answer:
        found.append(batch)
        if batch == [TextDelta("two ")]:
            driver.up = False
        waited += not batch
        if waited == 3:
            driver.up = True
    answer.close()
    assert text(found) == "one two three"
    assert answer.info.continued == 1
    assert driver.tasks[-1].prompt == "Say itone two "
    last = found[-1][-1]
    assert isinstance(last, Finished)
    assert last.usage.continued == 1

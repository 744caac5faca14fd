"""Each bound on the work in progress of one request, at its limit."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.core.request import CompletionRequest
from proxy.core.task import Task
from proxy.gateway import Gateway
from proxy.gateway import answer as answers
from proxy.runtime.cancel import Cancel
from tests.fakes import CAPS, ScriptedDriver, ScriptedRun, say, wait_until


class CountingTokenizer(ScriptedDriver):
    """Counts answers that run at the same time; each ends at `go_on`."""

    def __init__(self, slots: int) -> None:
        super().__init__(say("a"), msgspec.structs.replace(CAPS, slots=slots))
        self.go_on = threading.Event()

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        run = super().stream(task, slot, caps, cancel)
        self.go_on.wait(60)
        return run


def test_choices_running_in_parallel_are_bounded(serve: Callable[..., Gateway]) -> None:
    driver = CountingTokenizer(slots=64)
    gateway = serve(driver)
    request = CompletionRequest(prompts=("a", "b", "c"), n=answers.AT_ONCE)
    answer = gateway.answer(request, Cancel())
    done: list[object] = []
    reader = threading.Thread(target=lambda: done.extend(answer))
    reader.start()
    wait_until(lambda: len(driver.tasks) == answers.AT_ONCE)
    assert gateway.scheduler.outstanding == answers.AT_ONCE
    driver.go_on.set()
    reader.join(60)
    assert len(driver.tasks) == 3 * answers.AT_ONCE
    answer.close()


def test_buffered_choices_ahead_of_slow_client_are_bounded(
    serve: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "AHEAD", 5)
    runs: list[ScriptedRun] = []

    class Driver(ScriptedDriver):
        def stream(self, *args: object) -> ScriptedRun:
            runs.append(super().stream(*args))  # type: ignore[arg-type]
            return runs[-1]

    gateway = serve(Driver(say(*"a" * 200)))
    answer = gateway.answer(CompletionRequest(prompts=("a",), n=2), Cancel())
    next(batches := iter(answer))
    wait_until(lambda: sum(run._tokens for run in runs) >= 4)
    held = threading.Event()
    assert not held.wait(0.2)
    # The queue, the one that each side holds, and those already read.
    assert sum(run._tokens for run in runs) <= 5 + 2 + 2
    assert sum(1 for _ in batches) > 300
    answer.close()

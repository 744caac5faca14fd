"""An answer by itself: when it begins, how its choices share it, and how each way ends."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.core.events import Event, Failed, Finished, Started
from proxy.core.request import CompletionRequest
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import AnswerCut, BackendFailed, InvalidParameter, QueueFull
from proxy.gateway import Answer, Gateway
from proxy.runtime.cancel import Cancel
from proxy.scheduling.state import SlotRequest
from tests.fakes import CAPS, Script, ScriptedDriver, ScriptsInTurn, say, wait_until
from tests.unit.backends.test_router import Lazy

from .test_attempt import text

REQUEST = CompletionRequest(prompts=("Say it",), max_tokens=8, stream=True)


MakeTasks = Callable[[CompletionRequest], list[Task]]


class Harness:
    """Answers of a gateway with one driver."""

    def __init__(self, gateway: Gateway, driver: ScriptedDriver) -> None:
        self.gateway = gateway
        self.scheduler = gateway.scheduler
        self.driver = driver

    def answer(self, *prompts: str, n: int = 1, make_tasks: MakeTasks | None = None) -> Answer:
        request = msgspec.structs.replace(REQUEST, prompts=prompts or REQUEST.prompts, n=n)
        if make_tasks is None:
            return self.gateway.answer(request, Cancel())
        return Answer(
            context=self.gateway.context,
            request=request,
            model=self.gateway.registry.resolve("")[0],
            name="scripted",
            tasks=make_tasks(request),
            make_tasks=make_tasks,
            loads=True,
            cancel=Cancel(),
        )

    def is_released(self) -> bool:
        return self.scheduler.outstanding == self.scheduler.waiting == 0 and all(
            run.closed.is_set() for run in self.driver.runs
        )


Serve = Callable[..., Harness]


@pytest.fixture
def serve(serve: Callable[..., Gateway]) -> Iterator[Serve]:
    made: list[Harness] = []

    def make(driver: ScriptedDriver, **settings: Any) -> Harness:
        made.append(Harness(serve(driver, continue_broken=False, **settings), driver))
        return made[-1]

    yield make
    assert all(harness.is_released() for harness in made)


def events_by_choice(answer: Answer) -> dict[int, list[Event]]:
    found: dict[int, list[Event]] = defaultdict(list)
    for number, batch in answer:
        found[number] += batch
    return found


def slots(count: int) -> Capabilities:
    return msgspec.structs.replace(CAPS, slots=count)


# one choice


def test_priming_loses_no_event(serve: Serve) -> None:
    answer = serve(ScriptedDriver()).answer()
    answer.prime()
    (events,) = events_by_choice(answer).values()
    assert isinstance(events[0], Started)
    assert text(events) == "Hello"
    assert isinstance(events[-1], Finished)
    assert answer.info.outcome == "stop"
    answer.close()
    assert answer.info.outcome == "stop", "it was complete before it was closed"


def test_fault_before_the_first_event_is_raised_so_that_it_gets_a_status(serve: Serve) -> None:
    harness = serve(ScriptsInTurn(BackendFailed("it broke")))
    answer = harness.answer()
    with pytest.raises(BackendFailed):
        answer.prime()
    assert answer.info.outcome == BackendFailed("").code
    assert harness.is_released()


def test_full_queue_is_raised_so_that_it_gets_a_status(serve: Serve) -> None:
    harness = serve(ScriptedDriver(caps=slots(1)), max_queue=0)
    held = harness.scheduler.acquire(SlotRequest(model="scripted"), Cancel())
    with pytest.raises(QueueFull):
        harness.answer().prime()
    held.release()


def test_priming_ends_with_the_first_tick_of_silence(serve: Serve) -> None:
    fault = BackendFailed("it broke")
    answer = serve(ScriptsInTurn([[], fault])).answer()
    answer.prime()
    assert list(answer) == [(0, []), (0, [Failed(fault)])]


def test_fault_after_the_first_event_is_the_last_event(serve: Serve) -> None:
    fault = AnswerCut("the backend's response ended early")
    answer = serve(ScriptsInTurn([*say("Hel")[:-1], fault])).answer()
    answer.prime()
    (events,) = events_by_choice(answer).values()
    assert text(events) == "Hel"
    assert events[-1] == Failed(fault)
    assert answer.info.outcome == fault.code


def test_closing_an_answer_releases_its_slot_and_may_be_repeated(serve: Serve) -> None:
    harness = serve(ScriptedDriver())
    answer = harness.answer()
    answer.prime()
    assert not harness.is_released()
    answer.close()
    assert harness.is_released()
    answer.close()
    assert answer.info.outcome == "cancelled"


def test_answer_that_was_never_begun_can_be_closed(serve: Serve) -> None:
    harness = serve(ScriptedDriver())
    harness.answer().close()
    assert not harness.driver.tasks


# several choices


def test_prompt_of_several_choices_is_counted_once(serve: Serve) -> None:
    harness = serve(ScriptedDriver(say("Hel", "lo", usage=Usage(7, 3, 2))))
    answer = harness.answer("one", "two", n=3)
    found = events_by_choice(answer)
    assert {number: text(events) for number, events in found.items()} == dict.fromkeys(
        range(6), "Hello"
    )
    assert answer.info.usage == Usage(2 * 7, 6 * 3, 2 * 2)
    assert answer.info.longest == 10
    prompts = sorted(str(task.prompt) for task in harness.driver.tasks)
    assert prompts == ["one"] * 3 + ["two"] * 3


def test_choice_that_fails_leaves_the_others_alone(serve: Serve) -> None:
    harness = serve(ScriptsInTurn([*say("Hel")[:-1], BackendFailed("it broke")]))
    last = [events[-1] for events in events_by_choice(harness.answer(n=3)).values()]
    assert [isinstance(event, Failed) for event in last].count(True) == 1
    assert [isinstance(event, Finished) for event in last].count(True) == 2


def test_defect_in_one_choice_is_raised_and_ends_the_others(serve: Serve) -> None:
    begun, broken = threading.Event(), threading.Event()

    def breaks() -> None:
        assert begun.wait(60)
        broken.set()
        raise ZeroDivisionError

    def holds() -> None:
        begun.set()
        assert broken.wait(60)

    harness = serve(ScriptsInTurn([holds, *say("Hel")], [breaks]))
    with pytest.raises(ZeroDivisionError):
        events_by_choice(harness.answer(n=2))
    assert harness.is_released()


def test_closing_ends_choices_that_are_still_in_the_queue(serve: Serve) -> None:
    script: Script = [*say("a")[:-1], lambda: answer.cancel.wait(60)]
    harness = serve(ScriptsInTurn(script, script, script, caps=slots(1)))
    answer = harness.answer(n=3)
    choices = iter(answer)
    assert next(choices)[1]
    wait_until(lambda: harness.scheduler.waiting == 2)
    answer.close()
    assert harness.is_released()
    assert len(harness.driver.tasks) == 1


# a model that must be loaded first


def test_model_that_cannot_be_loaded_is_the_last_event(serve: Serve) -> None:
    fault = BackendFailed("the model could not be loaded")
    answer = serve(Lazy(fault)).answer()
    answer.prime()
    assert list(answer) == [(0, []), (0, [Failed(fault)])]
    assert answer.info.outcome == fault.code


def test_request_that_the_loaded_model_refuses_is_the_last_event(serve: Serve) -> None:
    refused = InvalidParameter("tools", "are not supported by this model")
    tries = iter([None, refused])

    def make_tasks(_: CompletionRequest) -> list[Task]:
        if error := next(tries):
            raise error
        return [Task(prompt="", request=REQUEST)]

    answer = serve(Lazy()).answer(make_tasks=make_tasks)
    assert list(answer)[-1] == (0, [Failed(refused)])
    assert answer.info.loading == ""

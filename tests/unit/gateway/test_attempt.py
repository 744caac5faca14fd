"""The state machine of one choice, with scripted drivers and a scripted scheduler: retries,
resumes, usage, and the end of each path."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.backends.driver import Capabilities
from proxy.backends.pools import Backend
from proxy.backends.registry import Registry
from proxy.core.events import Batch, Event, Failed, Finished, Order, Started, TextDelta
from proxy.core.request import CompletionRequest, Message, OutputFormat
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import (
    AnswerCut,
    BackendBusy,
    BackendDown,
    BackendFailed,
    Cancelled,
    ConnectionLost,
    GatewayError,
    NoBackend,
    PoolTimeout,
    QueueTimeout,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from proxy.gateway import Caller, GenerationSettings, Info
from proxy.gateway import attempt as module
from proxy.gateway.attempt import Attempt, State
from proxy.gateway.context import GatewayContext
from proxy.gateway.generation import Generation
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.state import BackendFacts, ConversationRecord, Grant, Slot, SlotRequest
from proxy.scheduling.state import BackendRecord as Slots
from proxy.web.stream import SlotBody, encoded
from tests.fakes import CAPS, Script, ScriptedRun, ScriptsInTurn, make_app, services_of

MODERN = msgspec.structs.replace(CAPS, modern_sampling=True, queues=True, truncates=False)
REQUEST = CompletionRequest(prompts=("Say it",), max_tokens=8, stream=True)
TASK = Task(prompt="Say it", max_tokens=8, request=REQUEST)
DOCUMENT = CompletionRequest(
    messages=(Message(role="user", content="Hi"),),
    max_tokens=20,
    output=OutputFormat("json_object"),
)
THINKS = Task(prompt="<|im_start|>user\n", max_tokens=40, thinks=True, request=DOCUMENT)

BUSY = BackendBusy("the backend has no free slot")
CUT = AnswerCut("the backend's response ended early")
LOST = ConnectionLost("the backend closed the connection")
FAILED = BackendFailed("it broke")
REFUSED = BackendDown("the backend is not responding")
GARBLED = UpstreamFault("the backend returned an invalid response")
SLOW = UpstreamTimeout("the backend timed out")
UNSUPPORTED = Unsupported("the backend cannot do that")
GONE = Cancelled("the client closed the request")


class Scheduler:
    """Grants the first backend that a request does not exclude, after `ticks` ticks in the queue;
    none when `down`. `ends` and `outcomes` are those of the released leases."""

    def __init__(self) -> None:
        self.notices: tuple[str, ...] = ()
        self.names: list[str] = []
        self.down = False
        self.ticks = 0
        self.most = 100  # grants
        self.wants: list[SlotRequest] = []
        self.ends: list[str] = []
        self.outcomes: list[Outcome] = []
        self.out = self.outstanding = 0
        self.on_stranded: Callable[[str], None] = lambda model: None

    def update(self, name: str, facts: BackendFacts, **_: object) -> None:
        self.names.append(name)

    def mark(self, *_: object, **__: object) -> None:
        pass

    def leaks(self, lease: Lease, outcome: Outcome) -> bool:
        return False

    def enter(self, slot_request: SlotRequest, is_retry: bool = False) -> Lease | Ticket:
        self.wants.append(slot_request)
        if len(self.wants) > self.most:
            raise QueueTimeout("timed out waiting for a free slot")
        if self.ticks:
            return Ticket(self, slot_request, ConversationRecord(), 0.0)  # type: ignore[arg-type]
        return self._lease(slot_request)

    def _lease(self, slot_request: SlotRequest) -> Lease:
        for name in self.names:
            if name not in slot_request.exclude and not self.down:
                self.out += 1
                grant = Grant(backend=Slots(name=name, model="m"), slot=Slot(id=0))
                record = ConversationRecord()
                return Lease(self, slot_request, grant, grant.slot, record)  # type: ignore[arg-type]
        raise NoBackend("no backend for this model is available")

    # for tickets and leases

    def wait_for(self, ticket: Ticket, cancel: Cancel, seconds: float) -> Lease | None:
        if cancel.cancelled:
            raise GONE
        if self.ticks:
            self.ticks -= 1
            return None
        return self._lease(ticket.request)

    def leave(self, ticket: Ticket) -> None:
        pass

    def place(self, ticket: Ticket) -> int:
        return 1

    def on_first_token(self, lease: Lease, number: int) -> None:
        pass

    def on_last_token(self, lease: Lease) -> None:
        pass

    def steps(self, lease: Lease) -> tuple[()]:
        return ()

    def record_step(self, *_: object) -> None:
        pass

    def give_back(self, lease: Lease, outcome: Outcome) -> None:
        self.out -= 1
        self.ends.append(outcome.end)
        self.outcomes.append(outcome)


class Harness:
    """Drivers, a scheduler, and attempts on them."""

    def __init__(self, *drivers: ScriptsInTurn, continues: bool = True) -> None:
        self.drivers = drivers
        self.scheduler = Scheduler()
        self.now = 1000.0
        self.info = Info()
        self.cancel = Cancel()
        backends = [Backend(f"b{n}", f"test://{n}", driver) for n, driver in enumerate(drivers)]
        for backend, driver in zip(backends, drivers, strict=True):
            backend.caps, backend.up = driver.caps, True
        scheduler: Any = self.scheduler
        self.registry = Registry(backends, scheduler)  # without health checks
        self.context = GatewayContext(
            registry=self.registry,
            scheduler=scheduler,
            clock=lambda: self.now,
            generation=GenerationSettings(new_id=lambda: "id"),
            continues=continues,
        )

    def attempt(self, task: Task = TASK, *, tell_place: bool = False) -> Attempt:
        return Attempt(
            context=self.context,
            task=task,
            model="scripted",
            caller=Caller(tell_place=tell_place),
            info=self.info,
            cancel=self.cancel,
            began=self.now,
        )

    def ask(self, task: Task = TASK) -> list[Event]:
        """All events of an attempt. Raises the error that the choice ended with."""
        attempt = self.attempt(task)
        try:
            events = [event for _, batch in attempt for event in batch]
            if isinstance(events[-1], Failed):
                raise events[-1].error
            return events
        finally:
            assert attempt.state is State.DONE
            self.assert_released()

    def assert_released(self) -> None:
        assert self.scheduler.out == 0, "a slot is still leased"
        assert all(b.users == 0 for b in self.registry.backends.values()), "a backend is borrowed"
        assert all(run.closed.is_set() for driver in self.drivers for run in driver.runs)

    @property
    def runs(self) -> int:
        return sum(len(driver.tasks) for driver in self.drivers)


def text(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def usage(events: Sequence[Event]) -> Usage:
    last = events[-1]
    assert isinstance(last, Finished)
    return last.usage


def run(*steps: str | GatewayError | Callable[[], object]) -> list[Any]:
    """A script with these texts and no end; a token is a character."""
    return [[Started(slot=0)], *_steps(steps)]


def _steps(steps: Sequence[str | GatewayError | Callable[[], object]]) -> list[Any]:
    return [[TextDelta(s, (), len(s))] if isinstance(s, str) else s for s in steps]


def ends(*texts: str, prompt: int = 7) -> list[Any]:
    """A script with these texts and the end."""
    end = Finished(reason="stop", usage=Usage(prompt, sum(map(len, texts)), 0), slot=0)
    return [*run(*texts), [end]]


# before the first token


@pytest.mark.parametrize("fault", [BUSY, LOST, CUT, FAILED, GARBLED, REFUSED, UNSUPPORTED])
@pytest.mark.parametrize("at_start", [True, False])
def test_run_failing_before_first_token_is_retried(fault: GatewayError, at_start: bool) -> None:
    first = ScriptsInTurn(fault if at_start else [fault])
    harness = Harness(first, ScriptsInTurn(), ScriptsInTurn())
    events = harness.ask()
    assert text(events) == "Hello"
    assert usage(events) == Usage(7, 3, 2)
    assert harness.runs == 2
    assert harness.info.continued == 0
    assert harness.scheduler.ends[-1] == "whole"


@pytest.mark.parametrize(
    ("fault", "end"),
    [(BUSY, "busy"), (PoolTimeout("full"), "unused"), (FAILED, "failed"), (UNSUPPORTED, "unused")],
)
@pytest.mark.parametrize("at_start", [True, False])
def test_scheduler_gets_the_reason_of_an_early_release(
    fault: GatewayError, end: str, at_start: bool
) -> None:
    harness = Harness(ScriptsInTurn(fault if at_start else [fault]), ScriptsInTurn())
    harness.ask()
    assert harness.scheduler.ends == [end, "whole"]


def test_busy_backend_is_retried_until_queue_timeout() -> None:
    harness = Harness(ScriptsInTurn(*[[BUSY]] * 200))
    harness.scheduler.most = 20
    with pytest.raises(QueueTimeout):
        harness.ask()
    assert harness.runs == 20
    assert {slot_request.since for slot_request in harness.scheduler.wants} == {1000.0}, (
        "one wait, one deadline"
    )


def test_queue_timeout_restarts_after_lost_connection() -> None:
    harness = Harness(ScriptsInTurn())
    harness.drivers[0].scripts = [[lambda: setattr(harness, "now", 2000.0), LOST]]
    harness.ask()
    assert [slot_request.since for slot_request in harness.scheduler.wants] == [1000.0, 2000.0]


@pytest.mark.parametrize(
    ("fault", "backends", "runs"),
    [
        (FAILED, 1, 1),  # it is excluded from the retry
        (SLOW, 2, 1),
        (LOST, 1, 3),
        (UNSUPPORTED, 1, 1),
    ],
)
def test_fault_that_is_not_retried_any_more_ends_the_choice(
    fault: GatewayError, backends: int, runs: int
) -> None:
    harness = Harness(*(ScriptsInTurn(*[[fault]] * 9) for _ in range(backends)))
    with pytest.raises(type(fault)):
        harness.ask()
    assert harness.runs == runs


def test_every_queue_tick_has_the_place() -> None:
    harness = Harness(ScriptsInTurn())
    harness.scheduler.ticks = 3
    attempt, places = harness.attempt(tell_place=True), []
    for _, batch in attempt:
        if not batch:
            assert attempt.state is State.WAITING
            places.append(harness.info.place)
    assert places == [1, 1, 1]
    assert harness.info.place == 0


# after the first token


@pytest.mark.parametrize("fault", [BUSY, LOST, CUT, FAILED, GARBLED, REFUSED, SLOW])
def test_run_failing_after_first_token_resumes(fault: GatewayError) -> None:
    first, second = ScriptsInTurn(run("a", "b", fault)), ScriptsInTurn()
    later = ends("c", prompt=9)
    first.scripts.append(later)
    second.scripts.append(later)
    harness = Harness(first, second)
    events = harness.ask()
    assert text(events) == "abc"
    assert usage(events) == Usage(7, 3, 0, continued=1)
    assert harness.info.continued == 1
    tasks = [*first.tasks, *second.tasks]
    assert [(task.prompt, task.max_tokens) for task in tasks] == [("Say it", 8), ("Say itab", 6)]
    assert sum(isinstance(event, Started) for event in events) == 1


def test_wait_for_resume_yields_ticks() -> None:
    harness = Harness(ScriptsInTurn(), ScriptsInTurn())
    harness.drivers[0].scripts = [run("a", lambda: setattr(harness.scheduler, "ticks", 2), CUT)]
    attempt = harness.attempt()
    ticks = [attempt.state for _, batch in attempt if not batch]
    assert ticks.count(State.RESUMING) == 2


FORBIDDEN = {
    "turned off": TASK,
    "token ids": msgspec.structs.replace(TASK, prompt=(1, 2, 3)),
    "infill": msgspec.structs.replace(TASK, suffix="}"),
    "grammar": msgspec.structs.replace(TASK, sampling={"grammar": 'root ::= "a"'}),
    "json_schema": msgspec.structs.replace(TASK, sampling={"json_schema": {"type": "null"}}),
    "native": msgspec.structs.replace(TASK, backend_templates=True),
}


@pytest.mark.parametrize("why", FORBIDDEN)
def test_answer_that_cannot_resume_ends_with_its_error(why: str) -> None:
    caps = msgspec.structs.replace(MODERN, infill=True)
    drivers = [ScriptsInTurn(run("a", CUT), caps=caps) for _ in range(2)]
    harness = Harness(*drivers, continues=why != "turned off")
    with pytest.raises(AnswerCut):
        harness.ask(FORBIDDEN[why])
    assert harness.runs == 1
    assert harness.scheduler.ends == ["failed"]


def test_original_error_is_raised_when_no_backend_can_resume() -> None:
    first = ScriptsInTurn(run("a", FAILED))
    second = ScriptsInTurn(UNSUPPORTED)
    harness = Harness(first, second)
    with pytest.raises(BackendFailed):
        harness.ask()
    assert harness.runs == 2


def test_failed_resume_is_retried_on_another_backend() -> None:
    drivers = [
        ScriptsInTurn(run("a", FAILED)),
        ScriptsInTurn([GARBLED]),
        ScriptsInTurn(ends("b", prompt=8)),
    ]
    harness = Harness(*drivers)
    assert text(harness.ask()) == "ab"
    assert harness.info.continued == 1, "a run without a token continued nothing"
    assert harness.scheduler.ends == ["failed", "failed", "whole"]


def test_resume_deadline_counts_from_the_failure() -> None:
    harness = Harness(ScriptsInTurn(), ScriptsInTurn())
    harness.drivers[0].scripts = [run("a", lambda: setattr(harness, "now", 9000.0), FAILED)]
    harness.ask()
    assert [slot_request.since for slot_request in harness.scheduler.wants] == [1000.0, 9000.0]


# grammar switches


def thoughts(*after: GatewayError) -> list[Any]:
    return run("<think>\nHm.", "\n</think>", *after)


def test_slot_still_held_by_previous_run_is_retried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "BUSY_WAIT", 0.0)
    driver = ScriptsInTurn(thoughts(), [BUSY], BUSY, ends("{}", prompt=29), caps=MODERN)
    harness = Harness(driver)
    assert text(harness.ask(THINKS)) == "{}"
    assert len(driver.tasks) == 4
    assert len(harness.scheduler.wants) == 1, "it went back into the queue"


def test_interrupted_grammar_run_ends_streamed_answer() -> None:
    streamed = msgspec.structs.replace(DOCUMENT, stream=True)
    task = msgspec.structs.replace(THINKS, request=streamed)
    harness = Harness(ScriptsInTurn(thoughts(), run("{", CUT), caps=MODERN))
    with pytest.raises(AnswerCut):
        harness.ask(task)


def test_interrupted_run_of_unsent_document_starts_over() -> None:
    free = msgspec.structs.replace(THINKS, thinks=False)
    harness = Harness(ScriptsInTurn(run("{", CUT), ends("{}"), caps=MODERN))
    events = harness.ask(free)
    assert text(events) == "{}"
    assert usage(events) == Usage(7, 2, 0), "what was never given out is not counted"


# every path releases the slot


def reaches(state: State, harness: Harness) -> None:
    """Scripts the drivers so that the next step of the choice happens in `state`."""
    cancel = harness.cancel.cancel

    def waits() -> None:
        harness.scheduler.ticks = 5

    if state is State.WAITING:
        waits()
        cancel()
    first: dict[State, list[Any]] = {
        State.PREFILL: [[cancel, GONE]],
        State.STREAMING: [run("a", cancel, GONE)],
        State.SWITCHING: [thoughts(), [cancel, BUSY]],
        State.RESUMING: [run("a", waits, cancel, CUT)],
    }
    harness.drivers[0].scripts = first.get(state, [])


@pytest.mark.parametrize("state", [state for state in State if state is not State.DONE])
def test_cancel_ends_the_choice_in_every_state(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = Harness(ScriptsInTurn(caps=MODERN))
    reaches(state, harness)
    attempt = harness.attempt(THINKS if state is State.SWITCHING else TASK)
    before: list[State] = []
    release = Attempt._release

    def noted(self: Attempt) -> None:
        before.append(self.state)
        release(self)

    monkeypatch.setattr(Attempt, "_release", noted)
    *_, (_, batch) = attempt
    (failed,) = batch
    assert isinstance(failed, Failed) and isinstance(failed.error, Cancelled)
    assert before[-1] is state
    assert attempt.state is State.DONE
    harness.assert_released()


@pytest.mark.parametrize("after", range(1, 7))
def test_closing_the_stream_releases_the_slot_in_every_state(after: int) -> None:
    scripts = [[[], *run("a", CUT)], [[], *ends("b", prompt=8)]]
    harness = Harness(ScriptsInTurn(*scripts))
    harness.scheduler.ticks = 1
    attempt = harness.attempt(tell_place=True)
    batches = iter(attempt)
    for _ in range(after):
        next(batches)
    batches.close()
    assert attempt.state is State.DONE
    harness.assert_released()


def test_closed_run_reports_its_progress_to_the_scheduler() -> None:
    harness = Harness(ScriptsInTurn(ends("a", "b")))
    batches = iter(harness.attempt())
    for _ in range(3):
        next(batches)
    batches.close()
    (outcome,) = harness.scheduler.outcomes
    assert (outcome.end, outcome.prompt, outcome.completion) == ("cut", 7, 2)


def test_stop_string_closes_the_run() -> None:
    task = msgspec.structs.replace(TASK, stop_strings=("#",))
    harness = Harness(ScriptsInTurn(ends("a", "#", "b")))
    events = harness.ask(task)
    assert text(events) == "a"
    assert harness.scheduler.ends == ["cut"]


def test_backend_removed_after_grant_is_skipped() -> None:
    harness = Harness(ScriptsInTurn(), ScriptsInTurn())
    backends = harness.registry.backends
    harness.registry.backends = {"b1": backends["b1"]}
    assert text(harness.ask()) == "Hello"
    assert harness.scheduler.ends == ["unused", "whole"]


def test_exception_in_a_stage_releases_the_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> Batch:
        raise ZeroDivisionError

    monkeypatch.setattr(Generation, "feed", breaks)
    harness = Harness(ScriptsInTurn())
    with pytest.raises(ZeroDivisionError):
        harness.ask()


# random faults


class SharedScripts(ScriptsInTurn):
    """One of several drivers that share one list of scripts. Usage agrees with the text."""

    def __init__(self, scripts: list[Any]) -> None:
        super().__init__(caps=MODERN)
        self.scripts: list[Any] = scripts

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        if not self.scripts:
            self.scripts.append(["!", "end"])
        steps, prompt = self.scripts.pop(0), 7 + len(str(task.prompt)) - len(TASK.prompt)
        left, script, wrote = task.max_tokens or 0, list[Any](), 0
        for step in steps:
            if step == "end" or (isinstance(step, str) and not left):
                script.append(
                    [Finished(reason="stop" if left else "length", usage=Usage(prompt, wrote, 0))]
                )
                break
            if isinstance(step, str):
                left, wrote = left - 1, wrote + 1
                step = [TextDelta(step)]
            script.append(step)
        else:
            script.append(CUT)
        if script and isinstance(script[0], list):
            script.insert(0, [Started(slot=0)])
        self.scripts.insert(0, script)
        return super().stream(task, slot, caps, cancel)


FAULTS = [BUSY, LOST, CUT, FAILED, GARBLED, REFUSED, SLOW, UNSUPPORTED]
STEPS: Any = st.one_of(st.sampled_from("abc"), st.just("end"), st.sampled_from(FAULTS))
RUNS: Any = st.lists(st.lists(STEPS, max_size=5), max_size=6)


@given(RUNS, st.integers(1, 3), st.integers(1, 20))
def test_random_faults_give_well_formed_stream_and_release_all_slots(
    scripts: list[Script], backends: int, read: int
) -> None:
    shared: list[Any] = list(scripts)
    harness = Harness(*(SharedScripts(shared) for _ in range(backends)))
    attempt, order, events = harness.attempt(), Order(), list[Event]()
    batches = iter(attempt)
    complete = False
    try:
        for _ in range(read):
            _, batch = next(batches)
            if batch and isinstance(batch[-1], Failed):
                break
            order.see(batch)
            events += batch
    except StopIteration:
        complete = True
        order.end()
    finally:
        batches.close()
    assert attempt.state is State.DONE
    harness.assert_released()
    written = sum(isinstance(event, TextDelta) for event in events)
    assert written <= 8
    if complete:
        counts = usage(events)
        assert (counts.prompt, counts.completion) == (7, written)
        assert counts.continued == harness.info.continued


def test_token_passes_three_generators_at_most() -> None:
    passed: list[str] = []

    def look() -> None:
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_flags & inspect.CO_GENERATOR:
                passed.append(frame.f_code.co_qualname)
            frame = frame.f_back  # type: ignore[assignment]  # the loop ends there

    class Plain:
        content_type = "text/event-stream"

        def encode(self, choice: int, batch: Batch) -> bytes:
            return b"."

        def fail(self, fault: GatewayError) -> bytes:
            raise fault

        def end(self) -> bytes:
            return b""

    end: Any = [Finished(reason="stop", usage=Usage(7, 3))]
    driver = ScriptsInTurn(run("a", "b", look, "c", end))
    gateway = services_of(make_app(driver)).gateway
    answer = gateway.answer(REQUEST, Cancel())
    body = SlotBody(encoded(answer, Plain()), answer.close, lambda: None)
    assert len(list(body)) == 5
    body.close()
    gateway.registry.close()
    assert len(passed) == 3, passed

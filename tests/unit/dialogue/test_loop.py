"""The agent's loop over a scripted model: its steps, its bounds, its faults, and giving up."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from proxy.agent.values import Runs, ToolError
from proxy.cancel import Cancel
from proxy.core.events import (
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
)
from proxy.core.request import CompletionRequest, Message, Tool, ToolChoice
from proxy.core.usage import Timings, Usage
from proxy.dialogue.loop import HOLD, MOST_OBSERVED, Loop
from proxy.dialogue.values import Bounds, Citation, Done, Reasoning, Sources, Step, Text, Tick
from proxy.errors import Cancelled

ASKED = CompletionRequest(messages=(Message("user", "q"),), tools=(Tool("echo"),))


def said(*texts: str, reason: FinishReason = "stop") -> list[Event]:
    return [*map(TextDelta, texts), Finished(reason, Usage(10, 5))]


def called(name: str, arguments: str, *texts: str) -> list[Event]:
    pieces = [ToolCallDelta(0, "c1", name), ToolCallDelta(0, arguments=arguments)]
    return [*map(TextDelta, texts), *pieces, Finished("tool_calls", Usage(10, 5))]


class Model:
    """Says one script after the other; `asked` are the requests."""

    def __init__(self, *scripts: list[Event]) -> None:
        self.scripts = list(scripts)
        self.asked: list[CompletionRequest] = []
        self.closed = 0

    def __call__(self, request: CompletionRequest) -> Iterator[Event | Tick]:
        self.asked.append(request)
        try:
            yield from self.scripts.pop(0)
        finally:
            self.closed += 1


class Echo:
    tool = Tool("echo")

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        if "wrong" in arguments:
            raise ToolError("no such thing")
        return f"echo {arguments.get('text')}"


def run(
    model: Model,
    tool: Runs | None = None,
    bounds: Bounds = Bounds(),  # noqa: B008  # frozen
    told: list[Sources] | None = None,
    cancel: Cancel | None = None,
    request: CompletionRequest = ASKED,
    clock: Any = lambda: 0.0,
) -> list[Any]:
    tools = {"echo": tool or Echo()}
    found = told if told is not None else []
    loop = Loop(model, tools, found, bounds, cancel or Cancel(), clock, 0)
    return list(loop.run(request))


def test_thought_tool_observation_answer() -> None:
    model = Model(called("echo", '{"text": "a"}', "Let me ", "see."), said("It is ", "a."))
    assert run(model) == [
        Step("thought", text="Let me see."),
        Step("tool", "echo", '{"text": "a"}'),
        Step("observation", "echo", text="echo a"),
        Text("It is a."),
        Done(Usage(20, 10), Timings(), "stop"),
    ]
    first, second = model.asked
    assert second.messages[: len(first.messages)] == first.messages
    call, result = second.messages[-2:]
    assert (call.role, call.content, call.tool_calls[0].name) == (
        "assistant",
        "Let me see.",
        "echo",
    )
    assert result == Message("tool", "echo a", "echo", tool_call_id="c1")


def test_a_long_answer_is_streamed_once_it_is_no_thought() -> None:
    long = "x" * HOLD
    events = run(Model(said(long, "y", "z")))
    assert events[:-1] == [Text(long + "y"), Text("z")]


def test_reasoning_passes() -> None:
    script: list[Event] = [ReasoningDelta("hm"), *said("a")]
    assert run(Model(script))[:2] == [Reasoning("hm"), Text("a")]


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("nope", "{}", "Error: there is no tool nope"),
        ("echo", "{", "Error: the arguments must be a JSON object"),
        ("echo", "[]", "Error: the arguments must be a JSON object"),
        ("echo", '{"wrong": 1}', "Error: no such thing"),
    ],
)
def test_what_goes_wrong_is_told_to_the_model(name: str, arguments: str, told: str) -> None:
    model = Model(called(name, arguments), said("well"))
    assert Step("observation", name, text=told) in run(model)
    assert model.asked[1].messages[-1].content == told


def test_the_last_round_has_no_tools() -> None:
    model = Model(*[called("echo", "{}")] * 2, said("that is all"))
    events = run(model, bounds=Bounds(rounds=3))
    assert [one.tool_choice.mode for one in model.asked] == ["auto", "auto", "none"]
    assert events[-2] == Text("that is all")
    assert events[-1].finish_reason == "stop"


def test_a_forced_call_is_forced_once() -> None:
    forced = CompletionRequest(messages=ASKED.messages, tool_choice=ToolChoice("required"))
    model = Model(called("echo", "{}"), said("a"))
    run(model, request=forced)
    assert [one.tool_choice.mode for one in model.asked] == ["required", "auto"]


def test_tokens_are_bounded_over_all_rounds() -> None:
    model = Model(called("echo", "{}"), called("echo", "{}"), said("never"))
    events = run(model, bounds=Bounds(tokens=8))
    assert [one.max_tokens for one in model.asked] == [8, 3]
    assert events[-1] == Done(Usage(20, 10), Timings(), "length")


def test_time_is_bounded_in_the_middle_of_a_round() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    model = Model([TextDelta("x")] * 100 + [Finished("stop", Usage())])
    events = run(model, bounds=Bounds(seconds=10), clock=clock)
    assert events[-1].finish_reason == "length"
    assert 0 < len("".join(e.delta for e in events if isinstance(e, Text))) < 10
    assert model.closed == 1


def test_a_call_that_was_cut_is_not_made() -> None:
    script: list[Event] = [ToolCallDelta(0, "c", "echo", '{"te'), Finished("length", Usage())]
    events = run(Model(script))
    assert [type(one) for one in events] == [Done]


def test_sources_a_tool_found_are_told_before_its_observation() -> None:
    told: list[Sources] = []
    sources = Sources((Citation(number=1, title="t", text="x"),))

    class Finds(Echo):
        def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
            told.append(sources)
            return "[1] t"

    events = run(Model(called("echo", "{}"), said("a")), Finds(), told=told)
    assert events[1:3] == [sources, Step("observation", "echo", text="[1] t")]


class Slow(Echo):
    """Waits until it is given up."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        self.begun.set()
        cancel.add(self.ended.set)
        self.ended.wait(30)
        return "too late"


def test_cancel_stops_the_tool() -> None:
    cancel, slow, caught = Cancel(), Slow(), list[BaseException]()

    def work() -> None:
        try:
            run(Model(called("echo", "{}")), slow, cancel=cancel)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert slow.begun.wait(10)
    cancel.cancel()
    thread.join(10)
    assert isinstance(caught[0], Cancelled)
    assert slow.ended.is_set()


def test_closing_at_a_tick_stops_the_tool() -> None:
    slow = Slow()
    tools: dict[str, Runs] = {"echo": slow}
    loop = Loop(Model(called("echo", "{}")), tools, [], Bounds(), Cancel(), lambda: 0.0, 0.01)
    events = loop.run(ASKED)
    assert isinstance(next(events), Step)
    assert isinstance(next(events), Tick)
    events.close()  # type: ignore[attr-defined]
    assert slow.ended.is_set()


def test_a_tool_that_is_too_slow_is_stopped_and_the_model_is_told() -> None:
    slow = Slow()
    events = run(Model(called("echo", "{}"), said("a")), slow, Bounds(tool_seconds=0.05))
    (observation,) = (e for e in events if isinstance(e, Step) and e.kind == "observation")
    assert observation.text == "Error: it took longer than 0.05 seconds"
    assert slow.ended.is_set()


def test_a_long_observation_is_cut() -> None:
    class Long(Echo):
        def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
            return "x" * 100_000

    model = Model(called("echo", "{}"), said("a"))
    run(model, Long())
    assert len(model.asked[1].messages[-1].content) < 10_000


def test_observations_have_a_bound() -> None:
    class Talks(Echo):
        def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
            return "x" * int(arguments["size"])

    for size, told in ((MOST_OBSERVED, "x" * MOST_OBSERVED), (MOST_OBSERVED + 1, None)):
        events = run(Model(called("echo", f'{{"size": {size}}}'), said("It is.")), Talks())
        steps = [one for one in events if isinstance(one, Step)]
        assert steps[-1].text == (told or "x" * MOST_OBSERVED + "…")

"""The agent's loop over a scripted model: its steps, its bounds, its faults, and giving up."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from proxy.agent.functions import RunnableTool, ToolError
from proxy.config import AgentConfig
from proxy.core.events import (
    Citation,
    Event,
    Finished,
    FinishReason,
    TextDelta,
    ToolCallDelta,
)
from proxy.core.request import CompletionRequest, Message, Tool, ToolChoice
from proxy.core.usage import Usage
from proxy.dialogue.events import (
    DialogueStep,
    Sources,
    Tick,
)
from proxy.dialogue.loop import MOST_OBSERVED, AgentRunner, ToolAnswer, run_with_ticks
from proxy.dialogue.run import HOLD, dialogue_events
from proxy.errors import Cancelled
from proxy.gateway import Info
from proxy.gateway.context import ANYBODY
from proxy.runtime.cancel import Cancel

from .test_searching import Scripted

ASKED = CompletionRequest(messages=(Message(role="user", content="q"),))


def said(*texts: str, reason: FinishReason = "stop") -> list[Event]:
    return [*map(TextDelta, texts), Finished(reason=reason, usage=Usage(10, 5))]


def called(name: str, arguments: str, *texts: str) -> list[Event]:
    pieces = [ToolCallDelta(0, "c1", name), ToolCallDelta(0, arguments=arguments)]
    return [*map(TextDelta, texts), *pieces, Finished(reason="tool_calls", usage=Usage(10, 5))]


class Echo:
    tool = Tool("echo")

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        if "wrong" in arguments:
            raise ToolError("no such thing")
        return f"echo {arguments.get('text')}"

    @property
    def runnable(self) -> RunnableTool:
        return RunnableTool(self.tool, self.call)


def run(
    model: Scripted,
    tool: Echo | None = None,
    bounds: AgentConfig = AgentConfig(),  # noqa: B008  # frozen
    sources: list[Sources] | None = None,
    cancel: Cancel | None = None,
    request: CompletionRequest = ASKED,
    clock: Any = lambda: 0.0,
) -> list[Any]:
    listed = sources if sources is not None else []
    return list(events_of(model, tool or Echo(), bounds, listed, cancel, request, clock))


def events_of(
    model: Scripted,
    tool: Echo,
    bounds: AgentConfig,
    sources: list[Sources],
    cancel: Cancel | None,
    request: CompletionRequest,
    clock: Any,
    interval: float = 0,
) -> Iterator[Any]:
    cancel = cancel or Cancel()
    runner = AgentRunner(cancel, interval, {"echo": tool.runnable})
    gateway: Any = model
    gateway.clock = clock
    answer = ToolAnswer(gateway, [runner], request, cancel, ANYBODY, bounds, is_agent=True)
    return dialogue_events(answer, Info(), HOLD, sources)


def test_agent_emits_thought_tool_observation_and_answer() -> None:
    model = Scripted(called("echo", '{"text": "a"}', "Let me ", "see."), said("It is ", "a."))
    assert run(model) == [
        DialogueStep("thought", text="Let me see."),
        DialogueStep("tool", "echo", '{"text": "a"}'),
        DialogueStep("observation", "echo", text="echo a"),
        TextDelta("It is a."),
        Finished(reason="stop", usage=Usage(20, 10)),
    ]
    first, second = model.requests
    assert second.messages[: len(first.messages)] == first.messages
    call, result = second.messages[-2:]
    assert (call.role, call.content, call.tool_calls[0].name) == (
        "assistant",
        "Let me see.",
        "echo",
    )
    assert result == Message(role="tool", content="echo a", name="echo", tool_call_id="c1")


def test_rounds_and_tools_are_steps_of_the_answer() -> None:
    model: Any = Scripted(called("echo", "{}"), said("a"))
    cancel = Cancel()
    runner = AgentRunner(cancel, 0, {"echo": Echo().runnable})
    answer = ToolAnswer(model, [runner], ASKED, cancel, ANYBODY, AgentConfig())
    assert [*answer]
    steps = ["round" if isinstance(step, Info) else step[0] for step in answer.info.steps]
    assert steps == ["tools", "round", "tools", "round"]


def test_long_answer_streams_once_it_is_not_a_thought() -> None:
    long = "x" * HOLD
    events = run(Scripted(said(long, "y", "z")))
    assert events[:-1] == [TextDelta(long + "y"), TextDelta("z")]


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("nope", "{}", "Error: unknown tool: nope"),
        ("echo", "{", "Error: the arguments must be a JSON object"),
        ("echo", "[]", "Error: the arguments must be a JSON object"),
        ("echo", '{"wrong": 1}', "Error: no such thing"),
    ],
)
def test_tool_errors_are_reported_to_the_model(name: str, arguments: str, text: str) -> None:
    model = Scripted(called(name, arguments), said("well"))
    assert DialogueStep("observation", name, text=text) in run(model)
    assert model.requests[1].messages[-1].content == text


def test_last_agent_round_has_no_tools() -> None:
    model = Scripted(*[called("echo", "{}")] * 2, said("that is all"))
    events = run(model, bounds=AgentConfig(rounds=3))
    assert [request.tool_choice.mode for request in model.requests] == ["auto", "auto", "none"]
    assert events[-2] == TextDelta("that is all")
    assert events[-1].reason == "stop"


def test_forced_call_is_forced_only_once() -> None:
    forced = CompletionRequest(messages=ASKED.messages, tool_choice=ToolChoice("required"))
    model = Scripted(called("echo", "{}"), said("a"))
    run(model, request=forced)
    assert [request.tool_choice.mode for request in model.requests] == ["required", "auto"]


def test_max_tokens_applies_to_all_rounds_together() -> None:
    model = Scripted(called("echo", "{}"), called("echo", "{}"), said("never"))
    events = run(model, bounds=AgentConfig(tokens=8))
    assert [request.max_tokens for request in model.requests] == [8, 3]
    assert events[-1] == Finished(reason="length", usage=Usage(20, 10))


def test_deadline_applies_within_a_round() -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1
        return now[0]

    model = Scripted([*[TextDelta("x")] * 100, Finished(reason="stop", usage=Usage())])
    events = run(model, bounds=AgentConfig(timeout=10), clock=clock)
    assert events[-1].reason == "length"
    assert 0 < len("".join(e.text for e in events if isinstance(e, TextDelta))) < 10
    assert model.closed == 1


def test_sources_of_a_tool_precede_its_observation() -> None:
    listed: list[Sources] = []
    sources = Sources((Citation(number=1, title="t", text="x"),))

    class Finds(Echo):
        def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
            listed.append(sources)
            return "[1] t"

    events = run(Scripted(called("echo", "{}"), said("a")), Finds(), sources=listed)
    assert events[1:3] == [sources, DialogueStep("observation", "echo", text="[1] t")]


class Slow(Echo):
    """Waits until it is given up."""

    def __init__(self) -> None:
        self.begun, self.ended = threading.Event(), threading.Event()

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        cancel.add(self.ended.set)
        self.begun.set()
        self.ended.wait(60)
        return "too late"


def test_closing_at_a_tick_stops_the_tool() -> None:
    slow = Slow()
    model = Scripted(called("echo", "{}"))
    events = events_of(model, slow, AgentConfig(), [], None, ASKED, lambda: 0.0, 0.01)
    assert isinstance(next(events), DialogueStep)
    assert isinstance(next(events), Tick)
    events.close()  # type: ignore[attr-defined]
    assert slow.ended.wait(60)  # its thread may not have begun yet


def test_slow_tool_is_stopped_and_reported_to_the_model() -> None:
    slow = Slow()
    events = run(Scripted(called("echo", "{}"), said("a")), slow, AgentConfig(tool_timeout=0.05))
    (observation,) = (e for e in events if isinstance(e, DialogueStep) and e.kind == "observation")
    assert observation.text == "Error: timed out after 0.05 seconds"
    assert slow.ended.wait(60)


def test_total_observation_length_is_bounded() -> None:
    class Talks(Echo):
        def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
            return "x" * int(arguments["size"])

    for size, text in ((MOST_OBSERVED, "x" * MOST_OBSERVED), (MOST_OBSERVED + 1, None)):
        events = run(Scripted(called("echo", f'{{"size": {size}}}'), said("It is.")), Talks())
        steps = [event for event in events if isinstance(event, DialogueStep)]
        assert steps[-1].text == (text or "x" * MOST_OBSERVED + "…")


def test_cancelled_request_ends_with_its_own_error_however_soon_its_work_ends() -> None:
    """With the result of the work, the model would be asked once more."""
    begun = threading.Event()

    def work(cancel: Cancel) -> str:
        ended, thread = threading.Event(), threading.current_thread()
        cancel.add(ended.set)
        cancel.add(lambda: thread.join(60))  # `cancel` returns after the end of the work
        begun.set()
        ended.wait(60)
        return "too late"

    cancel = Cancel()
    steps = run_with_ticks(work, cancel, 60, 0.01, Tick)
    next(steps)
    assert begun.wait(60)
    cancel.cancel()
    with pytest.raises(Cancelled):
        list(steps)

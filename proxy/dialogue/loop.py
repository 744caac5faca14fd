"""The agent's loop: asks the model, runs the tool it calls, and repeats with the result until the
model answers without a call.

Each round's prompt begins with the previous one, so the slot's cache covers all but the new part.
The model makes one call at a time. In the last round it has no tools and must answer with what it
has.

Text before a call is a thought, text without a call is the answer; only the end of a round tells
which. Thoughts are short, so up to HOLD characters are held back, and longer text is streamed as
part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping

import msgspec

from ..agent.functions import RunnableTool, ToolError
from ..core.events import Event, Finished, FinishReason, ReasoningDelta, TextDelta, ToolCallDelta
from ..core.request import CompletionRequest, Message, ToolCall, ToolChoice
from ..core.usage import Timings, Usage
from ..errors import Cancelled, GatewayError
from ..runtime.cancel import Cancel
from .background import run_with_ticks
from .events import (
    Bounds,
    DialogueDone,
    DialogueEvent,
    DialogueStep,
    Reasoning,
    Sources,
    Text,
    Tick,
    arguments_of,
)

HOLD = 160
MOST_OBSERVED = 6000  # characters of a tool's result

Ask = Callable[[CompletionRequest], Iterator[Event | Tick]]


class Loop:
    """Answers one question as an agent. Tools append the sources they find to `sources`. The
    generators that `ask` returns are closed if left early. `interval` is the seconds between ticks
    while a tool runs."""

    def __init__(
        self,
        ask: Ask,
        tools: Mapping[str, RunnableTool],
        sources: list[Sources],
        bounds: Bounds,
        cancel: Cancel,
        clock: Callable[[], float],
        interval: float,
    ) -> None:
        self._ask = ask
        self._tools = tools
        self._sources = sources
        self._bounds = bounds
        self._cancel = cancel
        self._clock = clock
        self._interval = interval
        self._end = clock() + bounds.seconds
        self._usage = Usage()
        self._timings = Timings()

    def run(self, request: CompletionRequest) -> Iterator[DialogueEvent]:
        """The events of the answer to `request`, whose tools must be those of this loop."""
        most = request.max_tokens or self._bounds.tokens
        for left in range(self._bounds.rounds, 0, -1):
            room = min(most, self._bounds.tokens - self._usage.completion)
            if room < 1 or self._clock() >= self._end:
                yield self._done("length")
                return
            request = msgspec.structs.replace(
                request,
                max_tokens=room,
                tool_choice=ToolChoice("none") if left == 1 else request.tool_choice,
            )
            round = _Round()
            yield from self._written(round, request)
            if not round.calls or round.reason == "length":
                yield self._done(round.reason)
                return
            thought = "".join(round.said)
            if round.held:
                yield DialogueStep("thought", text="".join(round.held))
            # A forced call is forced only once.
            request = msgspec.structs.replace(request, tool_choice=ToolChoice())
            turn = [Message(role="assistant", content=thought, tool_calls=tuple(round.calls))]
            for call in round.calls:
                observation = yield from self._observed(call)
                turn.append(
                    Message(role="tool", content=observation, name=call.name, tool_call_id=call.id)
                )
            request = msgspec.structs.replace(request, messages=(*request.messages, *turn))

    def _written(self, round: _Round, request: CompletionRequest) -> Iterator[DialogueEvent]:
        events = self._ask(request)
        try:
            for event in events:
                match event:
                    case Tick():
                        yield event
                    case ReasoningDelta(text=text):
                        yield Reasoning(text)
                    case TextDelta(text=text) if text:
                        yield from round.text(text)
                    case ToolCallDelta():
                        round.call(event)
                    case Finished():
                        self._usage += event.usage
                        self._timings = event.timings
                        round.reason = event.reason
                if self._clock() >= self._end and not round.reason:
                    round.reason = "length"
                    break
        finally:
            events.close()  # type: ignore[attr-defined]  # it is a generator
        if not round.calls or round.reason == "length":
            yield from round.flush()

    def _observed(self, call: ToolCall) -> Generator[DialogueEvent, None, str]:
        """Runs a call: yields its steps and returns the observation."""
        yield DialogueStep("tool", call.name, call.arguments)
        seconds = min(self._bounds.tool_seconds, max(0.1, self._end - self._clock()))
        try:
            tool = self._tools.get(call.name)
            if tool is None:
                raise ToolError(f"unknown tool: {call.name}")
            arguments = arguments_of(call)
            if arguments is None:
                raise ToolError("the arguments must be a JSON object")

            def work(cancel: Cancel) -> str:
                return tool.call(arguments, cancel, seconds)

            text = yield from run_with_ticks(work, self._cancel, seconds, self._interval)
        except Cancelled:
            raise
        except ToolError as error:
            text = f"Error: {error}"
        except GatewayError as error:
            text = f"Error: {error.message}"
        text = text if len(text) <= MOST_OBSERVED else text[:MOST_OBSERVED] + "…"
        while self._sources:
            yield self._sources.pop(0)
        yield DialogueStep("observation", call.name, text=text)
        return text

    def _done(self, reason: FinishReason | str) -> DialogueDone:
        ended: FinishReason = "length" if reason == "length" else "stop"
        return DialogueDone(self._usage, self._timings, ended)


class _Round:
    """The model's output in one round."""

    def __init__(self) -> None:
        self.reason: str = ""
        self.said: list[str] = []
        self.held: list[str] = []
        self.calls: list[ToolCall] = []
        self._free = False

    def text(self, piece: str) -> Iterator[Text]:
        self.said.append(piece)
        if self._free:
            yield Text(piece)
            return
        self.held.append(piece)
        if sum(map(len, self.held)) > HOLD:
            yield from self.flush()

    def flush(self) -> Iterator[Text]:
        self._free = True
        held, self.held = "".join(self.held), []
        if held:
            yield Text(held)

    def call(self, event: ToolCallDelta) -> None:
        if event.index >= len(self.calls):
            self.calls.append(ToolCall(event.id, event.name, event.arguments))
            return
        call = self.calls[event.index]
        self.calls[event.index] = ToolCall(call.id, call.name, call.arguments + event.arguments)

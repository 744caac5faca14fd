"""Answers that run tools on the way: searches, and tools of MCP servers.

The model is offered them as functions, in addition to the client's own. If it calls one of them,
the gateway runs it, reports it as events, and the model continues with the result. If it calls a
function of the client, or one that the client must approve, the answer ends with that call. The
model makes one call at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

from ..core.events import (
    Batch,
    Compacted,
    Event,
    Failed,
    Finished,
    Started,
    TextDelta,
    ToolCallDelta,
)
from ..core.request import CompletionRequest, Message, Tool, ToolCall, ToolChoice
from ..core.usage import Usage
from ..errors import GatewayError
from ..gateway import Caller, Gateway, Info
from ..runtime.cancel import Cancel
from .events import Bounds, add


class Runner(Protocol):
    """Tools that an answer runs itself."""

    def listed(self) -> list[Event]:
        """Find out which tools there are, and return the events that report them. Called once,
        before anything else. Raises GatewayError."""

    def tools(self) -> Sequence[Tool]:
        """The tools for the model, by the names that it calls."""

    def prepare(
        self, request: CompletionRequest
    ) -> Generator[Batch, None, CompletionRequest] | None:
        """Run what the model waits for before it begins: yields events and returns the request
        with the results. None if there is nothing to run."""

    def run(self, call: ToolCall) -> Generator[Batch, None, str | None]:
        """Run a call: yields its events and returns the text for the model, or None if the answer
        ends here. Raises Cancelled."""

    def close(self) -> None: ...


class ToolAnswer:
    """Replaces the gateway's Answer: yields (choice, batch), with the same `prime` and `close`."""

    def __init__(
        self,
        gateway: Gateway,
        runners: Sequence[Runner],
        request: CompletionRequest,
        cancel: Cancel,
        caller: Caller,
        bounds: Bounds,
    ) -> None:
        self.request = request
        model, shown = gateway.registry.resolve(request.model)
        self.info = Info(model=shown)
        if caller.allowance is not None:
            caller.allowance.for_model(partial(gateway.registry.names_of, model))
        self._gateway = gateway
        self._runners = runners
        self._cancel = cancel
        self._caller = caller
        self._bounds = bounds
        self._owners: dict[str, Runner] = {}  # by the name of a tool
        self._first: Batch | None = None
        self._begun = False  # Started was sent
        self._usage = Usage()  # of all rounds, without summaries
        self._batches = self._rounds()

    def prime(self) -> None:
        """Waits until the answer has begun. Raises its error."""
        self._first = next(self._batches)
        for event in self._first:
            if isinstance(event, Failed):
                self.close()
                raise event.error

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        if self._first is not None:
            first, self._first = self._first, None
            yield 0, first
        for batch in self._batches:
            yield 0, batch

    def close(self) -> None:
        self._batches.close()
        for runner in self._runners:
            runner.close()
        if not self.info.outcome:
            self.info.outcome = "cancelled"

    def _rounds(self) -> Generator[Batch, None, None]:
        most = self.request.max_tool_calls or self._bounds.rounds
        try:
            listed = [event for runner in self._runners for event in runner.listed()]
            request = yield from self._prepared(self._offering(), listed)
            for count in range(self._bounds.rounds):
                if count == min(most, self._bounds.rounds - 1):
                    request = msgspec.structs.replace(request, tool_choice=ToolChoice("none"))
                round = yield from self._round(request, listed)
                if round is None:
                    return
                self._begin_call()
                observed = yield from self._owners[round.call.name].run(round.call)
                if observed is None:
                    self.info.outcome = "tool_calls"
                    yield [msgspec.structs.replace(round.finished, reason="tool_calls")]
                    return
                turn = (
                    Message(role="assistant", content=round.text, tool_calls=(round.call,)),
                    Message(
                        role="tool",
                        content=observed,
                        name=round.call.name,
                        tool_call_id=round.call.id,
                    ),
                )
                # A forced call is forced only once.
                request = msgspec.structs.replace(
                    request, messages=(*request.messages, *turn), tool_choice=ToolChoice()
                )
        except GatewayError as error:
            self.info.outcome = error.code or error.type
            yield [Failed(error)]

    def _begin_call(self) -> None:
        """Note that a tool is about to run. Another try would run it again, so from now on even a
        request that uses idle slots only waits for a slot, and keeps it. Raises Cancelled."""
        self._cancel.check()
        self._caller = msgspec.structs.replace(self._caller, idle=False)
        self.info.has_effects = True

    def _offering(self) -> CompletionRequest:
        """The request with all tools; those of the client take precedence."""
        own = {tool.name for tool in self.request.tools}
        offered = []
        for runner in self._runners:
            for tool in runner.tools():
                if tool.name not in own and tool.name not in self._owners:
                    self._owners[tool.name] = runner
                    offered.append(tool)
        return msgspec.structs.replace(
            self.request, tools=(*self.request.tools, *offered), parallel_tool_calls=False
        )

    def _prepared(
        self, request: CompletionRequest, listed: list[Event]
    ) -> Generator[Batch, None, CompletionRequest]:
        for runner in self._runners:
            work = runner.prepare(request)
            if work is not None:
                if self._caller.allowance is not None:
                    # The first round would ask for it only after the tools have run.
                    for place in self._caller.allowance.begin(self.info.model, self._cancel):
                        self.info.limit_place = place
                        yield []
                    self.info.limit_place = None
                if request.approved:
                    self._begin_call()
                if not self._begun:
                    self._begun = True
                    yield [Started(), *listed]
                request = yield from work
                self._caller = msgspec.structs.replace(self._caller, begun=True)
        return request

    def _round(
        self, request: CompletionRequest, listed: list[Event]
    ) -> Generator[Batch, None, _Round | None]:
        """Streams one round. Returns it if the model calls a tool to run."""
        answer = self._gateway.answer(request, self._cancel, self._caller)
        text: list[str] = []
        call: ToolCall | None = None
        finished: Finished | None = None
        client_calls: set[int] = set()
        try:
            for _, batch in answer:
                out: list[Event] = []
                for event in batch:
                    if isinstance(event, Started):
                        if self._begun:
                            continue
                        self._begun = True
                        out += [event, *listed]
                        continue
                    if isinstance(event, TextDelta):
                        text.append(event.text)
                    elif isinstance(event, ToolCallDelta):
                        if event.name in self._owners and call is None:
                            call = ToolCall(event.id, event.name, event.arguments)
                            continue
                        if call is not None and event.index not in client_calls:
                            call = msgspec.structs.replace(
                                call, arguments=call.arguments + event.arguments
                            )
                            continue
                        client_calls.add(event.index)
                    elif isinstance(event, Failed):
                        raise event.error
                    elif isinstance(event, Compacted):
                        self.info.compacted = event.messages
                    elif isinstance(event, Finished):
                        self._usage += event.usage
                        event = msgspec.structs.replace(event, usage=self._usage)
                        if call is not None and event.reason != "length":
                            finished = event
                            continue
                        self.info.outcome = event.reason
                        call = None
                    out.append(event)
                if out or not batch:
                    yield out
        finally:
            answer.close()
            add(self.info, answer.info)
        if call is None or finished is None:
            return None
        return _Round("".join(text), call, finished)


class _Round(NamedTuple):
    """What the model wrote before it called a tool, the call, and the end of its answer."""

    text: str
    call: ToolCall
    finished: Finished

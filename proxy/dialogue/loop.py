"""The loop of an answer that runs tools on the way: searches, tools of MCP servers, and those of an
agent.

The model is offered them as functions, in addition to the client's own. If it calls one of them,
the gateway runs it, reports it as events, and the model continues with the result. If it calls a
function of the client, or one that the client must approve, the answer ends with that call. The
model makes one call at a time.

Each round's prompt begins with the previous one, so the slot's cache covers all but the new part.
In the last round the model has no tools and must answer with what it has.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import Struct, field

from ..agent.functions import FAILED, NAME, RunnableTool, ToolError
from ..agent.toolbox import Remotes, Toolbox
from ..config import AgentConfig
from ..core.decoding import decoded_object
from ..core.events import (
    NONE_FOUND,
    ApprovalRequested,
    Batch,
    Citation,
    Compacted,
    Event,
    Failed,
    Finished,
    Searched,
    ServerCall,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolsListed,
    Withdrawn,
    passages,
)
from ..core.mcp import McpServer, function_name
from ..core.request import CompletionRequest, Message, Search, Tool, ToolCall, ToolChoice
from ..core.usage import Timings, Usage
from ..errors import Cancelled, GatewayError, UpstreamTimeout
from ..gateway import Caller, Gateway, Info
from ..runtime.cancel import Cancel
from ..websearch.engines import TOO_MANY
from .events import add
from .finding import CitationNumbers, Finder, offered

TIMED_OUT = -32001  # what MCP clients call a request without an answer

T = TypeVar("T")
K = TypeVar("K")


def run_with_ticks(
    work: Callable[[Cancel], T],
    cancel: Cancel,
    seconds: float,
    interval: float,
    tick: Callable[[], K],
) -> Generator[K, None, T]:
    """Runs `work` in a thread. Returns its result, and yields a `tick()` every `interval` seconds
    (0: none) until then. `work` receives a Cancel. It is cancelled, and no longer waited for, after
    `seconds` or if the request is cancelled.

    Raises the errors of `work`, UpstreamTimeout and Cancelled."""
    own = Cancel()
    done: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            done.put((work(own), None))
        except BaseException as error:
            done.put((None, error))

    def give_up() -> None:
        done.put((None, cancel.error()))  # before what the work returns when it is cancelled
        own.cancel()

    cancel.add(give_up)
    threading.Thread(target=run, name="aside", daemon=True).start()
    left = seconds
    try:
        while True:
            step = min(left, interval or left)
            try:
                value, error = done.get(timeout=step)
            except queue.Empty:
                left -= step
                if left <= 0:
                    raise UpstreamTimeout(f"timed out after {seconds:g} seconds") from None
                yield tick()
                continue
            if error is not None:
                raise error
            return value  # type: ignore[return-value]  # without an error there is a value
    finally:
        cancel.remove(give_up)
        own.cancel()


def result_of(steps: Generator[object, None, T]) -> T:
    """The result of all steps."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            result: T = finished.value
            return result


class Runner(Struct, eq=False):
    """Tools that an answer runs itself. This one has none. `interval`: the seconds between
    ticks."""

    cancel: Cancel
    interval: float

    takes_unknown = False  # whether it answers calls of tools that nobody offers
    longest = 0  # characters of a result

    def listed(self) -> list[Event]:
        """Find out which tools there are, and return the events that report them. Called once,
        before anything else. Raises GatewayError."""
        return []

    def tools(self) -> Sequence[Tool]:
        """The tools for the model, by the names that it calls."""
        return ()

    def prepare(
        self, request: CompletionRequest, seconds: float
    ) -> Generator[Batch, None, CompletionRequest]:
        """Make the calls that the client has approved: yields events and returns the request with
        the results."""
        yield from ()
        return request

    def run(self, call: ToolCall, seconds: float) -> Generator[Batch, None, str | None]:
        """Run a call, which may take so long: yields its events and returns the text for the
        model, or None if the answer ends here. Raises Cancelled."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections that stay open between rounds."""

    def aside(self, work: Callable[[Cancel], T], seconds: float) -> Generator[Batch, None, T]:
        """Returns the result of `work`, and yields an empty batch now and then. Raises like
        run_with_ticks."""
        return run_with_ticks(work, self.cancel, seconds, self.interval, list[Event])

    def call_tool(
        self,
        event: ServerCall,
        tool: RunnableTool | None,
        seconds: float,
        missing: str = "the tool is not available",
    ) -> Generator[Batch, None, str]:
        """Makes a call: yields its events and returns the text for the model. Raises Cancelled."""
        yield [event]
        arguments = decoded_object(event.arguments)
        text, error, code = "", "", 0
        try:
            if tool is None:
                raise ToolError(missing, FAILED)
            if arguments is None:
                raise ToolError("the arguments must be a JSON object")
            call_with_arguments = partial(tool.call, arguments)
            work = self.aside(lambda own: call_with_arguments(own, seconds), seconds)
            text = _cut((yield from work), self.longest)
        except Cancelled:
            raise
        except ToolError as fault:
            error, code = str(fault), fault.code
        except GatewayError as fault:
            error = fault.message
            code = TIMED_OUT if isinstance(fault, UpstreamTimeout) else FAILED
        error = _cut(error, self.longest)
        yield [msgspec.structs.replace(event, over=True, output=text, error=error, code=code)]
        return f"Error: {error}" if error else text


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "…"


MOST_OBSERVED = 6000  # characters of the result of an agent's tool
MOST_TOOLS = 128  # of one server
MOST_RESULT = 24_000  # characters of the result of a server's tool
LISTING = 35.0  # seconds that a request waits for the tools of a server


class SearchRunner(Runner, eq=False):
    """Makes these searches, by name, for the owner: the built-in tools of /v1/responses."""

    finder: Finder
    searches: Mapping[str, Search]
    owner: str
    numbers: CitationNumbers = field(default_factory=CitationNumbers)
    made: Counter[str] = field(default_factory=Counter)

    def tools(self) -> Sequence[Tool]:
        return [offered(search) for search in self.searches.values()]

    def run(self, call: ToolCall, seconds: float) -> Generator[Batch, None, str]:
        search = self.searches[call.name]
        argument = (decoded_object(call.arguments) or {}).get("query")
        query = argument.strip() if isinstance(argument, str) else ""
        yield [Searched(search.kind, query)]
        self.made[call.name] += 1
        if search.most is not None and self.made[call.name] > search.most:
            yield [Searched(search.kind, query, over=True, error="max_uses_exceeded")]
            return "Error: the request allows no more searches"

        def find(cancel: Cancel) -> list[Citation]:
            return self.finder.result(search, self.owner, query, cancel) if query else []

        try:
            citations = yield from self.aside(find, seconds)
        except Cancelled:
            raise
        except GatewayError as error:
            code = error.code if error.code == TOO_MANY else "unavailable"
            yield [Searched(search.kind, query, over=True, error=code)]
            return f"Error: {error.message}"
        cited, _ = self.numbers.add(citations)
        yield [Searched(search.kind, query, over=True, found=cited)]
        return passages(cited) or NONE_FOUND


class AgentRunner(Runner, eq=False):
    """Calls the tools of an agent. The model reads of a tool that it made up."""

    by_name: Mapping[str, RunnableTool]
    takes_unknown = True
    longest = MOST_OBSERVED

    def tools(self) -> Sequence[Tool]:
        return [tool.tool for tool in self.by_name.values()]

    def run(self, call: ToolCall, seconds: float) -> Generator[Batch, None, str]:
        event = ServerCall(id=call.id, label="", name=call.name, arguments=call.arguments)
        missing = f"unknown tool: {call.name}"
        return self.call_tool(event, self.by_name.get(call.name), seconds, missing)


class ServerRunner(Runner, eq=False, dict=True):
    """Calls the tools of the servers of a request, for the caller."""

    toolbox: Toolbox
    remotes: Remotes
    request: CompletionRequest
    caller: Caller
    longest = MOST_RESULT

    def __post_init__(self) -> None:
        self._opened = ExitStack()
        self._offers: dict[str, tuple[McpServer, RunnableTool]] = {}

    def listed(self) -> list[Event]:
        """Raises NotFound for a server that is not configured, and Forbidden for a URL that is not
        allowed, or if the caller may use none of a server's tools. A server that does not list
        its tools is an event, unless it is required."""
        events: list[Event] = []
        for server in self.request.servers:
            try:
                tools = self._permitted(server, self._of(server))
            except GatewayError as error:
                if error.status < 500 or server.required:
                    raise
                events.append(ToolsListed(server.label, error=error.message))
                continue
            for tool in tools:
                self._offers[server.function(tool.tool.name)] = server, tool
            if not server.listed:
                events.append(ToolsListed(server.label, tuple(tool.tool for tool in tools)))
        return events

    def tools(self) -> Sequence[Tool]:
        return [
            msgspec.structs.replace(tool.tool, name=name)
            for name, (_, tool) in self._offers.items()
        ]

    def prepare(
        self, request: CompletionRequest, seconds: float
    ) -> Generator[Batch, None, CompletionRequest]:
        results: dict[str, str] = {}
        for approved in request.approved:
            name = function_name(approved.label, approved.name)
            _, tool = self._offers.get(name, (None, None))
            results[approved.id] = yield from self.call_tool(approved, tool, seconds)
        messages = tuple(
            msgspec.structs.replace(message, content=results[message.tool_call_id])
            if message.role == "tool" and message.tool_call_id in results
            else message
            for message in request.messages
        )
        return msgspec.structs.replace(request, messages=messages)

    def run(self, call: ToolCall, seconds: float) -> Generator[Batch, None, str | None]:
        server, tool = self._offers[call.name]
        name = tool.tool.name
        if server.approval.asks(name, tool.reads_only):
            yield [ApprovalRequested(server.label, name, call.arguments)]
            return None
        event = ServerCall(id=call.id, label=server.label, name=name, arguments=call.arguments)
        return (yield from self.call_tool(event, tool, seconds))

    def close(self) -> None:
        """Close the servers that the request names by URL; those that are configured stay open."""
        self._opened.close()

    def _of(self, server: McpServer) -> list[RunnableTool]:
        work: Callable[[], list[RunnableTool]] = partial(self.toolbox.of_server, server.label)
        if server.url:
            self.caller.may.check_tool(server.url)
            remote = self.remotes.open(server.label, server.url, server.headers)
            work = self._opened.enter_context(remote)
        return result_of(run_with_ticks(lambda _: work(), self.cancel, LISTING, 0, list[Event]))

    def _permitted(self, server: McpServer, tools: Sequence[RunnableTool]) -> list[RunnableTool]:
        """The tools that request and caller permit. Raises Forbidden."""
        may = self.caller.may
        fitting = [
            tool
            for tool in tools
            if server.allowed.fits(tool.tool.name, tool.reads_only)
            and NAME.fullmatch(server.function(tool.tool.name))
        ]
        if server.url:
            return fitting[:MOST_TOOLS]  # the URL is what is permitted
        permitted = [tool for tool in fitting if may.permits_tool(server.function(tool.tool.name))]
        if fitting and not permitted:
            may.check_tool(server.function(fitting[0].tool.name))
        return permitted[:MOST_TOOLS]


class ToolAnswer(Struct, eq=False, dict=True):
    """Replaces the gateway's Answer: yields (choice, batch), with the same `prime` and `close`. An
    answer that `is_agent` keeps the bounds of seconds and tokens in total, too."""

    gateway: Gateway
    runners: Sequence[Runner]
    request: CompletionRequest
    cancel: Cancel
    caller: Caller
    bounds: AgentConfig
    is_agent: bool = False

    def __post_init__(self) -> None:
        model, shown = self.gateway.registry.resolve(self.request.model)
        self.info = Info(model=shown)
        if self.caller.allowance is not None:
            self.caller.allowance.for_model(partial(self.gateway.registry.names_of, model))
        self._end = self.gateway.clock() + self.bounds.timeout if self.is_agent else math.inf
        self._tokens = self.bounds.tokens if self.is_agent else math.inf
        self._owners: dict[str, Runner] = {}  # by the name of a tool
        self._first: Batch | None = None
        self._begun = False  # Started was sent
        self._usage = Usage()  # of all rounds, without summaries
        self._timings = Timings()  # of the last round
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
        for runner in self.runners:
            runner.close()
        if not self.info.outcome:
            self.info.outcome = "cancelled"

    def _rounds(self) -> Generator[Batch, None, None]:
        most = self.request.max_tool_calls or self.bounds.rounds
        try:
            with self.info.timed("tools"):
                listed = [event for runner in self.runners for event in runner.listed()]
                request = yield from self._prepared(self.offering(), listed)
            for count in range(self.bounds.rounds):
                if count == min(most, self.bounds.rounds - 1):
                    request = msgspec.structs.replace(request, tool_choice=ToolChoice("none"))
                left = self._tokens - self._usage.completion
                if left < 1 or self._left() <= 0:
                    yield [self._cut_off()]
                    return
                if left < math.inf:
                    most_tokens = min(request.max_tokens or left, left)
                    request = msgspec.structs.replace(request, max_tokens=int(most_tokens))
                called = yield from self._round(request, listed)
                if called is None:
                    return
                text, call, owner, finished = called
                self._begin_call()
                with self.info.timed("tools"):
                    observed = yield from owner.run(call, self._seconds())
                if observed is None:
                    self.info.outcome = "tool_calls"
                    yield [msgspec.structs.replace(finished, reason="tool_calls")]
                    return
                turn = (
                    Message(role="assistant", content=text, tool_calls=(call,)),
                    Message(role="tool", content=observed, name=call.name, tool_call_id=call.id),
                )
                # A forced call is forced only once.
                request = msgspec.structs.replace(
                    request, messages=(*request.messages, *turn), tool_choice=ToolChoice()
                )
        except GatewayError as error:
            self.info.outcome = error.code or error.type
            yield [Failed(error)]

    def _left(self) -> float:
        """Seconds until the answer has taken too long."""
        return self._end - self.gateway.clock()

    def _seconds(self) -> float:
        return min(self.bounds.tool_timeout, max(0.1, self._left()))

    def _cut_off(self) -> Finished:
        self.info.outcome = "length"
        return Finished(reason="length", usage=self._usage, timings=self._timings)

    def _owner(self, name: str) -> Runner | None:
        """Whose tool it is; None: the client's."""
        owner = self._owners.get(name)
        if owner is None and all(tool.name != name for tool in self.request.tools):
            owner = next((runner for runner in self.runners if runner.takes_unknown), None)
        return owner

    def _begin_call(self) -> None:
        """Note that a tool is about to run. Another try would run it again, so from now on even a
        request that uses idle slots only waits for a slot, and keeps it. Raises Cancelled."""
        self.cancel.check()
        self.caller = msgspec.structs.replace(self.caller, idle=False)
        self.info.has_effects = True

    def offering(self) -> CompletionRequest:
        """The request with all tools; those of the client take precedence."""
        own = {tool.name for tool in self.request.tools}
        offered = []
        for runner in self.runners:
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
        if request.approved:
            if self.caller.allowance is not None:
                # The first round would ask for it only after the tools have run.
                self.caller.allowance.begin(self.info.model)
            self._begin_call()
            self._begun = True
            yield [Started(), *listed]
            for runner in self.runners:
                request = yield from runner.prepare(request, self._seconds())
            self.caller = msgspec.structs.replace(self.caller, patience=math.inf)
        return request

    def _round(
        self, request: CompletionRequest, listed: list[Event]
    ) -> Generator[Batch, None, tuple[str, ToolCall, Runner, Finished] | None]:
        """Streams one round. If the model calls a tool to run, returns what it wrote before, the
        call and who runs it, and the end of its answer."""
        answer = self.gateway.answer(request, self.cancel, self.caller)
        self.info.steps += (answer.info,)
        text: list[str] = []
        call: ToolCall | None = None
        owner: Runner | None = None
        finished: Finished | None = None
        client_calls: set[int] = set()
        try:
            for _, batch in answer:
                self.info.place = answer.info.place
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
                        if call is None and event.name and (owner := self._owner(event.name)):
                            call = ToolCall(event.id, event.name, event.arguments)
                            continue
                        if call is not None and event.index not in client_calls:
                            call = msgspec.structs.replace(
                                call, arguments=call.arguments + event.arguments
                            )
                            continue
                        client_calls.add(event.index)
                    elif isinstance(event, Withdrawn):
                        if not event.reasoning:
                            text = ["".join(text)[: -event.characters]]
                    elif isinstance(event, Failed):
                        raise event.error
                    elif isinstance(event, Compacted):
                        self.info.compacted = event.messages
                    elif isinstance(event, Finished):
                        self._usage += event.usage
                        self._timings = event.timings
                        event = msgspec.structs.replace(event, usage=self._usage)
                        if call is not None and event.reason != "length":
                            finished = event
                            continue
                        self.info.outcome = event.reason
                        call = None
                    out.append(event)
                if finished is None and not self.info.outcome and self._left() <= 0:
                    yield [*out, self._cut_off()]
                    return None
                if out or not batch:
                    yield out
        finally:
            answer.close()
            add(self.info, answer.info)
        if call is None or owner is None or finished is None:
            return None
        return "".join(text), call, owner, finished

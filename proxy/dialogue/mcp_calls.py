"""Calls to tools of MCP servers that an answer makes, with the client's approval where the request
wants it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from ..agent import Remotes, Toolbox
from ..agent.functions import FAILED, NAME, ChildTool, ToolError
from ..agent.remote import Remote
from ..core.events import ApprovalRequested, Batch, Event, ListedTool, ServerCall, ToolsListed
from ..core.mcp import ApprovedCall, McpServer, function_name
from ..core.request import CompletionRequest, Message, Tool, ToolCall
from ..errors import Cancelled, GatewayError, UpstreamTimeout
from ..gateway import Caller
from ..runtime.cancel import Cancel
from .background import run_with_ticks
from .events import arguments_of

MOST_TOOLS = 128  # of one server
MOST_RESULT = 24_000  # characters of a result
TIMED_OUT = -32001  # what MCP clients call a request without an answer
LISTING = 35.0  # seconds; the listing itself has a shorter limit

T = TypeVar("T")


class _Offer(NamedTuple):
    server: McpServer
    tool: ChildTool

    @property
    def asks(self) -> bool:
        """Whether the client must approve a call."""
        return self.server.approval.asks(self.tool.tool.name, _read_only(self.tool))


class ServerRunner:
    """Calls the tools of these servers for the caller. `seconds` is the limit of a call, `interval`
    the seconds between ticks."""

    def __init__(
        self,
        toolbox: Toolbox,
        remotes: Remotes,
        request: CompletionRequest,
        caller: Caller,
        cancel: Cancel,
        seconds: float,
        interval: float,
    ) -> None:
        self._toolbox = toolbox
        self._remotes = remotes
        self._opened: list[Remote] = []
        self._servers = request.servers
        self._approved = request.approved
        self._caller = caller
        self._cancel = cancel
        self._seconds = seconds
        self._interval = interval
        self._offers: dict[str, _Offer] = {}

    def listed(self) -> list[Event]:
        """Raises NotFound for a server that is not configured, and Forbidden for a URL that is not
        allowed, or if the caller may use none of a server's tools. A server that does not list
        its tools is an event, unless it is required."""
        events: list[Event] = []
        for server in self._servers:
            try:
                tools = self._permitted(server, self._of(server))
            except GatewayError as error:
                if error.status < 500 or server.required:
                    raise
                events.append(ToolsListed(server.label, error=error.message))
                continue
            for tool in tools:
                self._offers[server.function(tool.tool.name)] = _Offer(server, tool)
            if not server.listed:
                events.append(ToolsListed(server.label, tuple(map(_described, tools))))
        return events

    def tools(self) -> Sequence[Tool]:
        return [
            msgspec.structs.replace(offer.tool.tool, name=name)
            for name, offer in self._offers.items()
        ]

    def prepare(
        self, request: CompletionRequest
    ) -> Generator[Batch, None, CompletionRequest] | None:
        return self._made(request) if self._approved else None

    def run(self, call: ToolCall) -> Generator[Batch, None, str | None]:
        offer = self._offers[call.name]
        name = offer.tool.tool.name
        if offer.asks:
            yield [ApprovalRequested(offer.server.label, name, call.arguments)]
            return None
        event = ServerCall(
            id=call.id, label=offer.server.label, name=name, arguments=call.arguments
        )
        return (yield from self._called(event, offer.tool))

    def close(self) -> None:
        """Close the servers that the request names by URL; those that are configured stay open."""
        for remote in self._opened:
            remote.close()

    def _of(self, server: McpServer) -> list[ChildTool]:
        if server.url:
            self._caller.may.check_tool(server.url)
            remote = self._remotes.open(server.label, server.url, server.headers)
            self._opened.append(remote)
            return _result(run_with_ticks(lambda _: remote.tools(), self._cancel, LISTING, 0))
        work = run_with_ticks(
            lambda _: self._toolbox.of_server(server.label), self._cancel, LISTING, 0
        )
        return _result(work)

    def _permitted(self, server: McpServer, tools: Sequence[ChildTool]) -> list[ChildTool]:
        """The tools that request and caller permit. Raises Forbidden."""
        may = self._caller.may
        fitting = [
            tool
            for tool in tools
            if server.allowed.fits(tool.tool.name, _read_only(tool))
            and NAME.fullmatch(server.function(tool.tool.name))
        ]
        if server.url:
            return fitting[:MOST_TOOLS]  # the URL is what is permitted
        found = [tool for tool in fitting if may.permits_tool(server.function(tool.tool.name))]
        if fitting and not found:
            may.check_tool(server.function(fitting[0].tool.name))
        return found[:MOST_TOOLS]

    def _made(self, request: CompletionRequest) -> Generator[Batch, None, CompletionRequest]:
        """Makes the approved calls, and puts their results into the messages."""
        results: dict[str, str] = {}
        for approved in self._approved:
            results[approved.id] = yield from self._approved_call(approved)
        messages = tuple(_with_result(message, results) for message in request.messages)
        return msgspec.structs.replace(request, messages=messages)

    def _approved_call(self, approved: ApprovedCall) -> Generator[Batch, None, str]:
        offer = self._offers.get(function_name(approved.label, approved.name))
        event = ServerCall(
            id=approved.id,
            label=approved.label,
            name=approved.name,
            arguments=approved.arguments,
            approval=approved.id,
        )
        return (yield from self._called(event, offer.tool if offer else None))

    def _called(self, event: ServerCall, tool: ChildTool | None) -> Generator[Batch, None, str]:
        """Makes a call: yields its events and returns the text for the model."""
        yield [event]
        given = arguments_of(ToolCall("", "", event.arguments))
        code = 0
        try:
            if tool is None:
                raise ToolError("the tool is not available", FAILED)
            if given is None:
                raise ToolError("the arguments must be a JSON object")
            work = run_with_ticks(
                _calling(tool, given, self._seconds), self._cancel, self._seconds, self._interval
            )
            try:
                while True:
                    try:
                        next(work)
                    except StopIteration as finished:
                        text: str = _cut(finished.value)
                        break
                    yield []
            finally:
                work.close()
        except Cancelled:
            raise
        except ToolError as fault:
            error, code = str(fault), fault.code
        except GatewayError as fault:
            error = fault.message
            code = TIMED_OUT if isinstance(fault, UpstreamTimeout) else FAILED
        else:
            yield [msgspec.structs.replace(event, over=True, output=text)]
            return text
        error = _cut(error)
        yield [msgspec.structs.replace(event, over=True, error=error, code=code)]
        return f"Error: {error}"


def _calling(
    tool: ChildTool, arguments: dict[str, object], seconds: float
) -> Callable[[Cancel], str]:
    return lambda cancel: tool.call(arguments, cancel, seconds)


def _result(work: Generator[object, None, T]) -> T:
    """The result of work that does not tick."""
    try:
        while True:
            next(work)
    except StopIteration as finished:
        found: T = finished.value
        return found
    finally:
        work.close()


def _read_only(tool: ChildTool) -> bool:
    return tool.annotations.get("readOnlyHint") is True


def _described(tool: ChildTool) -> ListedTool:
    own = tool.tool
    return ListedTool(own.name, own.description, own.parameters, tool.annotations)


def _with_result(message: Message, results: dict[str, str]) -> Message:
    if message.role != "tool" or message.tool_call_id not in results:
        return message
    return msgspec.structs.replace(message, content=results[message.tool_call_id])


def _cut(text: str) -> str:
    return text if len(text) <= MOST_RESULT else text[:MOST_RESULT] + "…"

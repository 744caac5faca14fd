"""What runs the tools of an answer: searches, those of an agent, and those of MCP servers with the
client's approval where the request wants it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from ..agent.functions import NAME, ChildTool, RunnableTool
from ..agent.toolbox import Remote, Remotes, Toolbox
from ..core.events import (
    ApprovalRequested,
    Batch,
    Event,
    Found,
    ListedTool,
    Searched,
    ServerCall,
    ToolsListed,
)
from ..core.mcp import McpServer, function_name
from ..core.request import CompletionRequest, Message, Search, Tool, ToolCall
from ..errors import Cancelled, GatewayError
from ..gateway import Caller
from ..runtime.cancel import Cancel
from .events import Citation, arguments_of
from .finding import NONE_FOUND, CitationNumbers, Finder, context, offered
from .loop import Runner, result_of, run_with_ticks

MOST_OBSERVED = 6000  # characters of the result of an agent's tool
MOST_TOOLS = 128  # of one server
MOST_RESULT = 24_000  # characters of the result of a server's tool
LISTING = 35.0  # seconds; the listing itself has a shorter limit

T = TypeVar("T")


class SearchRunner(Runner):
    """Makes these searches for the owner: the built-in tools of /v1/responses."""

    def __init__(
        self,
        finder: Finder,
        searches: Sequence[Search],
        owner: str,
        cancel: Cancel,
        interval: float,
    ) -> None:
        super().__init__(cancel, interval)
        self._finder = finder
        self._searches = {search.name: search for search in searches}
        self._owner = owner
        self._numbers = CitationNumbers()

    def tools(self) -> Sequence[Tool]:
        return [offered(search) for search in self._searches.values()]

    def run(self, call: ToolCall, seconds: float) -> Generator[Batch, None, str]:
        search = self._searches[call.name]
        given = (arguments_of(call.arguments) or {}).get("query")
        query = given.strip() if isinstance(given, str) else ""
        yield [Searched(search.kind, query)]

        def find(cancel: Cancel) -> list[Citation]:
            return self._finder.result(search, self._owner, query, cancel) if query else []

        try:
            citations = yield from self.aside(find, seconds)
        except Cancelled:
            raise
        except GatewayError as error:
            yield [Searched(search.kind, query, over=True, failed=True)]
            return f"Error: {error.message}"
        cited, _ = self._numbers.add(citations)
        found = tuple(
            Found(
                number=citation.number,
                title=citation.title,
                text=citation.text,
                url=citation.url,
                file_id=citation.document_id,
                score=citation.score,
            )
            for citation in cited
        )
        yield [Searched(search.kind, query, over=True, found=found)]
        return context(cited) or NONE_FOUND


class AgentRunner(Runner):
    """Calls the tools of an agent. The model reads of a tool that it made up."""

    takes_unknown = True
    longest = MOST_OBSERVED

    def __init__(self, tools: Mapping[str, RunnableTool], cancel: Cancel, interval: float) -> None:
        super().__init__(cancel, interval)
        self._tools = tools

    def tools(self) -> Sequence[Tool]:
        return [tool.tool for tool in self._tools.values()]

    def run(self, call: ToolCall, seconds: float) -> Generator[Batch, None, str]:
        event = ServerCall(id=call.id, label="", name=call.name, arguments=call.arguments)
        missing = f"unknown tool: {call.name}"
        return self.call_tool(event, self._tools.get(call.name), seconds, missing)


class _Offer(NamedTuple):
    server: McpServer
    tool: ChildTool

    @property
    def asks(self) -> bool:
        """Whether the client must approve a call."""
        return self.server.approval.asks(self.tool.tool.name, _read_only(self.tool))


class ServerRunner(Runner):
    """Calls the tools of the servers of a request, for the caller."""

    longest = MOST_RESULT

    def __init__(
        self,
        toolbox: Toolbox,
        remotes: Remotes,
        request: CompletionRequest,
        caller: Caller,
        cancel: Cancel,
        interval: float,
    ) -> None:
        super().__init__(cancel, interval)
        self._toolbox = toolbox
        self._remotes = remotes
        self._opened: list[Remote] = []
        self._servers = request.servers
        self._approved = request.approved
        self._caller = caller
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
        self, request: CompletionRequest, seconds: float
    ) -> Generator[Batch, None, CompletionRequest] | None:
        return self._made(request, seconds) if self._approved else None

    def run(self, call: ToolCall, seconds: float) -> Generator[Batch, None, str | None]:
        offer = self._offers[call.name]
        name = offer.tool.tool.name
        if offer.asks:
            yield [ApprovalRequested(offer.server.label, name, call.arguments)]
            return None
        event = ServerCall(
            id=call.id, label=offer.server.label, name=name, arguments=call.arguments
        )
        return (yield from self.call_tool(event, offer.tool, seconds))

    def close(self) -> None:
        """Close the servers that the request names by URL; those that are configured stay open."""
        for remote in self._opened:
            remote.close()

    def _of(self, server: McpServer) -> list[ChildTool]:
        if server.url:
            self._caller.may.check_tool(server.url)
            remote = self._remotes.open(server.label, server.url, server.headers)
            self._opened.append(remote)
            return self._result(remote.tools)
        return self._result(lambda: self._toolbox.of_server(server.label))

    def _result(self, work: Callable[[], T]) -> T:
        """The result of work that can be abandoned."""
        return result_of(run_with_ticks(lambda _: work(), self._cancel, LISTING, 0, list[Event]))

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

    def _made(
        self, request: CompletionRequest, seconds: float
    ) -> Generator[Batch, None, CompletionRequest]:
        """Makes the approved calls, and puts their results into the messages."""
        results: dict[str, str] = {}
        for approved in self._approved:
            offer = self._offers.get(function_name(approved.label, approved.name))
            event = ServerCall(
                id=approved.id,
                label=approved.label,
                name=approved.name,
                arguments=approved.arguments,
                approval=approved.id,
            )
            tool = offer.tool if offer else None
            results[approved.id] = yield from self.call_tool(event, tool, seconds)
        messages = tuple(_with_result(message, results) for message in request.messages)
        return msgspec.structs.replace(request, messages=messages)


def _read_only(tool: ChildTool) -> bool:
    return tool.annotations.get("readOnlyHint") is True


def _described(tool: ChildTool) -> ListedTool:
    own = tool.tool
    return ListedTool(own.name, own.description, own.parameters, tool.annotations)


def _with_result(message: Message, results: dict[str, str]) -> Message:
    if message.role != "tool" or message.tool_call_id not in results:
        return message
    return msgspec.structs.replace(message, content=results[message.tool_call_id])

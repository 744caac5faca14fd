"""Collects all tools that the settings allow, by name.

Tools of other processes are listed when first needed, not at startup. A server that is down only
makes its own tools unavailable, and is tried again later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ..core.mcp import fitting, function_name, names_address
from ..core.request import Tool
from ..errors import Forbidden, GatewayError, InvalidParameter, NotFound, QueueFull, UpstreamFault
from ..runtime.cancel import Cancel
from ..runtime.subprocesses import Children
from . import calculator, functions
from .functions import Reach, RunnableTool, Server, child_tool, local_tool

log = logging.getLogger("slotproxy.tools")

CALCULATOR, TIME = OWN = "calculator", "time"
MOST_REMOTE = 16  # servers that requests name, in use at once, for all requests together
AGAIN = 30.0  # seconds until a failed source of tools is tried again
MCP = "proxy.agent.mcp"  # the child that speaks to an MCP server
PATIENCE = 60.0  # seconds for a server to start and list its tools; npx may fetch it first


class Toolbox:
    """`allowed` are names: `calculator`, `time`, installed functions, and MCP servers (with all
    their tools). `clock` returns monotonic seconds, `now` the current time."""

    def __init__(
        self,
        allowed: Sequence[str],
        servers: Sequence[Server] = (),
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        own = {
            CALCULATOR: local_tool(
                CALCULATOR,
                "Evaluate an arithmetic expression, for example 2 * (3 + 4) or sqrt(2)",
                _Expression,
                lambda given, _: calculator.calculate(given.expression),
            ),
            TIME: local_tool(
                TIME,
                "Get the current date and time",
                _Nothing,
                lambda *_: now().astimezone().strftime("%A, %Y-%m-%d %H:%M:%S %z"),
            ),
        }
        self._own: dict[str, RunnableTool] = {name: own[name] for name in allowed if name in own}
        self._sources = {
            server.name: _Source(server.name, _children(server), partial(_tools_of, server), clock)
            for server in servers
            if server.name in allowed
        }
        names = set(allowed) - set(own) - {server.name for server in servers}
        chosen = [name for name in functions.installed() if name in names] if names else []
        if chosen:
            children = functions.children(chosen)
            self._sources[""] = _Source("functions", children, functions.tools, clock)

    def __bool__(self) -> bool:
        return bool(self._own or self._sources)

    def tools(self, *, published: bool = False) -> dict[str, RunnableTool]:
        """The tools available now, by name; the first of a name wins. Those of an MCP server that
        are `published` have its name before their own. May wait for servers."""
        tools = dict(self._own)
        for server, source in self._sources.items():
            with suppress(GatewayError):  # one that cannot list its tools has none
                for tool in source.listed():
                    name = tool.tool.name
                    if published and server:
                        name = function_name(server, name)
                    tools.setdefault(name, tool)
        return tools

    def of_server(self, name: str) -> list[RunnableTool]:
        """The tools of an MCP server. May wait for it. Raises NotFound, and the error of a server
        that cannot list its tools."""
        source = self._sources.get(name)
        if source is None:
            names = ", ".join(filter(None, self._sources)) or "none"
            raise NotFound(
                f"no MCP server {name[:64]!r} is configured for requests: --tools names {names}"
            )
        return source.listed()

    def close(self) -> None:
        for source in self._sources.values():
            source.children.close()


class _Source(Struct, eq=False, dict=True):
    name: str
    children: Children
    tools_of: Callable[[Children], list[RunnableTool]]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._tools: list[RunnableTool] | None = None
        self._failed = 0.0
        self._error = ""

    def listed(self) -> list[RunnableTool]:
        """The tools. Raises the error of a source that cannot list them, for a while without
        trying again."""
        with self._lock:
            if self._tools is not None:
                return self._tools
            if self._error and self.clock() - self._failed < AGAIN:
                raise UpstreamFault(self._error)  # a new one: each raise adds to a traceback
            try:
                self._tools = self.tools_of(self.children)
            except GatewayError as error:
                self._failed, self._error = self.clock(), error.message
                log.warning(
                    "could not list the tools of %s: %s %s", self.name, error.message, error.detail
                )
                raise
            return self._tools


def _children(server: Server) -> Children:
    setup = msgspec.to_builtins(server)
    return Children(MCP, setup, most=1) if server.reach else Children(MCP, setup, whole=True)


def _tools_of(server: Server, children: Children) -> list[RunnableTool]:
    """The tools of a server that may be used. Raises UpstreamFault and UpstreamTimeout."""
    listed = children.ask({}, Cancel(), PATIENCE)
    if "wrong" in listed:
        raise UpstreamFault(
            f"MCP server {server.name}: {listed['wrong']}", detail=listed.get("detail", "")
        )
    if names := listed["ignored"]:
        log.warning(
            "ignoring tools of MCP server %s whose name or schema is invalid or too long, or which"
            " are too many: %s",
            server.name,
            names,
        )
    return [
        child_tool(Tool(name, text, schema, annotations=said or {}, server=server.name), children)
        for name, text, schema, said in listed["tools"]
    ]


class Remotes:
    """`patterns` are the URLs that requests may name, as `core.mcp` reads them."""

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        self._patterns = tuple(patterns)
        self._free = threading.Semaphore(MOST_REMOTE)

    @contextmanager
    def open(
        self, label: str, url: str, headers: Mapping[str, str]
    ) -> Iterator[Callable[[], list[RunnableTool]]]:
        """A server in use: a function that lists its tools, and raises UpstreamFault and
        UpstreamTimeout. Raises Forbidden, InvalidParameter and QueueFull."""
        try:
            patterns = fitting(self._patterns, url)
        except ValueError as error:
            raise InvalidParameter("server_url", str(error)) from None
        if not patterns:
            raise Forbidden(
                "requests may not use MCP servers at this URL: the administrator allows URLs with"
                " --mcp-url",
                param="server_url",
            )
        if not self._free.acquire(blocking=False):
            raise QueueFull("too many MCP servers are in use: try again", retry_after=5.0)
        reach: Reach = "any" if any(map(names_address, patterns)) else "public"
        server = Server(name=label, url=url, headers=dict(headers), reach=reach)
        children = _children(server)
        try:
            yield partial(_tools_of, server, children)
        finally:
            self._free.release()
            children.close()


class _Expression(Struct, frozen=True, forbid_unknown_fields=True):
    expression: Annotated[
        str, Meta(max_length=200, description="the expression, such as 2 * (3 + 4)")
    ]


class _Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    pass

"""All tools that the settings allow, by name.

What runs elsewhere is asked for its tools when they are first needed, not at the start: a server
that is down costs its own tools, and is asked again a while later.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..cancel import Cancel
from ..children import Children
from ..core.request import Tool
from ..errors import GatewayError
from . import calculator, functions
from .values import Runs, Server, ToolError

log = logging.getLogger("slotproxy.tools")

CALCULATOR, TIME = OWN = "calculator", "time"
AGAIN = 30.0  # seconds until a source of tools that failed is asked again


class Toolbox:
    """`allowed` are names: `calculator`, `time`, those of installed functions and of MCP servers
    (then all their tools). `clock` gives monotonic seconds, `now` the time of day."""

    def __init__(
        self,
        allowed: Sequence[str],
        servers: Sequence[Server] = (),
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        own: dict[str, Runs] = {
            CALCULATOR: _Own(_CALCULATOR, _calculate),
            TIME: _Own(_TIME, lambda _: now().astimezone().strftime("%A, %Y-%m-%d %H:%M:%S %z")),
        }
        self._own = [own[name] for name in allowed if name in own]
        self._sources = [
            _Source(server.name, _offers(server), clock)
            for server in servers
            if server.name in allowed
        ]
        names = set(allowed) - set(own) - {server.name for server in servers}
        chosen = [name for name in functions.installed() if name in names] if names else []
        if chosen:
            self._sources.append(_Source("functions", lambda: functions.functions(chosen), clock))

    def __bool__(self) -> bool:
        return bool(self._own or self._sources)

    def tools(self) -> dict[str, Runs]:
        """What is there now, by name; the first of a name wins. May wait for servers."""
        found: dict[str, Runs] = {}
        for one in (*self._own, *(tool for source in self._sources for tool in source.tools())):
            found.setdefault(one.tool.name, one)
        return found

    def close(self) -> None:
        for source in self._sources:
            source.close()


class _Source:
    """Tools that another process has."""

    def __init__(
        self,
        name: str,
        offers: Callable[[], tuple[list[Runs], Children]],
        clock: Callable[[], float],
    ) -> None:
        self._name = name
        self._offers = offers
        self._clock = clock
        self._lock = threading.Lock()
        self._tools: list[Runs] | None = None
        self._children: Children | None = None
        self._failed = -AGAIN

    def tools(self) -> list[Runs]:
        with self._lock:
            if self._tools is None and self._clock() - self._failed >= AGAIN:
                try:
                    self._tools, self._children = self._offers()
                except GatewayError as error:
                    self._failed = self._clock()
                    log.warning("no tools of %s: %s", self._name, error.message)
            return self._tools or []

    def close(self) -> None:
        if self._children is not None:
            self._children.close()


def _offers(server: Server) -> Callable[[], tuple[list[Runs], Children]]:
    def offers() -> tuple[list[Runs], Children]:
        from . import mcp  # late: asyncio and jsonschema are for who has such servers

        children = mcp.children(server)
        try:
            return mcp.tools(server, children), children
        except GatewayError:
            children.close()
            raise

    return offers


class _Own:
    """A tool of ours, done at once."""

    def __init__(self, tool: Tool, function: Callable[[Mapping[str, Any]], str]) -> None:
        self.tool = tool
        self._function = function

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        return self._function(arguments)


def _calculate(arguments: Mapping[str, Any]) -> str:
    text = arguments.get("expression")
    if not isinstance(text, str):
        raise ToolError("expression must be a text like 2 * (3 + 4)")
    try:
        return calculator.calculate(text)
    except calculator.Wrong as error:
        raise ToolError(str(error)) from None


_CALCULATOR = Tool(
    CALCULATOR,
    "Work out an arithmetic expression, for example 2 * (3 + 4) or sqrt(2)",
    {
        "type": "object",
        "properties": {
            "expression": {"type": "string", "description": "the expression", "maxLength": 200}
        },
        "required": ["expression"],
        "additionalProperties": False,
    },
)
_TIME = Tool(
    TIME,
    "Get the present date and time",
    {"type": "object", "properties": {}, "additionalProperties": False},
)

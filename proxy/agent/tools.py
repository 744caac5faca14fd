"""The interface of tools, and the configuration of MCP servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from ..core.request import Tool
from ..runtime.cancel import Cancel
from ..runtime.subprocesses import Children


class ToolError(Exception):
    """A tool call failed; the message is for the model."""


class Server(Struct, frozen=True, kw_only=True):
    """An MCP server. `command` is started and used over its standard streams, or `url` is the
    address of a streamable HTTP server that receives these `headers`. `tools` are the names that
    may be used, () for all."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    tools: tuple[str, ...] = ()


class RunnableTool(Protocol):
    """A tool that can be called."""

    @property
    def tool(self) -> Tool: ...

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        """The tool's observation. Raises ToolError, Cancelled, UpstreamTimeout, UpstreamFault."""


class ChildTool(NamedTuple):
    """A tool that runs in a child process."""

    tool: Tool
    children: Children

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        question = {"call": self.tool.name, "arguments": arguments}
        answer = self.children.ask(question, cancel, seconds)
        if "wrong" in answer:
            raise ToolError(answer["wrong"])
        return str(answer["text"])

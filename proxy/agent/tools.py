"""The interface of tools, and the configuration of MCP servers."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from ..core.request import Tool
from ..runtime.cancel import Cancel
from ..runtime.subprocesses import Children

log = logging.getLogger("slotproxy.tools")

# Names are inserted into prompts and grammars unescaped: no quotes or line breaks.
NAME = re.compile(r"[\w./:@-]{1,128}")
FAILED = -32603  # JSON-RPC's code of an internal error


Reach = Literal["", "public", "any"]


class ToolError(Exception):
    """A tool call failed; the message is for the model. `code` is a JSON-RPC code if the server
    refused the call, 0 if the tool itself failed."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Server(Struct, frozen=True, kw_only=True):
    """An MCP server. `command` is started and used over its standard streams, or `url` is the
    address of a streamable HTTP server that receives these `headers`. `tools` are the names that
    may be used, () for all. `reach` is for a server that a request names: its process is confined,
    and connects to public addresses or to any; "" for a server of the operator's."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    tools: tuple[str, ...] = ()
    reach: Reach = ""


class RunnableTool(Protocol):
    """A tool that can be called."""

    @property
    def tool(self) -> Tool: ...

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        """The tool's observation. Raises ToolError, Cancelled, UpstreamTimeout, UpstreamFault."""


class ChildTool(NamedTuple):
    """A tool that runs in a child process. `annotations` are what an MCP server says about it."""

    tool: Tool
    children: Children
    annotations: Mapping[str, Any] = {}

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        question = {"call": self.tool.name, "arguments": arguments}
        answer = self.children.ask(question, cancel, seconds)
        if "wrong" in answer:
            if detail := answer.get("detail"):
                log.warning("a call of the tool %s failed: %s", self.tool.name, detail)
            raise ToolError(answer["wrong"], answer.get("code", 0))
        return str(answer["text"])

"""What tools are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from msgspec import Struct

from ..cancel import Cancel
from ..core.request import Tool


class ToolError(Exception):
    """A tool that cannot do what it was asked; the message is for the model."""


class Server(Struct, frozen=True):
    """An MCP server: `command` is started and spoken to over its standard streams, or `url` is
    that of one that speaks streamable HTTP, with these `headers`. `tools` are the names that may be
    used, () for all."""

    name: str
    command: tuple[str, ...] = ()
    url: str = ""
    env: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    tools: tuple[str, ...] = ()


class Runs(Protocol):
    """A tool, ready to be called."""

    @property
    def tool(self) -> Tool: ...

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        """Its observation. Raises ToolError, Cancelled, UpstreamTimeout, UpstreamFault."""

"""The tool_choice of /v1/responses, and what it leaves of the tools."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...core.mcp import function_name
from ...core.request import ToolChoice
from ...errors import InvalidParameter
from ..fields import Body, entry, items, plain, text

AT = "tool_choice."


class Chosen(NamedTuple):
    """`only` are the tools that it allows, as (kind, name): a function by its name, a search by
    web_search or file_search, an MCP server by its label. None allows all."""

    choice: ToolChoice
    only: frozenset[tuple[str, str]] | None = None

    def allows(self, kind: str, name: str) -> bool:
        return self.only is None or (kind, name) in self.only


def parse(value: Any, warnings: list[str]) -> Chosen:
    """Raises InvalidParameter."""
    if value is None or value == "auto":
        return Chosen(ToolChoice())
    if value in ("none", "required"):
        return Chosen(ToolChoice(value))
    if isinstance(value, dict):
        kind = text(value, "type", at=AT)
        if kind == "allowed_tools":
            return _allowed(value)
        if kind == "file_search" or kind.startswith("web_search"):
            return Chosen(ToolChoice("named", _tool(value, AT)[1]))
        if kind == "mcp":
            label, name = text(value, "server_label", at=AT), text(value, "name", at=AT)
            if name:
                return Chosen(ToolChoice("named", function_name(label, name)))
            return Chosen(ToolChoice("required"), frozenset([("mcp", label)]))
        if kind in ("function", "custom"):
            if name := text(value, "name", at=AT):
                return Chosen(ToolChoice("named", name))
        else:
            warnings.append(f"tool_choice of type {plain(kind)} is ignored")
            return Chosen(ToolChoice())
    raise InvalidParameter("tool_choice", "must be auto, none, required or name a tool")


def _allowed(value: Body) -> Chosen:
    mode = text(value, "mode", "auto", at=AT)
    if mode not in ("auto", "required"):
        raise InvalidParameter("tool_choice.mode", "must be auto or required")
    at = "tool_choice.tools"
    only = frozenset(_tool(entry(tool, at), at + ".") for tool in items(value, "tools", at=AT))
    return Chosen(ToolChoice("required" if mode == "required" else "auto"), only)


def _tool(value: Body, at: str) -> tuple[str, str]:
    kind = text(value, "type", "function", at=at)
    if kind == "mcp":
        return kind, text(value, "server_label", at=at)
    if kind.startswith("web_search"):
        return "search", "web_search"
    if kind == "file_search":
        return "search", kind
    return "function", text(value, "name", at=at)

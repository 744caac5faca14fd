"""Tools in OpenAI's format: definitions, tool_choice and calls, and the legacy `functions` and
`function_call`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ...core.decoding import decoded
from ...core.events import ToolCallDelta
from ...core.request import Tool, ToolCall, ToolChoice
from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, entry, filled, flag, integer, items, mapping, plain, text
from ..schema_fields import Fields

MAX_TOOLS = 1024
# Letters of any script, and the characters MCP clients join names with. No quotes or line breaks:
# names are inserted into prompts and grammars unescaped.
NAME = re.compile(r"[\w./:@-]{1,128}")
EXAMPLE = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
PARALLEL = doc.flag("Allow several calls in one answer.", True)
CALLS = doc.count("Maximum calls in one answer.", 1, 1 << 30, 8)
FIELDS: Fields = {
    "tools": doc.array("Functions the model may call.", [EXAMPLE]),
    "functions": doc.array("Functions in the legacy format; cannot be combined with tools.", []),
    "tool_choice": doc.one_of(
        "auto, none, required, a function by its name, or allowed_tools.",
        "auto",
        doc.TEXT,
        doc.OBJECT,
    ),
    "parallel_tool_calls": PARALLEL,
    "max_tool_calls": CALLS,
}
LEGACY = "functions"
"""Key in CompletionRequest.extra: the client sent `functions` and expects `function_call`."""


def tools(values: list[Any]) -> tuple[Tool, ...]:
    """The functions. Other types of tools (web_search, …) are ignored, as clients that offer them
    expect; `skipped` warns about them."""
    if len(values) > MAX_TOOLS:
        raise InvalidParameter("tools", f"may contain at most {MAX_TOOLS}")
    out: dict[str, Tool] = {}
    for i, value in enumerate(values):
        body = entry(value, f"tools[{i}]")
        if _kind(body, i) == "function":
            at = f"tools[{i}].function."
            tool = _tool(mapping(body, "function", at=f"tools[{i}]."), at)
            if tool.name in out:
                raise InvalidParameter(at + "name", f"is defined twice: {tool.name}")
            out[tool.name] = tool
    return tuple(out.values())


def skipped(values: list[Any]) -> tuple[str, ...]:
    """One warning for each type of tool that is ignored."""
    kinds = {_kind(entry(value, f"tools[{i}]"), i) for i, value in enumerate(values)}
    return tuple(
        f"tools of type {plain(kind)} are ignored" for kind in sorted(kinds - {"function"})
    )


def functions(values: list[Any]) -> tuple[Tool, ...]:
    """The legacy format: a list of functions without the wrapping object."""
    return tools([{"type": "function", "function": value} for value in values])


def _kind(body: Body, i: int) -> str:
    return text(body, "type", "function", at=f"tools[{i}].")


def _tool(function: Body, at: str) -> Tool:
    name = text(function, "name", at=at)
    if not NAME.fullmatch(name):
        raise InvalidParameter(
            at + "name", "must be 1 to 128 letters, digits or _ - . / : @" if name else "is missing"
        )
    return Tool(
        name,
        text(function, "description", at=at),
        mapping(function, "parameters", at=at),
        flag(function, "strict", at=at),
    )


def tool_choice(value: Any) -> ToolChoice:
    if value is None or value == "auto":
        return ToolChoice()
    if value in ("none", "required"):
        return ToolChoice(value)
    if isinstance(value, dict):
        name = text(mapping(value, "function", "tool_choice."), "name", at="tool_choice.function.")
        if name:
            return ToolChoice("named", name)
    raise InvalidParameter("tool_choice", "must be auto, none, required or name a function")


def allowed(value: Any) -> tuple[Any, frozenset[str]] | None:
    """Of a tool_choice of type allowed_tools: its mode, as an ordinary tool_choice, and the names
    of the allowed tools. None for any other tool_choice."""
    if not isinstance(value, dict) or value.get("type") != "allowed_tools":
        return None
    body = value.get("allowed_tools", value)
    at = "tool_choice.tools"
    names = set()
    for raw in items(entry(body, "tool_choice"), "tools", at="tool_choice."):
        tool = entry(raw, at)
        names.add(text(mapping(tool, "function", at=at + ".") or tool, "name", at=at + "."))
    mode = text(body, "mode", "auto", at="tool_choice.")
    if mode not in ("auto", "required"):
        raise InvalidParameter("tool_choice.mode", "must be auto or required")
    return mode, frozenset(names)


def function_choice(value: Any) -> ToolChoice:
    """The legacy format: auto, none, or {name}."""
    if value is None or value in ("auto", "none"):
        return ToolChoice("none" if value == "none" else "auto")
    if isinstance(value, dict):
        name = text(value, "name", at="function_call.")
        if name:
            return ToolChoice("named", name)
    raise InvalidParameter("function_call", "must be auto, none or name a function")


def chosen(body: Body) -> dict[str, Any]:
    """The fields of CompletionRequest that concern tools, if the body has any. Raises
    InvalidParameter."""
    if body.keys().isdisjoint(FIELDS):
        return {}
    listed = items(body, "tools")
    if body.get("functions") is not None:
        if listed:
            raise InvalidParameter("functions", "cannot be combined with tools")
        return {
            "tools": functions(items(body, "functions")),
            "tool_choice": function_choice(body.get("function_call")),
            "parallel_tool_calls": False,
            "extra": {LEGACY: True},
        }
    offered, choice = tools(listed), body.get("tool_choice")
    some = allowed(choice)
    if some is not None:
        choice, names = some
        offered = tuple(tool for tool in offered if tool.name in names)
    return {
        "tools": offered,
        "tool_choice": tool_choice(choice),
        "parallel_tool_calls": flag(body, "parallel_tool_calls", True),
        "max_tool_calls": integer(body, "max_tool_calls", 1, 1 << 30),
        "warnings": skipped(listed),
    }


def calls(body: Body, at: str) -> tuple[ToolCall, ...]:
    """The calls of an assistant message, in the current format or the legacy one."""
    current = tuple(
        _call(entry(value, f"{at}tool_calls[{i}]"), f"{at}tool_calls[{i}].")
        for i, value in enumerate(items(body, "tool_calls", at=at))
    )
    legacy = mapping(body, "function_call", at=at)
    if legacy and not current:
        return (_named(legacy, "", at + "function_call."),)
    return current


def _call(body: Body, at: str) -> ToolCall:
    id = text(body, "id", at=at)
    if text(body, "type", at=at) == "custom":
        custom = mapping(body, "custom", at=at)
        written = {"input": text(custom, "input", at=at + "custom.")}
        return ToolCall(
            id, filled(custom, "name", at + "custom."), msgspec.json.encode(written).decode()
        )
    function = mapping(body, "function", at=at)
    if not function:
        raise InvalidParameter(at + "function", "is missing: a call has a name and arguments")
    return _named(function, id, at + "function.")


def _named(function: Body, id: str, at: str) -> ToolCall:
    return ToolCall(id, filled(function, "name", at), text(function, "arguments", at=at))


def written(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def as_object(arguments: str) -> dict[str, Any]:
    """A call's arguments parsed, for APIs that send an object; {} if they were cut off."""
    try:
        value = decoded(arguments or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def delta(event: ToolCallDelta, legacy: bool) -> dict[str, Any]:
    """A piece of a call as a chunk's delta: id and name come first, later pieces append arguments.
    The legacy format supports one call only."""
    function: dict[str, Any] = {"arguments": event.arguments}
    if event.name:
        function = {"name": event.name, **function}
    if legacy:
        return {"function_call": function}
    piece: dict[str, Any] = {"index": event.index, "function": function}
    if event.name:
        piece = {"index": event.index, "id": event.id, "type": "function", "function": function}
    return {"tool_calls": [piece]}

"""Tools in OpenAI's format: definitions, tool_choice and calls, and the legacy `functions` and
`function_call`."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from ...core.decoding import decoded_object
from ...core.events import ToolCallDelta
from ...core.request import Tool, ToolCall, ToolChoice
from ...errors import InvalidParameter
from .. import fields
from .. import schema_fields as doc
from ..fields import Body
from ..schema_fields import Field, Fields

MAX_TOOLS = 1024
# Letters of any script, and the characters MCP clients join names with. No quotes or line breaks:
# names are inserted into prompts and grammars unescaped.
NAME = re.compile(r"[\w./:@-]{1,128}")
EXAMPLE = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
}
CALLS: dict[str, Field] = {
    "parallel_tool_calls": doc.flag_field(
        "parallel_tool_calls", "Allow several calls in one answer.", True
    ),
    "max_tool_calls": doc.count_field(
        "max_tool_calls", "Maximum calls in one answer.", 1, 1 << 30, 8
    ),
}
FIELDS: Fields = {
    "tools": doc.array("Functions the model may call.", [EXAMPLE]),
    "functions": doc.array("Functions in the legacy format; cannot be combined with tools.", []),
    "tool_choice": doc.one_of(
        "auto, none, required, a function by its name, or allowed_tools.",
        "auto",
        doc.TEXT,
        doc.OBJECT,
    ),
}
LEGACY = "functions"
"""Key in CompletionRequest.extra: the client sent `functions` and expects `function_call`."""


def tools(values: list[Any]) -> tuple[tuple[Tool, ...], tuple[str, ...]]:
    """The functions, and a warning for each other type of tool, which is ignored."""
    offered, others = [], set()
    for body, at in fields.entries(values, "tools"):
        kind = fields.text(body, "type", "function", at=at)
        if kind == "function":
            offered.append((fields.mapping(body, "function", at), at + "function."))
        else:
            others.add(fields.header_safe(kind))
    warnings = tuple(f"tools of type {kind} are ignored" for kind in sorted(others))
    return _tools(offered), warnings


def functions(values: list[Any]) -> tuple[Tool, ...]:
    """A list of functions without the wrapping object."""
    return _tools([(body, at + "function.") for body, at in fields.entries(values, "tools")])


def _tools(offered: list[tuple[Body, str]]) -> tuple[Tool, ...]:
    if len(offered) > MAX_TOOLS:
        raise InvalidParameter("tools", f"may contain at most {MAX_TOOLS}")
    by_name: dict[str, Tool] = {}
    for function, at in offered:
        name = fields.filled(function, "name", at)
        if not NAME.fullmatch(name):
            raise InvalidParameter(at + "name", "must be 1 to 128 letters, digits or _ - . / : @")
        if name in by_name:
            raise InvalidParameter(at + "name", f"is defined twice: {name}")
        by_name[name] = Tool(
            name,
            fields.text(function, "description", at=at),
            fields.mapping(function, "parameters", at=at),
            fields.flag(function, "strict", at=at),
        )
    return tuple(by_name.values())


def named_choice(value: Any, function: Any, at: str, modes: str) -> ToolChoice:
    """A tool_choice: null, one of the `modes`, or an object whose `function` has a name."""
    if value is None or value == "auto":
        return ToolChoice()
    if type(value) is str and value in modes.split(", "):
        return ToolChoice(value)  # type: ignore[arg-type]  # one of the modes
    if isinstance(function, dict) and (name := fields.text(function, "name", at=at)):
        return ToolChoice("named", name)
    raise InvalidParameter(at.partition(".")[0], f"must be {modes} or name a function")


def tool_choice(value: Any) -> ToolChoice:
    function = value.get("function") if isinstance(value, dict) else None
    return named_choice(value, function, "tool_choice.function.", "auto, none, required")


def allowed(value: Any) -> tuple[Any, frozenset[str]] | None:
    """The mode and names of a tool_choice of type allowed_tools, None for any other."""
    if not isinstance(value, dict) or value.get("type") != "allowed_tools":
        return None
    body = fields.mapping(value, "allowed_tools", "tool_choice.") or value
    names = frozenset(
        fields.text(fields.mapping(tool, "function", at) or tool, "name", at=at)
        for tool, at in fields.objects(body, "tools", "tool_choice.")
    )
    return fields.choice(body, "mode", ("auto", "required"), "auto", "tool_choice."), names


def chosen(body: Body) -> dict[str, Any]:
    """The fields of CompletionRequest for a body with some of these FIELDS."""
    listed = fields.items(body, "tools")
    if body.get("functions") is not None:
        if listed:
            raise InvalidParameter("functions", "cannot be combined with tools")
        call = body.get("function_call")
        return {
            "tools": functions(fields.items(body, "functions")),
            "tool_choice": named_choice(call, call, "function_call.", "auto, none"),
            "parallel_tool_calls": False,
            "extra": {LEGACY: True},
        }
    (offered, warnings), choice = tools(listed), body.get("tool_choice")
    subset = allowed(choice)
    if subset is not None:
        choice, names = subset
        offered = tuple(tool for tool in offered if tool.name in names)
    return {
        "tools": offered,
        "tool_choice": tool_choice(choice),
        "warnings": warnings,
    }


def calls(body: Body, at: str) -> tuple[ToolCall, ...]:
    """The calls of an assistant message, in the current format or the legacy one."""
    current = [_call(call, path) for call, path in fields.objects(body, "tool_calls", at)]
    legacy = fields.mapping(body, "function_call", at=at)
    if legacy and not current:
        current.append(_named(legacy, "", at + "function_call."))
    return tuple(current)


def _call(body: Body, at: str) -> ToolCall:
    id = fields.text(body, "id", at=at)
    if fields.text(body, "type", at=at) == "custom":
        custom = fields.mapping(body, "custom", at)
        written = msgspec.json.encode({"input": fields.text(custom, "input", at=at + "custom.")})
        return ToolCall(id, fields.filled(custom, "name", at + "custom."), written.decode())
    function = fields.mapping(body, "function", at)
    if not function:
        raise InvalidParameter(at + "function", "is missing: a call has a name and arguments")
    return _named(function, id, at + "function.")


def _named(function: Body, id: str, at: str) -> ToolCall:
    name, arguments = fields.filled(function, "name", at), fields.text(function, "arguments", at=at)
    return ToolCall(id, name, arguments)


def written(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def as_object(arguments: str) -> dict[str, Any]:
    """A call's arguments parsed, for APIs that send an object; {} if they were cut off."""
    return decoded_object(arguments) or {}


def delta(event: ToolCallDelta, legacy: bool) -> dict[str, Any]:
    """A piece of a call as a chunk's delta. The legacy format supports one call only."""
    function: dict[str, Any] = {"arguments": event.arguments}
    head: dict[str, Any] = {"index": event.index}
    if event.name:
        function = {"name": event.name, **function}
        head |= {"id": event.id, "type": "function"}
    if legacy:
        return {"function_call": function}
    return {"tool_calls": [{**head, "function": function}]}

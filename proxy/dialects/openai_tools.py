"""Tools in OpenAI's form: what may be called, what must be, and calls on the wire; with the
`functions` and `function_call` of clients from before there were tools.
"""

from __future__ import annotations

import re
from typing import Any

from ..core.decoding import decoded
from ..core.events import ToolCallDelta
from ..core.invalid import Invalid
from ..core.request import Tool, ToolCall, ToolChoice
from .fields import Body, entry, flag, items, mapping, text

MAX_TOOLS = 1024
# Letters of any script, and what MCP clients join names with. Nothing that could end a quotation
# or a line: a name stands in prompts and grammars as it is.
NAME = re.compile(r"[\w./:@-]{1,128}")
FIELDS = frozenset({"tools", "functions", "tool_choice", "parallel_tool_calls"})
LEGACY = "functions"
"""In CompletionRequest.extra: the client speaks of functions and reads `function_call`."""


def tools(values: list[Any]) -> tuple[Tool, ...]:
    """Functions only: other kinds of tools (web_search, …) are another server's business and are
    skipped, as clients that offer them expect; `skipped` names them."""
    if len(values) > MAX_TOOLS:
        raise Invalid("tools", f"may hold {MAX_TOOLS} at most")
    out: dict[str, Tool] = {}
    for i, value in enumerate(values):
        body = entry(value, f"tools[{i}]")
        if _kind(body, i) == "function":
            at = f"tools[{i}].function."
            tool = _tool(mapping(body, "function", at=f"tools[{i}]."), at)
            if tool.name in out:
                raise Invalid(at + "name", f"is there twice: {tool.name}")
            out[tool.name] = tool
    return tuple(out.values())


def skipped(values: list[Any]) -> tuple[str, ...]:
    """Warnings for the tools that are left out, one a kind."""
    kinds = {_kind(entry(value, f"tools[{i}]"), i) for i, value in enumerate(values)}
    return tuple(
        f"tools of the type {plain(kind)} are skipped" for kind in sorted(kinds - {"function"})
    )


def functions(values: list[Any]) -> tuple[Tool, ...]:
    """The older form: a list of functions without a frame."""
    return tools([{"type": "function", "function": value} for value in values])


def _kind(body: Body, i: int) -> str:
    return text(body, "type", "function", at=f"tools[{i}].")


def plain(kind: str) -> str:
    """A client's word as a header may hold it."""
    return re.sub(r"[^\w.-]", "?", kind[:40], flags=re.ASCII)


def _tool(function: Body, at: str) -> Tool:
    name = text(function, "name", at=at)
    if not NAME.fullmatch(name):
        raise Invalid(
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
    raise Invalid("tool_choice", "must be auto, none, required or name a function")


def allowed(value: Any) -> tuple[Any, frozenset[str]] | None:
    """Of a tool_choice that allows some of the tools only: whether one must be called, as another
    tool_choice says it, and their names. None for every other one."""
    if not isinstance(value, dict) or value.get("type") != "allowed_tools":
        return None
    body = value.get("allowed_tools", value)
    at = "tool_choice.tools"
    names = set()
    for one in items(entry(body, "tool_choice"), "tools", at="tool_choice."):
        tool = entry(one, at)
        names.add(text(mapping(tool, "function", at=at + ".") or tool, "name", at=at + "."))
    mode = text(body, "mode", "auto", at="tool_choice.")
    if mode not in ("auto", "required"):
        raise Invalid("tool_choice.mode", "must be auto or required")
    return mode, frozenset(names)


def function_choice(value: Any) -> ToolChoice:
    """The older form: auto, none, or {name}."""
    if value is None or value in ("auto", "none"):
        return ToolChoice("none" if value == "none" else "auto")
    if isinstance(value, dict):
        name = text(value, "name", at="function_call.")
        if name:
            return ToolChoice("named", name)
    raise Invalid("function_call", "must be auto, none or name a function")


def chosen(body: Body) -> dict[str, Any]:
    """The fields of CompletionRequest that tools are about, where the body has any. Raises
    Invalid."""
    if body.keys().isdisjoint(FIELDS):
        return {}
    listed = items(body, "tools")
    if body.get("functions") is not None:
        if listed:
            raise Invalid("functions", "cannot be had together with tools")
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
        "warnings": skipped(listed),
    }


def calls(body: Body, at: str) -> tuple[ToolCall, ...]:
    """The calls of an assistant's message, in the newer form or the older."""
    found = tuple(
        _call(entry(value, f"{at}tool_calls[{i}]"), f"{at}tool_calls[{i}].")
        for i, value in enumerate(items(body, "tool_calls", at=at))
    )
    older = mapping(body, "function_call", at=at)
    if older and not found:
        return (_named(older, "", at + "function_call."),)
    return found


def _call(body: Body, at: str) -> ToolCall:
    return _named(mapping(body, "function", at=at), text(body, "id", at=at), at + "function.")


def _named(function: Body, id: str, at: str) -> ToolCall:
    return ToolCall(id, text(function, "name", at=at), text(function, "arguments", at=at))


def written(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


def as_object(arguments: str) -> dict[str, Any]:
    """A call's arguments as the dialects tell them that parse them; those of a call that was cut by
    its length are none."""
    try:
        value = decoded(arguments or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def delta(event: ToolCallDelta, legacy: bool) -> dict[str, Any]:
    """A piece of a call as a chunk's delta: id and name in the first, the rest adds arguments. The
    older form knows one call; it was asked for one."""
    function: dict[str, Any] = {"arguments": event.arguments}
    if event.name:
        function = {"name": event.name, **function}
    if legacy:
        return {"function_call": function}
    piece: dict[str, Any] = {"index": event.index, "function": function}
    if event.name:
        piece = {"index": event.index, "id": event.id, "type": "function", "function": function}
    return {"tool_calls": [piece]}

"""Functions of other packages as tools: entry points of the group `slotproxy.tools`.

The entry point's name is the tool's name, the function's docstring its description, and the
signature the schema of its arguments. It returns text or any JSON value. Installing such a package
means trusting it with everything the child process can do; the settings still choose which tools
may be used.

This module has both sides: `tools` in the gateway, and the child process that imports and calls
them (`python -m proxy.agent.functions`).
"""

from __future__ import annotations

import inspect
import logging
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from ..core.request import Tool
from ..runtime.cancel import Cancel
from ..runtime.subprocesses import Children, serve

log = logging.getLogger("slotproxy.tools")
T = TypeVar("T", bound=Struct)

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


class RunnableTool(NamedTuple):
    """`call` returns the observation for these arguments, within so many seconds. It raises
    ToolError, Cancelled, UpstreamTimeout and UpstreamFault."""

    tool: Tool
    call: Callable[[Mapping[str, Any], Cancel, float], str]

    @property
    def reads_only(self) -> bool:
        return self.tool.annotations.get("readOnlyHint") is True


def local_tool(
    name: str, description: str, kind: type[T], function: Callable[[T, Cancel], str]
) -> RunnableTool:
    """A tool whose arguments are this struct."""

    def call(values: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        return function(arguments(kind, values), cancel)

    reads = {"readOnlyHint": True}
    return RunnableTool(Tool(name, description, schema_of(kind), annotations=reads), call)


def schema_of(kind: type[Struct]) -> dict[str, Any]:
    schema = msgspec.json.schema(kind)
    own: dict[str, Any] = schema["$defs"].pop(kind.__name__)
    own.pop("title", None)
    return {**own, "$defs": schema["$defs"]} if schema["$defs"] else own


def arguments(kind: type[T], values: Mapping[str, Any]) -> T:
    """Raises ToolError."""
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise ToolError(f"the arguments are invalid: {error}") from None


def child_tool(tool: Tool, children: Children) -> RunnableTool:
    """A tool that runs in one of these processes."""

    def call(values: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        answer = children.ask({"call": tool.name, "arguments": values}, cancel, seconds)
        if "wrong" in answer:
            if detail := answer.get("detail"):
                log.warning("a call of the tool %s failed: %s", tool.name, detail)
            raise ToolError(answer["wrong"], answer.get("code", 0))
        return str(answer["text"])

    return RunnableTool(tool, call)


GROUP = "slotproxy.tools"
PATIENCE = 30.0  # seconds for the child to list its functions


def installed() -> tuple[str, ...]:
    """Names of the installed functions, without importing them."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def children(names: Sequence[str]) -> Children:
    """The processes for the functions of these names."""
    return Children(__name__, {"names": list(names)}, whole=True)


def tools(children: Children) -> list[RunnableTool]:
    """The functions of these processes. Raises UpstreamFault if one cannot be imported."""
    listed = children.ask({}, Cancel(), PATIENCE)
    return [child_tool(tool, children) for tool in msgspec.convert(listed["tools"], list[Tool])]


# in the child process


def _begin(setup: Any) -> Callable[[Any], Any]:
    points = {point.name: point for point in entry_points(group=GROUP)}
    functions = {name: described(name, points[name].load()) for name in setup["names"]}

    def answer(question: Any) -> Any:
        if "call" not in question:
            return {"tools": [tool for tool, _, _ in functions.values()]}
        _, function, form = functions[question["call"]]
        try:
            values = arguments(form, question["arguments"])
            value = function(**msgspec.structs.asdict(values))
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            return {"text": text}
        except ToolError as error:
            return {"wrong": str(error)}
        except Exception as error:  # any exception is reported to the model
            return {"wrong": f"{type(error).__name__}: {error}"[:500]}

    return answer


def described(name: str, function: Callable[..., Any]) -> tuple[dict[str, Any], Any, Any]:
    """A function as a tool definition, with the struct that validates its arguments."""
    hints = typing.get_type_hints(function)
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        default = () if parameter.default is parameter.empty else (parameter.default,)
        fields.append((parameter.name, hints.get(parameter.name, str), *default))
    form = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
    tool = Tool(name, inspect.getdoc(function) or "", schema_of(form))
    return msgspec.to_builtins(tool), function, form


if __name__ == "__main__":
    serve(_begin)

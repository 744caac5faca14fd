"""Functions of other packages as tools: entry points of the group `slotproxy.tools`.

The name of the entry point is the tool's, the function's docstring its description, its signature
the schema of its arguments; it gives back text, or anything that JSON can say. Who installs the
package trusts it with what the child can do; the settings still say which tools may be used.

This module is both sides: `Functions` in the gateway, and the child that imports the functions and
calls them (`python -m proxy.agent.functions`).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

import msgspec

from ..cancel import Cancel
from ..children import Children, serve
from ..core.request import Tool
from .values import Runs, ToolError

GROUP = "slotproxy.tools"
PATIENCE = 30.0  # seconds until the child has told what there is


def installed() -> tuple[str, ...]:
    """Names of the functions there are; nothing of them is imported."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


class Function:
    """One of them."""

    def __init__(self, tool: Tool, children: Children) -> None:
        self.tool = tool
        self._children = children

    def call(self, arguments: Mapping[str, Any], cancel: Cancel, seconds: float) -> str:
        question = {"call": self.tool.name, "arguments": arguments}
        answer = self._children.ask(question, cancel, seconds)
        if "wrong" in answer:
            raise ToolError(answer["wrong"])
        return str(answer["text"])


def functions(names: Sequence[str]) -> tuple[list[Runs], Children]:
    """The functions of these names, and the children they run in. Raises UpstreamFault where a
    function cannot be imported."""
    children = Children(__name__, {"names": list(names)}, whole=True)
    told = children.ask({}, Cancel(), PATIENCE)
    found = [Tool(one["name"], one["description"], one["parameters"]) for one in told["tools"]]
    return [Function(tool, children) for tool in found], children


# the child's side


def _begin(setup: Any) -> Callable[[Any], Any]:
    points = {point.name: point for point in entry_points(group=GROUP)}
    known = {name: described(name, points[name].load()) for name in setup["names"]}

    def answer(question: Any) -> Any:
        if "call" not in question:
            return {"tools": [tool for tool, _, _ in known.values()]}
        _, function, form = known[question["call"]]
        try:
            given = msgspec.convert(question["arguments"], form)
        except msgspec.ValidationError as error:
            return {"wrong": str(error)}
        try:
            value = function(**msgspec.structs.asdict(given))
            return {"text": value if isinstance(value, str) else msgspec.json.encode(value)
                    .decode()}  # fmt: skip
        except Exception as error:  # whatever a stranger's function raises, the model is told
            return {"wrong": f"{type(error).__name__}: {error}"[:500]}

    return answer


def described(name: str, function: Callable[..., Any]) -> tuple[dict[str, Any], Any, Any]:
    """A function as a tool, with the struct its arguments are checked by."""
    hints = typing.get_type_hints(function)
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints.get(parameter.name, str)
        if parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, kind))
        else:
            fields.append((parameter.name, kind, parameter.default))
    form = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True)
    schema = msgspec.json.schema(form)
    parameters = {**schema["$defs"].pop("Arguments"), "additionalProperties": False}
    parameters.pop("title", None)
    if schema["$defs"]:
        parameters["$defs"] = schema["$defs"]
    described = inspect.getdoc(function) or ""
    return {"name": name, "description": described, "parameters": parameters}, function, form


if __name__ == "__main__":
    serve(_begin)

"""Functions of other packages as tools: entry points of the group `slotproxy.tools`.

The entry point's name is the tool's name, the function's docstring its description, and the
signature the schema of its arguments. It returns text or any JSON value. Installing such a package
means trusting it with everything the child process can do; the settings still choose which tools
may be used.

This module has both sides: `functions` in the gateway, and the child process that imports and calls
them (`python -m proxy.agent.functions`).
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import Any

import msgspec

from ..core.request import Tool
from ..runtime.cancel import Cancel
from ..runtime.subprocesses import Children, serve
from .tools import ChildTool

GROUP = "slotproxy.tools"
PATIENCE = 30.0  # seconds for the child to list its functions


def installed() -> tuple[str, ...]:
    """Names of the installed functions, without importing them."""
    return tuple(sorted({point.name for point in entry_points(group=GROUP)}))


def functions(names: Sequence[str]) -> tuple[list[ChildTool], Children]:
    """The functions of these names, and the child processes they run in. Raises UpstreamFault if
    one cannot be imported."""
    children = Children(__name__, {"names": list(names)}, whole=True)
    listed = children.ask({}, Cancel(), PATIENCE)
    found = [Tool(d["name"], d["description"], d["parameters"]) for d in listed["tools"]]
    return [ChildTool(tool, children) for tool in found], children


# in the child process


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
            text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            return {"text": text}
        except Exception as error:  # any exception is reported to the model
            return {"wrong": f"{type(error).__name__}: {error}"[:500]}

    return answer


def described(name: str, function: Callable[..., Any]) -> tuple[dict[str, Any], Any, Any]:
    """A function as a tool definition, with the struct that validates its arguments."""
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

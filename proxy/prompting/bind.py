"""Which grammar binds an answer: a JSON document, tool calls, or one of both.

Strategy: what a request wants is a plain value (`Bound`), so its grammar is made once and found
again by content. Calls are written in the frame of the model's family (`CallShape`), each tool with
its whole head as one literal. A grammar may also begin inside that frame, behind the text `begun`:
that is how a call that a model opened by itself is bound from there on.

What no grammar can express is refused for a strict schema; for others the part that cannot be said
is left to whoever validates the text, any JSON in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ..core.invalid import Invalid
from ..core.request import CompletionRequest, Tool
from .grammar import GrammarError, Limits, SchemaError, UnsupportedSchema
from .grammar.automaton import TooManyStatesError
from .grammar.document import Document
from .grammar.rules import Rules
from .grammar.schema import ANY_OBJECT, Compiler, finished
from .grammar.values import Element, Group, Literal, Repeat
from .grammar.values import Sequence as Elements
from .toolcalls import CallShape, Form

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}
JSON = msgspec.json.Encoder()


class Callee(Struct, frozen=True):
    """A tool: its name, the JSON text of its parameters' schema, and whether that is strict."""

    name: str
    schema: bytes
    strict: bool = False


class Bound(Struct, frozen=True, kw_only=True):
    """What an answer must be: JSON of `schema` (its text; None: no document will do), or calls of
    `tools` in the frame of `shape`; either where both are given. `begun` is how much of a call's
    frame is written already."""

    schema: bytes | None = None
    strict: bool = False
    tools: tuple[Callee, ...] = ()
    shape: CallShape = CallShape()
    parallel: bool = False
    begun: str = ""


def callable_tools(request: CompletionRequest) -> tuple[Tool, ...]:
    """The tools that the model may call in this answer: none, all, or the one that is named.

    Raises Invalid where a tool is named or required that is not there."""
    choice = request.tool_choice
    if choice.mode == "auto":
        return request.tools
    if choice.mode == "none":
        return ()
    if choice.mode == "named":
        named = tuple(tool for tool in request.tools if tool.name == choice.name)
        if not named:
            raise Invalid("tool_choice", f"names a tool that is not in tools: {choice.name[:100]}")
        return named
    if not request.tools:
        raise Invalid("tool_choice", "is required, but there are no tools")
    return request.tools


def must_call(request: CompletionRequest) -> bool:
    return request.tool_choice.mode in ("required", "named")


def from_start(request: CompletionRequest, form: Form | None) -> Bound | None:
    """What binds the answer from its first character on; None where text flows free."""
    if form is None and request.output.kind == "text":
        return None
    schema = document_schema(request)
    if form is not None and callable_tools(request):
        calls = calls_of(request, form)
        if must_call(request):
            return calls
        if schema is not None:
            return msgspec.structs.replace(
                calls, schema=JSON.encode(schema), strict=request.output.strict
            )
        return None
    if schema is None:
        return None
    return Bound(schema=JSON.encode(schema), strict=request.output.strict)


def calls_of(request: CompletionRequest, form: Form, begun: str = "") -> Bound:
    """A call, or several where both the client and the family's form allow that; a tool that is
    named is called once."""
    return Bound(
        tools=tuple(
            Callee(tool.name, JSON.encode(tool.parameters or NO_ARGUMENTS), tool.strict)
            for tool in callable_tools(request)
        ),
        shape=form.shape,
        parallel=request.parallel_tool_calls
        and form.shape.parallel
        and request.tool_choice.mode != "named",
        begun=begun,
    )


def document_schema(request: CompletionRequest) -> Mapping[str, Any] | None:
    """The schema that the text of the answer must satisfy; None where it may be any text."""
    output = request.output
    if output.kind == "text":
        return None
    return ANY_OBJECT if output.schema is None else output.schema


def head(shape: CallShape, name: str) -> str:
    """All that stands before the arguments of the first call."""
    return shape.prefix + shape.before_name + name + shape.after_name


def grammar(bound: Bound, limits: Limits) -> str:
    """GBNF text for servers of these limits.

    Raises Invalid naming the keyword that cannot be expressed, or what is wrong with a schema."""
    rules = Rules()
    param = "response_format"
    roots: list[Elements] = []
    try:
        if bound.schema is not None:
            schema = msgspec.json.decode(bound.schema)
            roots.append(_value(schema, "", rules, limits, bound.strict, False))
        param = "tools"
        if bound.tools:
            roots.append(_calls(bound, rules, limits))
        return finished(rules, tuple(roots), limits)
    except (SchemaError, UnsupportedSchema, GrammarError) as error:
        raise Invalid(param, f"cannot be used: {error}") from None
    except TooManyStatesError:
        raise Invalid(param, "cannot be used: the schema needs too many rules") from None
    except RecursionError:
        raise Invalid(param, "cannot be used: the schema is nested too deep") from None


def _calls(bound: Bound, rules: Rules, limits: Limits) -> Elements:
    shape = bound.shape
    values = {
        tool.name: _value(
            msgspec.json.decode(tool.schema), tool.name, rules, limits, tool.strict, True
        )
        for tool in bound.tools
    }
    first: list[Elements] = []
    for name, arguments in values.items():
        whole = head(shape, name)
        if whole.startswith(bound.begun):
            first.append((*_mark(whole[len(bound.begun) :]), *arguments, *_mark(shape.suffix)))
    found: list[Element] = [rules.add("call", *first)]
    if bound.parallel:
        before = shape.separator + shape.before_name
        more = tuple(
            (*_mark(before + name + shape.after_name), *arguments, *_mark(shape.suffix))
            for name, arguments in values.items()
        )
        found.append(Repeat(rules.add("next", (Group(more),)), 0, None))
    return (*found, *_mark(shape.end))


def _value(
    schema: Any, name: str, rules: Rules, limits: Limits, strict: bool, an_object: bool
) -> Elements:
    more = (ANY_OBJECT,) if an_object else ()
    try:
        return Compiler(Document(schema, name), rules, limits, strict).root(*more)
    except UnsupportedSchema:
        if strict:
            raise
        return Compiler(Document(ANY_OBJECT if an_object else True), rules, limits, True).root()


def _mark(text: str) -> Elements:
    return (Literal(text),) if text else ()

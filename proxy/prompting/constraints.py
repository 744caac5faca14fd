"""Chooses and builds the grammar that constrains an answer: a JSON document, tool calls, or either.

A request's requirement is a plain value (`Constraint`), so its grammar is compiled once and cached
by content. Calls have the shape that the model writes (`CallShape`, `call_grammar`). A grammar may
also begin inside a call, after the text `begun`, to constrain one that the model began on its
own.

If a grammar cannot express a schema, a strict schema is rejected. For any other, the grammar leaves
out what it cannot express, and says which keywords these are: documents are validated when they are
complete, arguments of tools are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import Struct

from ..core.request import CompletionRequest, Tool
from ..errors import InvalidParameter
from ..gbnf import GrammarError, GrammarLimits, SchemaError, UnsupportedSchema
from ..gbnf.automaton import TooManyStatesError
from ..gbnf.document import Document
from ..gbnf.rules import Rules
from ..gbnf.schema import ANY_OBJECT, SchemaCompiler, finished
from ..gbnf.values import Literal
from ..gbnf.values import Sequence as Elements
from .call_grammar import call_elements
from .formats import CallFormat, CallShape

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}
JSON = msgspec.json.Encoder()

MOST_CALLS = 128
"""Maximum calls in one answer; each is a rule of an old server's grammar."""


class Callee(Struct, frozen=True):
    """A tool: its name, its parameters' schema as JSON text, and whether the schema is strict."""

    name: str
    schema: bytes
    strict: bool = False


class Constraint(Struct, frozen=True, kw_only=True):
    """What the answer must be: JSON that matches `schema` (JSON text; None allows no document),
    up to `most` calls of `tools` in the frame of `shape`, or either if both are set. `begun` is the
    part of a call's frame that is already written, `opening` what the model writes before a
    document."""

    schema: bytes | None = None
    opening: str = ""
    strict: bool = False
    tools: tuple[Callee, ...] = ()
    shape: CallShape = CallShape()
    most: int = 1
    begun: str = ""


class BoundGrammar(Struct, frozen=True):
    """A constraint as GBNF text, with the keywords that the grammar leaves out of the document's
    schema (`schema_gaps`) and of the parameters of tools (`tool_gaps`). A schema that has no
    grammar at all is one entry, with the keyword that is the reason."""

    text: str
    schema_gaps: tuple[str, ...] = ()
    tool_gaps: tuple[str, ...] = ()


def callable_tools(request: CompletionRequest) -> tuple[Tool, ...]:
    """The tools that the model may call in this answer: none, all, or the named one.

    Raises InvalidParameter if tool_choice needs a tool that the request does not have."""
    choice = request.tool_choice
    if choice.mode == "auto":
        return request.tools
    if choice.mode == "none":
        return ()
    if choice.mode == "named":
        named = tuple(tool for tool in request.tools if tool.name == choice.name)
        if not named:
            raise InvalidParameter(
                "tool_choice", f"names a tool that is not in tools: {choice.name[:100]}"
            )
        return named
    if not request.tools:
        raise InvalidParameter("tool_choice", "requires tools")
    return request.tools


def must_call(request: CompletionRequest) -> bool:
    return request.tool_choice.mode in ("required", "named")


def from_start(request: CompletionRequest, form: CallFormat | None) -> Constraint | None:
    """The constraint on the whole answer; None if it begins as free text."""
    if form is None and request.output.kind == "text":
        return None
    schema = document_schema(request)
    if form is not None and callable_tools(request):
        calls = calls_of(request, form)
        if must_call(request):
            return calls
        if schema is not None:
            return msgspec.structs.replace(
                calls,
                schema=JSON.encode(schema),
                opening=form.content[0],
                strict=request.output.strict,
            )
        return None
    if schema is None:
        return None
    return Constraint(schema=JSON.encode(schema), strict=request.output.strict)


def calls_of(request: CompletionRequest, form: CallFormat, begun: str = "") -> Constraint:
    """One call, or several if both the client and the call format allow it."""
    return Constraint(
        tools=tuple(
            Callee(tool.name, JSON.encode(tool.parameters or NO_ARGUMENTS), tool.strict)
            for tool in callable_tools(request)
        ),
        shape=form.shape,
        most=most_calls(request) if form.shape.parallel else 1,
        begun=begun,
    )


def most_calls(request: CompletionRequest) -> int:
    """The maximum number of calls in the answer. A named tool is called once."""
    if not request.parallel_tool_calls or request.tool_choice.mode == "named":
        return 1
    return min(request.max_tool_calls or MOST_CALLS, MOST_CALLS)


def document_schema(request: CompletionRequest) -> Mapping[str, Any] | None:
    """The schema that the answer's text must match; None if any text is allowed."""
    output = request.output
    if output.kind == "text":
        return None
    return ANY_OBJECT if output.schema is None else output.schema


def grammar(bound: Constraint, limits: GrammarLimits) -> BoundGrammar:
    """The grammar for servers with these limits.

    Raises InvalidParameter naming the unsupported keyword or the error in a schema."""
    rules = Rules()
    param = "response_format"
    roots: list[Elements] = []
    schema_gaps: dict[str, None] = {}
    tool_gaps: dict[str, None] = {}
    try:
        if bound.schema is not None:
            schema = msgspec.json.decode(bound.schema)
            writer = _Writer(rules, limits, schema_gaps)
            opening = (Literal(bound.opening),) if bound.opening else ()
            document = writer.value(schema, "", bound.strict, an_object=False)
            roots.append((*opening, *document))
        param = "tools"
        if bound.tools:
            writer = _Writer(rules, limits, tool_gaps)
            roots.append(call_elements(bound.shape, bound.tools, bound.most, bound.begun, writer))
        text = finished(rules, tuple(roots), limits)
        return BoundGrammar(text, tuple(schema_gaps), tuple(tool_gaps))
    except (SchemaError, UnsupportedSchema, GrammarError) as error:
        raise InvalidParameter(param, f"cannot be used: {error}") from None
    except TooManyStatesError:
        raise InvalidParameter(param, "cannot be used: the schema needs too many rules") from None
    except RecursionError:
        raise InvalidParameter(param, "cannot be used: the schema is nested too deeply") from None


class _Writer:
    """Compiles schemas into rules, and adds the keywords that these leave out to `gaps`."""

    def __init__(self, rules: Rules, limits: GrammarLimits, gaps: dict[str, None]) -> None:
        self.rules = rules
        self._limits = limits
        self._gaps = gaps

    def value(self, schema: Any, name: str, strict: bool, an_object: bool) -> Elements:
        """A value that satisfies the schema, and is an object if `an_object`."""
        more = (ANY_OBJECT,) if an_object else ()
        # Arguments of tools are closed, since models invent some. An old server has no room for the
        # rules of undeclared members, and refuses the alternatives that overlap because of them.
        closed = strict or an_object or not self._limits.merges_stacks
        document = Document(schema, name)
        try:
            compiler = SchemaCompiler(document, self.rules, self._limits, strict, closed)
            elements = compiler.root(*more)
        except UnsupportedSchema as error:
            if strict or (error.keyword == "$ref" and not an_object):
                raise  # what a reference leads to cannot be validated afterwards either
            self._gaps[f"any keyword (because of {error.keyword})"] = None
            anything = Document(ANY_OBJECT if an_object else True)
            return SchemaCompiler(anything, self.rules, self._limits, True).root()
        self._gaps.update(dict.fromkeys(compiler.gaps.keywords))
        return elements

    def leave_out(self, keywords: Iterable[str]) -> None:
        """Note keywords that the grammar leaves out."""
        self._gaps.update(dict.fromkeys(keywords))

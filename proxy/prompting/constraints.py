"""Chooses and builds the grammar that constrains an answer: a JSON document, tool calls, or either.

A request's requirement is a plain value (`Constraint`), so its grammar is cached by content. Calls
have the shape that the model writes (`CallShape`). A grammar may also begin inside a call, after
the text `begun`.

A strict schema that a grammar cannot express is rejected. For any other, the grammar leaves out
what it cannot express, and says which keywords these are: documents are validated when they are
complete, arguments of tools are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from ..core.request import CompletionRequest, Tool
from ..errors import InvalidParameter
from ..gbnf import GrammarError, GrammarLimits, SchemaError, UnsupportedSchema, charset
from ..gbnf.automaton import Automaton, TooManyStatesError
from ..gbnf.document import Document
from ..gbnf.rules import Rules
from ..gbnf.schema import ANY_OBJECT, SchemaCompiler, finished
from ..gbnf.values import CharClass, Element, Group, Literal, Repeat
from ..gbnf.values import Sequence as Elements
from .formats.base import ID, NAME, TYPE, CallFormat, CallShape, TaggedArguments
from .formats.objects import STRING, kinds, member

# The grammar of tool calls. Models write other white space than their template at times, so that
# between marks may be shorter, and a line break or a blank may come between two marks. The text of
# a value that is not quoted runs up to the mark that closes it.

_ATOM = re.compile(r"<[^<>]*(?:>|\Z)|\[/?[A-Z_]+\]|[{}\[\],:]|[^\s{}\[\],:<]+|<|\s+")
_TWO_TAGS = re.compile(r"([^<]*</[^<>]*>)(\s+)(<.*)", re.DOTALL)
_SPACE = CharClass(charset.of(" \t\n"))
_LETTERS = charset.of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_EXAMPLE_IDS = {"word": "call_0", "nine": "000000000", "index": "0"}
_IDS = {
    "word": ("idchar", CharClass(charset.union(_LETTERS, charset.of("_-"))), 1, 64),
    "nine": ("idchar", CharClass(_LETTERS), 9, 9),
    "index": ("digit", CharClass(charset.of("0123456789")), 1, 3),
}
# Required arguments whose order is free and whose presence is enforced; each doubles the rules.
_MAX_ANY_ORDER = 4
_OF_STRINGS = ("pattern", "format", "minLength", "maxLength")


def head(shape: CallShape, name: str) -> str:
    """Everything before the arguments of the first call, as it may be written for the model."""
    lead = (shape.prefix + shape.before_name).replace(ID, _EXAMPLE_IDS[shape.ids])
    return lead + name + shape.after_name.rpartition(ID)[2].replace(NAME, name)


def call_elements(
    shape: CallShape, tools: Sequence[Callee], most: int, begun: str, writer: _Writer
) -> Elements:
    """Up to `most` calls, behind `begun`, the part of the first call that is written already."""
    rules = writer.rules
    bodies = {tool.name: _arguments(shape, tool, writer) for tool in tools}
    lead = shape.prefix + shape.before_name
    end = _literals(shape.end, rules)
    call: Elements
    tags = shape.tagged
    is_apart = tags is not None and tags.before_key.startswith("<")
    named = []
    for name, body in bodies.items():
        after = shape.after_name.replace(NAME, name)
        behind = _optional_id(after, shape, rules, behind_name=not is_apart)
        named.append((Literal(name), *behind, *body))
    if lead.startswith(begun):
        rest = lead[len(begun) :]
        gap = (_gap(1, rules),) if begun and rest and not rest[0].isspace() and _ends(begun) else ()
        call = (*gap, *_literals(rest, rules, shape), Group(tuple(named)))
    else:
        heads = {name: head(shape, name) for name in bodies}
        firsts = (
            (*_literals(heads[name][len(begun) :], rules), *body)
            for name, body in bodies.items()
            if heads[name].startswith(begun)
        )
        call = (Group(tuple(firsts)),)
    elements: list[Element] = [rules.add("call", call)]
    if most > 1:
        before = _literals(shape.separator + shape.before_name, rules, shape)
        more = rules.add("next", (_gap(1, rules), *before, Group(tuple(named))))
        elements.append(Repeat(more, 0, most - 1))
    return (*elements, *end)


def _arguments(shape: CallShape, tool: Callee, writer: _Writer) -> Elements:
    schema = msgspec.json.decode(tool.schema)
    suffix = _optional_id(shape.suffix, shape, writer.rules)
    if shape.tagged is not None:
        return (*_Tagged(shape.tagged, tool, schema, writer).elements(), *suffix)
    return (*writer.value(schema, tool.name, tool.strict, an_object=True), *suffix)


class _Tagged:
    def __init__(self, tags: TaggedArguments, tool: Callee, schema: Any, writer: _Writer) -> None:
        self._tags = tags
        self._tool = tool
        self._schema = schema
        self._writer = writer
        self._rules = writer.rules
        fields = schema if isinstance(schema, Mapping) else {}
        properties, required = fields.get("properties"), fields.get("required")
        self._keys = tuple(properties) if isinstance(properties, Mapping) else ()
        needed = [key for key in self._keys if isinstance(required, list) and key in required]
        # With more of them the order stays free, and the model is trusted to write them all.
        self._required = frozenset(needed if len(needed) <= _MAX_ANY_ORDER else ())

    def elements(self) -> Elements:
        arguments = {key: self._argument(key) for key in self._keys}
        if not arguments:
            return ()
        optional = [key for key in arguments if key not in self._required]
        separator = (_gap(1, self._rules), *_literals(self._tags.separator, self._rules))
        missing = [frozenset[str]()]
        for key in sorted(self._required):
            missing += [keys | {key} for keys in missing]
        states = {keys: self._rules.reserve("rest") for keys in missing}
        for keys, rule in states.items():
            ways: list[Elements] = [
                (*separator, *arguments[key], states[keys - {key}])
                for key in arguments
                if key in keys or key in optional
            ]
            self._rules.define(rule, tuple(ways if keys else [*ways, ()]))
        firsts: list[Elements] = [
            (*arguments[key], states[self._required - {key}]) for key in arguments
        ]
        if not self._required:
            firsts.append(())
        return (Group(tuple(firsts)),)

    def _argument(self, key: str) -> Elements:
        tags = self._tags
        schema = member(self._schema, key, self._schema)
        types = kinds(schema, self._schema)
        if "string" not in types or tags.json_text:
            return self._json(key, schema, types)
        before, after = tags.around(key, "string")
        head = self._before(key, before)
        texts = _listed(schema) if types == STRING else None
        if texts is not None:
            choice = Group(tuple((Literal(text),) if text else () for text in texts))
            return (*head, choice, *_literals(after, self._rules))
        if isinstance(schema, Mapping):
            self._writer.gaps.update({word: None for word in _OF_STRINGS if word in schema})
        mark = after.rstrip()
        rest = _literals(after[len(mark) :], self._rules)
        text = (*head, *self._rules.plain("text", _up_to(mark)), *rest)
        if not tags.text_after_key or types == STRING:
            return text
        return (Group((text, self._json(key, schema, types - STRING))),)

    def _json(self, key: str, schema: Any, types: frozenset[str]) -> Elements:
        name = f"{self._tool.name}/properties/{key}"
        if isinstance(schema, Mapping):  # it may refer to the definitions
            names = ("$defs", "definitions")
            schema = {**{n: self._schema[n] for n in names if n in self._schema}, **schema}
        value = self._writer.value(schema, name, self._tool.strict, an_object=False)
        written = types if TYPE in self._tags.after_key else ("null",)
        around = {self._tags.around(key, kind) for kind in written}
        heads = [self._before(key, before) for before in sorted({before for before, _ in around})]
        head = heads[0] if len(heads) == 1 else (Group(tuple(heads)),)
        after = min(after for _, after in around)
        return (*head, *value, *_literals(after, self._rules))

    def _before(self, key: str, before: str) -> Elements:
        """What precedes a value: white space is free before the name of the argument, and between
        two tags behind it."""
        at = len(self._tags.before_key)
        head = _literals(before[:at], self._rules)
        tags = _TWO_TAGS.fullmatch(before, at)
        if tags is None:
            return (*head, Literal(before[at:]))
        return (*head, Literal(tags[1]), _gap(len(tags[2]), self._rules), Literal(tags[3]))


def _listed(schema: Any) -> list[str] | None:
    if not isinstance(schema, Mapping):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return [v for v in values if isinstance(v, str)] if isinstance(values, list) else None


def _up_to(mark: str) -> Automaton:
    """The texts that end with the mark, and contain it nowhere else."""
    rows = []
    for state in range(len(mark)):
        targets: dict[int, str] = {}
        for char in sorted(set(mark)):
            seen = mark[:state] + char
            target = next((n for n in range(len(seen), 0, -1) if mark.startswith(seen[-n:])), 0)
            if target:
                targets[target] = targets.get(target, "") + char
        others = charset.complement(charset.of("".join(targets.values())))
        row = [(charset.of(chars), target) for target, chars in targets.items()]
        rows.append((*row, (others, 0)))
    return Automaton((*rows, ()), frozenset({len(mark)}))


def _optional_id(
    text: str, shape: CallShape, rules: Rules, *, behind_name: bool = False
) -> Elements:
    """Literals of which a part with the id may be missing."""
    before, mark, behind = text.partition(ID)
    if not mark:
        return _literals(text, rules, behind_name=behind_name)
    quote = '"' if behind.startswith('"') else ""
    with_id = (*_literals(before, rules), _id(shape, rules), *((Literal(quote),) if quote else ()))
    least = 0 if before.lstrip()[:1] in ("<", "[", ",") else 1
    return (Repeat(rules.add("id", with_id), least, 1), *_literals(behind[len(quote) :], rules))


def _id(shape: CallShape, rules: Rules) -> Element:
    name, char, least, most = _IDS[shape.ids]
    return Repeat(rules.add(name, (char,)), least, most)


def _literals(
    text: str, rules: Rules, shape: CallShape | None = None, *, behind_name: bool = False
) -> Elements:
    """The text, with gaps for its white space and between its marks, and an id for ID."""
    elements: list[Element] = []
    for at, part in enumerate(text.split(ID)):
        if at:
            assert shape is not None
            elements.append(_id(shape, rules))
        atoms = _ATOM.findall(part)
        for place, atom in enumerate(atoms):
            last = atoms[place - 1] if place else ""
            following = atoms[place + 1] if place + 1 < len(atoms) else ""
            if atom.isspace():
                # Behind a name and between words it is needed.
                begins = not place and not at and following[:1] != "<"
                must = (behind_name and begins) or (last[-1:].isalnum() and following[:1].isalnum())
                elements.append(Literal(atom) if must else _gap(len(atom), rules))
                continue
            if last and not last.isspace() and (_ends(last) or atom in "}]"):
                elements.append(_gap(1, rules))
            elements.append(Literal(atom))
    return tuple(elements)


def _ends(text: str) -> bool:
    """Whether white space may follow."""
    return text[-1] in ">]}{[,:"


def _gap(size: int, rules: Rules) -> Element:
    return rules.add("gap", (Repeat(rules.add("blank", (_SPACE,)), 0, size),))


NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}}
JSON = msgspec.json.Encoder()

MOST_CALLS = 128  # in one answer; each is a rule of an old server's grammar


class Callee(Struct, frozen=True):
    """A tool: its name, its parameters' schema as JSON text, and whether the schema is strict."""

    name: str
    schema: bytes
    strict: bool = False


class Constraint(Struct, frozen=True, kw_only=True):
    """What the answer must be: JSON that matches `schema` (JSON text), up to `most` calls of
    `tools` in the frame of `shape`, or either. `begun` is the part of a call's frame that is
    already written, `opening` what the model writes before a document."""

    schema: bytes | None = None
    opening: str = ""
    strict: bool = False
    tools: tuple[Callee, ...] = ()
    shape: CallShape = CallShape()
    most: int = 1
    begun: str = ""


class BoundGrammar(Struct, frozen=True):
    """A constraint as GBNF text, with the keywords that the grammar leaves out of the document's
    schema and of the parameters of tools."""

    text: str
    schema_gaps: tuple[str, ...] = ()
    tool_gaps: tuple[str, ...] = ()


def callable_tools(request: CompletionRequest) -> tuple[Tool, ...]:
    """The tools that the model may call in this answer: none, all, or the named one.

    Raises InvalidParameter if tool_choice needs a tool that the request does not have."""
    choice, tools = request.tool_choice, request.tools
    if choice.mode == "none":
        return ()
    if choice.mode == "named":
        tools = tuple(tool for tool in tools if tool.name == choice.name)
        if not tools:
            raise InvalidParameter(
                "tool_choice", f"names a tool that is not in tools: {choice.name[:100]}"
            )
    elif choice.mode == "required" and not tools:
        raise InvalidParameter("tool_choice", "requires tools")
    return tools


def must_call(request: CompletionRequest) -> bool:
    return request.tool_choice.mode in ("required", "named")


def from_start(request: CompletionRequest, form: CallFormat | None) -> Constraint | None:
    """The constraint on the whole answer; None if it begins as free text."""
    if form is None and request.output.kind == "text":
        return None
    calls = opening = None
    if form is not None and callable_tools(request):
        calls, opening = calls_of(request, form), form.content[0]
        if must_call(request):
            return calls
    schema = document_schema(request)
    if schema is None:
        return None
    return structs.replace(
        calls or Constraint(),
        schema=JSON.encode(schema),
        opening=opening or "",
        strict=request.output.strict,
    )


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
        why = str(error)
    except TooManyStatesError:
        why = "the schema needs too many rules"
    except RecursionError:
        why = "the schema is nested too deeply"
    raise InvalidParameter(param, f"cannot be used: {why}")


class _Writer:
    """Compiles schemas into rules, and adds the keywords that these leave out to `gaps`."""

    def __init__(self, rules: Rules, limits: GrammarLimits, gaps: dict[str, None]) -> None:
        self.rules = rules
        self._limits = limits
        self.gaps = gaps

    def value(self, schema: Any, name: str, strict: bool, an_object: bool) -> Elements:
        """A value that satisfies the schema, and is an object if `an_object`."""
        more = (ANY_OBJECT,) if an_object else ()
        document = Document(schema, name)
        try:
            compiler = SchemaCompiler(document, self.rules, self._limits, strict)
            elements = compiler.root(*more)
        except UnsupportedSchema as error:
            if strict or (error.keyword == "$ref" and not an_object):
                raise  # what a reference leads to cannot be validated afterwards either
            self.gaps[f"any keyword (because of {error.keyword})"] = None
            anything = Document(ANY_OBJECT if an_object else True)
            return SchemaCompiler(anything, self.rules, self._limits, True).root()
        self.gaps.update(dict.fromkeys(compiler.gaps.keywords))
        return elements

"""The grammar of tool calls in the form that a model writes.

The literals of a shape are as the template renders them. Models write other white space at times,
so white space between marks may be shorter, and a line break or a blank may come between two marks.
The text of a value that is not quoted runs up to the mark that closes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from ..gbnf import charset
from ..gbnf.automaton import Automaton
from ..gbnf.rules import Rules
from ..gbnf.values import CharClass, Element, Group, Literal, Repeat
from ..gbnf.values import Sequence as Elements
from .formats import CallShape
from .formats.base import ID, KEY, NAME, TYPE, TaggedArguments
from .formats.tagged import STRING, kinds, member

_ATOM = re.compile(r"<[^<>]*(?:>|\Z)|\[/?[A-Z_]+\]|[{}\[\],:]|[^\s{}\[\],:<]+|<|\s+")
_TWO_TAGS = re.compile(r"([^<]*</[^<>]*>)(\s+)(<.*)", re.DOTALL)
_SPACE = CharClass(charset.of(" \t\n"))
_LETTERS = charset.of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789")
_WORD = CharClass(charset.union(_LETTERS, charset.of("_-")))
_DIGIT = CharClass(charset.of("0123456789"))
_KEY = CharClass(charset.union(((0, 0x20),), charset.of('<>"')), negated=True)
_EXAMPLE_IDS = {"word": "call_0", "nine": "000000000", "index": "0"}
_MAX_ID, _MAX_KEY = 64, 64
_MAX_ANY_ORDER = 4
"""Required arguments whose order is free and whose presence is enforced; each doubles the rules."""
_OF_STRINGS = ("pattern", "format", "minLength", "maxLength")


class Tool(Protocol):
    """A tool: its name, its parameters' schema as JSON text, and whether the schema is strict."""

    @property
    def name(self) -> str: ...
    @property
    def schema(self) -> bytes: ...
    @property
    def strict(self) -> bool: ...


class ValueWriter(Protocol):
    """Writes rules for JSON values, and notes the keywords that these leave out."""

    rules: Rules

    def value(self, schema: Any, name: str, strict: bool, an_object: bool) -> Elements: ...

    def leave_out(self, keywords: Iterable[str]) -> None: ...


def head(shape: CallShape, name: str) -> str:
    """Everything before the arguments of the first call, as it may be written for the model."""
    lead = (shape.prefix + shape.before_name).replace(ID, _EXAMPLE_IDS[shape.ids])
    return lead + name + shape.after_name.rpartition(ID)[2].replace(NAME, name)


def call_elements(
    shape: CallShape, tools: Sequence[Tool], most: int, begun: str, writer: ValueWriter
) -> Elements:
    """Up to `most` calls, behind `begun`, the part of the first call that is written already."""
    rules = writer.rules
    bodies = {tool.name: _arguments(shape, tool, writer) for tool in tools}
    lead = shape.prefix + shape.before_name
    end = _literals(shape.end, rules)
    call: Elements
    named = {
        name: (Literal(name), *_after_name(shape, name, rules), *body)
        for name, body in bodies.items()
    }
    if lead.startswith(begun):
        rest = lead[len(begun) :]
        gap = (_gap(1, rules),) if begun and rest and not rest[0].isspace() and _ends(begun) else ()
        call = (*gap, *_literals(rest, rules, shape), Group(tuple(named.values())))
    else:
        firsts = []
        for name, body in bodies.items():
            whole = head(shape, name)
            if whole.startswith(begun):
                firsts.append((*_literals(whole[len(begun) :], rules), *body))
        call = (Group(tuple(firsts)),)
    elements: list[Element] = [rules.add("call", call)]
    if most > 1:
        before = _literals(shape.separator + shape.before_name, rules, shape)
        more = rules.add("next", (_gap(1, rules), *before, Group(tuple(named.values()))))
        elements.append(Repeat(more, 0, most - 1))
    return (*elements, *end)


def _arguments(shape: CallShape, tool: Tool, writer: ValueWriter) -> Elements:
    """The arguments of a call and what follows them."""
    schema = msgspec.json.decode(tool.schema)
    suffix = _optional_id(shape.suffix, shape, writer.rules)
    if shape.tagged is not None:
        return (*_Tagged(shape.tagged, tool, schema, writer).elements(), *suffix)
    return (*writer.value(schema, tool.name, tool.strict, an_object=True), *suffix)


def _after_name(shape: CallShape, name: str, rules: Rules) -> Elements:
    tags = shape.tagged
    is_apart = tags is not None and tags.before_key.startswith("<")
    text = shape.after_name.replace(NAME, name)
    return _optional_id(text, shape, rules, behind_name=not is_apart)


class _Tagged:
    """The grammar of tagged arguments, in any order."""

    def __init__(self, tags: TaggedArguments, tool: Tool, schema: Any, writer: ValueWriter) -> None:
        self._tags = tags
        self._tool = tool
        self._schema = schema
        self._writer = writer
        self._rules = writer.rules
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        self._keys = tuple(properties) if isinstance(properties, Mapping) else ()
        required = schema.get("required") if isinstance(schema, Mapping) else None
        known = [key for key in self._keys if isinstance(required, list) and key in required]
        # With more of them the order stays free, and the model is trusted to write them all.
        self._required = frozenset(known if len(known) <= _MAX_ANY_ORDER else ())

    def elements(self) -> Elements:
        arguments = {key: self._argument(key) for key in self._keys}
        open_ended = isinstance(self._schema, Mapping) and self._schema.get("additionalProperties")
        if open_ended and KEY not in self._tags.after_value:
            arguments[""] = self._other()
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
            self._writer.leave_out(word for word in _OF_STRINGS if word in schema)
        text = (*head, *self._text(after))
        if not tags.text_after_key or types == STRING:
            return text
        return (Group((text, self._json(key, schema, types - STRING))),)

    def _json(self, key: str, schema: Any, types: frozenset[str]) -> Elements:
        """An argument that is written as JSON."""
        name = f"{self._tool.name}/properties/{key}"
        whole = self._with_definitions(schema)
        value = self._writer.value(whole, name, self._tool.strict, an_object=False)
        around = {self._tags.around(key, kind) for kind in types}
        if TYPE not in self._tags.after_key:
            around = {self._tags.around(key, "null")}
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
        gap = _gap(len(tags[2]), self._rules)
        return (*head, Literal(tags[1]), gap, Literal(tags[3]))

    def _with_definitions(self, schema: Any) -> Any:
        """The schema with the definitions that it may refer to."""
        if not isinstance(schema, Mapping):
            return schema
        names = ("$defs", "definitions")
        return {**{name: self._schema[name] for name in names if name in self._schema}, **schema}

    def _other(self) -> Elements:
        """An argument that the schema does not name."""
        tags = self._tags
        key = Repeat(self._rules.add("key", (_KEY,)), 1, _MAX_KEY)
        before, after = tags.around("", "string")
        head = (*_literals(tags.before_key, self._rules), key)
        head = (*head, Literal(before[len(tags.before_key) :]))
        if tags.json_text:
            value = self._writer.value(True, self._tool.name, self._tool.strict, an_object=False)
            return (*head, *value, *_literals(after, self._rules))
        return (*head, *self._text(after))

    def _text(self, after: str) -> Elements:
        """Text up to the mark that closes it, and the mark."""
        mark = after.rstrip()
        more = after[len(mark) :]
        return (*self._rules.plain("text", _up_to(mark)), *_literals(more, self._rules))


def _listed(schema: Any) -> list[str] | None:
    """The texts that the schema lists."""
    if not isinstance(schema, Mapping):
        return None
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return None
    return [value for value in values if isinstance(value, str)]


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
        row = [(charset.of(chars), target) for target, chars in targets.items()]
        others = charset.complement(charset.of("".join(targets.values())))
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
    if shape.ids == "nine":
        return Repeat(rules.add("idchar", (CharClass(_LETTERS),)), 9, 9)
    if shape.ids == "index":
        return Repeat(rules.add("digit", (_DIGIT,)), 1, 3)
    return Repeat(rules.add("idchar", (_WORD,)), 1, _MAX_ID)


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

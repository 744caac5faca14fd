"""JSON schema to GBNF.

Strategy: a value is described by a set of schemas (`document`), which have alternatives, each of
which comes down to a few facts (`constraints`). All alternatives of one value are then written by
kind: strings and numbers as one automaton each, lists of values with them; objects and arrays as
one alternative each. A set of schemas met again, inside itself or elsewhere, is the same rule: that
is how recursion ends.

What is written is compact JSON with at most one space after each colon and comma, since small
models loop on white space without bound; members come in the schema's order.

Everything generated is valid: where a keyword cannot be expressed it is refused (`strict`), or left
for whoever validates the text. Not everything valid can be generated, on purpose: members that the
schema does not list (unless additionalProperties names them), other orders and other white space,
another spelling of a character under a pattern, a number with bounds in exponent form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from itertools import combinations
from typing import Any

from . import automaton as rx
from . import numbers
from .automaton import Automaton, TooManyStatesError
from .check import check
from .constraints import MEANT_BY, Constraints, Reader, type_of
from .document import MAX_DEPTH, Document, Node, Nodes, SchemaError, UnsupportedSchema
from .effort import spend
from .members import Contents, array_items, object_members
from .overlap import Overlap
from .render import render
from .rules import Rules, literal
from .values import Alternatives, Element, GrammarError, Limits, Literal, RuleRef
from .values import Sequence as Elements

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def schema_to_grammar(schema: Mapping[str, Any] | bool, limits: Limits, strict: bool = True) -> str:
    """GBNF text whose rule `root` is the JSON values that satisfy `schema`.

    Raises SchemaError when it is no schema or nothing satisfies it, and UnsupportedSchema, which
    names the keyword, when it cannot be expressed. With `strict=False` what cannot be expressed is
    left out: validate the text then.
    """
    rules = Rules()
    found = Compiler(Document(schema), rules, limits, strict).root()
    return finished(rules, (found,), limits)


def json_value_grammar(limits: Limits) -> str:
    """GBNF text of any JSON value."""
    return schema_to_grammar(True, limits)


def json_object_grammar(limits: Limits) -> str:
    """GBNF text of any JSON object."""
    return schema_to_grammar(ANY_OBJECT, limits)


def finished(rules: Rules, root: Alternatives, limits: Limits) -> str:
    """The text of the rules, read again as the server would."""
    grammar = rules.grammar(root)
    if not grammar.rules.get("root"):
        raise SchemaError("", "only a value without end would satisfy it")
    text = render(grammar, limits)
    try:
        check(text, limits)
    except GrammarError as error:
        raise UnsupportedSchema("schema", "", f"its grammar is too large: {error.what}") from error
    return text


class Compiler:
    """One schema document into rules."""

    def __init__(self, document: Document, rules: Rules, limits: Limits, strict: bool) -> None:
        self.document = document
        self.rules = rules
        self.limits = limits
        self.reader = Reader(strict)
        self.overlap = Overlap(document)
        self.depth = 0
        self._done: dict[frozenset[Node], Elements | None] = {}
        # Values being made, with their names where they have been met inside themselves.
        self._open: dict[frozenset[Node], RuleRef | None] = {}

    def root(self, *more: Mapping[str, Any]) -> Elements:
        """The whole document, which must satisfy the schemas in `more` too."""
        name = self.document.root.pointer
        others = (Node(f"{name}#{at}", schema) for at, schema in enumerate(more))
        found = self.value((self.document.root, *others))
        if found is None:
            raise SchemaError(name, "nothing satisfies it")
        return found

    def value(self, nodes: Nodes) -> Elements | None:
        """A value that satisfies all the nodes; None when there is none."""
        spend(20)
        nodes = tuple(self.document.settled(node) for node in nodes)
        key = frozenset(node for node in nodes if node.schema is not True and node.schema != {})
        if not key and self.rules.any_value:
            return self.rules.any_value
        if key in self._done:
            return self._done[key]
        if key in self._open:
            again = self._open[key] or self.rules.reserve("value")
            self._open[key] = again
            return (again,)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise SchemaError(nodes[0].pointer, f"nested deeper than {MAX_DEPTH}")
        self._open[key] = None
        alternatives = self._alternatives(nodes)
        self.depth -= 1
        name = self._open.pop(key)
        found: Elements | None
        if name is not None:
            self.rules.define(name, alternatives)
            found = (name,)
        elif len(alternatives) > 1:
            found = (self.rules.add("value", *alternatives),)
        else:
            found = alternatives[0] if alternatives else None
        self._done[key] = found
        if not key:
            self.rules.any_value = found
        return found

    def _alternatives(self, nodes: Nodes) -> Alternatives:
        ways = [self.reader.read(way) for way in self.document.expand(nodes)]
        for node in {node for way in ways for node in way.nodes}:
            self._check_one_of(node)
        free = [way for way in ways if way.values is None]
        values = [value for way in ways for value in self._listed(way)]
        by_kind: dict[str, list[Any]] = {}
        for value in values:
            by_kind.setdefault(type_of(value).replace("fraction", "integer"), []).append(value)
        found: list[Elements] = []
        found += self._objects(free, by_kind.get("object", []))
        found += self._arrays(free, by_kind.get("array", []))
        found += self._strings(nodes, free, by_kind.get("string", []))
        found += self._numbers(nodes, free, by_kind.get("integer", []))
        if any("boolean" in way.types for way in free):
            values += [True, False]
        if any("null" in way.types for way in free):
            values.append(None)
        for constant in (True, False, None):
            if any(value is constant for value in values):
                found.append((literal(constant),))
        return tuple(found)

    def _check_one_of(self, node: Node) -> None:
        """A oneOf is an anyOf when its branches exclude each other; else no grammar has it."""
        if "oneOf" not in node.schema or not self.reader.strict:
            return
        for one, other in combinations(node.members("oneOf"), 2):
            spend(2)
            if self.overlap.possible((one, other), node):
                raise UnsupportedSchema(
                    "oneOf", node.pointer, "two of its branches may hold at once; use anyOf"
                )

    # Strings.

    def _strings(self, nodes: Nodes, ways: list[Constraints], values: list[str]) -> list[Elements]:
        if len(values) == 1 and not any("string" in way.types for way in ways):
            return [(literal(values[0]),)]
        ways = [
            way
            for way in ways
            if "string" in way.types and (way.high is None or way.low <= way.high)
        ]
        free = [way for way in ways if not (way.low or way.high is not None or way.languages)]
        if free or (len(ways) == 1 and not values and not ways[0].languages):
            way = (free or ways)[0]
            return [self.rules.any_string(way.low, way.high)]
        languages = [self._language(way) for way in ways]
        try:
            if values:
                languages.append(rx.texts(values))
        except TooManyStatesError:
            self.reader.unsupported("enum", nodes[0], "its strings need too many rules")
            return [self.rules.any_string()]
        try:
            whole = _union(languages)
        except TooManyStatesError:
            self.reader.unsupported("anyOf", nodes[0], "its strings need too many rules")
            return [self.rules.any_string()]
        return [] if whole.is_empty else [self.rules.string(whole)]

    def _language(self, way: Constraints) -> Automaton:
        try:
            found = rx.compile_regex(rx.ANY_TEXT)
            for language in way.languages:
                found = rx.intersection(found, language)
            if way.low or way.high is not None:
                found = rx.intersection(found, rx.length_between(way.low, way.high))
            return found
        except TooManyStatesError:
            keywords = ("maxLength", "minLength", "pattern", "format")
            keyword, node = next(
                (word, node) for word in keywords for node in way.nodes if word in node.schema
            )
            self.reader.unsupported(keyword, node, "it needs too many rules")
            return rx.compile_regex(rx.ANY_TEXT)

    # Numbers.

    def _numbers(self, nodes: Nodes, ways: list[Constraints], values: list[Any]) -> list[Elements]:
        languages: list[Automaton] = []
        for way in ways:
            if "integer" not in way.types or way.range.is_empty:
                continue
            make = numbers.numbers if "fraction" in way.types else numbers.integers
            try:
                languages.append(make(way.range))
            except TooManyStatesError:
                node = next(node for node in way.nodes if "multipleOf" in node.schema)
                self.reader.unsupported("multipleOf", node, "it needs too many rules")
                languages.append(make(numbers.Range(way.range.low, way.range.high)))
        try:
            if values:
                languages.append(rx.texts(map(json.dumps, values)))
            whole = _union(languages)
        except TooManyStatesError:
            self.reader.unsupported("enum", nodes[0], "its numbers need too many rules")
            whole = numbers.numbers(numbers.Range())
        return [] if whole.is_empty else [self.rules.plain("number", whole)]

    # Objects and arrays.

    def _objects(self, ways: list[Constraints], values: list[Any]) -> list[Elements]:
        ways = [way for way in ways if "object" in way.types]
        found = []
        for way in ways:
            refuse = partial(self._refuse_count, way)
            try:
                found.append(object_members(way.objects, self.rules, self.value, refuse))
            except TooManyStatesError:
                why = "the names beside it need too many rules"
                self.reader.unsupported("additionalProperties", way.nodes[0], why)
                way.objects.extra = None
                found.append(object_members(way.objects, self.rules, self.value, refuse))
        overlapping = any(
            self.overlap.of_objects(one.objects, other.objects)
            for one, other in combinations(ways, 2)
        )
        return self._containers("{}", ways, found, values, overlapping)

    def _refuse_count(self, way: Constraints, why: str) -> None:
        for keyword in ("minProperties", "maxProperties"):
            for node in way.nodes:
                if keyword in node.schema:
                    self.reader.unsupported(keyword, node, why)

    def _arrays(self, ways: list[Constraints], values: list[Any]) -> list[Elements]:
        ways = [way for way in ways if "array" in way.types]
        found = [array_items(way.arrays, self.rules, self.value) for way in ways]
        overlapping = any(
            self.overlap.of_arrays(one.arrays, other.arrays) for one, other in combinations(ways, 2)
        )
        return self._containers("[]", ways, found, values, overlapping)

    def _containers(
        self,
        marks: str,
        ways: list[Constraints],
        contents: list[Contents],
        values: list[Any],
        overlapping: bool,
    ) -> list[Elements]:
        """The alternatives for one kind of container; the empty one among them once."""
        found: list[Elements] = []
        if any(one.may_be_empty for one in contents) or not all(values):
            found.append((Literal(marks),))
        full = dict.fromkeys(one.full for one in contents if one.full is not None)
        constants = [value for value in values if value]
        if (
            (overlapping and len(full) > 1) or (constants and full)
        ) and not self.limits.merges_stacks:
            # What is one text for two alternatives doubles the work of a sampler that keeps both.
            why = "two of its branches may be the same text, which is too much for an old server"
            self.reader.unsupported("anyOf", ways[0].nodes[0], why)
            anything = Node(marks, {"type": "object" if marks == "{}" else "array"})
            whole = self.value((anything,))
            return [] if whole is None else [whole]
        found += [(Literal(marks[0]), *one, Literal(marks[1])) for one in full]
        found += [self._constant(value) for value in constants]
        return found

    def _listed(self, way: Constraints) -> list[Any]:
        """The listed values that satisfy the other keywords too."""
        found = []
        for value in way.listed():
            told = MEANT_BY.get(type_of(value), ()) if isinstance(value, Mapping | list) else ()
            for node in way.nodes:
                if any(word in node.schema for word in told):
                    self.reader.unsupported("enum", node, "its objects and arrays are not checked")
            found.append(value)
        return found

    def _constant(self, value: Any) -> Elements:
        """A given value, with the spaces that may be anywhere else too."""
        spend(3)
        if isinstance(value, Mapping):
            parts: list[Elements] = []
            for name, inside in value.items():
                key = Literal(json.dumps(name, ensure_ascii=False) + ":")
                parts.append((key, self.rules.space(), *self._constant(inside)))
            marks = "{}"
        elif isinstance(value, list | tuple):
            parts = [self._constant(inside) for inside in value]
            marks = "[]"
        else:
            return (literal(value),)
        found: list[Element] = [Literal(marks[0])]
        for at, part in enumerate(parts):
            found += [self.rules.comma(), *part] if at else part
        return (*found, Literal(marks[1]))


def _union(languages: list[Automaton]) -> Automaton:
    found = languages[0] if languages else rx.compile_regex(rx.either(()))
    for language in languages[1:]:
        found = rx.union(found, language)
    return found

"""Compiles a JSON schema to GBNF.

A value is described by a set of schemas (`document`) with alternatives, each of which comes down to
a few facts (`constraints`). The alternatives of a value are then written by kind: strings and
numbers become one automaton each, including listed values; objects and arrays become one
alternative each. A set of schemas that occurs again becomes the same rule, which is how recursion
ends.

The output is compact JSON with at most one space after each colon and comma, since small models
loop on unbounded white space. Members come in the schema's order.

All generated texts are valid, unless a keyword cannot be expressed: then it is rejected (`strict`)
or left to validation. On purpose, not all valid texts can be generated. Excluded are members that
the schema does not list (unless additionalProperties is set), other orders and white space, other
spellings of a character under a pattern, and bounded numbers in exponent form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations, starmap
from typing import Any

from . import automaton as rx
from . import numbers
from .automaton import Automaton, TooManyStatesError
from .check import check
from .constraints import MEANT_BY, ConstraintReader, Constraints, type_of
from .document import MAX_DEPTH, Document, Node, Nodes, SchemaError, UnsupportedSchema
from .effort import spend
from .members import Contents, array_items, object_members
from .overlap import Overlap
from .render import render
from .rules import Rules, literal
from .values import Alternatives, Element, GrammarError, GrammarLimits, Literal, RuleRef
from .values import Sequence as Elements

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def schema_to_grammar(
    schema: Mapping[str, Any] | bool, limits: GrammarLimits, strict: bool = True
) -> str:
    """GBNF text whose rule `root` matches the JSON values that satisfy `schema`.

    Raises SchemaError if it is not a valid schema or no value satisfies it, and UnsupportedSchema,
    which names the keyword, if it cannot be expressed. With `strict=False` unsupported keywords are
    ignored and must be validated afterwards."""
    rules = Rules()
    root = SchemaCompiler(Document(schema), rules, limits, strict).root()
    return finished(rules, (root,), limits)


def finished(rules: Rules, root: Alternatives, limits: GrammarLimits) -> str:
    """The text of the rules, checked by parsing it as the server would."""
    grammar = rules.grammar(root)
    if not grammar.rules.get("root"):
        raise SchemaError("", "only an infinite value satisfies it")
    text = render(grammar, limits)
    try:
        check(text, limits)
    except GrammarError as error:
        raise UnsupportedSchema("schema", "", f"its grammar is too large: {error.what}") from error
    return text


class SchemaCompiler:
    """Compiles one schema document into rules."""

    def __init__(
        self, document: Document, rules: Rules, limits: GrammarLimits, strict: bool
    ) -> None:
        self.document = document
        self.rules = rules
        self.limits = limits
        self.reader = ConstraintReader(strict)
        self.overlap = Overlap(document)
        self.depth = 0
        self._done: dict[frozenset[Node], Elements | None] = {}
        # Values being compiled, with a rule name once they recur inside themselves.
        self._open: dict[frozenset[Node], RuleRef | None] = {}

    def root(self, *more: Mapping[str, Any]) -> Elements:
        """The whole document, which must also satisfy the schemas in `more`."""
        name = self.document.root.pointer
        others = (Node(f"{name}#{at}", schema) for at, schema in enumerate(more))
        elements = self.value((self.document.root, *others))
        if elements is None:
            raise SchemaError(name, "no value satisfies it")
        return elements

    def value(self, nodes: Nodes) -> Elements | None:
        """A value that satisfies all the nodes; None if there is none."""
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
        elements: Elements | None
        if name is not None:
            self.rules.define(name, alternatives)
            elements = (name,)
        elif len(alternatives) > 1:
            elements = (self.rules.add("value", *alternatives),)
        else:
            elements = alternatives[0] if alternatives else None
        self._done[key] = elements
        if not key:
            self.rules.any_value = elements
        return elements

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
        """Checks that the branches of a oneOf exclude each other, so that it equals an anyOf;
        otherwise it is unsupported."""
        if "oneOf" not in node.schema or not self.reader.strict:
            return
        for left, right in combinations(node.members("oneOf"), 2):
            spend(2)
            if self.overlap.possible((left, right), node):
                raise UnsupportedSchema(
                    "oneOf", node.pointer, "more than one branch can match; use anyOf"
                )

    # Strings

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
            whole = rx.union(*languages)
        except TooManyStatesError:
            self.reader.unsupported("anyOf", nodes[0], "its strings need too many rules")
            return [self.rules.any_string()]
        return [] if whole.is_empty else [self.rules.string(whole)]

    def _language(self, way: Constraints) -> Automaton:
        try:
            languages = list(way.languages)
            if way.low or way.high is not None:
                languages.append(rx.length_between(way.low, way.high))
            return rx.intersection(rx.EVERYTHING, *languages)
        except TooManyStatesError:
            keywords = ("maxLength", "minLength", "pattern", "format")
            keyword, node = next(
                (word, node) for word in keywords for node in way.nodes if word in node.schema
            )
            self.reader.unsupported(keyword, node, "it needs too many rules")
            return rx.EVERYTHING

    # Numbers

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
            whole = rx.union(*languages)
        except TooManyStatesError:
            self.reader.unsupported("enum", nodes[0], "its numbers need too many rules")
            whole = numbers.numbers(numbers.Range())
        return [] if whole.is_empty else [self.rules.plain("number", whole)]

    # Objects and arrays

    def _objects(self, ways: list[Constraints], values: list[Any]) -> list[Elements]:
        ways = [way for way in ways if "object" in way.types]
        found = []
        for way in ways:
            refuse = partial(self._refuse_count, way)
            try:
                found.append(object_members(way.objects, self.rules, self.value, refuse))
            except TooManyStatesError:
                why = "the property names need too many rules"
                self.reader.unsupported("additionalProperties", way.nodes[0], why)
                way.objects.extra = None
                found.append(object_members(way.objects, self.rules, self.value, refuse))
        return self._containers("{}", ways, found, values, self.overlap.of_objects)

    def _refuse_count(self, way: Constraints, why: str) -> None:
        for keyword in ("minProperties", "maxProperties"):
            for node in way.nodes:
                if keyword in node.schema:
                    self.reader.unsupported(keyword, node, why)

    def _arrays(self, ways: list[Constraints], values: list[Any]) -> list[Elements]:
        ways = [way for way in ways if "array" in way.types]
        found = [array_items(way.arrays, self.rules, self.value) for way in ways]
        return self._containers("[]", ways, found, values, self.overlap.of_arrays)

    def _containers(
        self,
        marks: str,
        ways: list[Constraints],
        contents: list[Contents],
        values: list[Any],
        overlap: Callable[[Constraints, Constraints], bool],
    ) -> list[Elements]:
        """The alternatives for one kind of container; the empty container occurs in one of them.
        `overlap` decides whether two alternatives allow the same container that is not empty."""
        alternatives: list[Elements] = []
        if any(one.may_be_empty for one in contents) or not all(values):
            alternatives.append((Literal(marks),))
        full = dict.fromkeys(one.full for one in contents if one.full is not None)
        constants = [value for value in values if value]
        overlapping = len(full) > 1 and any(starmap(overlap, combinations(ways, 2)))
        if (overlapping or (constants and full)) and not self.limits.merges_stacks:
            # A text that two alternatives match doubles the work of a sampler that keeps both.
            why = "two of its branches can match the same text, which an old server cannot handle"
            self.reader.unsupported("anyOf", ways[0].nodes[0], why)
            anything = Node(marks, {"type": "object" if marks == "{}" else "array"})
            whole = self.value((anything,))
            return [] if whole is None else [whole]
        alternatives += [(Literal(marks[0]), *one, Literal(marks[1])) for one in full]
        alternatives += [self._constant(value) for value in constants]
        return alternatives

    def _listed(self, way: Constraints) -> list[Any]:
        """The listed values that satisfy the other keywords."""
        values = []
        for value in way.listed():
            keywords = MEANT_BY.get(type_of(value), ()) if isinstance(value, Mapping | list) else ()
            for node in way.nodes:
                if any(word in node.schema for word in keywords):
                    self.reader.unsupported(
                        "enum", node, "its objects and arrays cannot be checked"
                    )
            values.append(value)
        return values

    def _constant(self, value: Any) -> Elements:
        """A given value, with spaces where they may be in any value."""
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
        elements: list[Element] = [Literal(marks[0])]
        for at, part in enumerate(parts):
            elements += [self.rules.comma(), *part] if at else part
        return (*elements, Literal(marks[1]))

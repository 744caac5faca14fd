"""Compiles a JSON schema to GBNF.

A value is described by sets of schemas, each of which comes down to a few facts (`constraints`). A
set of schemas that occurs again becomes the same rule, which is how recursion ends.

The output is compact JSON with at most one space after each colon and comma, since small models
loop on white space. Members come in the schema's order, undeclared ones after them. All generated
texts are valid, unless a keyword cannot be expressed: then it is rejected (`strict`) or left to
validation. Not all valid texts can be generated.

A `closed` object has no members that its schema does not list, unless additionalProperties says so,
as in OpenAI's strict schemas: models invent arguments, and small ones never stop. Other objects are
open, as the standard says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from itertools import combinations
from typing import Any

from . import automaton as rx
from . import numbers
from .alternatives import Atom, Expander, without_choices
from .automaton import Automaton, TooManyStatesError
from .check import check, checked_render
from .constraints import MEANT_BY, ConstraintReader, Constraints, Objects
from .document import MAX_DEPTH, Document, Gaps, Node, Nodes, SchemaError, UnsupportedSchema
from .gbnf import render
from .json_types import ALL_TYPES, as_schema, type_of
from .members import NONE, Contents, ItemMachine, TooManyItemsError, array_items, object_members
from .rules import Rules, as_elements, literal, member_key
from .values import Alternatives, Element, GrammarError, GrammarLimits, Literal, RuleRef
from .values import Sequence as Elements
from .work_budget import spend

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def schema_to_grammar(
    schema: Mapping[str, Any] | bool,
    limits: GrammarLimits,
    strict: bool = True,
    closed: bool = True,
) -> str:
    """GBNF text whose rule `root` matches the JSON values that satisfy `schema`. Raises
    SchemaError if it is invalid or no value satisfies it, and UnsupportedSchema if a keyword
    cannot be expressed. With `strict=False` these are ignored and must be validated afterwards."""
    rules = Rules()
    root = SchemaCompiler(Document(schema), rules, limits, strict, closed).root()
    return finished(rules, (root,), limits)


def finished(rules: Rules, root: Alternatives, limits: GrammarLimits) -> str:
    """The text of the rules, checked for servers with these limits."""
    grammar = rules.grammar(root)
    if not grammar.rules.get("root"):
        raise SchemaError("", "only an infinite value satisfies it")
    try:
        if limits.max_repeat is not None:
            return checked_render(grammar, limits)
        text = render(grammar, limits)  # with further rules for repetitions
        check(text, limits)
    except GrammarError as error:
        raise UnsupportedSchema("schema", "", f"its grammar is too large: {error.what}") from error
    return text


def _constants_of(way: Constraints) -> list[Any]:
    """The values of boolean and null that are allowed."""
    constants: list[Any] = [True, False] if "boolean" in way.types else []
    constants += [None] if "null" in way.types else []
    return [constant for constant in constants if not any(constant is no for no in way.excluded)]


# Whether two schemas may allow the same value: unless their types, listed values, ranges, languages
# or required members exclude each other.

MAX_COMPARED = 6  # depth of members that are compared: tags are near the top
MAX_QUESTIONS = 5_000  # comparisons for one document; after that, everything may overlap


class Overlap:
    """Compares schemas of one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        gaps = Gaps(strict=False)
        self.expander = Expander(document, gaps, None)
        self.reader = ConstraintReader(self.expander, gaps, closed=False, implied=False, rough=True)
        self.implied = ConstraintReader(self.expander, gaps, closed=False, rough=True)
        # By the shapes of the schemas.
        self._known: dict[tuple[frozenset[int], int | None], bool] = {}

    def may_both_match(self, left: Node, right: Node, around: Node, kinds: frozenset[str]) -> bool:
        """Whether a value of these kinds may satisfy two branches of `around`, among the values
        that are generated: a branch without a type stands for the kinds that its keywords imply."""
        if kinds == ALL_TYPES:
            try:
                kinds = self._meant(left, around) | self._meant(right, around)
            except (UnsupportedSchema, TooManyStatesError):
                return True
        return self.possible((left, right, Node(f"!{sorted(kinds)}", {Atom.KINDS: kinds})), around)

    def _meant(self, node: Node, around: Node) -> frozenset[str]:
        ways = self.expander.ways((node,))
        return frozenset().union(*(self.implied.types((around, *way)) for way in ways))

    def possible(self, nodes: Nodes, around: Node | None = None, depth: int = 0) -> bool:
        """Whether one value may satisfy all the nodes, and the plain keywords of `around`."""
        if depth > MAX_COMPARED or len(self._known) > MAX_QUESTIONS:
            return True
        shape = self.document.shapes.of
        settled = map(self.document.settled, nodes)
        key = (
            frozenset(shape(node.schema) for node in settled),
            None if around is None else shape(around.schema),
        )
        if key not in self._known:
            # The cautious answer for a recursive comparison.
            self._known[key] = True
            self._known[key] = self._any_way(nodes, around, depth)
        return self._known[key]

    def _any_way(self, nodes: Nodes, around: Node | None, depth: int) -> bool:
        try:
            for nodes_of_way in self.expander.ways(nodes):
                way = self.reader.read((*((around,) if around else ()), *nodes_of_way))
                if way.values is not None:
                    possible = any(True for _ in way.listed())
                else:
                    possible = any(self._possible_as(kind, way, depth) for kind in way.types)
                if possible:
                    return True
            return False
        except (UnsupportedSchema, TooManyStatesError):
            return True

    def _possible_as(self, kind: str, way: Constraints, depth: int) -> bool:
        if kind in ("integer", "fraction"):
            return not way.range.is_empty
        if kind == "string":
            try:
                return way.has_length and not way.language().is_empty
            except TooManyStatesError:
                return True
        if kind == "object":
            return any(
                (of.high is None or of.high >= len(of.required))
                and all(self._together(of.members[name], (), depth) for name in of.required)
                for of in way.objects
            )
        if kind == "array":
            items = way.arrays
            return (items.high is None or items.low <= items.high) and all(
                self._together(items.at(place), (), depth) for place in range(min(items.low, 20))
            )
        return True

    def _together(self, one: Nodes | None, other: Nodes | None, depth: int) -> bool:
        if one is None or other is None:
            return False
        return self.possible((*one, *other), depth=depth + 1)

    def of_objects(self, one: Constraints, other: Constraints) -> bool:
        """Whether two alternatives allow the same non-empty object."""
        return any(
            self._same_object(left, right) for left in one.objects for right in other.objects
        )

    def _same_object(self, left: Objects, right: Objects) -> bool:
        for this, that in ((left, right), (right, left)):
            for name in this.required:
                if name not in that.members:
                    if not that.regions:
                        return False
                elif not self._together(this.members[name], that.members[name], 0):
                    return False
        return True

    def of_arrays(self, one: Constraints, other: Constraints) -> bool:
        """Whether two alternatives allow the same non-empty array."""
        left, right = one.arrays, other.arrays
        for this, that in ((left, right), (right, left)):
            if this.high is not None and this.high < that.low:
                return False
        certain = max(left.low, right.low, 1)
        return all(
            self._together(left.at(place), right.at(place), 0) for place in range(min(certain, 20))
        )


class SchemaCompiler:
    """Compiles one schema document into rules."""

    def __init__(
        self,
        document: Document,
        rules: Rules,
        limits: GrammarLimits,
        strict: bool,
        closed: bool = True,
    ) -> None:
        self.document = document
        self.rules = rules
        self.limits = limits
        self.gaps = Gaps(strict)
        self.overlap = Overlap(document)
        self.expander = Expander(document, self.gaps, self.overlap.may_both_match)
        self.reader = ConstraintReader(self.expander, self.gaps, closed)
        self.depth = 0
        # By the shapes of the schemas that a value satisfies.
        self._done: dict[frozenset[int], Elements | None] = {}
        # Values being compiled, with a rule name once they recur inside themselves.
        self._open: dict[frozenset[int], RuleRef | None] = {}

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
        shapes = self.document.shapes
        key = frozenset(shapes.of(node.schema) for node in nodes if node.schema is not True)
        key -= {shapes.anything}
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
        ways = self._read(nodes)
        free = [way for way in ways if way.values is None]
        values = [value for way in ways for value in self._listed(way)]
        alternatives = [elements for way in ways for elements in self._examined(way)]
        by_kind: dict[str, list[Any]] = {}
        for value in values:
            by_kind.setdefault(type_of(value).replace("fraction", "integer"), []).append(value)
        alternatives += self._objects(free, by_kind.get("object", []))
        arrays = [way for way in free if "array" in way.types]
        items = [self._items(way) for way in arrays]
        listed = by_kind.get("array", [])
        alternatives += self._containers("[]", arrays, items, listed, self.overlap.of_arrays)
        alternatives += self._strings(nodes, free, by_kind.get("string", []))
        alternatives += self._numbers(nodes, free, by_kind.get("integer", []))
        values += [constant for way in free for constant in _constants_of(way)]
        for constant in (True, False, None):
            if any(value is constant for value in values):
                alternatives.append((literal(constant),))
        return tuple(alternatives)

    def _read(self, nodes: Nodes) -> list[Constraints]:
        try:
            return [self.reader.read(way) for way in self.expander.ways(nodes)]
        except TooManyStatesError:
            raise UnsupportedSchema(
                "properties", nodes[0].pointer, "the property names need too many rules"
            ) from None

    # Strings

    def _strings(self, nodes: Nodes, ways: list[Constraints], values: list[str]) -> list[Elements]:
        if len(values) == 1 and not any("string" in way.types for way in ways):
            return [(literal(values[0]),)]
        ways = [way for way in ways if "string" in way.types and way.has_length]
        plain = [way for way in ways if not way.languages and not way.excluded]
        free = [way for way in plain if not way.low and way.high is None]
        if free or (len(ways) == 1 and plain and not values):
            way = (free or ways)[0]
            return [self.rules.any_string(way.low, way.high)]
        languages = [self._language(way) for way in ways]
        try:
            listed = [rx.texts(values)] if values else []
            whole = rx.union(*languages, *listed)
        except TooManyStatesError:
            keyword = "enum" if values else "anyOf"
            self.gaps.report(keyword, nodes[0], "its strings need too many rules")
            return [self.rules.any_string()]
        return [] if whole.is_empty else [self.rules.string(whole)]

    def _language(self, way: Constraints) -> Automaton:
        try:
            return way.language()
        except TooManyStatesError:
            keywords = ("minLength", "maxLength", "pattern", "format")
            keyword, node = next(
                ((word, node) for word in keywords for node in way.nodes if word in node.schema),
                ("not", way.nodes[0]),
            )
            self.gaps.report(keyword, node, "it needs too many rules")
            return rx.EVERYTHING

    # Numbers

    def _numbers(self, nodes: Nodes, ways: list[Constraints], values: list[Any]) -> list[Elements]:
        languages: list[Automaton] = []
        for way in ways:
            kinds = way.types & {"integer", "fraction"}
            if not kinds or way.range.is_empty:
                continue
            make: Callable[[numbers.Range], Automaton] = numbers.numbers
            if len(kinds) == 1:
                make = numbers.integers if "integer" in kinds else numbers.fractions
            numeric = ("integer", "fraction")
            excluded = [Decimal(str(no)) for no in way.excluded if type_of(no) in numeric]
            try:
                language = make(way.range)
                if excluded:
                    language = numbers.without(language, way.range, excluded)
                languages.append(language)
            except TooManyStatesError:
                node = next((n for n in way.nodes if "multipleOf" in n.schema), way.nodes[0])
                self.gaps.report("multipleOf", node, "it needs too many rules")
                languages.append(make(numbers.Range(way.range.low, way.range.high)))
        try:
            if values:
                languages.append(rx.texts(map(json.dumps, values)))
            whole = rx.union(*languages)
        except TooManyStatesError:
            self.gaps.report("enum", nodes[0], "its numbers need too many rules")
            whole = numbers.numbers(numbers.Range())
        for automaton, expression in numbers.free():
            if whole == automaton:
                return [(self.rules.add("number", as_elements(expression)),)]
        return [] if whole.is_empty else [self.rules.plain("number", whole)]

    # Objects and arrays

    def _objects(self, ways: list[Constraints], values: list[Any]) -> list[Elements]:
        ways = [way for way in ways if "object" in way.types]
        alternatives = []
        for way in ways:
            refuse = partial(self._refuse_count, way)
            alternatives += [
                object_members(of, self.rules, self.value, refuse) for of in way.objects
            ]
        return self._containers("{}", ways, alternatives, values, self.overlap.of_objects)

    def _refuse_count(self, way: Constraints, why: str) -> None:
        for keyword in ("minProperties", "maxProperties"):
            for node in way.nodes:
                if keyword in node.schema:
                    self.gaps.report(keyword, node, why)

    def _items(self, way: Constraints) -> Contents:
        of = way.arrays
        if of.high is not None and of.low > of.high:
            return NONE
        distinct = of.distinct and (of.high is None or of.high > 1)
        listed = None
        if distinct and not of.places and not of.contains and of.rest is not None:
            listed = self._few(of.rest)
        if distinct and listed is None:
            node = next(node for node in way.nodes if node.schema.get("uniqueItems") is True)
            self.gaps.report("uniqueItems", node, "its items are not a list of values")
        elif distinct or of.contains:
            try:
                return ItemMachine(of, self.rules, self.value, listed).contents()
            except TooManyItemsError:
                keyword = "uniqueItems" if distinct else "contains"
                self.gaps.report(keyword, way.nodes[0], "it needs too many rules")
        return array_items(of, self.rules, self.value)

    def _few(self, nodes: Nodes) -> list[Elements] | None:
        """The values that satisfy the nodes, each as elements, if they are all listed."""
        alternatives: dict[Elements, None] = {}
        for way in self._read(nodes):
            if way.values is not None:
                values = self._listed(way)
            elif way.types <= {"boolean", "null"}:
                values = _constants_of(way)
            else:
                return None
            alternatives |= dict.fromkeys(map(self._constant, values))
        return list(alternatives)

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
        if any(content.may_be_empty for content in contents) or not all(values):
            alternatives.append((Literal(marks),))
        full = dict.fromkeys(content.full for content in contents if content.full is not None)
        constants = [value for value in values if value]
        if not self.limits.merges_stacks and (
            (constants and full)
            or len(full) > len(ways)
            or (len(full) > 1 and any(overlap(*pair) for pair in combinations(ways, 2)))
        ):
            # A text that two alternatives match doubles the work of a sampler that keeps both.
            why = "two of its branches can match the same text, which an old server cannot handle"
            self.gaps.report("anyOf", ways[0].nodes[0], why)
            anything = Node(marks, {"type": "object" if marks == "{}" else "array"})
            whole = self.value((anything,))
            return [] if whole is None else [whole]
        alternatives += [(Literal(marks[0]), *content, Literal(marks[1])) for content in full]
        alternatives += [self._constant(value) for value in constants]
        return alternatives

    def _listed(self, way: Constraints) -> list[Any]:
        """The listed values, of which `way` says that they satisfy the other keywords."""
        return [value for value in way.listed() if not self._is_open_question(way, value)]

    def _is_open_question(self, way: Constraints, value: Any) -> bool:
        """Whether it takes rules to tell if a listed object or array satisfies other keywords."""
        if not isinstance(value, Mapping | list):
            return False
        keywords = MEANT_BY[type_of(value)]
        atoms = any(isinstance(word, Atom) for node in way.nodes for word in node.schema)
        return atoms or any(word in node.schema for node in way.nodes for word in keywords)

    def _examined(self, way: Constraints) -> list[Elements]:
        """The other listed values, compiled as schemas that only they satisfy."""
        alternatives = []
        others = tuple(map(without_choices, way.nodes))
        for at, value in enumerate(way.listed()):
            if self._is_open_question(way, value):
                only = Node(f"{way.nodes[0].pointer}!{at}", as_schema(value))
                elements = self.value((only, *others))
                alternatives += [] if elements is None else [elements]
        return alternatives

    def _constant(self, value: Any) -> Elements:
        """A given value, with spaces where they may be in any value."""
        spend(3)
        if isinstance(value, Mapping):
            parts: list[Elements] = []
            for name, inside in value.items():
                parts.append((member_key(name), self.rules.space, *self._constant(inside)))
            marks = "{}"
        elif isinstance(value, list | tuple):
            parts = [self._constant(inside) for inside in value]
            marks = "[]"
        else:
            return (literal(value),)
        elements: list[Element] = [Literal(marks[0])]
        for at, part in enumerate(parts):
            elements += [self.rules.comma, *part] if at else part
        return (*elements, Literal(marks[1]))

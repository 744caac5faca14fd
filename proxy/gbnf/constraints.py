"""Reads what a set of schemas requires of one value.

Each plain keyword narrows one of a few facts: types, listed values, a range, lengths, languages and
members. So nodes are combined one after the other, and contradictions show.

Keywords follow JSON Schema 2020-12, plus older spellings still in use (`items` as a list,
`additionalItems`, boolean `exclusiveMinimum`, `definitions`) and OpenAPI's `nullable`. Unknown
keywords are ignored, as the standard requires.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from . import automaton as rx
from .alternatives import Expander
from .automaton import Automaton, TooManyStatesError
from .document import MAX_DEPTH, Gaps, Node, Nodes
from .json_types import ALL_TYPES, INTEGERS, PATTERNS, TYPES, depth_of, known_by, type_of
from .negation import Atom
from .numbers import MAX_DIGITS, NumberBound, Range
from .objects import Arrays, ObjectReader, Objects, least, read_arrays, tree_size
from .regex import PatternError, automaton_of
from .rules import MAX_REPEAT
from .work_budget import spend

MEANT_BY = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "minProperties",
        "maxProperties",
    ),
    "array": (
        "items",
        "prefixItems",
        "additionalItems",
        "minItems",
        "maxItems",
        "contains",
        "uniqueItems",
    ),
}
"""The keywords of each type; they imply the type if a schema names none."""

MAX_PATTERN_STATES = 100_000
"""Maximum automaton states of all patterns of a schema; they are built before its size is known."""

# Unsupported keywords, with the values that have no effect.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}, False),
    "$dynamicRef": (),
    "$recursiveRef": (),
}


@dataclass(kw_only=True)
class Constraints:
    """All facts about one value. `values` are the only possible values, None without such a
    list; scalars in `excluded` are impossible. `objects` are the forms of an object."""

    nodes: Nodes
    types: frozenset[str] = ALL_TYPES
    values: list[Any] | None = None
    range: Range = field(default_factory=Range)
    low: int = 0
    high: int | None = None
    languages: list[Automaton] = field(default_factory=list)
    excluded: list[Any] = field(default_factory=list)
    objects: list[Objects] = field(default_factory=list)
    arrays: Arrays = field(default_factory=Arrays)

    def language(self) -> Automaton:
        """The strings that satisfy all constraints. Raises TooManyStatesError."""
        whole = rx.intersection(*self.languages)
        if texts := [value for value in self.excluded if isinstance(value, str)]:
            whole = rx.difference(whole, rx.texts(texts))
        return rx.with_length(whole, self.low, self.high)

    def listed(self) -> Iterator[Any]:
        """The listed values that satisfy all other constraints on scalars."""
        excluded = set(map(known_by, self.excluded))
        for value in self.values or ():
            spend(1)
            kind = type_of(value)
            if kind not in self.types or known_by(value) in excluded:
                continue
            if kind in ("integer", "fraction") and not self.range.holds(Decimal(str(value))):
                continue
            if kind == "string" and not (
                self.low <= len(value)
                and (self.high is None or len(value) <= self.high)
                and all(language.accepts(value) for language in self.languages)
            ):
                continue
            yield value


def means(node: Node, keyword: str) -> bool:
    """Whether the schema has the keyword; a format counts if it is one of strings."""
    if keyword == "format":
        return node.schema.get("format") in PATTERNS
    return keyword in node.schema


class ConstraintReader:
    """Reads sets of nodes. If `closed`, objects and tuples have what is listed, unless their schema
    says more. If `implied`, keywords of a type imply it where no type is named. If `rough`, objects
    are read without the names of undeclared members."""

    def __init__(
        self,
        expander: Expander,
        gaps: Gaps,
        closed: bool,
        implied: bool = True,
        rough: bool = False,
    ) -> None:
        self.expander = expander
        self.closed = closed
        self.implied = implied
        self.unsupported = gaps.report
        self.gaps = gaps
        self.objects = ObjectReader(
            gaps, self.texts, closed, tree_size(expander.document.objects), rough
        )
        self._states = 0

    def texts(self, nodes: Nodes) -> Automaton:
        """The strings that satisfy the nodes. Raises TooManyStatesError."""
        found = []
        for way in map(self.read, self.expander.ways(nodes)):
            if way.values is not None:
                found.append(rx.texts(text for text in way.listed() if isinstance(text, str)))
            elif "string" in way.types and (way.high is None or way.low <= way.high):
                found.append(way.language())
        return rx.union(*found)

    def read(self, nodes: Nodes) -> Constraints:
        """All constraints that the plain keywords of the nodes express."""
        merged = Constraints(nodes=nodes)
        for node in nodes:
            spend(20 + 5 * len(node.schema))
            self._refuse(node)
            self._types(node, merged)
            self._values(node, merged)
            self._numbers(node, merged)
            self._strings(node, merged)
        self._imply(nodes, merged)
        if "object" in merged.types:
            low, high = 0, None
            for node in nodes:
                least_count, most_count = self._counts(node, "Properties")
                low, high = max(low, least_count), least(high, most_count)
            whole = self.objects.read(nodes, low, high)
            merged.objects = self.objects.variants(nodes, whole)
        if "array" in merged.types:
            merged.arrays = read_arrays(nodes, self._counts, self.gaps, self.closed)
        return merged

    def types(self, nodes: Nodes) -> frozenset[str]:
        """The types of `read`, at less cost."""
        merged = Constraints(nodes=nodes)
        for node in nodes:
            self._types(node, merged)
            self._values(node, merged)
        self._imply(nodes, merged)
        return merged.types

    def _imply(self, nodes: Nodes, merged: Constraints) -> None:
        """Without a type or listed values, the keywords imply the type."""
        if not self.implied or merged.values is not None or any("type" in n.schema for n in nodes):
            return
        meant = [
            TYPES[kind]
            for kind, words in MEANT_BY.items()
            if any(means(node, word) for node in nodes for word in words)
        ]
        if meant:
            merged.types &= frozenset().union(*meant)

    def _refuse(self, node: Node) -> None:
        for keyword, harmless in _UNSUPPORTED.items():
            if keyword in node.schema and node.schema[keyword] not in harmless:
                self.unsupported(keyword, node)

    def _types(self, node: Node, merged: Constraints) -> None:
        merged.types &= node.schema.get(Atom.KINDS, ALL_TYPES)
        if "type" not in node.schema:
            return
        named = node.schema["type"]
        names = named if isinstance(named, list | tuple) else [named]
        if not names or not all(isinstance(name, str) and name in TYPES for name in names):
            node.fail(f"'type' {named!r} is not a JSON type")
        merged.types &= frozenset().union(*(TYPES[name] for name in names))

    def _values(self, node: Node, merged: Constraints) -> None:
        lists = []
        if "enum" in node.schema:
            if not isinstance(node.schema["enum"], list | tuple) or not node.schema["enum"]:
                node.fail("'enum' must be a list of values")
            lists.append(("enum", node.schema["enum"]))
        if "const" in node.schema:
            lists.append(("const", [node.schema["const"]]))
        merged.excluded += node.schema.get(Atom.NO_VALUES, ())
        for keyword, values in lists:
            try:
                size = len(json.dumps(values, ensure_ascii=False, allow_nan=False).encode())
            except (TypeError, ValueError, RecursionError):
                node.fail(f"{keyword!r} contains an invalid JSON value")
            if depth_of(values) > MAX_DEPTH:
                node.fail(f"{keyword!r} contains values nested deeper than {MAX_DEPTH}")
            spend(2 * len(values) + (size >> 3))
            listed = {known_by(value): value for value in reversed(values)}
            if merged.values is None:
                merged.values = list(reversed(listed.values()))
            else:
                spend(len(merged.values))
                merged.values = [value for value in merged.values if known_by(value) in listed]

    def _number(self, node: Node, keyword: str) -> Decimal | None:
        value = node.schema.get(keyword)
        if value is None and keyword not in node.schema:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            node.fail(f"{keyword!r} must be a number")
        number = Decimal(str(value))
        if not number.is_finite():
            node.fail(f"{keyword!r} must be a number")
        # Beyond all numbers that are generated: such a bound is clamped or ignored.
        if number and abs(number.adjusted()) > MAX_DIGITS:
            if number.adjusted() < 0 or (number > 0) == keyword.lower().endswith("minimum"):
                self.unsupported(keyword, node, "too many digits")
                return None
            number = Decimal(10**18).copy_sign(number)
        return number

    def _numbers(self, node: Node, merged: Constraints) -> None:
        for side, join in (("inimum", Range.at_least), ("aximum", Range.at_most)):
            plain, exclusive = f"m{side}", f"exclusiveM{side}"
            # Draft 4: exclusiveMinimum is a boolean that makes minimum exclusive.
            older = isinstance(node.schema.get(exclusive), bool)
            value = self._number(node, plain)
            if value is not None:
                strict = older and node.schema[exclusive]
                merged.range = join(merged.range, NumberBound(value, strict))
            value = None if older else self._number(node, exclusive)
            if value is not None:
                merged.range = join(merged.range, NumberBound(value, True))
        step = self._number(node, "multipleOf")
        if step is not None:
            if step <= 0:
                node.fail("'multipleOf' must be greater than 0")
            if step != int(step):
                # Validators divide doubles, which differ from decimals: 0.07 / 0.01 is not 7.
                self.unsupported("multipleOf", node, "only integers are supported")
            else:
                merged.range = merged.range.multiple_of(int(step))
        without = node.schema.get(Atom.NO_MULTIPLE)
        if without is not None:
            if isinstance(without, bool) or not isinstance(without, int | float) or without <= 0:
                node.fail("'multipleOf' must be greater than 0")
            if without != int(without):
                self.unsupported("not", node, "only integers are supported in 'multipleOf'")
            else:
                merged.range = merged.range.no_multiple_of(int(without))

    def _strings(self, node: Node, merged: Constraints) -> None:
        low, high = self._counts(node, "Length")
        merged.low = max(merged.low, low)
        merged.high = least(merged.high, high)
        if "pattern" in node.schema:
            pattern = node.schema["pattern"]
            if not isinstance(pattern, str):
                node.fail("'pattern' must be a string")
            try:
                if self._states > MAX_PATTERN_STATES:
                    raise TooManyStatesError
                merged.languages.append(automaton_of(pattern))
                self._states += len(merged.languages[-1].transitions)
            except PatternError as error:
                if not error.unsupported:
                    node.fail(f"'pattern' is not a valid expression: {error}")
                self.unsupported("pattern", node, str(error))
            except TooManyStatesError:
                self._states += rx.MAX_STATES
                self.unsupported("pattern", node, "it needs too many rules")
        if "format" in node.schema:
            name = node.schema["format"]
            if not isinstance(name, str):
                node.fail("'format' must be a string")
            if name in PATTERNS:
                merged.languages.append(automaton_of(PATTERNS[name]))
            elif name in INTEGERS and merged.types & TYPES["number"] <= TYPES["integer"]:
                least_one, most = map(Decimal, INTEGERS[name])
                merged.range = merged.range.at_least(NumberBound(least_one))
                merged.range = merged.range.at_most(NumberBound(most))

        if Atom.NO_PATTERN in node.schema:
            self._lacks("pattern", node.schema[Atom.NO_PATTERN], node, merged)
        if Atom.NO_FORMAT in node.schema:
            self._lacks("format", PATTERNS[node.schema[Atom.NO_FORMAT]], node, merged)

    def _lacks(self, keyword: str, pattern: Any, node: Node, merged: Constraints) -> None:
        if not isinstance(pattern, str):
            node.fail(f"{keyword!r} must be a string")
        try:
            merged.languages.append(rx.difference(rx.EVERYTHING, automaton_of(pattern)))
        except (PatternError, TooManyStatesError) as error:
            self.unsupported("not", node, f"its {keyword} cannot be negated: {error}")

    def _counts(self, node: Node, of: str) -> tuple[int, int | None]:
        low, high = node.count(f"min{of}") or 0, node.count(f"max{of}")
        if low > MAX_REPEAT:
            self.unsupported(f"min{of}", node, f"it is above {MAX_REPEAT}")
            low = 0
        # Fewer than allowed are as valid.
        return low, None if high is None else min(high, MAX_REPEAT)

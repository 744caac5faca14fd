"""Reads what a set of schemas requires of one value: types, listed values, a range, lengths,
languages and members, which each keyword narrows.

Keywords follow JSON Schema 2020-12, plus older spellings still in use (`items` as a list,
`additionalItems`, boolean `exclusiveMinimum`, `definitions`) and OpenAPI's `nullable`. Unknown
keywords are ignored, as the standard requires.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from functools import reduce
from typing import Any

from . import automaton as rx
from .alternatives import Expander
from .automaton import Automaton, TooManyStatesError
from .document import MAX_DEPTH, Gaps, Node, Nodes
from .json_types import (
    ALL_TYPES,
    INTEGERS,
    PATTERNS,
    TYPES,
    depth_of,
    known_by,
    type_of,
    types_named,
)
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
        *("dependencies", "dependentRequired", "dependentSchemas"),
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

    @property
    def has_length(self) -> bool:
        """Whether any length of a string is allowed."""
        return self.high is None or self.low <= self.high

    def listed(self) -> Iterator[Any]:
        """The listed values that satisfy all other constraints on scalars."""
        excluded = set(map(known_by, self.excluded))
        for value in self.values or ():
            spend(1)
            kind = type_of(value)
            holds = kind in self.types and known_by(value) not in excluded
            if holds and kind in ("integer", "fraction"):
                holds = self.range.holds(Decimal(str(value)))
            elif holds and kind == "string":
                holds = self.low <= len(value) and (self.high is None or len(value) <= self.high)
                holds = holds and all(language.accepts(value) for language in self.languages)
            if holds:
                yield value


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
        self.gaps = gaps
        self.closed = closed
        self.implied = implied
        tree = tree_size(expander.document.objects)
        self.objects = ObjectReader(gaps, self.texts, closed, tree, rough)
        self._states = 0

    def texts(self, nodes: Nodes) -> Automaton:
        """The strings that satisfy the nodes. Raises TooManyStatesError."""
        found = []
        for way in map(self.read, self.expander.ways(nodes)):
            if way.values is not None:
                found.append(rx.texts(text for text in way.listed() if isinstance(text, str)))
            elif "string" in way.types and way.has_length:
                found.append(way.language())
        return rx.union(*found)

    def read(self, nodes: Nodes) -> Constraints:
        """All constraints that the plain keywords of the nodes express."""
        merged = Constraints(nodes=nodes)
        for node in nodes:
            spend(20 + 5 * len(node.schema))
            for keyword, harmless in _UNSUPPORTED.items():
                if keyword in node.schema and node.schema[keyword] not in harmless:
                    self.gaps.report(keyword, node)
            self._types(node, merged)
            self._values(node, merged)
            self._numbers(node, merged)
            self._strings(node, merged)
        self._imply(nodes, merged)
        if "object" in merged.types:
            counts = [self._counts(node, "Properties") for node in nodes]
            high = reduce(least, (high for _, high in counts), None)
            whole = self.objects.read(nodes, max((low for low, _ in counts), default=0), high)
            merged.objects = self.objects.variants(nodes, whole)
        if "array" in merged.types:
            merged.arrays = read_arrays(nodes, self._counts, self.closed)
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
        """Without a type or listed values, the keywords imply the type. A format does if it is one
        of strings."""
        if not self.implied or merged.values is not None or any("type" in n.schema for n in nodes):
            return
        words = {word for node in nodes for word in node.schema}
        if not any(node.schema.get("format") in PATTERNS for node in nodes):
            words.discard("format")
        meant = [TYPES[kind] for kind, keywords in MEANT_BY.items() if words.intersection(keywords)]
        if meant:
            merged.types &= frozenset().union(*meant)

    def _types(self, node: Node, merged: Constraints) -> None:
        merged.types &= node.schema.get(Atom.KINDS, ALL_TYPES)
        if "type" in node.schema:
            types = types_named(node.schema["type"])
            if types is None:
                node.fail(f"'type' {node.schema['type']!r} is not a JSON type")
            merged.types &= types

    def _values(self, node: Node, merged: Constraints) -> None:
        merged.excluded += node.schema.get(Atom.NO_VALUES, ())
        for keyword in ("enum", "const"):
            if keyword not in node.schema:
                continue
            values = node.schema[keyword] if keyword == "enum" else [node.schema[keyword]]
            if not isinstance(values, list | tuple) or not values:
                node.fail("'enum' must be a list of values")
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
        number = Decimal("nan")
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = Decimal(str(value))
        if not number.is_finite():
            node.fail(f"{keyword!r} must be a number")
        # Beyond all numbers that are generated: such a bound is clamped or ignored.
        if number and abs(number.adjusted()) > MAX_DIGITS:
            if number.adjusted() < 0 or (number > 0) == keyword.lower().endswith("minimum"):
                self.gaps.report(keyword, node, "too many digits")
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
                self.gaps.report("multipleOf", node, "only integers are supported")
            else:
                merged.range = merged.range.multiple_of(int(step))
        without = node.schema.get(Atom.NO_MULTIPLE)
        if without is not None:
            if isinstance(without, bool) or not isinstance(without, int | float) or without <= 0:
                node.fail("'multipleOf' must be greater than 0")
            merged.range = merged.range.no_multiple_of(int(without))

    def _strings(self, node: Node, merged: Constraints) -> None:
        schema = node.schema
        low, high = self._counts(node, "Length")
        merged.low, merged.high = max(merged.low, low), least(merged.high, high)
        if "pattern" in schema:
            self._pattern(node, merged)
        if "format" in schema:
            name = schema["format"]
            if not isinstance(name, str):
                node.fail("'format' must be a string")
            if name in PATTERNS:
                merged.languages.append(automaton_of(PATTERNS[name]))
            elif name in INTEGERS and merged.types & TYPES["number"] <= TYPES["integer"]:
                lowest, highest = (NumberBound(Decimal(bound)) for bound in INTEGERS[name])
                merged.range = merged.range.at_least(lowest).at_most(highest)
        if Atom.NO_PATTERN in schema:
            self._lacks("pattern", schema[Atom.NO_PATTERN], node, merged)
        if Atom.NO_FORMAT in schema:
            self._lacks("format", PATTERNS[schema[Atom.NO_FORMAT]], node, merged)

    def _pattern(self, node: Node, merged: Constraints) -> None:
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
            self.gaps.report("pattern", node, str(error))
        except TooManyStatesError:
            self._states += rx.MAX_STATES
            self.gaps.report("pattern", node, "it needs too many rules")

    def _lacks(self, keyword: str, pattern: Any, node: Node, merged: Constraints) -> None:
        if not isinstance(pattern, str):
            node.fail(f"{keyword!r} must be a string")
        try:
            merged.languages.append(rx.difference(rx.EVERYTHING, automaton_of(pattern)))
        except (PatternError, TooManyStatesError) as error:
            self.gaps.report("not", node, f"its {keyword} cannot be negated: {error}")

    def _counts(self, node: Node, of: str) -> tuple[int, int | None]:
        low, high = node.count(f"min{of}") or 0, node.count(f"max{of}")
        if low > MAX_REPEAT:
            self.gaps.report(f"min{of}", node, f"it is above {MAX_REPEAT}")
            low = 0
        # Fewer than allowed are as valid.
        return low, None if high is None else min(high, MAX_REPEAT)

"""Reads what a set of schemas requires of one value.

Each plain keyword narrows one of a few facts: types, listed values, a range, lengths, languages and
members. So nodes are combined one after the other, and contradictions show.

Keywords follow JSON Schema 2020-12, plus older spellings still in use (`items` as a list,
`additionalItems`, boolean `exclusiveMinimum`, `definitions`) and OpenAPI's `nullable`. Unknown
keywords are ignored, as the standard requires.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from . import automaton as rx
from .automaton import Automaton, TooManyStatesError
from .document import MAX_DEPTH, Node, Nodes, UnsupportedSchema
from .effort import spend
from .formats import INTEGERS, PATTERNS
from .numbers import MAX_DIGITS, NumberBound, Range
from .patterns import automaton_of
from .regex import PatternError
from .rules import MAX_REPEAT

TYPES: dict[str, frozenset[str]] = {
    "null": frozenset({"null"}),
    "boolean": frozenset({"boolean"}),
    "integer": frozenset({"integer"}),
    "number": frozenset({"integer", "fraction"}),
    "string": frozenset({"string"}),
    "array": frozenset({"array"}),
    "object": frozenset({"object"}),
}
ALL_TYPES = frozenset().union(*TYPES.values())

MEANT_BY = {
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    "object": (
        "properties",
        "required",
        "additionalProperties",
        "minProperties",
        "maxProperties",
    ),
    "array": ("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
}
"""The keywords of each type; they imply the type if a schema names none."""

MAX_PATTERN_STATES = 100_000
"""Maximum automaton states of all patterns of a schema; they are built before its size is known."""

# Unsupported keywords, with the values that have no effect.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "not": (False,),
    "if": (),
    "dependentSchemas": ({},),
    "dependentRequired": ({},),
    "dependencies": ({},),
    "contains": (),
    "propertyNames": (True, {}),
    "patternProperties": ({},),
    "unevaluatedItems": (True,),
    "unevaluatedProperties": (True, False),
    "$dynamicRef": (),
    "$recursiveRef": (),
}


@dataclass
class Objects:
    """Constraints on objects. `extra` are the schemas of unlisted members, None if there must be
    none. A listed name without schemas (None) must not occur."""

    members: dict[str, Nodes | None] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)
    extra: Nodes | None = ()
    low: int = 0
    high: int | None = None


@dataclass
class Arrays:
    """Constraints on arrays: schemas by position, and of all further items (None: there must be
    none)."""

    places: list[Nodes] = field(default_factory=list)
    rest: Nodes | None = ()
    low: int = 0
    high: int | None = None

    def at(self, place: int) -> Nodes | None:
        return self.places[place] if place < len(self.places) else self.rest


@dataclass(kw_only=True)
class Constraints:
    """All facts about one value. `values` are the only possible values, None without such a
    list."""

    nodes: Nodes
    types: frozenset[str] = ALL_TYPES
    values: list[Any] | None = None
    range: Range = field(default_factory=Range)
    low: int = 0
    high: int | None = None
    languages: list[Automaton] = field(default_factory=list)
    objects: Objects = field(default_factory=Objects)
    arrays: Arrays = field(default_factory=Arrays)

    def listed(self) -> Iterator[Any]:
        """The listed values that satisfy all other constraints on scalars."""
        for value in self.values or ():
            spend(1)
            kind = type_of(value)
            if kind not in self.types:
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


def type_of(value: Any) -> str:
    """The type of a JSON value; a float with an integral value is an integer, as in JSON Schema."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return "integer"
    if isinstance(value, float):
        return "fraction"
    if isinstance(value, str):
        return "string"
    return "object" if isinstance(value, Mapping) else "array"


def known_by(value: Any) -> object:
    """A key that is equal for equal JSON values only: 1 and 1.0 are equal, 1 and true are not."""
    kind = type_of(value)
    if kind == "array":
        return kind, tuple(map(known_by, value))
    if kind == "object":
        return kind, frozenset((name, known_by(inside)) for name, inside in value.items())
    return kind, value


def means(node: Node, keyword: str) -> bool:
    """Whether the schema has the keyword; a format counts if it is one of strings."""
    if keyword == "format":
        return node.schema.get("format") in PATTERNS
    return keyword in node.schema


def _depth(value: Any) -> int:
    """The nesting depth of lists and objects."""
    depth, level = 0, [value]
    while level := [one for one in level if isinstance(one, Mapping | list | tuple)]:
        depth += 1
        level = [x for one in level for x in (one.values() if isinstance(one, Mapping) else one)]
    return depth


class ConstraintReader:
    """Reads sets of nodes. Unsupported constraints are errors if `strict`, and ignored
    otherwise."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self._states = 0

    def unsupported(self, keyword: str, node: Node, why: str = "") -> None:
        if self.strict:
            raise UnsupportedSchema(keyword, node.pointer, why)

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
        if merged.values is None and not any("type" in n.schema for n in nodes):
            meant = [
                TYPES[kind]
                for kind, words in MEANT_BY.items()
                if any(means(node, word) for node in nodes for word in words)
            ]
            if meant:
                merged.types &= frozenset().union(*meant)
        if "object" in merged.types:
            self._objects(nodes, merged.objects)
        if "array" in merged.types:
            self._arrays(nodes, merged.arrays)
            for node in nodes:
                at_most_one = merged.arrays.high is not None and merged.arrays.high <= 1
                if node.schema.get("uniqueItems") is True and not at_most_one:
                    self.unsupported("uniqueItems", node)
        return merged

    def _refuse(self, node: Node) -> None:
        for keyword, harmless in _UNSUPPORTED.items():
            if keyword in node.schema and node.schema[keyword] not in harmless:
                self.unsupported(keyword, node)

    def _types(self, node: Node, merged: Constraints) -> None:
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
        for keyword, values in lists:
            try:
                size = len(json.dumps(values, ensure_ascii=False, allow_nan=False).encode())
            except (TypeError, ValueError, RecursionError):
                node.fail(f"{keyword!r} contains an invalid JSON value")
            if _depth(values) > MAX_DEPTH:
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

    def _counts(self, node: Node, of: str) -> tuple[int, int | None]:
        low, high = node.count(f"min{of}") or 0, node.count(f"max{of}")
        if low > MAX_REPEAT:
            self.unsupported(f"min{of}", node, f"it is above {MAX_REPEAT}")
            low = 0
        if high is not None and high > MAX_REPEAT:
            self.unsupported(f"max{of}", node, f"it is above {MAX_REPEAT}")
            high = None
        return low, high

    def _objects(self, nodes: Nodes, objects: Objects) -> None:
        listed = {node: node.named("properties") for node in nodes}
        names: dict[str, None] = {}
        spend(2 * len(nodes) * sum(map(len, listed.values())))
        for node in nodes:
            names |= dict.fromkeys(listed[node])
            low, high = self._counts(node, "Properties")
            objects.low, objects.high = max(objects.low, low), least(objects.high, high)
        for node in nodes:
            required = node.schema.get("required", ())
            if isinstance(required, bool):  # draft 3, on the member itself
                continue
            if not isinstance(required, list | tuple) or not all(
                isinstance(name, str) for name in required
            ):
                node.fail("'required' must be a list of names")
            spend(len(required) * len(nodes))
            names |= dict.fromkeys(required)
            objects.required.update(required)
        others = {
            node: node.child("additionalProperties")
            for node in nodes
            if "additionalProperties" in node.schema
        }
        for name in names:
            schemas = [listed[node].get(name) or others.get(node) for node in nodes]
            objects.members[name] = joined(schemas)
        closed = any(node.schema.get("unevaluatedProperties") is False for node in nodes)
        # The standard allows unlisted members by default, but a model that may add members never
        # stops. So they are only allowed if requested, or if no member is listed at all.
        if others:
            objects.extra = joined(list(others.values()))
        elif closed or (
            any("properties" in one.schema for one in nodes) and objects.low <= len(names)
        ):
            objects.extra = None

    def _arrays(self, nodes: Nodes, arrays: Arrays) -> None:
        places: dict[Node, list[Node]] = {}
        others: dict[Node, Node] = {}
        for node in nodes:
            low, high = self._counts(node, "Items")
            arrays.low, arrays.high = max(arrays.low, low), least(arrays.high, high)
            older = isinstance(node.schema.get("items"), list | tuple)
            keyword = "items" if older else "prefixItems"
            # An empty list has no effect.
            places[node] = node.members(keyword) if node.schema.get(keyword) else []
            rest = "additionalItems" if older else "items"
            if rest in node.schema:
                others[node] = node.child(rest)
        count = max((len(one) for one in places.values()), default=0)
        for place in range(count):
            applicable = [
                places[node][place] if place < len(places[node]) else others.get(node)
                for node in nodes
            ]
            schemas = joined(applicable)
            if schemas is None:
                arrays.high = least(arrays.high, place)
                break
            arrays.places.append(schemas)
        # Nothing follows the positions of a tuple unless requested, as with objects.
        if others:
            arrays.rest = joined(list(others.values()))
        elif count and arrays.low <= count:
            arrays.rest = None


def joined(nodes: list[Node | None]) -> Nodes | None:
    """The schemas without those that are always valid; None if one of them is `false`."""
    schemas = [node for node in nodes if node is not None and node.schema is not True]
    return None if any(node.schema is False for node in schemas) else tuple(schemas)


def least(one: int | None, other: int | None) -> int | None:
    """The lower of two upper bounds; None means no bound."""
    return min((bound for bound in (one, other) if bound is not None), default=None)

"""Reads what a set of schemas requires of one value: types, listed values, a range, lengths,
languages and members, which each keyword narrows.

Every name of an object's members belongs to one region: each declared name is one of its own, and
the rest of all names is split by patternProperties into regular languages, so that the same schemas
hold for all names of a region.

Keywords follow JSON Schema 2020-12, plus older spellings still in use (`items` as a list,
`additionalItems`, boolean `exclusiveMinimum`, `definitions`) and OpenAPI's `nullable`. Unknown
keywords are ignored, as the standard requires.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from functools import reduce
from math import lcm
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from . import automaton as rx
from .alternatives import Atom, Expander
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
from .numbers import MAX_DIGITS, NumberBound, Range
from .regex import PatternError, automaton_of
from .rules import MAX_REPEAT
from .work_budget import spend

MEANT_BY = {
    "string": "minLength maxLength pattern format".split(),
    "number": "minimum maximum exclusiveMinimum exclusiveMaximum multipleOf".split(),
    "object": "properties required additionalProperties patternProperties propertyNames"
    " dependencies dependentRequired dependentSchemas minProperties maxProperties".split(),
    "array": "items prefixItems additionalItems minItems maxItems contains uniqueItems".split(),
}
"""The keywords of each type; they imply the type if a schema names none."""

# Automaton states of all patterns of a schema, which are built before its size is known.
MAX_PATTERN_STATES = 100_000
MAX_REGIONS = 60  # regions of undeclared names: each pattern may split every region in two
# Characters of the tree of declared names that undeclared ones avoid exactly. The trees of a
# document have together `MAX_TREES`, with at least `MIN_TREE` each.
MAX_TREE = 64
MAX_TREES = 1_000
MIN_TREE = 8

_OF_NAMES = (Atom.SOME, Atom.SOME_MATCHING, Atom.SOME_NAME)

MAX_VARIANTS = 100  # variants of an object that must have some member of a kind
# Values of unique items that may come in any order: a state of such an array is the set of values
# that are used up. Longer lists come in their order, so that a state is only the last value used.
MAX_DISTINCT = 6

# Unsupported keywords, with the values that have no effect.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}, False),
    "$dynamicRef": (),
    "$recursiveRef": (),
}


class Region(Struct, frozen=True):
    """Undeclared names, and the schemas of their values."""

    names: Automaton
    nodes: Nodes


class Objects(Struct, frozen=True):
    """Constraints on objects. A declared name without schemas (None) must not occur. `last` are
    regions of which one member each must come after all others."""

    members: dict[str, Nodes | None] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    regions: tuple[Region, ...] = (Region(rx.EVERYTHING, ()),)
    last: tuple[Region, ...] = ()
    low: int = 0
    high: int | None = None


class _Part(Struct, frozen=True):
    """The members of which one schema speaks: by name, by pattern, and all others."""

    listed: dict[str, Node]
    patterns: list[tuple[Automaton, Node]]
    others: Node | None

    def of(self, name: str) -> list[Node]:
        """The schemas of a member, without that of all others."""
        matching = [inside for language, inside in self.patterns if language.accepts(name)]
        if name in self.listed:
            matching.append(self.listed[name])
        return matching


class Arrays(Struct):
    """Constraints on arrays: schemas by position, and of all further items (None: there must be
    none). `contains` are schemas that between two numbers of items must satisfy; `distinct` says
    that no two items may be equal."""

    places: list[Nodes] = field(default_factory=list)
    rest: Nodes | None = ()
    low: int = 0
    high: int | None = None
    contains: list[tuple[Node, int, int | None]] = field(default_factory=list)
    distinct: bool = False

    def at(self, place: int) -> Nodes | None:
        return self.places[place] if place < len(self.places) else self.rest


class Constraints(Struct, kw_only=True):
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


class ConstraintReader(Struct, eq=False):
    """Reads sets of nodes. If `closed`, objects and tuples have what is listed, unless their schema
    says more. If `implied`, keywords of a type imply it where no type is named. If `rough`, objects
    are read without the names of undeclared members."""

    expander: Expander
    gaps: Gaps
    closed: bool
    implied: bool = True
    rough: bool = False
    _states: int = 0

    def texts(self, nodes: Nodes) -> Automaton:
        """The strings that satisfy the nodes. Raises TooManyStatesError."""
        values = []
        for way in map(self.read, self.expander.ways(nodes)):
            if way.values is not None:
                values.append(rx.texts(text for text in way.listed() if isinstance(text, str)))
            elif "string" in way.types and way.has_length:
                values.append(way.language())
        return rx.union(*values)

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
            whole = self._object(nodes, max((low for low, _ in counts), default=0), high)
            merged.objects = self._variants(nodes, whole)
        if "array" in merged.types:
            merged.arrays = self._array(nodes)
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
                merged.range = replace(merged.range, step=lcm(merged.range.step or 1, int(step)))
        without = node.schema.get(Atom.NO_MULTIPLE)
        if without is not None:
            if isinstance(without, bool) or not isinstance(without, int | float) or without <= 0:
                node.fail("'multipleOf' must be greater than 0")
            excluded = merged.range.without | {int(without)}
            merged.range = replace(merged.range, without=excluded)

    def _strings(self, node: Node, merged: Constraints) -> None:
        schema = node.schema
        low, high = self._counts(node, "Length")
        merged.low, merged.high = max(merged.low, low), least(merged.high, high)
        if "pattern" in schema:
            language = self._pattern(schema["pattern"], "'pattern'", "pattern", node)
            merged.languages += [] if language is None else [language]
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

    def _pattern(self, pattern: Any, what: str, keyword: str, node: Node) -> Automaton | None:
        """The texts that a pattern matches; None if that cannot be expressed."""
        if not isinstance(pattern, str):
            node.fail(f"{what} must be a string")
        try:
            if self._states > MAX_PATTERN_STATES:
                raise TooManyStatesError
            language = automaton_of(pattern)
            self._states += len(language.transitions)
            return language
        except PatternError as error:
            if not error.unsupported:
                node.fail(f"{what} is not a valid expression: {error}")
            self.gaps.report(keyword, node, str(error))
        except TooManyStatesError:
            self._states += rx.MAX_STATES
            self.gaps.report(keyword, node, "it needs too many rules")
        return None

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

    # Objects

    def _object(self, nodes: Nodes, low: int, high: int | None) -> Objects:
        """The object that satisfies the nodes and has `low` to `high` members."""
        parts = [self._part(node) for node in nodes]
        spend(2 * len(nodes) * sum(len(part.listed) for part in parts))
        required = self._required(nodes)
        names = dict.fromkeys(name for part in parts for name in part.listed)
        names |= dict.fromkeys(required)
        allowed = [
            self._allowed(node)
            for node in nodes
            if node.schema.get("propertyNames", True) not in (True, {})
        ]
        sealed = all(part.others is None for part in parts) and _seals(nodes)
        members: dict[str, Nodes | None] = {}
        for name in names:
            schemas: list[Node | None] = []
            evaluated = not sealed
            for part in parts:
                nodes_of_name = part.of(name)
                evaluated = evaluated or bool(nodes_of_name)
                schemas += nodes_of_name or [part.others]
            held = evaluated and all(language.accepts(name) for language in allowed)
            members[name] = joined(schemas) if held else None
        regions = self._regions(nodes, parts, tuple(names), allowed, low)
        return Objects(members, frozenset(required), regions, (), low, high)

    def _variants(self, nodes: Nodes, read: Objects) -> list[Objects]:
        """The object in all forms that have a member as `not additionalProperties` and the like
        ask for."""
        forms = [read]
        for node in nodes:
            for pattern, inside in self._wanted(node):
                forms = [form for each in forms for form in _having(each, pattern, inside)]
                if len(forms) > MAX_VARIANTS:
                    self.gaps.report("not", node, f"more than {MAX_VARIANTS} forms of an object")
                    return [read]
        return forms

    def _wanted(self, node: Node) -> Iterator[tuple[Automaton, Nodes]]:
        schema = node.schema
        if Atom.SOME in schema:
            names, patterns = schema[Atom.SOME]
            languages = [self._pattern_of_names(pattern, node) for pattern in patterns]
            outside = rx.all_but(tuple(names), MAX_TREE)
            for language in languages:
                if language is not None:
                    outside = rx.difference(outside, language)
            yield outside, (node.child("schema"),)
        if Atom.SOME_MATCHING in schema:
            matching = self._pattern_of_names(schema[Atom.SOME_MATCHING], node)
            if matching is not None:
                yield matching, (node.child("schema"),)
        if Atom.SOME_NAME in schema:
            yield self.texts((schema[Atom.SOME_NAME],)), ()

    def _required(self, nodes: Nodes) -> list[str]:
        names: dict[str, None] = {}
        for node in nodes:
            required = node.schema.get("required", ())
            if isinstance(required, bool):  # draft 3, on the member itself
                continue
            is_list = isinstance(required, list | tuple)
            if not is_list or not all(isinstance(name, str) for name in required):
                node.fail("'required' must be a list of names")
            spend(len(required) * len(nodes))
            names |= dict.fromkeys(required)
        return list(names)

    def _part(self, node: Node) -> _Part:
        patterns = []
        for pattern, inside in node.named("patternProperties").items():
            language = self._pattern_of_names(pattern, node)
            if language is not None:
                patterns.append((language, inside))
        has_others = "additionalProperties" in node.schema
        others = node.child("additionalProperties") if has_others else None
        return _Part(node.named("properties"), patterns, others)

    def _pattern_of_names(self, pattern: str, node: Node) -> Automaton | None:
        return self._pattern(pattern, f"the pattern {pattern!r}", "patternProperties", node)

    def _allowed(self, node: Node) -> Automaton:
        try:
            return self.texts((node.child("propertyNames"),))
        except TooManyStatesError:
            self.gaps.report("propertyNames", node, "it needs too many rules")
            return rx.EVERYTHING

    def _regions(
        self,
        nodes: Nodes,
        parts: list[_Part],
        names: tuple[str, ...],
        allowed: list[Automaton],
        low: int,
    ) -> tuple[Region, ...]:
        """The undeclared names. Each region remembers whose patterns match it."""
        others: list[Node | None] = [part.others for part in parts if part.others is not None]
        patterns = any(part.patterns for part in parts)
        lists = any({"properties", "patternProperties"} & node.schema.keys() for node in nodes)
        is_closed = _seals(nodes) or (self.closed and lists and low <= len(names))
        closed = not others and is_closed
        held = None if closed else joined(others)
        if self.rough and not any(word in node.schema for node in nodes for word in _OF_NAMES):
            is_open = patterns or held is not None
            return (Region(rx.EVERYTHING, held or ()),) if is_open else ()
        if not patterns and held is None:
            return ()
        size = MAX_TREES // max(self.expander.document.objects, 1)
        size = max(MIN_TREE, min(MAX_TREE, size))
        free = rx.intersection(rx.all_but(names, size), *allowed)
        split: list[tuple[Automaton, frozenset[int], Nodes]] = [(free, frozenset(), ())]
        for at, part in enumerate(parts):
            for language, inside in part.patterns:
                after = []
                for free, matched, schemas in split:
                    both = rx.intersection(free, language)
                    if not both.is_empty:
                        after.append((both, matched | {at}, (*schemas, inside)))
                    apart = free if both.is_empty else rx.difference(free, language)
                    if not apart.is_empty:
                        after.append((apart, matched, schemas))
                split = after
                if len(split) > MAX_REGIONS:
                    raise TooManyStatesError
        regions: dict[Nodes, Automaton] = {}
        for free, matched, schemas in split:
            rest = [part.others for at, part in enumerate(parts) if at not in matched]
            held = joined([*schemas, *rest])
            if held is None or (closed and not matched):
                continue
            regions[held] = rx.union(regions[held], free) if held in regions else free
        return tuple(Region(free, held) for held, free in regions.items() if not free.is_empty)

    # Arrays

    def _array(self, nodes: Nodes) -> Arrays:
        arrays = Arrays()
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
            if "contains" in node.schema:
                low, high = self._counts(node, "Contains")
                low = low if "minContains" in node.schema else 1
                arrays.contains.append((node.child("contains"), low, high))
            arrays.distinct = arrays.distinct or node.schema.get("uniqueItems") is True
        count = max((len(items) for items in places.values()), default=0)
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
        if others:
            arrays.rest = joined(list(others.values()))
        elif self.closed and count and arrays.low <= count and not arrays.contains:
            arrays.rest = None
        return arrays


def _seals(nodes: Nodes) -> bool:
    return any(node.schema.get("unevaluatedProperties") is False for node in nodes)


def _having(of: Objects, pattern: Automaton, inside: Nodes) -> Iterator[Objects]:
    """The object with a member whose name is in the language and that satisfies the nodes."""
    for name, nodes in of.members.items():
        if nodes is not None and pattern.accepts(name):
            members = {**of.members, name: joined([*nodes, *inside])}
            yield replace(of, members=members, required=of.required | {name})
    for region in of.regions:
        names = rx.intersection(region.names, pattern)
        if not names.is_empty:
            held = joined([*region.nodes, *inside])
            if held is not None:
                yield replace(of, last=(*of.last, Region(names, held)))


def joined(nodes: list[Node | None]) -> Nodes | None:
    """The schemas without those that are always valid; None if one of them is `false`."""
    schemas = [node for node in nodes if node is not None and node.schema is not True]
    return None if any(node.schema is False for node in schemas) else tuple(schemas)


def least(left: int | None, right: int | None) -> int | None:
    """The lower of two upper bounds; None means no bound."""
    return min((bound for bound in (left, right) if bound is not None), default=None)

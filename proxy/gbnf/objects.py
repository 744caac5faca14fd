"""What a set of schemas requires of an object.

Every name belongs to one region: each declared name is one of its own, and the rest of all names is
split by patternProperties into regular languages, so that the same schemas hold for all names of a
region.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from . import automaton as rx
from .automaton import Automaton, TooManyStatesError
from .document import Gaps, Node, Nodes
from .negation import Atom
from .regex import PatternError, automaton_of
from .work_budget import spend

MAX_REGIONS = 60
"""Maximum regions of undeclared names: each pattern may split every region in two."""

MAX_TREE = 64
"""Maximum characters of the tree of declared names that undeclared ones avoid exactly. The trees of
a document have together `MAX_TREES`, with at least `MIN_TREE` each."""

MAX_TREES = 1_000
MIN_TREE = 8

_OF_NAMES = (Atom.SOME, Atom.SOME_MATCHING, Atom.SOME_NAME)

MAX_VARIANTS = 100
"""Maximum variants of an object that must have some member of a kind."""


@dataclass(frozen=True)
class Region:
    """Undeclared names, and the schemas of their values."""

    names: Automaton
    nodes: Nodes


@dataclass(frozen=True)
class Objects:
    """Constraints on objects. A declared name without schemas (None) must not occur. `last` are
    regions of which one member each must come after all others."""

    members: dict[str, Nodes | None] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    regions: tuple[Region, ...] = (Region(rx.EVERYTHING, ()),)
    last: tuple[Region, ...] = ()
    low: int = 0
    high: int | None = None


@dataclass(frozen=True)
class _Part:
    """The members of which one schema speaks: by name, by pattern, and all others."""

    listed: dict[str, Node]
    patterns: list[tuple[Automaton, Node]]
    others: Node | None

    def of(self, name: str) -> list[Node]:
        """The schemas of a member, without that of all others."""
        found = [inside for language, inside in self.patterns if language.accepts(name)]
        if name in self.listed:
            found.append(self.listed[name])
        return found


class ObjectReader:
    """Reads objects. `texts` is the language of the strings that satisfy a schema. If `closed`, a
    schema with properties allows no others unless it has additionalProperties. `tree` is the size
    of a tree of declared names that undeclared ones avoid. If `rough`, the names of regions are not
    computed, where nothing depends on them: one region stands for all."""

    def __init__(
        self,
        gaps: Gaps,
        texts: Callable[[Nodes], Automaton],
        closed: bool,
        tree: int,
        rough: bool = False,
    ) -> None:
        self.gaps = gaps
        self.texts = texts
        self.closed = closed
        self.tree = tree
        self.rough = rough

    def read(self, nodes: Nodes, low: int, high: int | None) -> Objects:
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
                found = part.of(name)
                evaluated = evaluated or bool(found)
                schemas += found or [part.others]
            held = evaluated and all(language.accepts(name) for language in allowed)
            members[name] = joined(schemas) if held else None
        regions = self._regions(nodes, parts, tuple(names), allowed, low)
        return Objects(members, frozenset(required), regions, (), low, high)

    def variants(self, nodes: Nodes, read: Objects) -> list[Objects]:
        """The object in all forms that have a member as `not additionalProperties` and the like
        ask for."""
        found = [read]
        for node in nodes:
            for wanted, inside in self._wanted(node):
                found = [one for each in found for one in _having(each, wanted, inside)]
                if len(found) > MAX_VARIANTS:
                    self.gaps.report("not", node, f"more than {MAX_VARIANTS} forms of an object")
                    return [read]
        return found

    def _wanted(self, node: Node) -> Iterator[tuple[Automaton, Nodes]]:
        schema = node.schema
        if Atom.SOME in schema:
            names, patterns = schema[Atom.SOME]
            languages = [self._pattern(pattern, node) for pattern in patterns]
            known = [language for language in languages if language is not None]
            outside = rx.all_but(tuple(names), MAX_TREE)
            for language in known:
                outside = rx.difference(outside, language)
            yield outside, (node.child("schema"),)
        if Atom.SOME_MATCHING in schema:
            matching = self._pattern(schema[Atom.SOME_MATCHING], node)
            if matching is not None:
                yield matching, (node.child("schema"),)
        if Atom.SOME_NAME in schema:
            yield self.texts((schema[Atom.SOME_NAME],)), ()

    def _required(self, nodes: Nodes) -> list[str]:
        found: dict[str, None] = {}
        for node in nodes:
            required = node.schema.get("required", ())
            if isinstance(required, bool):  # draft 3, on the member itself
                continue
            is_list = isinstance(required, list | tuple)
            if not is_list or not all(isinstance(name, str) for name in required):
                node.fail("'required' must be a list of names")
            spend(len(required) * len(nodes))
            found |= dict.fromkeys(required)
        return list(found)

    def _part(self, node: Node) -> _Part:
        patterns = []
        for pattern, inside in node.named("patternProperties").items():
            language = self._pattern(pattern, node)
            if language is not None:
                patterns.append((language, inside))
        has_others = "additionalProperties" in node.schema
        others = node.child("additionalProperties") if has_others else None
        return _Part(node.named("properties"), patterns, others)

    def _pattern(self, pattern: str, node: Node) -> Automaton | None:
        try:
            return automaton_of(pattern)
        except PatternError as error:
            if not error.unsupported:
                node.fail(f"the pattern {pattern!r} is not a valid expression: {error}")
            self.gaps.report("patternProperties", node, str(error))
        except TooManyStatesError:
            self.gaps.report("patternProperties", node, "its patterns need too many rules")
        return None

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
        free = rx.intersection(rx.all_but(names, self.tree), *allowed)
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
        found: dict[Nodes, Automaton] = {}
        for free, matched, schemas in split:
            rest = [part.others for at, part in enumerate(parts) if at not in matched]
            held = joined([*schemas, *rest])
            if held is None or (closed and not matched):
                continue
            found[held] = rx.union(found[held], free) if held in found else free
        return tuple(Region(free, held) for held, free in found.items() if not free.is_empty)


def _seals(nodes: Nodes) -> bool:
    return any(node.schema.get("unevaluatedProperties") is False for node in nodes)


def _having(of: Objects, wanted: Automaton, inside: Nodes) -> Iterator[Objects]:
    """The object with a member whose name is in the language and that satisfies the nodes."""
    for name, nodes in of.members.items():
        if nodes is not None and wanted.accepts(name):
            members = {**of.members, name: joined([*nodes, *inside])}
            yield replace(of, members=members, required=of.required | {name})
    for region in of.regions:
        names = rx.intersection(region.names, wanted)
        if not names.is_empty:
            held = joined([*region.nodes, *inside])
            if held is not None:
                yield replace(of, last=(*of.last, Region(names, held)))


def tree_size(objects: int) -> int:
    """The size of each tree in a document with that many objects."""
    return max(MIN_TREE, min(MAX_TREE, MAX_TREES // max(objects, 1)))


def joined(nodes: list[Node | None]) -> Nodes | None:
    """The schemas without those that are always valid; None if one of them is `false`."""
    schemas = [node for node in nodes if node is not None and node.schema is not True]
    return None if any(node.schema is False for node in schemas) else tuple(schemas)


# What a set of schemas requires of an array: its positions, its other items, and what it contains.
#
# `uniqueItems` cannot be expressed by a grammar in general, since it would have to remember every
# item. It can where the items are a few listed values (`MAX_DISTINCT`): then a state is the set of
# values that are used up. Longer lists of values come in the order of the list, so that a state is
# only the last value used; every set of values can be written then, in one order.

MAX_DISTINCT = 6
"""Maximum values that may come in any order, each at most once."""


@dataclass
class Arrays:
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


Counts = Callable[[Node, str], tuple[int, int | None]]


def read_arrays(nodes: Nodes, counts: Counts, closed: bool) -> Arrays:
    """The array that satisfies the nodes. If `closed`, nothing follows the positions of a tuple
    unless a schema says so."""
    arrays = Arrays()
    places: dict[Node, list[Node]] = {}
    others: dict[Node, Node] = {}
    for node in nodes:
        low, high = counts(node, "Items")
        arrays.low, arrays.high = max(arrays.low, low), least(arrays.high, high)
        older = isinstance(node.schema.get("items"), list | tuple)
        keyword = "items" if older else "prefixItems"
        # An empty list has no effect.
        places[node] = node.members(keyword) if node.schema.get(keyword) else []
        rest = "additionalItems" if older else "items"
        if rest in node.schema:
            others[node] = node.child(rest)
        if "contains" in node.schema:
            low, high = counts(node, "Contains")
            low = low if "minContains" in node.schema else 1
            arrays.contains.append((node.child("contains"), low, high))
        arrays.distinct = arrays.distinct or node.schema.get("uniqueItems") is True
    count = max((len(one) for one in places.values()), default=0)
    for place in range(count):
        applicable = [
            places[node][place] if place < len(places[node]) else others.get(node) for node in nodes
        ]
        schemas = joined(applicable)
        if schemas is None:
            arrays.high = least(arrays.high, place)
            break
        arrays.places.append(schemas)
    if others:
        arrays.rest = joined(list(others.values()))
    elif closed and count and arrays.low <= count and not arrays.contains:
        arrays.rest = None
    return arrays


def least(one: int | None, other: int | None) -> int | None:
    """The lower of two upper bounds; None means no bound."""
    return min((bound for bound in (one, other) if bound is not None), default=None)

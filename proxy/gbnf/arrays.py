"""What a set of schemas requires of an array: its positions, its other items, and what it contains.

`uniqueItems` cannot be expressed by a grammar in general, since it would have to remember every
item. It can where the items are a few listed values (`MAX_DISTINCT`): then a state is the set of
values that are used up. Longer lists of values come in the order of the list, so that a state is
only the last value used; every set of values can be written then, in one order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .document import Node, Nodes
from .gaps import Gaps
from .objects import joined

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


def read_arrays(nodes: Nodes, counts: Counts, gaps: Gaps, closed: bool) -> Arrays:
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

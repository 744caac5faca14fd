"""Decides whether two schemas may allow the same value, or two grammars the same text.

Two schemas exclude each other if no value satisfies both. That is looked for in types, listed
values, ranges, languages, and the required members by which tagged unions differ. If nothing is
found, the answer is that they may overlap.
"""

from __future__ import annotations

from . import automaton as rx
from .automaton import TooManyStatesError
from .constraints import ConstraintReader, Constraints
from .document import Document, Node, Nodes, UnsupportedSchema

MAX_DEPTH = 6
"""Maximum depth of members that are compared: tags are near the top."""


MAX_QUESTIONS = 5_000
"""Maximum comparisons for one document; after that, everything may overlap."""


class Overlap:
    """Compares schemas of one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.reader = ConstraintReader(strict=False)
        self._known: dict[tuple[frozenset[Node], Node | None], bool] = {}

    def possible(self, nodes: Nodes, around: Node | None = None, depth: int = 0) -> bool:
        """Whether one value may satisfy all the nodes, and the plain keywords of `around`."""
        if depth > MAX_DEPTH or len(self._known) > MAX_QUESTIONS:
            return True
        key = frozenset(map(self.document.settled, nodes)), around
        if key not in self._known:
            # The cautious answer for a recursive comparison.
            self._known[key] = True
            self._known[key] = self._any_way(nodes, around, depth)
        return self._known[key]

    def _any_way(self, nodes: Nodes, around: Node | None, depth: int) -> bool:
        try:
            ways = self.document.expand(nodes)
        except UnsupportedSchema:
            return True
        plain = (around,) if around else ()
        return any(self._possible(self.reader.read((*plain, *way)), depth) for way in ways)

    def _possible(self, way: Constraints, depth: int) -> bool:
        if way.values is not None:
            return any(True for _ in way.listed())
        return any(self._possible_as(kind, way, depth) for kind in way.types)

    def _possible_as(self, kind: str, way: Constraints, depth: int) -> bool:
        if kind in ("integer", "fraction"):
            return not way.range.is_empty
        if kind == "string":
            return _possible_string(way)
        if kind == "object":
            of = way.objects
            return (of.high is None or of.high >= len(of.required)) and all(
                self._together(of.members[name], (), depth) for name in of.required
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
        left, right = one.objects, other.objects
        for this, that in ((left, right), (right, left)):
            for name in this.required:
                if name not in that.members:
                    if that.extra is None:
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


def _possible_string(way: Constraints) -> bool:
    if way.high is not None and way.low > way.high:
        return False
    languages = list(way.languages)
    try:
        if languages and (way.low or way.high is not None):
            languages.append(rx.length_between(way.low, way.high))
        return not rx.intersection(*languages).is_empty
    except TooManyStatesError:
        return True

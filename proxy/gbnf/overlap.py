"""Decides whether two schemas may allow the same value: unless their types, listed values, ranges,
languages or required members exclude each other.
"""

from __future__ import annotations

from .alternatives import Expander
from .automaton import TooManyStatesError
from .constraints import ConstraintReader, Constraints, Objects
from .document import Document, Gaps, Node, Nodes, UnsupportedSchema
from .json_types import ALL_TYPES
from .negation import Atom

MAX_DEPTH = 6  # depth of members that are compared: tags are near the top


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
        if depth > MAX_DEPTH or len(self._known) > MAX_QUESTIONS:
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

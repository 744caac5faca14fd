"""Grammar rules for the items of arrays.

Plain arrays are nested repetitions. Where items are counted by what they satisfy (`contains`) or
must differ (`uniqueItems`), the array is an automaton whose letters are whole items: its state is
the position, the number of items counted so far and the values used up, and each state becomes a
rule. Negation separates the items that count from the others, so that each array has one
derivation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .document import Nodes
from .effort import spend
from .members import NONE, Contents, Value
from .negation import opposite
from .objects import MAX_DISTINCT, Arrays
from .rules import Rules
from .values import Group, Repeat, RuleRef
from .values import Sequence as Elements

MAX_STATES = 1_000
"""Maximum states of an array, each of which becomes a rule."""

MAX_LISTED = 100
"""Maximum values of unique items."""


def array_items(of: Arrays, rules: Rules, value: Value) -> Contents:
    """The items of such arrays, without `contains` and `distinct`."""
    high = of.high
    places: list[Elements] = []
    for place, nodes in enumerate(of.places):
        inside = value(nodes) if high is None or place < high else None
        if inside is None:
            high = place if high is None else min(high, place)
            break
        places.append(inside)
    rest: Elements | None = None
    if of.rest is not None and (high is None or high > len(of.places)):
        rest = value(of.rest)
    if rest is None and (high is None or high > len(places)):
        high = len(places)
    if high is not None and high < of.low:
        return NONE
    empty = of.low == 0
    if high == 0:
        return Contents(empty, None)
    count = len(places)
    after: Elements = ()
    if rest is not None:
        most = None if high is None else high - max(count, 1)
        more = rules.add("more", (rules.comma, *rest))
        after = rules.between(more, max(of.low - max(count, 1), 0), most)
        if not places:
            return Contents(empty, (*rest, *after))
    for place in range(min(count, high or count) - 1, 0, -1):
        text = (rules.comma, *places[place], *after)
        # An item requires all positions before it.
        after = text if place < of.low else (Repeat(rules.add("item", text), 0, 1),)
    return Contents(empty, (*places[0], *after))


@dataclass(frozen=True)
class _State:
    """The items so far: their number, how many satisfy each `contains`, and the used values."""

    place: int
    counts: tuple[int, ...] = ()
    used: frozenset[int] = frozenset()


class TooManyItemsError(Exception):
    """The array needs too many states."""


class ItemMachine:
    """Writes an array as an automaton of items. `listed` are the values of distinct items."""

    def __init__(
        self, of: Arrays, rules: Rules, value: Value, listed: Sequence[Elements] | None
    ) -> None:
        self.of = of
        self.rules = rules
        self.value = value
        self.listed = listed
        self.last = max(len(of.places), of.low if of.high is None else of.high)
        self._names: dict[_State, RuleRef] = {}
        if listed is not None and len(listed) > MAX_LISTED:
            raise TooManyItemsError

    def contents(self) -> Contents:
        """Raises TooManyItemsError, UnsupportedSchema."""
        start = _State(0, (0,) * len(self.of.contains))
        todo = [start]
        full: list[Elements] = []
        for state in todo:
            alternatives: list[Elements] = []
            for item, after in self._following(state):
                spend(3)
                if after not in self._names:
                    if len(self._names) >= MAX_STATES:
                        raise TooManyItemsError
                    self._names[after] = self.rules.reserve("items")
                    todo.append(after)
                alternatives.append((*item, self._names[after]))
            if state == start:
                full = alternatives
            if state in self._names:
                comma = self.rules.comma
                later: list[Elements] = [(comma, *one) for one in alternatives]
                if self._accepts(state):
                    later.append(())
                self.rules.define(self._names[state], tuple(later))
        group: Elements | None = (Group(tuple(full)),) if full else None
        return Contents(self._accepts(start), group)

    def _accepts(self, state: _State) -> bool:
        enough = all(
            count >= low for count, (_, low, _) in zip(state.counts, self.of.contains, strict=True)
        )
        return enough and state.place >= self.of.low

    def _following(self, state: _State) -> Iterator[tuple[Elements, _State]]:
        nodes = self.of.at(state.place)
        if nodes is None or (self.of.high is not None and state.place >= self.of.high):
            return
        place = min(state.place + 1, self.last)
        if self.listed is not None:
            free = range(len(self.listed))
            if len(self.listed) <= MAX_DISTINCT:
                for at in free:
                    if at not in state.used:
                        yield self.listed[at], _State(place, (), state.used | {at})
            else:
                for at in range(max(state.used, default=-1) + 1, len(self.listed)):
                    yield self.listed[at], _State(place, (), frozenset({at}))
            return
        for more, counts in self._letters(state):
            item = self.value((*nodes, *more))
            if item is not None:
                yield item, _State(place, counts)

    def _letters(self, state: _State) -> Iterator[tuple[Nodes, tuple[int, ...]]]:
        """Which of `contains` an item satisfies, and the counts after it."""
        found: list[tuple[Nodes, tuple[int, ...]]] = [((), ())]
        for count, (node, low, high) in zip(state.counts, self.of.contains, strict=True):
            following: list[tuple[Nodes, tuple[int, ...]]] = []
            for nodes, counts in found:
                if high is None and count >= low:
                    following.append((nodes, (*counts, count)))
                    continue
                if high is None or count < high:
                    following.append(((*nodes, node), (*counts, count + 1)))
                following.append(((*nodes, opposite(node)), (*counts, count)))
            found = following
        yield from found

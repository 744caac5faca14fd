"""Grammar rules for the members of objects.

Members come in a fixed order, each with the comma before it, so each text has one derivation. Only
the first has no comma, so there is one alternative for each member that may come first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property

from msgspec import Struct, field

from .alternatives import opposite
from .constraints import MAX_DISTINCT, Arrays, Objects, Region
from .document import Nodes
from .rules import Rules, member_key
from .values import Element, Group, Literal, Repeat, RuleRef
from .values import Sequence as Elements
from .work_budget import spend

# Optional members that minProperties and maxProperties may count: the number of rules is members
# times count, and the compiler recurses.
MAX_COUNTED = 60

Value = Callable[[Nodes], Elements | None]


class Contents(Struct, frozen=True):
    """Whether the container may be empty, and its other contents; None if it must be empty."""

    may_be_empty: bool
    full: Elements | None


NONE = Contents(False, None)  # no container at all


class _Member(Struct, frozen=True):
    text: Elements
    required: bool


def object_members(
    of: Objects, rules: Rules, value: Value, refuse: Callable[[str], None]
) -> Contents:
    """The members of such objects. Calls `refuse` with the reason if their number cannot be
    limited."""
    members: list[_Member] = []
    for name, nodes in of.members.items():
        spend(20)
        inside = None if nodes is None else value(nodes)
        if inside is not None:
            text = (rules.add("member", (member_key(name), rules.space, *inside)),)
            members.append(_Member(text, name in of.required))
        elif name in of.required:
            return NONE
    extra = _extra_member(of, rules, value)
    last: list[Elements] = []
    for region in of.last:
        inside = value(region.nodes)
        if inside is None:
            return NONE
        last.append(_member_of(region, inside, rules))
    required = sum(member.required for member in members) + len(last)
    most = of.high if of.high is not None and (extra or of.high < len(members)) else None
    if most is not None and most < max(required, of.low):
        return NONE
    need = max(0, of.low - required)
    if extra is None and of.low > len(members) + len(last):
        return NONE
    room = None if most is None else most - required
    if extra and need > (not last):
        refuse("a repeated additional property would be counted twice")
    if (need or room is not None) and len(members) + len(last) - required > MAX_COUNTED:
        refuse(f"more than {MAX_COUNTED} optional properties to count")
        need, room = 0, None
    writer = _Members(members, extra, last, rules, need, room)
    starts = writer.first()
    full = (Group(tuple(starts)),) if len(starts) > 1 else starts[0] if starts else None
    return Contents(required == 0 and need == 0, full)


def _extra_member(of: Objects, rules: Rules, value: Value) -> Element | None:
    """An undeclared member of any region."""
    alternatives: list[Elements] = []
    for region in of.regions if of.high != 0 else ():
        inside = value(region.nodes)
        if inside is not None:
            alternatives.append(_member_of(region, inside, rules))
    return rules.add("extra", *alternatives) if alternatives else None


def _member_of(region: Region, inside: Elements, rules: Rules) -> Elements:
    return (*rules.string(region.names), Literal(":"), rules.space, *inside)


class _Members(Struct, eq=False, dict=True):
    """The members from a position on. At least `need` optional members must follow, and at most
    `room` (None: all)."""

    members: list[_Member]
    extra: Element | None
    last: list[Elements]
    rules: Rules
    need: int
    room: int | None

    def __post_init__(self) -> None:
        # With an optional member first, several alternatives share each rest.
        required = (at for at, member in enumerate(self.members) if member.required)
        self.starts = next(required, len(self.members))
        self.rest = cache(self._rest)

    def first(self) -> list[Elements]:
        """The texts of at least one member, with an alternative for each possible first one."""
        need, room = self.need, self.room
        alternatives: list[Elements] = []
        for at, member in enumerate(self.members[: self.starts + 1]):
            after = self._after(at + 1, member.required, need, room)
            if after is not None:
                alternatives.append((*member.text, *after))
        end = len(self.members)
        if self.extra and self.starts == end:
            after = self._after(end, False, need, room)
            if after is not None:
                alternatives.append((self.extra, *after))
        if self.last and self.starts == end and not need:
            alternatives.append((*self.last[0], *self._ending(1)))
        return alternatives

    def _ending(self, start: int = 0) -> Elements:
        """The members that come after all others, from one on."""
        comma = self.rules.comma
        return tuple(part for member in self.last[start:] for part in (comma, *member))

    def _after(self, at: int, required: bool, need: int, room: int | None) -> Elements | None:
        """What may follow a member."""
        if required:
            return self.rest(at, need, room)
        if room == 0:
            return None
        return self.rest(at, max(need - 1, 0), None if room is None else room - 1)

    def _rest(self, at: int, need: int, room: int | None) -> Elements | None:
        if not self.need and self.room is None:
            return self._uncounted[at]
        if at == len(self.members):
            return self._extras(need, room)
        member = self.members[at]
        after = self._after(at + 1, member.required, need, room)
        skip = None if member.required else self.rest(at + 1, need, room)
        alternatives = [] if after is None else [(self.rules.comma, *member.text, *after)]
        if skip is not None:
            alternatives.append(skip)
        return (self.rules.add("rest", *alternatives),) if alternatives else None

    @cached_property
    def _uncounted(self) -> list[Elements]:
        """The rests by position if members are not counted, built from the last one backwards."""
        rests = [self._extras(0, None) or ()]
        for at in range(len(self.members) - 1, -1, -1):
            member = self.members[at]
            text: Elements = (self.rules.comma, *member.text)
            if not member.required:
                text = (Repeat(Group((text,)), 0, 1),)
            rest = (*text, *rests[-1])
            spend(2 + (len(rest) >> 3))
            if at <= self.starts and len(rest) > 1:
                rest = (self.rules.add("rest", rest),)
            rests.append(rest)
        return rests[::-1]

    def _extras(self, need: int, room: int | None) -> Elements | None:
        if not self.extra:
            return None if need else self._ending()
        if room is not None and room < need:
            return None
        more = self.rules.add("more", (self.rules.comma, self.extra))
        return (*self.rules.between(more, need, room), *self._ending())


# Grammar rules for the items of arrays.
#
# Plain arrays are nested repetitions. Where items are counted by what they satisfy (`contains`) or
# must differ (`uniqueItems`), the array is an automaton whose letters are whole items: its state
# is the position, the number of items counted so far and the values used up, and each state
# becomes a rule. Negation separates the items that count from the others, so that each array has
# one derivation.

MAX_STATES = 1_000  # states of an array, each of which becomes a rule
MAX_LISTED = 100  # values of unique items


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


class _State(Struct, frozen=True):
    """The items so far: their number, how many satisfy each `contains`, and the used values."""

    place: int
    counts: tuple[int, ...] = ()
    used: frozenset[int] = frozenset()


class TooManyItemsError(Exception):
    """The array needs too many states."""


class ItemMachine(Struct, eq=False, dict=True):
    """Writes an array as an automaton of items. `listed` are the values of distinct items."""

    of: Arrays
    rules: Rules
    value: Value
    listed: Sequence[Elements] | None
    _names: dict[_State, RuleRef] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.last = max(len(self.of.places), self.of.low if self.of.high is None else self.of.high)
        if self.listed is not None and len(self.listed) > MAX_LISTED:
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
                later: list[Elements] = [(comma, *elements) for elements in alternatives]
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
            any_order = len(self.listed) <= MAX_DISTINCT
            begin = 0 if any_order else max(state.used, default=-1) + 1
            for at in range(begin, len(self.listed)):
                if at not in state.used:
                    used = state.used if any_order else frozenset[int]()
                    yield self.listed[at], _State(place, (), used | {at})
            return
        for more, counts in self._letters(state):
            item = self.value((*nodes, *more))
            if item is not None:
                yield item, _State(place, counts)

    def _letters(self, state: _State) -> Iterator[tuple[Nodes, tuple[int, ...]]]:
        """Which of `contains` an item satisfies, and the counts after it."""
        letters: list[tuple[Nodes, tuple[int, ...]]] = [((), ())]
        for count, (node, low, high) in zip(state.counts, self.of.contains, strict=True):
            following: list[tuple[Nodes, tuple[int, ...]]] = []
            for nodes, counts in letters:
                if high is None and count >= low:
                    following.append((nodes, (*counts, count)))
                    continue
                if high is None or count < high:
                    following.append(((*nodes, node), (*counts, count + 1)))
                following.append(((*nodes, opposite(node)), (*counts, count)))
            letters = following
        yield from letters

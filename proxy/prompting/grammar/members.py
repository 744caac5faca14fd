"""What stands between the braces of an object and the brackets of an array.

Strategy: members come in a fixed order, each with the comma before it, so a text says at its first
comma which members were left out, and no two ways lead to one text. Only the first member written
has no comma; so there is one alternative for each member that may be the first.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from . import automaton as rx
from .constraints import Arrays, Objects
from .document import Nodes
from .effort import spend
from .rules import Rules
from .values import Element, Group, Literal, Repeat
from .values import Sequence as Elements

MAX_COUNTED = 60
"""Optional members that are still counted for minProperties and maxProperties: the rules are as
many as members times count, and the compiler recurses."""

Value = Callable[[Nodes], Elements | None]


@dataclass(frozen=True)
class Contents:
    """Whether nothing may stand between the marks, and what else may; None when nothing else."""

    may_be_empty: bool
    full: Elements | None


_NONE = Contents(False, None)


@dataclass(frozen=True)
class _Member:
    text: Elements
    required: bool


def object_members(
    of: Objects, rules: Rules, value: Value, refuse: Callable[[str], None]
) -> Contents:
    """The members of such objects. `refuse` is told why, when their number cannot be counted."""
    members: list[_Member] = []
    for name, nodes in of.members.items():
        spend(20)
        inside = None if nodes is None else value(nodes)
        if inside is not None:
            key = Literal(json.dumps(name, ensure_ascii=False) + ":")
            text = (rules.add("member", (key, rules.space(), *inside)),)
            members.append(_Member(text, name in of.required))
        elif name in of.required:
            return _NONE
    extra = _extra_member(of, rules, value)
    required = sum(member.required for member in members)
    most = of.high if of.high is not None and (extra or of.high < len(members)) else None
    if most is not None and most < max(required, of.low):
        return _NONE
    need = max(0, of.low - required)
    if extra is None and of.low > len(members):
        return _NONE
    room = None if most is None else most - required
    if extra and need > 1:
        refuse("the same additional member twice would count as two")
    if (need or room is not None) and len(members) - required > MAX_COUNTED:
        refuse(f"more than {MAX_COUNTED} optional members to count")
        need, room = 0, None
    writer = _Members(members, extra, rules, need, room)
    starts = [*writer.first()]
    full = (Group(tuple(starts)),) if len(starts) > 1 else starts[0] if starts else None
    return Contents(required == 0 and need == 0, full)


def _extra_member(of: Objects, rules: Rules, value: Value) -> Element | None:
    """A member that is not listed: its name differs from all that are."""
    inside = None if of.extra is None or of.high == 0 else value(of.extra)
    if inside is None:
        return None
    free = rx.compile_regex(rx.ANY_TEXT)
    if of.members:
        free = rx.difference(free, rx.texts(of.members))
    return rules.add("extra", (*rules.string(free), Literal(":"), rules.space(), *inside))


class _Members:
    """Texts of members from one place on; `need` optional ones are still wanted, `room` is left for
    them (None: for all)."""

    def __init__(
        self,
        members: list[_Member],
        extra: Element | None,
        rules: Rules,
        need: int,
        room: int | None,
    ) -> None:
        self.members = members
        self.extra = extra
        self.rules = rules
        self.counts = (need, room)
        self.counted = need > 0 or room is not None
        # Rests are referred to from several starts when an optional member comes first.
        self.starts = next((at for at, one in enumerate(members) if one.required), len(members))
        self.rest = cache(self._rest)
        self._uncounted: list[Elements] | None = None

    def first(self) -> list[Elements]:
        """The texts of at least one member, by which is the first."""
        need, room = self.counts
        found: list[Elements] = []
        for at, member in enumerate(self.members[: self.starts + 1]):
            after = self._after(at + 1, member.required, need, room)
            if after is not None:
                found.append((*member.text, *after))
        if self.extra and self.starts == len(self.members) and room != 0:
            high = None if room is None else room - 1
            more = self.rules.add("more", (self.rules.comma(), self.extra))
            found.append((self.extra, *self.rules.between(more, max(need - 1, 0), high)))
        return found

    def _after(self, at: int, required: bool, need: int, room: int | None) -> Elements | None:
        """What may follow a member that was written."""
        if required:
            return self.rest(at, need, room)
        if room == 0:
            return None
        return self.rest(at, max(need - 1, 0), None if room is None else room - 1)

    def _rest(self, at: int, need: int, room: int | None) -> Elements | None:
        if not self.counted:
            return self._all_rests()[at]
        if at == len(self.members):
            return self._extras(need, room)
        member = self.members[at]
        after = self._after(at + 1, member.required, need, room)
        skip = None if member.required else self.rest(at + 1, need, room)
        found = [] if after is None else [(self.rules.comma(), *member.text, *after)]
        if skip is not None:
            found.append(skip)
        return (self.rules.add("rest", *found),) if found else None

    def _all_rests(self) -> list[Elements]:
        """The rests by place where nothing is counted, made from the last one on."""
        if self._uncounted is None:
            found = [self._extras(0, None) or ()]
            for at in range(len(self.members) - 1, -1, -1):
                member = self.members[at]
                text: Elements = (self.rules.comma(), *member.text)
                if not member.required:
                    text = (Repeat(Group((text,)), 0, 1),)
                rest = (*text, *found[-1])
                spend(2 + (len(rest) >> 3))
                if at <= self.starts and len(rest) > 1:
                    rest = (self.rules.add("rest", rest),)
                found.append(rest)
            self._uncounted = found[::-1]
        return self._uncounted

    def _extras(self, need: int, room: int | None) -> Elements | None:
        if not self.extra:
            return None if need else ()
        more = self.rules.add("more", (self.rules.comma(), self.extra))
        return None if room is not None and room < need else self.rules.between(more, need, room)


def array_items(of: Arrays, rules: Rules, value: Value) -> Contents:
    """The items of such arrays."""
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
        return _NONE
    empty = of.low == 0
    if high == 0:
        return Contents(empty, None)
    count = len(places)
    after: Elements = ()
    if rest is not None:
        most = None if high is None else high - max(count, 1)
        more = rules.add("more", (rules.comma(), *rest))
        after = rules.between(more, max(of.low - max(count, 1), 0), most)
        if not places:
            return Contents(empty, (*rest, *after))
    for place in range(min(count, high or count) - 1, 0, -1):
        text = (rules.comma(), *places[place], *after)
        # Without all the places before it no item can come.
        after = text if place < of.low else (Repeat(rules.add("item", text), 0, 1),)
    return Contents(empty, (*places[0], *after))

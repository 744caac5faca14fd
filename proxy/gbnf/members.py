"""Grammar rules for the members of objects.

Members come in a fixed order, each with the comma before it, so every comma decides which members
are omitted, and each text has one derivation. Only the first member has no comma, so there is one
alternative for each member that may come first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from .document import Nodes
from .effort import spend
from .objects import Objects, Region
from .rules import Rules, member_key
from .values import Element, Group, Literal, Repeat
from .values import Sequence as Elements

MAX_COUNTED = 60
"""Maximum optional members for which minProperties and maxProperties are supported: the number of
rules is members times count, and the compiler recurses."""

Value = Callable[[Nodes], Elements | None]


@dataclass(frozen=True)
class Contents:
    """Whether the container may be empty, and its other contents; None if it must be empty."""

    may_be_empty: bool
    full: Elements | None


NONE = Contents(False, None)
"""No container at all."""


@dataclass(frozen=True)
class _Member:
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
    starts = [*writer.first()]
    full = (Group(tuple(starts)),) if len(starts) > 1 else starts[0] if starts else None
    return Contents(required == 0 and need == 0, full)


def _extra_member(of: Objects, rules: Rules, value: Value) -> Element | None:
    """An undeclared member of any region."""
    found: list[Elements] = []
    for region in of.regions if of.high != 0 else ():
        inside = value(region.nodes)
        if inside is not None:
            found.append(_member_of(region, inside, rules))
    return rules.add("extra", *found) if found else None


def _member_of(region: Region, inside: Elements, rules: Rules) -> Elements:
    return (*rules.string(region.names), Literal(":"), rules.space, *inside)


class _Members:
    """The members from a position on. At least `need` optional members must follow, and at most
    `room` (None: all)."""

    def __init__(
        self,
        members: list[_Member],
        extra: Element | None,
        last: list[Elements],
        rules: Rules,
        need: int,
        room: int | None,
    ) -> None:
        self.members = members
        self.extra = extra
        self.last = last
        self.rules = rules
        self.counts = (need, room)
        self.counted = need > 0 or room is not None
        # With an optional member first, several alternatives share each rest.
        self.starts = next((at for at, one in enumerate(members) if one.required), len(members))
        self.rest = cache(self._rest)
        self._uncounted: list[Elements] | None = None

    def first(self) -> list[Elements]:
        """The texts of at least one member, with an alternative for each possible first one."""
        need, room = self.counts
        alternatives: list[Elements] = []
        for at, member in enumerate(self.members[: self.starts + 1]):
            after = self._after(at + 1, member.required, need, room)
            if after is not None:
                alternatives.append((*member.text, *after))
        if self.extra and self.starts == len(self.members) and room != 0:
            high = None if room is None else room - 1
            more = self.rules.add("more", (self.rules.comma, self.extra))
            extras = self.rules.between(more, max(need - 1, 0), high)
            alternatives.append((self.extra, *extras, *self._ending()))
        if self.last and self.starts == len(self.members) and not need:
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
        if not self.counted:
            return self._all_rests()[at]
        if at == len(self.members):
            return self._extras(need, room)
        member = self.members[at]
        after = self._after(at + 1, member.required, need, room)
        skip = None if member.required else self.rest(at + 1, need, room)
        found = [] if after is None else [(self.rules.comma, *member.text, *after)]
        if skip is not None:
            found.append(skip)
        return (self.rules.add("rest", *found),) if found else None

    def _all_rests(self) -> list[Elements]:
        """The rests by position if members are not counted, built from the last one backwards."""
        if self._uncounted is None:
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
            self._uncounted = rests[::-1]
        return self._uncounted

    def _extras(self, need: int, room: int | None) -> Elements | None:
        if not self.extra:
            return None if need else self._ending()
        if room is not None and room < need:
            return None
        more = self.rules.add("more", (self.rules.comma, self.extra))
        return (*self.rules.between(more, need, room), *self._ending())

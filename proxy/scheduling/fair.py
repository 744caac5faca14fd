"""Who is next: a queue that is fair by tokens among the keys (start-time fair queueing).

Every ticket gets a start tag: the later of the queue's virtual time and where its key's last ticket
ends; it ends so many tokens later, divided by the share of its class. The lowest tag is next, and
virtual time is the highest tag served. So a key that asks for much waits behind itself, one that
asks seldom is next, and a class with a larger share is faster but starves nobody.

A full queue makes room by dropping from the longest: a request of a key with fewer places takes the
newest place of the key with most. So keys that all want places end with equally many, and one key
alone may have them all.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class Place(Protocol):
    """What a request of `key` has while it waits; `again`: it had its turn before."""

    again: bool

    @property
    def key(self) -> str: ...


class Waiting(Place, Protocol):
    tag: float
    began: float


P = TypeVar("P", bound=Place)
T = TypeVar("T", bound=Waiting)


class FairQueue(Generic[T]):
    def __init__(self) -> None:
        self._tickets: list[T] = []
        self.virtual = 0.0
        self.ends: dict[str, float] = {}

    def push(self, ticket: T, key: str, tokens: float, again: bool = False) -> None:
        """Queue it; one that had a place before (`again`) is next."""
        if again:
            ticket.tag = min(self.virtual, self._tickets[0].tag if self._tickets else 0.0)
        else:
            ticket.tag = max(self.virtual, self.ends.get(key, 0.0))
            self.ends[key] = ticket.tag + tokens
        bisect.insort(self._tickets, ticket, key=_order)

    def restore(self, tickets: Iterable[T], virtual: float, ends: dict[str, float]) -> None:
        """As another queue was, whose tickets these are, in its order."""
        self._tickets, self.virtual, self.ends = list(tickets), virtual, ends

    def served(self, ticket: T) -> None:
        """It got its slot."""
        self.virtual = max(self.virtual, ticket.tag)
        self.remove(ticket)

    def remove(self, ticket: T) -> None:
        """It waits no more."""
        self._tickets.remove(ticket)
        if not self._tickets:
            self.virtual = 0.0
            self.ends.clear()

    def place(self, ticket: T) -> int:
        """How many are before it, and one."""
        return 1 + self._tickets.index(ticket) if ticket in self._tickets else 0

    def __iter__(self) -> Iterator[T]:
        """In order, safe against changes."""
        return iter(tuple(self._tickets))

    def __len__(self) -> int:
        return len(self._tickets)


def displaced(tickets: Sequence[P], key: str) -> P | None:
    """The ticket that makes room for one more of `key` in a full queue, whose `tickets` these are
    in order: the last of the key that has most, None where it has not at least two more. One that
    had its turn before keeps its place, as its answer may have begun."""
    held = Counter(ticket.key for ticket in tickets)
    most = max(held.values(), default=0)
    if most < held[key] + 2:
        return None
    for ticket in reversed(tickets):
        if held[ticket.key] == most and not ticket.again:
            return ticket
    return None


def _order(ticket: Waiting) -> tuple[float, float]:
    return ticket.tag, ticket.began

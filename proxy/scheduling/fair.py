"""A queue that is fair among API keys, counted in tokens (start-time fair queueing).

Every ticket gets a start tag: the later of the queue's virtual time and the end tag of its key's
last ticket. Its end tag is the start tag plus its tokens divided by the share of its key's class.
The lowest start tag is served next, and virtual time is the highest tag served. So a key that asks
for much queues behind itself, a key that asks rarely is served next, and a class with a larger
share is faster but starves nobody.

When the queue is full, a request of a key with few places displaces the newest request of the key
with the most. Keys that keep asking end up with equally many places; a single key may have all.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar


class QueueEntry(Protocol):
    """A waiting request of `key`. `again`: it had its turn before."""

    again: bool

    @property
    def key(self) -> str: ...


class QueuedTicket(QueueEntry, Protocol):
    """`number` counts the tickets of a queue, so that no two have the same order."""

    tag: float
    number: int

    @property
    def order(self) -> tuple[float, float, int]: ...


P = TypeVar("P", bound=QueueEntry)
T = TypeVar("T", bound=QueuedTicket)


class FairQueue(Generic[T]):
    def __init__(self) -> None:
        self._tickets: list[T] = []
        self._pushed = 0
        self.virtual = 0.0
        self.ends: dict[str, float] = {}

    def push(self, ticket: T, key: str, tokens: float, again: bool = False) -> None:
        """Add a ticket. A ticket that had its turn before (`again`) is served next."""
        self._pushed += 1
        ticket.number = self._pushed
        if again:
            ticket.tag = min(self.virtual, self._tickets[0].tag if self._tickets else 0.0)
        else:
            ticket.tag = max(self.virtual, self.ends.get(key, 0.0))
            self.ends[key] = ticket.tag + tokens
        bisect.insort(self._tickets, ticket, key=_order)

    def restore(self, tickets: Iterable[T], virtual: float, ends: dict[str, float]) -> None:
        """Take over the state of another queue, with its tickets in order."""
        self._tickets, self.virtual, self.ends = list(tickets), virtual, ends
        self._pushed = len(self._tickets)
        for number, ticket in enumerate(self._tickets, start=1):
            ticket.number = number

    def served(self, ticket: T) -> None:
        """Remove a ticket that got its slot."""
        self.virtual = max(self.virtual, ticket.tag)
        self.remove(ticket)

    def remove(self, ticket: T) -> None:
        """Remove a ticket that no longer waits."""
        place = self._index(ticket)
        assert place >= 0, "the ticket is not in the queue"
        del self._tickets[place]
        if not self._tickets:
            self.virtual = 0.0
            self.ends.clear()

    def place(self, ticket: T) -> int:
        """The position of a ticket, from 1; 0 if it is not in the queue."""
        return 1 + self._index(ticket)

    def _index(self, ticket: T) -> int:
        """The index of a ticket, or -1."""
        found = bisect.bisect_left(self._tickets, ticket.order, key=_order)
        return found if self._tickets[found : found + 1] == [ticket] else -1

    def __iter__(self) -> Iterator[T]:
        """Iterate in order over a copy, so that the queue may change meanwhile."""
        return iter(tuple(self._tickets))

    def __len__(self) -> int:
        return len(self._tickets)


def displaced(tickets: Sequence[P], key: str) -> P | None:
    """The ticket to drop from a full queue for one more request of `key`, or None.

    `tickets` is the whole queue in order. The newest ticket of the key with the most tickets is
    dropped, if that key has at least two more than `key`. Tickets that had their turn before are
    kept, because their answer may have begun."""
    held = Counter(ticket.key for ticket in tickets)
    most = max(held.values(), default=0)
    if most < held[key] + 2:
        return None
    for ticket in reversed(tickets):
        if held[ticket.key] == most and not ticket.again:
            return ticket
    return None


def _order(ticket: QueuedTicket) -> tuple[float, float, int]:
    return ticket.order

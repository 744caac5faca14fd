"""The requests that wait: for all models in a queue, and for each pool in a line.

The queue is fair among API keys, counted in tokens (start-time fair queueing).

Every ticket gets a start tag: the later of the queue's virtual time and the end tag of its key's
last ticket. Its end tag is the start tag plus its tokens divided by the share of its key's class.
The lowest start tag is served next, and virtual time is the highest tag served. So a key that asks
for much queues behind itself, a key that asks rarely is served next, and a class with a larger
share is faster but starves nobody.

When the queue is full, a request of a key with few places displaces the newest request of the key
with the most. Keys that keep asking end up with equally many places; a single key may have all.

The line of a pool groups its requests by the slots that can serve them:

    active   takes part in every decision while a slot is free, in fair order
    parked   prefers a busy slot, so it decides again when a slot with the prefix it waits for is
             released, and at its deadline, which comes later for those behind the first

A released slot is therefore offered to the first active requests and to the first ones parked for
what it holds: the cost of a release does not depend on the number of waiting requests. A request
whose backends are all down is in neither group.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter

from msgspec import Struct

from .lease import Ticket

ORDER = attrgetter("order")


def index_of(tickets: Sequence[Ticket], ticket: Ticket) -> int:
    """The index of a ticket among tickets in order, or -1."""
    index = bisect.bisect_left(tickets, ticket.order, key=ORDER)
    return index if index < len(tickets) and tickets[index] is ticket else -1


class FairQueue(Struct, eq=False):
    tickets: list[Ticket] = []  # in order
    pushed: int = 0  # so far
    virtual: float = 0.0  # the virtual time
    ends: dict[str, float] = {}  # the end tag of each key's last ticket

    def push(self, ticket: Ticket, key: str, tokens: float, is_retry: bool = False) -> None:
        """Add a ticket. A ticket that had its turn before (`is_retry`) is served next."""
        self.pushed += 1
        ticket.number = self.pushed
        if is_retry:
            ticket.tag = min(self.virtual, self.tickets[0].tag if self.tickets else 0.0)
        else:
            ticket.tag = max(self.virtual, self.ends.get(key, 0.0))
            self.ends[key] = ticket.tag + tokens
        bisect.insort(self.tickets, ticket, key=ORDER)

    def served(self, ticket: Ticket) -> None:
        """Remove a ticket that got its slot."""
        self.virtual = max(self.virtual, ticket.tag)
        self.remove(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Remove a ticket that no longer waits."""
        index = index_of(self.tickets, ticket)
        assert index >= 0, "the ticket is not in the queue"
        del self.tickets[index]
        if not self.tickets:
            self.virtual = 0.0
            self.ends.clear()

    def place(self, ticket: Ticket) -> int:
        """The position of a ticket, from 1; 0 if it is not in the queue."""
        return 1 + index_of(self.tickets, ticket)

    def __iter__(self) -> Iterator[Ticket]:
        """Iterate in order over a copy, so that the queue may change meanwhile."""
        return iter(tuple(self.tickets))

    def __len__(self) -> int:
        return len(self.tickets)


def displaced(tickets: Sequence[Ticket], key: str) -> Ticket | None:
    """The ticket to drop from a full queue for one more request of `key`, or None.

    `tickets` is the whole queue in order. The newest ticket of the key with the most tickets is
    dropped, if that key has at least two more than `key`. Tickets that had their turn before are
    kept, because their answer may have begun."""
    held = Counter(ticket.key for ticket in tickets)
    most = max(held.values(), default=0)
    if most < held[key] + 2:
        return None
    for ticket in reversed(tickets):
        if held[ticket.key] == most and not ticket.is_retry:
            return ticket
    return None


class WaitingLine(Struct, eq=False):
    """A parked ticket has its key in `parked_for`: a link of its prompt, or a `backend_key`."""

    active: list[Ticket] = []  # in fair order
    whole: int = 0  # of them need a whole backend
    by_key: dict[bytes, list[Ticket]] = {}  # those that are parked
    all_parked: int = 0

    def activate(self, ticket: Ticket) -> None:
        """Let a request take part in the next decision. Has no effect if it is active."""
        if ticket.parked_for is not None:
            self._unpark(ticket)
        if index_of(self.active, ticket) < 0:
            bisect.insort(self.active, ticket, key=ORDER)
            self.whole += ticket.request.whole_backend

    def park(self, ticket: Ticket, key: bytes) -> None:
        self.remove(ticket)
        ticket.parked_for = key
        self.all_parked += 1
        bisect.insort(self.by_key.setdefault(key, []), ticket, key=ORDER)

    def remove(self, ticket: Ticket) -> None:
        """Remove a request. Has no effect if it is not in the line."""
        if ticket.parked_for is not None:
            self._unpark(ticket)
            return
        index = index_of(self.active, ticket)
        if index >= 0:
            del self.active[index]
            self.whole -= ticket.request.whole_backend

    def __len__(self) -> int:
        return len(self.active) + self.all_parked

    def parked(self, key: bytes) -> int:
        return len(self.by_key.get(key, ()))

    def is_behind(self, ticket: Ticket) -> bool:
        """Whether it is parked behind another request for the same key."""
        key = ticket.parked_for
        return key is not None and self.by_key[key][0] is not ticket

    def freed(self, links: Iterable[bytes], backend: str) -> None:
        """Activate the first request parked for each of these links, or for the backend, because a
        slot of the backend that holds a prompt with these links was released."""
        keys = (*links, backend_key(backend))
        for ticket in {self.by_key[key][0] for key in keys if key in self.by_key}:
            self.activate(ticket)

    def _unpark(self, ticket: Ticket) -> None:
        key, ticket.parked_for = ticket.parked_for, None
        assert key is not None, "only a parked ticket is unparked"
        tickets = self.by_key[key]
        tickets.remove(ticket)
        self.all_parked -= 1
        if not tickets:
            del self.by_key[key]


def backend_key(name: str) -> bytes:
    """The key of requests parked for any slot of this backend."""
    return b"backend " + name.encode()

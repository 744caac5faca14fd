"""The requests that wait for a slot of one pool, grouped by the slots that can serve them.

    active   takes part in every decision while a slot is free, in fair order
    parked   prefers a busy slot, so it decides again when a slot with the prefix it waits for is
             released, and at its deadline, which comes later for those behind the first

A released slot is therefore offered to the first active requests and to the first ones parked for
what it holds: the cost of a release does not depend on the number of waiting requests. A request
whose backends are all down is in neither group.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from .state import ClientClass


class Parkable(Protocol):
    """A ticket. `parked_for` is a link of its prompt, a `backend_key`, or None if not parked."""

    client: ClientClass
    parked_for: bytes | None

    @property
    def order(self) -> tuple[float, float, int]: ...

    @property
    def whole_backend(self) -> bool: ...


T = TypeVar("T", bound=Parkable)


class WaitingLine(Generic[T]):
    """`active` is in fair order; `whole` of them need a whole backend."""

    def __init__(self) -> None:
        self.active: list[T] = []
        self._active_of: dict[ClientClass, list[T]] = {}
        self.whole = 0
        self._parked: dict[bytes, list[T]] = {}
        self._all_parked = 0

    def activate(self, ticket: T) -> None:
        """Let a request take part in the next decision. Has no effect if it is active."""
        if ticket.parked_for is not None:
            self._unpark(ticket)
        place = _place(self.active, ticket)
        if place is None:
            bisect.insort(self.active, ticket, key=_order)
            bisect.insort(self._active_of.setdefault(ticket.client, []), ticket, key=_order)
            self.whole += ticket.whole_backend

    def park(self, ticket: T, key: bytes) -> None:
        """Let a request wait for a slot with this key."""
        self.remove(ticket)
        ticket.parked_for = key
        self._all_parked += 1
        bisect.insort(self._parked.setdefault(key, []), ticket, key=_order)

    def remove(self, ticket: T) -> None:
        """Remove a request. Has no effect if it is not in the line."""
        if ticket.parked_for is not None:
            self._unpark(ticket)
            return
        place = _place(self.active, ticket)
        if place is not None:
            del self.active[place]
            self.whole -= ticket.whole_backend
            of_client = self._active_of[ticket.client]
            of_client.remove(ticket)
            if not of_client:
                del self._active_of[ticket.client]

    def without(self, clients: Collection[ClientClass]) -> Iterator[T]:
        """The active requests in fair order, but those of `clients`, to which more may be added
        meanwhile. Each request may be removed once it was yielded."""
        place = 0
        while place < len(self.active) and self.active[place].client not in clients:
            ticket = self.active[place]
            yield ticket
            if place < len(self.active) and self.active[place] is ticket:
                place += 1
        if place == len(self.active):
            return
        # The many requests of a client are passed over together.
        after = self.active[place].order
        others = [
            tickets[bisect.bisect_right(tickets, after, key=_order) :]
            for client, tickets in self._active_of.items()
            if client not in clients
        ]
        for ticket in heapq.merge(*others, key=_order):
            if ticket.client not in clients:
                yield ticket

    def __len__(self) -> int:
        return len(self.active) + self._all_parked

    def parked(self, key: bytes) -> int:
        """The number of requests parked for this key."""
        return len(self._parked.get(key, ()))

    def is_behind(self, ticket: T) -> bool:
        """Whether it is parked behind another request for the same key."""
        key = ticket.parked_for
        return key is not None and self._parked[key][0] is not ticket

    def freed(self, links: Iterable[bytes], backend: str) -> None:
        """Activate the first request parked for each of these links, or for the backend, because a
        slot of the backend that holds a prompt with these links was released."""
        if not self._parked:
            return
        found = {self._parked[link][0] for link in links if link in self._parked}
        key = backend_key(backend)
        if key in self._parked:
            found.add(self._parked[key][0])
        for ticket in found:
            self.activate(ticket)

    def _unpark(self, ticket: T) -> None:
        key, ticket.parked_for = ticket.parked_for, None
        assert key is not None, "only a parked ticket is unparked"
        tickets = self._parked[key]
        tickets.remove(ticket)
        self._all_parked -= 1
        if not tickets:
            del self._parked[key]


def backend_key(name: str) -> bytes:
    """The key of requests parked for any slot of this backend."""
    return b"backend " + name.encode()


def _order(ticket: Parkable) -> tuple[float, float, int]:
    return ticket.order


def _place(tickets: Sequence[Parkable], ticket: Parkable) -> int | None:
    place = bisect.bisect_left(tickets, ticket.order, key=_order)
    return place if place < len(tickets) and tickets[place] is ticket else None

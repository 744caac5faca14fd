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
from collections.abc import Iterable

from msgspec import Struct

from .fair import ORDER, index_of
from .lease import Ticket


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

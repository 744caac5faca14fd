"""The ticket: a request's place in the queue."""

from __future__ import annotations

import threading
from typing import Protocol

from ..errors import GatewayError
from ..runtime.cancel import Cancel
from .lease import Lease
from .state import ConversationRecord, SlotRequest, client_class


class TicketOwner(Protocol):
    """The methods of the scheduler that its tickets call."""

    def wait_for(self, ticket: Ticket, cancel: Cancel, seconds: float) -> Lease | None: ...

    def leave(self, ticket: Ticket) -> None: ...

    def place(self, ticket: Ticket) -> int: ...


class Ticket:
    """A place in the queue, until it has led to a lease or an error. `stranded` is when the last
    backend that could serve the request went down, None while one is up. `again`: the request had
    its turn before and is served next."""

    __slots__ = (
        "_scheduler",
        "again",
        "began",
        "client",
        "conversation",
        "error",
        "event",
        "first_place",
        "lease",
        "number",
        "parked_for",
        "stranded",
        "tag",
        "until",
        "wakes",
        "want",
    )

    def __init__(
        self,
        scheduler: TicketOwner,
        want: SlotRequest,
        conversation: ConversationRecord,
        began: float,
        again: bool = False,
    ) -> None:
        self._scheduler = scheduler
        self.again = again
        self.want = want
        self.client = client_class(want)
        self.conversation = conversation
        self.began = began
        self.until = began
        self.wakes = began
        self.tag = 0.0
        self.number = 0
        self.parked_for: bytes | None = None
        self.first_place = 0
        self.stranded: float | None = None
        self.event = threading.Event()
        self.lease: Lease | None = None
        self.error: GatewayError | None = None

    def wait(self, cancel: Cancel, seconds: float = float("inf")) -> Lease | None:
        """Wait for the lease. Returns None after so many seconds without one.

        Raises NoBackend, QueueTimeout, Cancelled. After an error or a lease, the ticket is over."""
        return self._scheduler.wait_for(self, cancel, seconds)

    def leave(self) -> None:
        """Leave the queue; a lease that nobody took is released. Safe to call again."""
        self._scheduler.leave(self)

    @property
    def key(self) -> str:
        return self.want.key

    @property
    def order(self) -> tuple[float, float, int]:
        """Its place among all that wait: the lowest is next."""
        return self.tag, self.began, self.number

    @property
    def whole_backend(self) -> bool:
        return self.want.whole_backend

    @property
    def place(self) -> int:
        """The position in the queue, from 1; 0 if the ticket is over."""
        return self._scheduler.place(self)

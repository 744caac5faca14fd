"""A place in the queue."""

from __future__ import annotations

import threading
from typing import Protocol

from ..cancel import Cancel
from ..errors import GatewayError
from .lease import Lease
from .state import Conversation, Want


class Waits(Protocol):
    """What the scheduler does for its tickets."""

    def wait_for(self, ticket: Ticket, cancel: Cancel, seconds: float) -> Lease | None: ...

    def leave(self, ticket: Ticket) -> None: ...

    def place(self, ticket: Ticket) -> int: ...


class Ticket:
    """A place in the queue, until it has led to a lease or an error. `stranded` is the time since
    which no backend that could serve it is up, None while one is. `again`: it had its turn before,
    and is next."""

    __slots__ = (
        "_scheduler",
        "again",
        "began",
        "conversation",
        "error",
        "event",
        "first_place",
        "lease",
        "stranded",
        "tag",
        "until",
        "wakes",
        "want",
    )

    def __init__(
        self,
        scheduler: Waits,
        want: Want,
        conversation: Conversation,
        began: float,
        again: bool = False,
    ) -> None:
        self._scheduler = scheduler
        self.again = again
        self.want = want
        self.conversation = conversation
        self.began = began
        self.until = began
        self.wakes = began
        self.tag = 0.0
        self.first_place = 0
        self.stranded: float | None = None
        self.event = threading.Event()
        self.lease: Lease | None = None
        self.error: GatewayError | None = None

    def wait(self, cancel: Cancel, seconds: float = float("inf")) -> Lease | None:
        """The lease; None when it has not come in so many seconds. Raises NoBackend, QueueTimeout,
        Cancelled; then, and after a lease, the ticket is over."""
        return self._scheduler.wait_for(self, cancel, seconds)

    def leave(self) -> None:
        """Wait no more; a lease nobody took is given back. Safe to call again."""
        self._scheduler.leave(self)

    @property
    def key(self) -> str:
        return self.want.key

    @property
    def place(self) -> int:
        """In the queue, from 1; 0 when it is over."""
        return self._scheduler.place(self)

"""What one worker has by the log: its leases and tickets, each with its number there."""

from __future__ import annotations

from typing import Protocol

from ..lease import Lease, Lender
from ..state import Conversation, Grant, Want
from ..ticket import Ticket, Waits


class SharedLender(Lender, Protocol):
    """A lender who must be told what others cannot see."""

    def ends(self, lease: SharedLease) -> None: ...


class SharedLease(Lease):
    """`id` is its number in the log."""

    __slots__ = ("_told", "id")

    def __init__(
        self, lender: SharedLender, want: Want, grant: Grant, conversation: Conversation, id: int
    ) -> None:
        super().__init__(lender, want, grant, conversation)
        self._told = lender
        self.id = id

    def ends(self) -> None:
        self._told.ends(self)


class SharedTicket(Ticket):
    """What a request came to. `adrift`: the log was lost since, and `alone` is its place where
    nobody shares. `overtaken` counts how often the log knew of no backend that is up, though this
    worker did."""

    __slots__ = ("adrift", "alone", "id", "overtaken")

    def __init__(
        self, scheduler: Waits, want: Want, began: float, id: int, again: bool = False
    ) -> None:
        super().__init__(scheduler, want, Conversation(), began, again)
        self.id = id
        self.adrift = False
        self.overtaken = 0
        self.alone: Ticket | None = None

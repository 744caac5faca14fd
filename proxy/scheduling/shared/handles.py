"""The leases and tickets of one worker, each with its number in the log."""

from __future__ import annotations

from typing import Protocol

from ..lease import Lease, LeaseOwner
from ..state import ConversationRecord, Grant, SlotRequest
from ..ticket import Ticket, TicketOwner


class SharedLeaseOwner(LeaseOwner, Protocol):
    """A lease owner that is also told of the last token, which other workers cannot see."""

    def on_last_token(self, lease: SharedLease) -> None: ...


class SharedLease(Lease):
    """A lease whose number in the log is `id`."""

    __slots__ = ("_shared_owner", "id")

    def __init__(
        self,
        lender: SharedLeaseOwner,
        want: SlotRequest,
        grant: Grant,
        conversation: ConversationRecord,
        id: int,
    ) -> None:
        super().__init__(lender, want, grant, conversation)
        self._shared_owner = lender
        self.id = id

    def on_last_token(self) -> None:
        self._shared_owner.on_last_token(self)


class SharedTicket(Ticket):
    """A ticket whose number in the log is `id`.

    `adrift`: the log was lost since, and `alone` is the ticket of the local scheduler that replaces
    it. `overtaken` counts how often the log knew of no backend that is up although this worker
    did."""

    __slots__ = ("adrift", "alone", "id", "overtaken")

    def __init__(
        self, scheduler: TicketOwner, want: SlotRequest, began: float, id: int, again: bool = False
    ) -> None:
        super().__init__(scheduler, want, ConversationRecord(), began, again)
        self.id = id
        self.adrift = False
        self.overtaken = 0
        self.alone: Ticket | None = None

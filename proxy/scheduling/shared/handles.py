"""The leases and tickets of one worker, each with its number in the log."""

from __future__ import annotations

from ..lease import Lease, LeaseOwner
from ..state import ConversationRecord, Grant, SlotRequest
from ..ticket import Ticket, TicketOwner


class SharedLease(Lease):
    """A lease whose number in the log is `id`."""

    __slots__ = ("id",)

    def __init__(
        self,
        lender: LeaseOwner,
        want: SlotRequest,
        grant: Grant,
        conversation: ConversationRecord,
        id: int,
    ) -> None:
        super().__init__(lender, want, grant, conversation)
        self.id = id


class SharedTicket(Ticket):
    """A ticket whose number in the log is `id`.

    `log_lost`: the log was lost since, and `local_ticket` is the ticket of the local scheduler that
    replaces it. `rewritten` counts how often it is written again because the log knew of no backend
    that is up although this worker did."""

    __slots__ = ("id", "local_ticket", "log_lost", "rewritten")

    def __init__(
        self, scheduler: TicketOwner, want: SlotRequest, began: float, id: int, again: bool = False
    ) -> None:
        super().__init__(scheduler, want, ConversationRecord(), began, again)
        self.id = id
        self.log_lost = False
        self.rewritten = 0
        self.local_ticket: Ticket | None = None

"""Waiting for a slot, shared by the local scheduler and the scheduler with a shared table."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from ..errors import QueueTimeout
from ..runtime.cancel import Cancel
from .lease import Lease, Ticket
from .state import SlotRequest

PLACE_LOST = (
    "the queue is full and this API key has the most requests in it, so this request was dropped"
    " in favor of another key: retry later"
)


class BaseScheduler(ABC):
    """The waiting logic of a scheduler. Subclasses decide who gets a slot."""

    _clock: Callable[[], float]
    _lock: threading.RLock
    _queue_timeout: float
    _wait_for_backend: float

    @abstractmethod
    def enter(self, want: SlotRequest, again: bool = False) -> Lease | Ticket:
        """Request a slot. Returns a lease if one is free, otherwise a ticket.

        A request that already had its turn (`again`) goes to the head of the queue. Raises
        NoBackend, QueueFull, QueueTimeout."""

    @abstractmethod
    def leave(self, ticket: Ticket) -> None:
        """Called by tickets only."""

    @abstractmethod
    def look(self, ticket: Ticket, now: float) -> float:
        """Update the ticket's lease or error. Returns the time of the next look, unless the
        ticket's event is set before."""

    @abstractmethod
    def expected_wait(self, want: SlotRequest) -> float:
        """Estimated seconds until a retry can succeed, for Retry-After."""

    def acquire(self, want: SlotRequest, cancel: Cancel, again: bool = False) -> Lease:
        """Request a slot and wait for it. Raises NoBackend, QueueFull, QueueTimeout, Cancelled."""
        entry = self.enter(want, again)
        if isinstance(entry, Lease):
            return entry
        lease = entry.wait(cancel)
        assert lease is not None, "the wait has no limit"
        return lease

    def _began(self, want: SlotRequest, now: float) -> float:
        """When this request began to wait. Raises QueueTimeout if its timeout has passed."""
        if not want.since:
            return now
        if now - want.since >= self._queue_timeout:
            raise self._too_late(want)
        return want.since

    def _too_late(self, want: SlotRequest) -> QueueTimeout:
        wait = self.expected_wait(want)
        return QueueTimeout("timed out waiting for a free slot", retry_after=wait)

    def _is_lost(self, ticket: Ticket, now: float) -> bool:
        """Whether a ticket without a backend that is up has waited for one long enough."""
        if ticket.stranded is None:
            ticket.stranded = now
        ticket.until = ticket.stranded + self._wait_for_backend
        return now >= ticket.until

    def wait_for(self, ticket: Ticket, cancel: Cancel, seconds: float) -> Lease | None:
        """Called by tickets only."""
        end = self._clock() + seconds
        cancel.add(ticket.event.set)
        try:
            while True:
                ticket.event.clear()  # before look(), so that no change is missed
                with self._lock:
                    now = self._clock()
                    until = self.look(ticket, now)
                    left = ticket.began + self._queue_timeout - now
                    if cancel.cancelled or (left <= 0 and ticket.lease is None):
                        ticket.leave()
                        cancel.check()
                        raise self._too_late(ticket.want)
                    lease, ticket.lease = ticket.lease, None
                    if lease is not None:
                        lease.waited = now - ticket.began
                        lease.place = ticket.first_place
                        return lease
                    if ticket.error is not None:
                        raise ticket.error
                    if now >= end:
                        return None
                    pause = min(left, end - now, until - now)
                ticket.event.wait(pause)
        finally:
            cancel.remove(ticket.event.set)

"""Waiting for a slot: the same for a scheduler of one process and for one that shares its table."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from ..cancel import Cancel
from ..errors import Cancelled, QueueTimeout
from .lease import Lease
from .state import Want
from .ticket import Ticket

PLACE_LOST = (
    "the queue is full and this key has the most requests in it, so this one made room for another"
    " key's: send it again later"
)


class Waiting(ABC):
    """A scheduler for who waits."""

    _clock: Callable[[], float]
    _lock: threading.RLock
    _queue_timeout: float
    _wait_for_backend: float

    @abstractmethod
    def enter(self, want: Want, again: bool = False) -> Lease | Ticket:
        """A slot at once, or a place in the queue; `again`: it had its turn and is next. Raises
        NoBackend, QueueFull, QueueTimeout."""

    @abstractmethod
    def leave(self, ticket: Ticket) -> None:
        """For tickets alone."""

    @abstractmethod
    def look(self, ticket: Ticket, now: float) -> float:
        """Bring the ticket's lease or error up to date. When to look again, if nothing wakes who
        waits before."""

    @abstractmethod
    def expected_wait(self, want: Want) -> float:
        """Seconds after which to try again, for who waited in vain."""

    def acquire(self, want: Want, cancel: Cancel, again: bool = False) -> Lease:
        """A slot, after waiting if need be. Raises NoBackend, QueueFull, QueueTimeout,
        Cancelled."""
        found = self.enter(want, again)
        if isinstance(found, Lease):
            return found
        lease = found.wait(cancel)
        assert lease is not None, "it waits without end"
        return lease

    def _began(self, want: Want, now: float) -> float:
        """When the wait of this request began. Raises QueueTimeout where that was too long ago."""
        if not want.since:
            return now
        if now - want.since >= self._queue_timeout:
            raise self._too_late(want)
        return want.since

    def _too_late(self, want: Want) -> QueueTimeout:
        wait = self.expected_wait(want)
        return QueueTimeout("no slot came free in time", retry_after=wait)

    def _is_lost(self, ticket: Ticket, now: float) -> bool:
        """No backend is up for it: whether it has waited long enough for one to come back."""
        if ticket.stranded is None:
            ticket.stranded = now
        ticket.until = ticket.stranded + self._wait_for_backend
        return now >= ticket.until

    def wait_for(self, ticket: Ticket, cancel: Cancel, seconds: float) -> Lease | None:
        """For tickets alone."""
        end = self._clock() + seconds
        cancel.add(ticket.event.set)
        try:
            while True:
                ticket.event.clear()  # before looking, so that no news is missed
                with self._lock:
                    now = self._clock()
                    until = self.look(ticket, now)
                    left = ticket.began + self._queue_timeout - now
                    if cancel.cancelled or (left <= 0 and ticket.lease is None):
                        ticket.leave()
                        if cancel.cancelled:
                            raise Cancelled("the client closed the request")
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

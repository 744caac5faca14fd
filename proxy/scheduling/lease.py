"""The lease: the right to use one slot, released exactly once; and the wait for it.

A scheduler decides who gets a slot: alone (`scheduler`), or with a shared table (`shared`)."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Literal, Protocol

from msgspec import Struct, field
from msgspec.structs import force_setattr

from ..errors import GatewayError, NoBackend, QueueTimeout
from ..runtime.cancel import Cancel
from .state import (
    MOST_SLOTS,
    CachedPrompt,
    ConversationRecord,
    Grant,
    Placement,
    Slot,
    SlotRequest,
    SlotStep,
)

End = Literal["whole", "cut", "busy", "failed", "unused"]
MOST_COUNTED = 1 << 40  # tokens, bytes or seconds in a backend's report; more is its error


class Outcome(Struct, frozen=True, kw_only=True):
    """How a lease ended, and what the backend reported; counts are 0 where unknown. Integers out
    of range are clamped: a backend may report any, and the shared log has bounded ones."""

    # cut: closed before its end, so the server needs a moment to notice; busy: the server had no
    # free slot after all; unused: the request was never sent
    end: End = "unused"
    slot: int = -1  # that was really used, -1 if the backend did not say
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    evaluating: float = 0.0  # seconds
    erased: bool = False  # the slot is empty now
    calls: bool = False  # the answer calls tools
    pause: float = 0.0  # seconds for which a busy server asked to be left alone

    def __post_init__(self) -> None:
        if not -1 <= self.slot < MOST_SLOTS:
            force_setattr(self, "slot", -1)
        if not (
            0 <= self.cached <= self.prompt <= MOST_COUNTED and 0 <= self.completion <= MOST_COUNTED
        ):
            for name in ("prompt", "cached", "completion"):
                force_setattr(self, name, within(getattr(self, name)))


def within(count: int) -> int:
    """A count from a backend, clamped to 0 and MOST_COUNTED."""
    return max(0, min(count, MOST_COUNTED))


class Lease(Struct, eq=False):
    """The use of a slot, as decided by `grant`."""

    owner: BaseScheduler
    request: SlotRequest
    grant: Grant
    slot: Slot
    conversation: ConversationRecord
    id: int = 0  # its number in a shared log
    written: CachedPrompt | None = None  # the prompt that it leaves in the slot
    replaced: CachedPrompt | None = None  # the one that was there before
    streaming: bool = False
    waited: float = 0.0  # seconds in the queue
    place: int = 0  # the first position in it, 0 if it did not wait
    wanted: bool = False  # others need the slot of an idle request
    give_way: Callable[[], None] | None = None
    over: bool = False
    placement: Placement | None = None  # to explain it

    @property
    def backend(self) -> str:
        return self.grant.backend.name

    @property
    def pinned(self) -> int:
        """The slot to request, -1 for any. After the first token, the slot it came from."""
        return self.slot.id if self.grant.pin or self.streaming else -1

    def on_first_token(self, number: int) -> None:
        """Record the first token. `number` is the slot it came from, -1 if not reported."""
        self.owner.on_first_token(self, number)

    def steps(self) -> tuple[SlotStep, ...]:
        """The steps to do on the slot before the request is sent, in order."""
        return self.owner.steps(self)

    def step_done(self, step: SlotStep, tokens: int, size: int, seconds: float) -> None:
        """Record a step: `tokens` and `size` bytes moved in `seconds`; no tokens if it failed."""
        self.owner.record_step(self, step, within(tokens), within(size), seconds)

    def on_wanted(self, give_way: Callable[[], None]) -> None:
        """Call `give_way` when others need the slot of an idle request; at once if they do already.
        It must not block, and may be called twice."""
        self.give_way = give_way
        if self.wanted:
            give_way()

    def want_back(self) -> None:
        self.wanted = True
        if self.give_way is not None:
            self.give_way()

    def release(self, outcome: Outcome | None = None) -> None:
        """Give the slot back. Only the first call counts."""
        if not self.over:
            self.over = True
            self.owner.give_back(self, outcome or Outcome())


class Ticket(Struct, eq=False):
    """A request's place in the queue, until it has led to a lease or an error."""

    owner: BaseScheduler
    request: SlotRequest
    conversation: ConversationRecord
    began: float
    is_retry: bool = False  # it had its turn before, and is served next
    until: float = 0.0  # when it is decided again
    wakes: float = 0.0  # when the request looks again by itself
    tag: float = 0.0  # of the fair queue, like `number`
    number: int = 0
    parked_for: bytes | None = None  # see `fair.WaitingLine`
    first_place: int = 0
    no_backend_since: float | None = None  # when the last backend that could serve it went down
    # Looked up when it is made: set() of gevent's own, which replaces Python's, lets no other
    # greenlet run, so it is allowed under a native lock.
    event: threading.Event = field(default_factory=lambda: threading.Event())
    lease: Lease | None = None
    error: GatewayError | None = None

    def wait(self, cancel: Cancel, seconds: float = float("inf")) -> Lease | None:
        """Wait for the lease. Returns None after so many seconds without one.

        Raises NoBackend, QueueTimeout, Cancelled. After an error or a lease, the ticket is over."""
        return self.owner.wait_for(self, cancel, seconds)

    def leave(self) -> None:
        """Leave the queue; a lease that nobody took is released. Safe to call again."""
        self.owner.leave(self)

    @property
    def key(self) -> str:
        return self.request.fair_key

    @property
    def order(self) -> tuple[float, float, int]:
        """Its place among all that wait: the lowest is next."""
        return self.tag, self.began, self.number

    @property
    def place(self) -> int:
        """The position in the queue, from 1; 0 if the ticket is over."""
        return self.owner.place(self)


class BaseScheduler(Protocol):
    """What leases and tickets call, and the waiting logic of all schedulers."""

    _clock: Callable[[], float]
    _lock: threading.RLock
    _queue_timeout: float
    _wait_for_backend: float
    # The seconds for which a request for this model, which has waited so long for a backend, still
    # waits, of the longest wait.
    patience: Callable[[str, float, float], float] = staticmethod(lambda *_: math.inf)

    def enter(self, request: SlotRequest, is_retry: bool = False) -> Lease | Ticket:
        """Request a slot. Returns a lease if one is free, otherwise a ticket.

        A request that already had its turn (`is_retry`) goes to the head of the queue. Raises
        NoBackend, QueueFull, QueueTimeout."""

    def look(self, ticket: Ticket, now: float) -> float:
        """Update the ticket's lease or error. Returns the time of the next look, unless the
        ticket's event is set before."""

    def expected_wait(self, request: SlotRequest) -> float:
        """Estimated seconds until a retry can succeed, for Retry-After."""

    def leave(self, ticket: Ticket) -> None: ...

    def place(self, ticket: Ticket) -> int: ...

    def on_first_token(self, lease: Lease, number: int) -> None: ...

    def on_last_token(self, lease: Lease) -> None:
        """Record the last token: the slot will be free in a moment."""

    def steps(self, lease: Lease) -> tuple[SlotStep, ...]: ...

    def record_step(
        self, lease: Lease, step: SlotStep, tokens: int, size: int, seconds: float
    ) -> None: ...

    def give_back(self, lease: Lease, outcome: Outcome) -> None: ...

    def acquire(self, request: SlotRequest, cancel: Cancel, is_retry: bool = False) -> Lease:
        """Request a slot and wait for it. Raises NoBackend, QueueFull, QueueTimeout, Cancelled."""
        entry = self.enter(request, is_retry)
        if isinstance(entry, Lease):
            return entry
        lease = entry.wait(cancel)
        assert lease is not None, "the wait has no limit"
        return lease

    def _too_late(self, request: SlotRequest) -> QueueTimeout:
        wait = self.expected_wait(request)
        return QueueTimeout("timed out waiting for a free slot", retry_after=wait)

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
                        raise self._too_late(ticket.request)
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
                    if (since := ticket.no_backend_since) is not None:
                        model, longest = ticket.request.model, self._wait_for_backend
                        rest = self.patience(model, now - since, longest)
                        if rest <= 0:
                            ticket.leave()
                            raise NoBackend()
                        pause = min(pause, rest)
                ticket.event.wait(pause)
        finally:
            cancel.remove(ticket.event.set)

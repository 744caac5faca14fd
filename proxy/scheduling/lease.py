"""The lease: the right to use one slot, released exactly once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Literal, Protocol

from msgspec import Struct
from msgspec.structs import force_setattr

from ..errors import GatewayError
from ..runtime.cancel import Cancel
from .state import (
    MOST_SLOTS,
    CachedPrompt,
    ClientClass,
    ConversationRecord,
    Grant,
    SlotRequest,
    SlotStep,
    client_class,
)

End = Literal["whole", "cut", "busy", "failed", "unused"]
DIGEST = 8  # bytes of the digest of tools
MOST_COUNTED = 1 << 40  # tokens, bytes or seconds in a backend's report; more is its error


class Outcome(Struct, frozen=True, kw_only=True):
    """How a lease ended, and what the backend reported.

    `slot` is the slot that was really used, -1 if the backend did not say. `end`: whole, cut
    (closed before its end, so the server needs a moment to notice), busy (the server had no free
    slot after all), failed, or unused (the request was never sent). `erased`: the slot is empty
    now. Counts are tokens, `evaluating` is seconds; 0 where unknown. `calls` is a digest of the
    names of the tools that the answer calls (`tools_digest`), b"" if it calls none. `pause` is the
    seconds for which a busy server asked to be left alone. Numbers out of
    range are clamped: a backend may report any, and the shared log has bounded integers."""

    end: End = "unused"
    slot: int = -1
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    evaluating: float = 0.0
    erased: bool = False
    calls: bytes = b""
    pause: float = 0.0

    def __post_init__(self) -> None:
        if len(self.calls) > DIGEST:
            force_setattr(self, "calls", self.calls[:DIGEST])
        if not -1 <= self.slot < MOST_SLOTS:
            force_setattr(self, "slot", -1)
        if not 0 <= self.prompt <= MOST_COUNTED:
            force_setattr(self, "prompt", within(self.prompt))
        if not 0 <= self.cached <= MOST_COUNTED:
            force_setattr(self, "cached", within(self.cached))
        if not 0 <= self.completion <= MOST_COUNTED:
            force_setattr(self, "completion", within(self.completion))
        if not 0.0 <= self.evaluating <= MOST_COUNTED:
            force_setattr(self, "evaluating", 0.0)
        if not 0.0 <= self.pause <= MOST_COUNTED:
            force_setattr(self, "pause", 0.0)


def within(count: int) -> int:
    """A count from a backend, clamped to 0 and MOST_COUNTED."""
    return max(0, min(count, MOST_COUNTED))


def tools_digest(names: Iterable[str]) -> bytes:
    """The digest of the names of called tools, in any order. The names are the client's text."""
    text = "\0".join(sorted(set(names)))
    return blake2b(text.encode("utf-8", "replace"), digest_size=DIGEST).digest() if text else b""


class LeaseOwner(Protocol):
    """The methods of the scheduler that its leases call."""

    def on_first_token(self, lease: Lease, number: int) -> None: ...

    def on_last_token(self, lease: Lease) -> None: ...

    def steps(self, lease: Lease) -> tuple[SlotStep, ...]: ...

    def record_step(
        self, lease: Lease, step: SlotStep, tokens: int, size: int, seconds: float
    ) -> None: ...

    def give_back(self, lease: Lease, outcome: Outcome) -> None: ...


class Lease:
    """The use of a slot of `backend`, as decided by `grant`. `waited` is the time in the queue in
    seconds, `place` the first position in it (0: did not wait). `written` is the prompt that it
    leaves in the slot, `replaced` the one that was there before. `wanted`: others need the slot of
    an idle request."""

    __slots__ = (
        "_give_way",
        "_over",
        "_owner",
        "client",
        "conversation",
        "grant",
        "place",
        "replaced",
        "slot",
        "streaming",
        "waited",
        "want",
        "wanted",
        "written",
    )

    def __init__(
        self,
        lender: LeaseOwner,
        want: SlotRequest,
        grant: Grant,
        conversation: ConversationRecord,
        client: ClientClass = ("", False),
    ) -> None:
        self._owner = lender
        self.client = client
        self.streaming = self._over = False
        self.want = want
        self.grant = grant
        self.conversation = conversation
        self.slot = grant.slot
        self.written: CachedPrompt | None = None
        self.replaced: CachedPrompt | None = None
        self.waited = 0.0
        self.place = 0
        self.wanted = False
        self._give_way: Callable[[], None] | None = None

    @property
    def backend(self) -> str:
        return self.grant.backend.name

    @property
    def pinned(self) -> int:
        """The slot to request, -1 for any. After the first token, the slot it came from."""
        return self.slot.id if self.grant.pin or self.streaming else -1

    def on_first_token(self, number: int) -> None:
        """Record the first token. `number` is the slot it came from, -1 if not reported."""
        self._owner.on_first_token(self, number if -1 <= number < MOST_SLOTS else -1)

    def on_last_token(self) -> None:
        """Record the last token: the slot will be free in a moment."""
        self._owner.on_last_token(self)

    def steps(self) -> tuple[SlotStep, ...]:
        """The steps to do on the slot before the request is sent, in order."""
        return self._owner.steps(self)

    def step_done(self, step: SlotStep, tokens: int, size: int, seconds: float) -> None:
        """Record a completed step: `tokens` and `size` bytes moved in `seconds`."""
        self._owner.record_step(self, step, within(tokens), within(size), seconds)

    def step_failed(self, step: SlotStep) -> None:
        """Record a failed step."""
        self._owner.record_step(self, step, -1, 0, 0.0)

    def on_wanted(self, give_way: Callable[[], None]) -> None:
        """Call `give_way` when others need the slot of an idle request; at once if they do already.
        It must not block, and may be called twice."""
        self._give_way = give_way
        if self.wanted:
            give_way()

    def want_back(self) -> None:
        """Ask for the slot of an idle request."""
        self.wanted = True
        if self._give_way is not None:
            self._give_way()

    def release(self, outcome: Outcome | None = None) -> None:
        """Give the slot back. Only the first call counts."""
        if not self._over:
            self._over = True
            self._owner.give_back(self, outcome or Outcome())


# The ticket: a request's place in the queue.
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

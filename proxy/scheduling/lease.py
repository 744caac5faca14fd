"""The lease: the right to use one slot, released exactly once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Literal, Protocol

from msgspec import Struct
from msgspec.structs import force_setattr

from .state import MOST_SLOTS, CachedPrompt, ConversationRecord, Grant, SlotRequest, SlotStep

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
        self, lender: LeaseOwner, want: SlotRequest, grant: Grant, conversation: ConversationRecord
    ) -> None:
        self._owner = lender
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

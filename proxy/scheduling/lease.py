"""The right to use one slot, given back exactly once."""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct
from msgspec.structs import force_setattr

from .state import MOST_SLOTS, Conversation, Grant, Held, Step, Want

End = Literal["whole", "cut", "busy", "failed", "unused"]
MOST_COUNTED = 1 << 40  # tokens, bytes and seconds that a backend may tell; more is an error of it


class Outcome(Struct, frozen=True):
    """What is told when a slot is given back.

    `slot` is the one that was really used, where the backend said so. `end`: whole, cut (closed
    before its end, so the server needs a moment to notice), busy (it had none free after all),
    failed, or unused (it never got the request). `erased`: the slot holds nothing any more. Counts
    are tokens, `evaluating` seconds; 0 where unknown. What the backend told is made fit: it may be
    any number, and this is written to where numbers are bounded."""

    end: End = "unused"
    slot: int = -1
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    evaluating: float = 0.0
    erased: bool = False

    def __post_init__(self) -> None:
        if not -1 <= self.slot < MOST_SLOTS:
            force_setattr(self, "slot", -1)
        for name in ("prompt", "cached", "completion"):
            if not 0 <= (count := getattr(self, name)) <= MOST_COUNTED:
                force_setattr(self, name, within(count))
        if not 0.0 <= self.evaluating <= MOST_COUNTED:
            force_setattr(self, "evaluating", 0.0)


def within(count: int) -> int:
    """A count of a backend, made fit."""
    return max(0, min(count, MOST_COUNTED))


class Lender(Protocol):
    """What the scheduler does for its leases."""

    def flows(self, lease: Lease, number: int) -> None: ...

    def steps(self, lease: Lease) -> tuple[Step, ...]: ...

    def stepped(self, lease: Lease, step: Step, tokens: int, size: int, seconds: float) -> None: ...

    def give_back(self, lease: Lease, outcome: Outcome) -> None: ...


class Lease:
    """A slot of `backend`, as `grant` says. `waited` is the time in the queue, in seconds; `place`
    the first place in it, 0 for none. `fresh`: what the slot holds must not be reused."""

    __slots__ = (
        "_lender",
        "_over",
        "before",
        "conversation",
        "flowing",
        "grant",
        "held",
        "place",
        "slot",
        "waited",
        "want",
    )

    def __init__(
        self, lender: Lender, want: Want, grant: Grant, conversation: Conversation
    ) -> None:
        self._lender = lender
        self.flowing = self._over = False
        self.want = want
        self.grant = grant
        self.conversation = conversation
        self.slot = grant.slot
        self.held: Held | None = None
        self.before: Held | None = None
        self.waited = 0.0
        self.place = 0

    @property
    def backend(self) -> str:
        return self.grant.backend.name

    @property
    def pinned(self) -> int:
        """The slot to ask for, -1 for any: after the first token, the one it came from."""
        return self.slot.id if self.grant.pin or self.flowing else -1

    def flows(self, number: int) -> None:
        """The first token came, from the slot of this number; -1: not told."""
        self._lender.flows(self, number if -1 <= number < MOST_SLOTS else -1)

    def ends(self) -> None:
        """The last token came: the slot is as good as free."""
        self.slot.ending = True

    def steps(self) -> tuple[Step, ...]:
        """What must be done to the slot first, in this order."""
        return self._lender.steps(self)

    def step_done(self, step: Step, tokens: int, size: int, seconds: float) -> None:
        """It was done; so many tokens and bytes were moved."""
        self._lender.stepped(self, step, within(tokens), within(size), seconds)

    def step_failed(self, step: Step) -> None:
        """It could not be done."""
        self._lender.stepped(self, step, -1, 0, 0.0)

    def release(self, outcome: Outcome | None = None) -> None:
        """Safe to call again: only the first call counts."""
        if not self._over:
            self._over = True
            self._lender.give_back(self, outcome or Outcome())

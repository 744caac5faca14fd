"""The order of events, checked once, in the middle, so that no encoder has to.

Started (TextDelta | ReasoningDelta | ToolCallDelta | Searched | Progress | TokenDetail)*
(Finished | Failed)
"""

from __future__ import annotations

from .events import Batch, Failed, Finished, Started

LAST = frozenset({Finished, Failed})


class OrderError(AssertionError):
    """A driver or filter broke the grammar of events: a defect of ours, not of a client."""


class Order:
    """Of one stream. `flows`: it has begun and is not over, so any delta may come next."""

    __slots__ = ("_ended", "flows")

    def __init__(self) -> None:
        self._ended = self.flows = False

    def see(self, batch: Batch) -> None:
        """Raises OrderError at the first event out of place."""
        flows = self.flows
        for kind in map(type, batch):
            if flows and kind is not Started:
                if kind in LAST:
                    flows, self._ended = False, True
            elif self._ended:
                raise OrderError(f"{kind.__name__} after the end")
            elif flows or kind is not Started:
                raise OrderError(f"{kind.__name__} {'again' if flows else 'before Started'}")
            else:
                flows = True
        self.flows = flows

    def end(self) -> None:
        """Raises OrderError where the stream had no terminal event."""
        if not self._ended:
            raise OrderError("the stream ended without Finished or Failed")

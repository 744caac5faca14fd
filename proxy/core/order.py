"""Checks the order of events once, between drivers and encoders, so that no encoder has to.

Started (TextDelta | ReasoningDelta | ToolCallDelta | Searched | Progress | TokenDetail)*
(Finished | Failed)
"""

from __future__ import annotations

from .events import Batch, Failed, Finished, Started

LAST = frozenset({Finished, Failed})


class OrderError(AssertionError):
    """A driver or stage broke the order of events, which is a defect in slotproxy."""


class Order:
    """Checks one stream. `flows`: it has begun and not ended, so any delta may follow."""

    __slots__ = ("_ended", "flows")

    def __init__(self) -> None:
        self._ended = self.flows = False

    def see(self, batch: Batch) -> None:
        """Raises OrderError at the first event out of order."""
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
        """Raises OrderError if the stream had no terminal event."""
        if not self._ended:
            raise OrderError("the stream ended without Finished or Failed")

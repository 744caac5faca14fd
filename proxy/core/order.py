"""The order of events, checked once, in the middle, so that no encoder has to.

Started (TextDelta | ReasoningDelta | ToolCallDelta | Searched | Progress)* (Finished | Failed)
"""

from __future__ import annotations

from .events import Batch, Failed, Finished, Started

LAST = frozenset({Finished, Failed})


class OrderError(AssertionError):
    """A driver or filter broke the grammar of events: a defect of ours, not of a client."""


class Order:
    """Of one stream. `flows`: it has begun and is not over, so any delta may come next."""

    __slots__ = ("_begun", "_ended", "flows")

    def __init__(self) -> None:
        self._begun = self._ended = self.flows = False

    def see(self, batch: Batch) -> None:
        """Raises OrderError at the first event out of place."""
        begun, ended = self._begun, self._ended
        for kind in map(type, batch):
            if ended:
                raise OrderError(f"{kind.__name__} after the end")
            if begun == (kind is Started):
                raise OrderError(f"{kind.__name__} {'again' if begun else 'before Started'}")
            begun = True
            ended = kind in LAST
        self._begun, self._ended = begun, ended
        self.flows = begun and not ended

    def end(self) -> None:
        """Raises OrderError where the stream had no terminal event."""
        if not self._ended:
            raise OrderError("the stream ended without Finished or Failed")

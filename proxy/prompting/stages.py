"""Stages between a driver and an encoder; each maps a batch of events to a batch.

A stage may hold text back, but must emit it before the terminal event. A stage that ends the answer
itself (at a stop string) emits its own Finished and sets `ended`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ..core.usage import Usage
from .stops import StopFilter


class Stage(Protocol):
    ended: bool

    def feed(self, batch: Batch) -> Batch:
        """The events to pass on now, in order."""


class StopStage:
    """Ends the answer at the first stop string of the client, which is not sent. Only the text of
    the answer is searched, not reasoning or the arguments of calls."""

    def __init__(self, stops: Sequence[str], usage: Callable[[], Usage]) -> None:
        self._filter = StopFilter(stops)
        self._usage = usage
        self.ended = False

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, TextDelta):
                text = self._filter.feed(event.text)
                if text == event.text:
                    out.append(event)
                elif text or event.logprobs:
                    out.append(TextDelta(text, event.logprobs))
                if self._filter.matched:
                    self.ended = True
                    out.append(
                        Finished(
                            reason="stop", usage=self._usage(), stop_sequence=self._filter.matched
                        )
                    )
                    return out
            else:
                if isinstance(event, (Finished, Failed, ToolCallDelta)):
                    held = self._filter.close()
                    if held:
                        out.append(TextDelta(held))
                out.append(event)
        return out

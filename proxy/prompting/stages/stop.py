"""Stages between a driver and an encoder; each maps a batch of events to a batch.

A stage may hold text back until the terminal event. One that ends the answer itself (at a stop
string) emits its own Finished and sets `ended`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ...core.events import Batch, Failed, Finished, TextDelta, ToolCallDelta
from ...core.usage import Usage
from ..marks import overlap


class Stage(Protocol):
    ended: bool

    def feed(self, batch: Batch) -> Batch:
        """The events to pass on now, in order."""


class StopStage:
    """Ends the answer at the first stop string of the client, which is not sent. Only the text of
    the answer is searched, not reasoning or the arguments of calls.

    The backend cannot do this: server.cpp loses text if one token contains both text and the start
    of a stop string, and loses text held back when the token limit is reached."""

    def __init__(self, stops: Sequence[str], usage: Callable[[], Usage]) -> None:
        self._stops = tuple(s for s in stops if s)
        self._heads = frozenset(s[0] for s in self._stops)
        self._held = ""
        self._usage = usage
        self.ended = False

    def feed(self, batch: Batch) -> Batch:
        out: Batch = []
        for event in batch:
            if isinstance(event, TextDelta):
                if not self._held and self._heads.isdisjoint(event.text):
                    out.append(event)
                    continue
                text = self._held + event.text
                places = ((text.find(stop), len(stop), stop) for stop in self._stops)
                at, _, stop = min((place for place in places if place[0] >= 0), default=(0, 0, ""))
                keep = at if stop else len(text) - overlap(text, self._stops)
                text, self._held = text[:keep], text[keep:]
                if text or event.logprobs:
                    out.append(TextDelta(text, event.logprobs))
                if stop:
                    self.ended = True
                    end = Finished(reason="stop", usage=self._usage(), stop_sequence=stop)
                    return [*out, end]
            else:
                if self._held and isinstance(event, (Finished, Failed, ToolCallDelta)):
                    out.append(TextDelta(self._held))
                    self._held = ""
                out.append(event)
        return out

"""Stages between a driver and an encoder; each maps a batch of events to a batch.

A stage may hold text back, but must emit it before the terminal event. A stage that ends the answer
itself (at a stop string) emits its own Finished and sets `ended`.
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


class StopFilter:
    """Finds the client's stop strings in streamed text: ``feed(text)`` returns the text that is
    safe to send; `matched` is the stop string found, if any.

    The backend cannot do this: server.cpp loses text if one token contains both text and the start
    of a stop string, and loses text held back when the token limit is reached. Only text that may
    become a stop string is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(s for s in stops if s)
        self._heads = frozenset(s[0] for s in self._stops)
        self._held = ""
        self.matched = ""

    def feed(self, text: str) -> str:
        """Returns "" after a match."""
        if self.matched:
            return ""
        if not self._held and self._heads.isdisjoint(text):
            return text
        text = self._held + text
        at, stop = self._find(text)
        if stop:
            self.matched, self._held = stop, ""
            return text[:at]
        keep = overlap(text, self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def close(self) -> str:
        """The text held back, at the end of a stream without a match."""
        held, self._held = self._held, ""
        return held

    def _find(self, text: str) -> tuple[int, str]:
        """The earliest match; at the same position, the shortest."""
        best, stop = len(text), ""
        end = len(text)
        for candidate in self._stops:
            at = text.find(candidate, 0, end + len(candidate))
            if at >= 0 and (at < best or (at == best and len(candidate) < len(stop))):
                best, stop = at, candidate
        return best, stop


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

"""Matches the client's stop strings in streamed text.

The backend cannot do this: server.cpp loses text if one token contains both text and the start of a
stop string, and loses text held back when the token limit is reached. Only text that may become a
stop string is held back.
"""

from __future__ import annotations

from collections.abc import Sequence

from .marks import overlap


class StopFilter:
    """``feed(text)`` returns the text that is safe to send; `matched` is the stop string found, if
    any."""

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

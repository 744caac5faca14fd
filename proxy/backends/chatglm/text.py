"""Turns token ids into text as they come, without losing a space or splitting a character.

A token's text depends on the one before it (sentencepiece drops a leading space), so the last token
that was converted is decoded again with the new ones, and the difference is the new text. Text that
may still change is held back: a character without all its bytes, and in the oldest families a
punctuation mark, which becomes Chinese if a Chinese character follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

PARTIAL = "\N{REPLACEMENT CHARACTER}"
LONGEST = 3  # bytes of an incomplete character, at most
MOST_HELD = 256  # tokens that are decoded again with each new one, where bytes make no character


class Incremental:
    """`decode` converts ids to text; `unsure` are marks to hold back at the end. `before` is the
    last token of a text to continue from."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        unsure: tuple[str, ...] = (),
        before: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self._unsure = unsure
        self._ids: list[int] = list(before)
        self._known = len(self._ids)  # the number of these ids whose text was returned
        self._sent = 0  # characters returned of the ids after those

    def add(self, token: int) -> str:
        """Add a token. Returns the text that is now certain."""
        self._ids.append(token)
        text = self._new()
        if text.endswith(PARTIAL) and len(self._ids) - self._known < MOST_HELD:
            # Of many invalid bytes, only the last ones can still begin a character.
            certain = text[:-LONGEST] if text.endswith(PARTIAL * (LONGEST + 1)) else ""
            self._sent += len(certain)
            return certain
        if text.endswith(self._unsure) or not text:
            return ""
        del self._ids[: self._known]
        self._known, self._sent = len(self._ids), 0
        return text

    def close(self) -> str:
        """The text held back, at the end."""
        text = self._new()
        self._ids, self._known, self._sent = [], 0, 0
        return text

    def _new(self) -> str:
        before = self._decode(self._ids[: self._known]) if self._known else ""
        text = self._decode(self._ids) if self._ids else ""
        return text[len(before) + self._sent :]

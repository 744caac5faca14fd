"""Token ids become text as they come, without losing a blank or cutting a character.

A piece's text depends on what stands before it (sentencepiece drops a blank in front), so the last
piece that was given out is decoded again with the new ones, and what it adds is the new text. What
may still change is held back: a character whose bytes have not all come, and in the oldest families
a punctuation mark, which turns into its Chinese form when a Chinese character follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

PARTIAL = "\N{REPLACEMENT CHARACTER}"
LONGEST = 3  # bytes of a character that has not come whole


class Incremental:
    """`decode` gives the text of ids; `unsure` are marks that must not stand last. `before`:
    the last piece of a text that goes on."""

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        unsure: tuple[str, ...] = (),
        before: Sequence[int] = (),
    ) -> None:
        self._decode = decode
        self._unsure = unsure
        self._ids: list[int] = list(before)
        self._known = len(self._ids)  # of these ids, how many were given out

    def add(self, token: int) -> str:
        """The text that is certain with this token."""
        self._ids.append(token)
        before, text = self._texts()
        if text.endswith(PARTIAL):
            cut = len(text) - len(text.rstrip(PARTIAL))
            if cut <= LONGEST:
                return ""
        if text.endswith(self._unsure) or len(text) <= len(before):
            return ""
        del self._ids[: self._known]
        self._known = len(self._ids)
        return text[len(before) :]

    def close(self) -> str:
        """What was held back, when nothing more comes."""
        before, text = self._texts()
        self._ids, self._known = [], 0
        return text[len(before) :]

    def _texts(self) -> tuple[str, str]:
        before = self._decode(self._ids[: self._known]) if self._known else ""
        return before, self._decode(self._ids) if self._ids else ""

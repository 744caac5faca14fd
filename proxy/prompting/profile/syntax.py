"""What a model writes with a template: reasoning, calls and the end of its turn."""

from __future__ import annotations

from msgspec import Struct

from ..formats import CallFormat
from ..thoughts import INLINE


class AnswerSyntax(Struct, frozen=True, kw_only=True, cache_hash=True):
    """How to read an answer of a template's model."""

    reasoning: tuple[tuple[str, str], ...] = ()
    """The tags around reasoning, () if none could be derived."""
    content: tuple[str, str] = ("", "")
    """The marks around the text of an answer, ("", "") if the model writes none."""
    calls: CallFormat | None = None
    """None if the template has no calls, or they cannot be derived."""
    stops: tuple[str, ...] = ()
    """End tokens of a turn; each is one token of the vocabulary and is sent to the backend."""

    @property
    def inline(self) -> tuple[str, str]:
        """What stands around reasoning that is left in the text: the model's own tags."""
        opening, closing = next(iter(self.reasoning), ("<think>", ""))
        if opening == "<think>":
            return INLINE
        if self.calls is not None and self.calls.reads_reasoning:
            opening, closing = self.calls.reasoning
        # The beginning of the next turn is no part of the text.
        return opening, closing[: closing.find(">") + 1] or closing

    @property
    def is_known(self) -> bool:
        """Whether anything is known of the answers."""
        return bool(self.stops or self.calls or self.reasoning)

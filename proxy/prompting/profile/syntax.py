"""What a model writes with a template: reasoning, calls and the end of its turn."""

from __future__ import annotations

from msgspec import Struct

from ..formats import CallFormat


class AnswerSyntax(Struct, frozen=True, kw_only=True):
    """How to read an answer of a template's model."""

    reasoning: tuple[tuple[str, str], ...] = ()
    """The tags around reasoning, () if the model writes none. The opening one is "" if the answer
    begins within the reasoning."""
    calls: CallFormat | None = None
    """None if the template has no calls, or they cannot be derived."""
    stops: tuple[str, ...] = ()
    """End tokens of a turn; each is one token of the vocabulary and is sent to the backend."""

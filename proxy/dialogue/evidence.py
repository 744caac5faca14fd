"""Inserts documents into a conversation so that its beginning stays stable from turn to turn. Pure.

Clients send questions and answers, but no documents: those of earlier turns are found again and
inserted as before. Documents for the first question go into the system message, after the
instructions; new ones for a later question go before that question. So each turn's prompt begins
with the whole prompt of the previous turn, and a server evaluates only the rest. A document keeps
its number for the whole conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ..core.request import Message
from ..prompting.template.dialogues import Layouts
from .events import Citation

EMPTY = "empty"  # a folder's optional template for searches without results
MOST_TURNS = 16  # earlier questions whose documents are inserted again


class CitationNumbers:
    """Numbers citations in the order of their first occurrence."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def add(self, found: Iterable[Citation]) -> tuple[tuple[Citation, ...], tuple[Citation, ...]]:
        """All citations with numbers, and those that are new."""
        cited, new = [], []
        for citation in found:
            key = citation.chunk_id or citation.url
            known = key in self._numbers
            number = self._numbers.setdefault(key, len(self._numbers) + 1)
            citation = msgspec.structs.replace(citation, number=number)
            cited.append(citation)
            if not known:
                new.append(citation)
        return tuple(cited), tuple(new)


def context(citations: Sequence[Citation]) -> str:
    """The documents as text for the model."""
    parts = []
    for citation in citations:
        place = f" ({citation.place})" if citation.place else ""
        head = " ".join(f"{citation.title}{place}".split())
        parts.append(f"[{citation.number}] {head}\n{citation.text.strip()}")
    return "\n\n".join(parts)


def laid(
    layouts: Layouts,
    folder: str,
    template: str,
    messages: Sequence[Message],
    found: Sequence[Sequence[Citation]],
) -> tuple[tuple[Message, ...], tuple[Citation, ...]]:
    """The conversation with documents inserted, and the citations of its last question. `found` are
    the citations of each question (user message), in order.

    Raises InvalidParameter like Layouts.render."""
    numbers = CitationNumbers()
    if not any(found) and EMPTY in layouts.names(folder):
        return layouts.render(folder, EMPTY, messages), ()
    if layouts.layout(folder, template).asks:
        # This template puts documents and question into one message: only the last question has
        # any.
        cited, _ = numbers.add(found[-1])
        return layouts.render(folder, template, messages, context(cited)), cited
    head = ""
    out: list[Message] = []
    cited = ()
    turns = iter(found)
    for message in messages:
        if message.role == "user":
            cited, new = numbers.add(next(turns))
            if new and not head:
                head = context(new)
            elif new:
                longer = message.after(f"{context(new)}\n\n")
                message = msgspec.structs.replace(longer, cites=True)
        out.append(message)
    return layouts.render(folder, template, out, head), cited

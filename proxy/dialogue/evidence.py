"""What was found is laid into a conversation, so that its head stays the same. Pure.

A client sends questions and answers, no documents: what stood in the prompts of its earlier turns
is found again and laid out as it was. The documents of the first question stand in the system
message, behind the instructions; what a later question finds besides stands before that question.
Each turn's prompt so begins with the whole prompt of the turn before it, and a server evaluates
only what is new. A document keeps its number as long as the conversation lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ..core.request import Message
from ..prompting.layouts import Layouts
from .values import Citation

EMPTY = "empty"  # the template of a folder for when nothing was found, where it has one
MOST_TURNS = 16  # earlier questions whose documents are laid out again


class Ledger:
    """Numbers what is found, in the order it is first seen in."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def add(self, found: Iterable[Citation]) -> tuple[tuple[Citation, ...], tuple[Citation, ...]]:
        """All of it with numbers, and those that were not there before."""
        cited, new = [], []
        for one in found:
            key = one.chunk_id or one.url
            known = key in self._numbers
            number = self._numbers.setdefault(key, len(self._numbers) + 1)
            one = msgspec.structs.replace(one, number=number)
            cited.append(one)
            if not known:
                new.append(one)
        return tuple(cited), tuple(new)


def context(citations: Sequence[Citation]) -> str:
    """Documents as the model reads them."""
    parts = []
    for one in citations:
        head = " ".join(f"{one.title} ({one.place})".split() if one.place else one.title.split())
        parts.append(f"[{one.number}] {head}\n{one.text.strip()}")
    return "\n\n".join(parts)


def laid(
    layouts: Layouts,
    folder: str,
    template: str,
    messages: Sequence[Message],
    found: Sequence[Sequence[Citation]],
) -> tuple[tuple[Message, ...], tuple[Citation, ...]]:
    """The conversation with documents in it, and the citations of its last question. `found` are
    those of each question, the users' messages, in order.

    Raises Invalid, as Layouts.lay."""
    ledger = Ledger()
    if not any(found) and EMPTY in layouts.names(folder):
        return layouts.lay(folder, EMPTY, messages), ()
    if layouts.asks(folder, template):
        # It has documents and question in one message: those of the last question alone.
        cited, _ = ledger.add(found[-1])
        return layouts.lay(folder, template, messages, context(cited)), cited
    head = ""
    out: list[Message] = []
    cited = ()
    turns = iter(found)
    for message in messages:
        if message.role == "user":
            cited, new = ledger.add(next(turns))
            if new and not head:
                head = context(new)
            elif new:
                content = f"{context(new)}\n\n{message.content}"
                message = msgspec.structs.replace(message, content=content)
        out.append(message)
    return layouts.lay(folder, template, out, head), cited

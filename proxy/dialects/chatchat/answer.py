"""The documents that the answer of a dialogue is made of, and how one reads on the wire.

A whole answer is the fold of the same documents: texts are put together, lists go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ...errors import GatewayError
from . import reply

Document = dict[str, Any]

CONTENT_TYPE = "text/event-stream; charset=utf-8"  # what its own servers say of their streams
ONE = frozenset({"chat_history_id", "message_id"})  # the same in every document
NOTHING_FOUND = "No document was found for this: the answer is the model's own."


class Source(msgspec.Struct, frozen=True):
    """What an answer rests on: its number, as citations say it, a name, an address, the text."""

    number: int
    name: str
    url: str
    text: str


def text(history_id: str, delta: str) -> Document:
    """A piece of a plain chat. Later clients of the 0.2 series call the id message_id."""
    return {"text": delta, "chat_history_id": history_id, "message_id": history_id}


def answer(delta: str) -> Document:
    """A piece of an answer from documents; in an agent's stream, of its thoughts."""
    return {"answer": delta}


def final_answer(delta: str) -> Document:
    """A piece of what an agent answers in the end."""
    return {"final_answer": delta}


def docs(sources: Sequence[Source]) -> Document:
    """The sources, as Markdown: this comes once, after the answer."""
    if not sources:
        return {"docs": [NOTHING_FOUND]}
    return {"docs": [_cited(one) for one in sources]}


def tools(name: str, arguments: str, observation: str) -> Document:
    """A call of an agent and what came of it, as lines to show."""
    return {"tools": [f"Tool: {name}", f"Input: {arguments}", f"Output: {observation}"]}


def _cited(source: Source) -> str:
    # A name is free text: brackets in it would end the link early.
    name = source.name.replace("[", "(").replace("]", ")")
    return f"Source [{source.number}] [{name}]({source.url})\n\n{source.text}\n\n"


def failure(fault: GatewayError) -> Document:
    """What a stream that broke says last; its client shows `msg` wherever `code` is not 200."""
    return reply.error(fault)


def chunk(document: Document) -> bytes:
    """One HTTP chunk."""
    return msgspec.json.encode(document)


def plain(document: Document) -> bytes:
    """The same where an answer is bare text: /chat/fastchat and /other/completion."""
    said: str = document.get("text", "")
    return said.encode()


def whole(documents: Iterable[Document]) -> Document:
    """All documents as one."""
    out: Document = {}
    for document in documents:
        for name, value in document.items():
            out[name] = value if name in ONE or name not in out else out[name] + value
    return out

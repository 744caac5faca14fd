"""The JSON documents of a streamed dialogue answer, and their encoding.

A whole answer merges the same documents: texts and lists are concatenated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

Document = dict[str, Any]

CONTENT_TYPE = "text/event-stream; charset=utf-8"  # as Chatchat's own servers send it
ONE = frozenset({"chat_history_id", "message_id"})  # fields with the same value in every document
NOTHING_FOUND = "No relevant documents were found; this answer comes from the model alone."


class Source(msgspec.Struct, frozen=True):
    """A source of an answer: its citation number, name, URL and text."""

    number: int
    name: str
    url: str
    text: str


def text(history_id: str, delta: str) -> Document:
    """A piece of a plain chat's answer. Later 0.2.x clients call the id message_id."""
    return {"text": delta, "chat_history_id": history_id, "message_id": history_id}


def answer(delta: str) -> Document:
    """A piece of an answer with documents; in an agent's stream, a piece of its reasoning."""
    return {"answer": delta}


def final_answer(delta: str) -> Document:
    """A piece of an agent's final answer."""
    return {"final_answer": delta}


def docs(sources: Sequence[Source]) -> Document:
    """The sources as Markdown; sent once, after the answer."""
    if not sources:
        return {"docs": [NOTHING_FOUND]}
    return {"docs": [_cited(source) for source in sources]}


def tools(name: str, arguments: str, observation: str) -> Document:
    """A tool call of an agent with its result, as lines to display."""
    return {"tools": [f"Tool: {name}", f"Input: {arguments}", f"Output: {observation}"]}


def _cited(source: Source) -> str:
    # A name is free text: brackets in it would end the link early.
    name = source.name.replace("[", "(").replace("]", ")")
    return f"Source [{source.number}] [{name}]({source.url})\n\n{source.text}\n\n"


def chunk(document: Document) -> bytes:
    """A document as one HTTP chunk."""
    return msgspec.json.encode(document)


def plain(document: Document) -> bytes:
    """A document as plain text, for /chat/fastchat and /other/completion."""
    content: str = document.get("text", "")
    return content.encode()


def whole(documents: Iterable[Document]) -> Document:
    """Merges all documents into one."""
    merged: Document = {}
    for document in documents:
        for name, value in document.items():
            merged[name] = value if name in ONE or name not in merged else merged[name] + value
    return merged

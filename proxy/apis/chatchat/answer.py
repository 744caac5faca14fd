"""The JSON documents of a streamed dialogue answer, and their encoding.

A whole answer merges the same documents: texts and lists are concatenated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ...errors import BadRequest, GatewayError, InvalidParameter

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


# The envelope of every answer. Chatchat's servers report errors in `code` with HTTP status 200,
# and its client checks nothing else. The same holds here for errors specific to this API (unknown
# base, name taken). Errors of the gateway (API key, full queue) also set the HTTP status, equal
# to `code`. An invalid body is a 422 with FastAPI's `detail` beside the envelope, since these
# servers are written with FastAPI.
INVALID = 422  # FastAPI's status for a body that it cannot validate


def ok(data: Any = None, msg: str = "success") -> dict[str, Any]:
    return {"code": 200, "msg": msg, "data": data}


def status(fault: GatewayError) -> int:
    """The status of an error in this API."""
    return INVALID if type(fault) in (BadRequest, InvalidParameter) else fault.status


def error_reply(fault: GatewayError, data: Any = None) -> dict[str, Any]:
    code = status(fault)
    told: dict[str, Any] = {"code": code, "msg": fault.message, "data": data}
    if code == INVALID:
        place = ["body", *filter(None, [fault.param])]
        told["detail"] = [{"loc": place, "msg": fault.message, "type": "value_error"}]
    return told


def error_of_list(fault: GatewayError) -> dict[str, Any]:
    """The error for routes that return a list: the client iterates over `data` whatever `code`
    is."""
    return error_reply(fault, [])


def error_of_table(fault: GatewayError) -> dict[str, Any]:
    """The error for routes that return an object."""
    return error_reply(fault, {})


def files_failed(names: Sequence[tuple[str, str]], msg: str) -> dict[str, Any]:
    """The answer of routes that take several files: the error for each that failed."""
    return ok({"failed_files": dict(names)}, msg)

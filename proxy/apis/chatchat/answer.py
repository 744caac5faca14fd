"""The JSON documents of a streamed dialogue answer, and the envelope of all other answers.

A whole answer merges the same documents: texts and lists are concatenated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from ...errors import BadRequest, GatewayError, InvalidParameter

Document = dict[str, Any]

ONE = frozenset({"chat_history_id", "message_id"})  # fields with the same value in every document
NOTHING_FOUND = "No relevant documents were found; this answer comes from the model alone."


def text(history_id: str, delta: str) -> Document:
    """A piece of a plain chat's answer. Later 0.2.x clients call the id message_id."""
    return {"text": delta, "chat_history_id": history_id, "message_id": history_id}


def source(number: int, name: str, url: str, content: str) -> str:
    """A source of an answer as Markdown."""
    # A name is free text: brackets in it would end the link early.
    name = name.replace("[", "(").replace("]", ")")
    return f"Source [{number}] [{name}]({url})\n\n{content}\n\n"


def docs(sources: Sequence[str]) -> Document:
    """The sources; sent once, after the answer."""
    return {"docs": [*sources] or [NOTHING_FOUND]}


def tools(name: str, arguments: str, observation: str) -> Document:
    """A tool call of an agent with its result, as lines to display."""
    return {"tools": [f"Tool: {name}", f"Input: {arguments}", f"Output: {observation}"]}


def whole(documents: Iterable[Document]) -> Document:
    """Merges all documents into one."""
    merged: Document = {}
    for document in documents:
        for name, value in document.items():
            merged[name] = value if name in ONE or name not in merged else merged[name] + value
    return merged


# The envelope. Chatchat's servers report errors in `code` with HTTP status 200, and its client
# checks nothing else. The same holds here for errors specific to this API (unknown base, name
# taken). Errors of the gateway (API key, full queue) also set the HTTP status, equal to `code`. An
# invalid body is a 422 with FastAPI's `detail` beside the envelope, since these servers are written
# with FastAPI.
INVALID = 422  # FastAPI's status for a body that it cannot validate


def ok(data: Any = None, msg: str = "success") -> dict[str, Any]:
    return {"code": 200, "msg": msg, "data": data}


def status(fault: GatewayError) -> int:
    """The status of an error in this API."""
    return INVALID if type(fault) in (BadRequest, InvalidParameter) else fault.status


def error_reply(fault: GatewayError, data: Any = None) -> dict[str, Any]:
    code = status(fault)
    reply: dict[str, Any] = {"code": code, "msg": fault.message, "data": data}
    if code == INVALID:
        place = ["body", *filter(None, [fault.param])]
        reply["detail"] = [{"loc": place, "msg": fault.message, "type": "value_error"}]
    return reply


# For routes that return a list, or an object: the client reads `data` whatever `code` is.
error_of_list = partial(error_reply, data=[])
error_of_table = partial(error_reply, data={})

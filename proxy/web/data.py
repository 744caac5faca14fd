"""GET and DELETE /v1/data: all that is kept of the caller's key, to take along or to be gone.

What was uploaded is named, not repeated: /v1/files/{id}/content gives a file's bytes. An export is
read and sent piece by piece: there may be gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Blueprint, Response, request

from ..dialects import openai
from ..errors import GatewayError
from . import body
from .background import told
from .exchange import plain, refuse
from .observe import Record
from .reply import Reply
from .services import Services, services

if TYPE_CHECKING:
    from ..knowledge.service import Knowledge
    from ..knowledge.values import Base
    from ..store.conversations import Conversation, ConversationStore, Feedback

blueprint = Blueprint("data", __name__)

AT_ONCE = 64  # ratings that are read together
SENT = 64 << 10  # bytes that are sent together
_encode = msgspec.json.Encoder().encode


@blueprint.get("/v1/data")
def export() -> Response:
    here = services()
    record = Record.of(request.environ)
    try:
        record.key = here.keys.check(request.environ)
        parts = _gathered(_exported(here, record.key))
        first = next(parts)  # what cannot be read is refused
    except GatewayError as error:
        return refuse(error, openai.error, record)
    return Reply(chain((first,), parts), body.JSON, record.headers())


def _exported(here: Services, owner: str) -> Iterator[bytes]:
    """One object of lists, as JSON. Nothing is sent before all lists could be begun."""
    responses = here.store.ids(owner)
    talks = here.conversations.recent(owner, limit=None) if here.conversations else ()
    bases = here.knowledge.bases(owner) if here.knowledge else ()
    files = here.vector_stores.files(owner) if here.vector_stores else ()
    yield b'{"object":"data","responses":'
    yield from _list(_responses(here, owner, responses))
    if here.conversations is not None:
        yield b',"conversations":'
        yield from _list(_talk(here.conversations, owner, one) for one in talks)
        yield b',"feedback":'
        yield from _list([_encode(one)] for one in _ratings(here.conversations, owner))
    if here.knowledge is not None:
        yield b',"knowledge_bases":'
        yield from _list(_base(here.knowledge, owner, base) for base in bases)
    if here.vector_stores is not None:
        yield b',"files":'
        yield from _list([_encode(one)] for one in files)
    yield b"}"


def _responses(here: Services, owner: str, ids: Iterable[str]) -> Iterator[list[bytes]]:
    for one in ids:
        kept = here.store.get(owner, one)
        if kept is not None:  # not deleted meanwhile
            yield [told(kept)]


def _talk(conversations: ConversationStore, owner: str, talk: Conversation) -> Iterator[bytes]:
    messages = conversations.each_message(owner, talk.id)
    return _fields(talk, "messages", ([_encode(one)] for one in messages))


def _ratings(conversations: ConversationStore, owner: str) -> Iterator[Feedback]:
    count = 0
    while some := conversations.ratings(owner, count, AT_ONCE):
        yield from some
        count += len(some)


def _base(knowledge: Knowledge, owner: str, base: Base) -> Iterator[bytes]:
    def documents() -> Iterator[Iterable[bytes]]:
        for one in knowledge.documents(owner, base.id):
            chunks = knowledge.each_chunk(owner, one.id)
            yield _fields(one, "pieces", ([_encode(chunk)] for chunk in chunks))

    return _fields(base, "documents", documents())


def _fields(value: Any, name: str, rows: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """A struct as JSON, with one more field: a list."""
    yield _encode(value)[:-1] + b',"' + name.encode() + b'":'
    yield from _list(rows)
    yield b"}"


def _list(rows: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """A JSON array of values, each of which comes in pieces."""
    mark = b"["
    for row in rows:
        yield mark
        yield from row
        mark = b","
    yield b"[]" if mark == b"[" else b"]"


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Small ones together."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= SENT:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


@blueprint.delete("/v1/data")
def delete() -> Response:
    def view(here: Services, record: Record) -> Any:
        owner = record.key
        here.ongoing.cancel(owner)  # what is being made would be kept later
        gone = {"responses": here.store.clear(owner)}
        if here.conversations is not None:
            gone["conversations"] = here.conversations.clear(owner)
        if here.vector_stores is not None:
            files = here.vector_stores.files(owner)
            for file in files:
                here.vector_stores.delete_file(owner, file.file_id)
            gone["files"] = len(files)
        if here.knowledge is not None:
            gone["knowledge_bases"] = here.knowledge.delete_all(owner)
        return {"object": "data.deleted", "deleted": gone}

    return plain(view)

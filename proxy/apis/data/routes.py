"""GET and DELETE /v1/data: export or delete all data stored for the caller's key.

The export has the names of uploaded files, not their bytes. It is read and sent in pieces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Response, request

from ...errors import NotFound
from ...store.responses import CONVERSATION, OTHERS, Stored
from ...web import body
from ...web.background import encoded
from ...web.observability import Record
from ...web.permissions import knowledge
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import json_route, passthrough
from ..batches.routes import reply as batch_object

if TYPE_CHECKING:
    from ...knowledge.service import Knowledge
    from ...store.records import Base

blueprint = Api("data", __name__, group="", tag="slotproxy")

SENT = 64 << 10  # bytes sent together
MOST_CAPTURES = 1000  # the last ones, in an export
_encode = msgspec.json.Encoder().encode


@json_route(blueprint, "GET", "/v1/data")
def export(services: Services, record: Record) -> Response:
    """Export everything kept for the caller's key."""
    parts = _gathered(_exported(services, record.key, knowledge(services, request.environ)))
    first = next(parts)  # raises if the data cannot be read
    return passthrough(chain((first,), parts), body.JSON, [])


def _exported(services: Services, owner: str, knowledge: Knowledge | None) -> Iterator[bytes]:
    """Yield one JSON object of lists. Nothing is sent before all lists have been opened."""
    stored = services.store.ids(owner)
    answers = [key for key in stored if not key.startswith(OTHERS)]
    threads = [key for key in stored if key.startswith(CONVERSATION)]
    lists: dict[str, Iterable[Iterable[bytes]]] = {
        "responses": ([encoded(stored)] for stored in _stored(services, owner, answers)),
        "response_conversations": (
            [stored.response[:-1], b',"items":', stored.items, b"}"]
            for stored in _stored(services, owner, threads)
        ),
    }
    if (talks := services.conversations) is not None:
        lists["conversations"] = (
            _fields(talk, "messages", _each(talks.each_message(owner, talk.id)))
            for talk in talks.recent(owner, limit=None)
        )
    if knowledge is not None:
        bases = knowledge.bases(owner)
        lists["knowledge_bases"] = (_base(knowledge, owner, base) for base in bases)
    if services.vector_stores is not None:
        lists["files"] = _each(services.vector_stores.files(owner))
    if services.batches is not None:
        lists["batches"] = _each(map(batch_object, services.batches.all(owner)))
    if services.captures is not None:
        lists["captures"] = _each(services.captures.find(MOST_CAPTURES, key=owner))
    yield b'{"object":"data"'
    for name, rows in lists.items():
        yield b',"' + name.encode() + b'":'
        yield from _list(rows)
    yield b"}"


def _stored(services: Services, owner: str, ids: Iterable[str]) -> Iterator[Stored]:
    read = (services.store.get(owner, key) for key in ids)
    return (stored for stored in read if stored is not None)  # not deleted since


def _each(values: Iterable[Any]) -> Iterator[list[bytes]]:
    return ([_encode(value)] for value in values)


def _base(knowledge: Knowledge, owner: str, base: Base) -> Iterator[bytes]:
    def documents() -> Iterator[Iterable[bytes]]:
        try:
            rows = knowledge.documents(owner, base.id)
        except NotFound:
            return  # deleted since the export began
        for document in rows:
            yield _fields(document, "pieces", _each(knowledge.each_chunk(owner, document.id)))

    return _fields(base, "documents", documents())


def _fields(value: Any, name: str, rows: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """Yield a struct as JSON, with a list as an additional last field."""
    yield _encode(value)[:-1] + b',"' + name.encode() + b'":'
    yield from _list(rows)
    yield b"}"


def _list(rows: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    """Yield a JSON array of values, each of which comes in pieces."""
    mark = b"["
    for row in rows:
        yield mark
        yield from row
        mark = b","
    yield b"[]" if mark == b"[" else b"]"


def _gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        held.append(piece)
        size += len(piece)
        if size >= SENT:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


@json_route(blueprint, "DELETE", "/v1/data")
def delete(services: Services, record: Record) -> Any:
    """Delete everything kept for the caller's key."""
    owner = record.key
    services.ongoing.cancel(owner)  # unfinished responses would be stored later
    conversations = [key for key in services.store.ids(owner) if key.startswith(CONVERSATION)]
    gone = {"response_conversations": len(conversations)}
    gone["responses"] = services.store.clear(owner) - gone["response_conversations"]
    if services.conversations is not None:
        gone["conversations"] = services.conversations.clear(owner)
    if services.batches is not None:
        gone["batches"] = services.batches.clear(owner)
    if services.vector_stores is not None:
        gone["files"] = services.vector_stores.delete_all_files(owner)
    if services.knowledge is not None:
        gone["knowledge_bases"] = services.knowledge.delete_all(owner)
    if services.captures is not None:
        gone["captures"] = services.captures.delete(key=owner)
    return {"object": "data.deleted", "deleted": gone}

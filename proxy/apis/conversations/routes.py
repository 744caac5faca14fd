"""Conversations of the Responses API: kept items that responses continue and add to.

They are stored with the responses, within the same bounds; one that is used counts as new. A
conversation is at most as large as a body (`--max-body`), and as quickly decoded.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
from flask import request

from ...core.decoding import is_dear
from ...errors import BadRequest, InvalidParameter, NotFound
from ...store.responses import CONVERSATION, Stored
from ...web.model_tables import with_documents
from ...web.observability import Record
from ...web.routes import Api
from ...web.services import Services
from ...web.spine import View, sent_json, v1_route
from .. import fields
from .. import schema_fields as doc
from ..fields import Body
from ..responses.items import listed as with_ids
from ..responses.items import messages
from ..vector_stores.request import METADATA, metadata

MOST_ADDED = 20  # items in one request, as the API reference says
_ADDED = doc.array(
    "Items, as in the `input` of a response.",
    [{"role": "user", "content": "Hello!"}],
    maxItems=MOST_ADDED,
)
blueprint = Api(
    "conversations",
    __name__,
    group="responses",
    tag="OpenAI: conversations",
    schemas={
        "ConversationRequest": doc.body(items=_ADDED, metadata=METADATA),
        "ConversationChange": doc.body("metadata", metadata=METADATA),
        "ConversationItems": doc.body("items", items=_ADDED),
    },
)


def _route(method: str, path: str, **about: Any) -> Callable[[View], View]:
    return v1_route(blueprint, method, f"/conversations{path}", **about)


def parse_new(body: Body) -> tuple[dict[str, str], list[Any]]:
    items = fields.items(body, "items")
    if len(items) > MOST_ADDED:
        raise InvalidParameter("items", f"may contain at most {MOST_ADDED} items at a time")
    messages(items, [], at="items")
    return metadata(body) or {}, items


def parse_items(body: Body) -> list[Any]:
    _, given = parse_new({"items": body.get("items")})
    if not given:
        raise InvalidParameter("items", "must contain at least one item")
    return given


def parse_change(body: Body) -> dict[str, str]:
    pairs = metadata(body)
    if pairs is None:
        raise InvalidParameter("metadata", "is missing: it is what a conversation can change")
    return pairs


@_route("POST", "", body="ConversationRequest")
def create(services: Services, record: Record) -> Any:
    """A new conversation."""
    pairs, given = parse_new(_body(services))
    key, now = CONVERSATION + uuid.uuid4().hex, time.time()
    made = {"id": key, "object": "conversation", "created_at": int(now), "metadata": pairs}
    items = msgspec.json.encode(_with_ids(given))
    services.store.put(record.key, key, now, Stored(msgspec.json.encode(made), items))
    return made


@_route("GET", "/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """One conversation."""
    return msgspec.Raw(kept_conversation(services, record.key, key).response)


@_route("POST", "/<key>", body="ConversationChange")
def change(services: Services, record: Record, key: str) -> Any:
    """Change the metadata of a conversation."""
    pairs = parse_change(_body(services))

    def changed(stored: Stored) -> Stored:
        whole = {**msgspec.json.decode(stored.response), "metadata": pairs}
        return stored._replace(response=msgspec.json.encode(whole))

    return msgspec.Raw(_changed(services, record.key, key, changed).response)


@_route("DELETE", "/<key>")
def delete(services: Services, record: Record, key: str) -> Any:
    """Delete a conversation with its items."""
    if not (key.startswith(CONVERSATION) and services.store.delete(record.key, key)):
        _missing(key)
    return {"id": key, "object": "conversation.deleted", "deleted": True}


@_route("POST", "/<key>/items", body="ConversationItems")
def add(services: Services, record: Record, key: str) -> Any:
    """Add items to a conversation."""
    items = append(services, record.key, key, parse_items(_body(services)))
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]}
    return {"object": "list", "data": items, **ends, "has_more": False}


@_route("GET", "/<key>/items")
def listed(services: Services, record: Record, key: str) -> Any:
    """The items of a conversation."""
    return page_of_items(_items(kept_conversation(services, record.key, key)))


@_route("GET", "/<key>/items/<item>")
def read_item(services: Services, record: Record, key: str, item: str) -> Any:
    """An item of a conversation."""
    items = _items(kept_conversation(services, record.key, key))
    return next((each for each in items if each["id"] == item), None) or _missing(key, item)


@_route("DELETE", "/<key>/items/<item>")
def delete_item(services: Services, record: Record, key: str, item: str) -> Any:
    """Delete an item of a conversation."""

    def changed(stored: Stored) -> Stored:
        items = _items(stored)
        left = [each for each in items if each["id"] != item]
        if len(left) == len(items):
            _missing(key, item)
        return stored._replace(items=msgspec.json.encode(left))

    return msgspec.Raw(_changed(services, record.key, key, changed).response)


def page_of_items(items: list[dict[str, Any]]) -> dict[str, Any]:
    page = fields.page_of(request.args, items, lambda item: item["id"], lambda item: item)
    return {**page, "first_id": page["first_id"] or "", "last_id": page["last_id"] or ""}


def kept_conversation(services: Services, owner: str, key: str) -> Stored:
    """Raises NotFound, and StoreUnavailable."""
    return (key.startswith(CONVERSATION) and services.store.get(owner, key)) or _missing(key)


def append(services: Services, owner: str, key: str, new_items: list[Any]) -> list[dict[str, Any]]:
    """Add items to a conversation, unless it gets too long; returns them with their ids."""
    added = _with_ids(new_items)

    def longer(stored: Stored) -> Stored:
        items = msgspec.json.encode([*_items(stored), *added])
        if len(items) > services.settings.max_body or is_dear(items):
            raise BadRequest(
                "the conversation is too long: start a new one", code="conversation_too_long"
            )
        return stored._replace(items=items)

    _changed(services, owner, key, longer)
    return added


def _with_ids(items: list[Any]) -> list[dict[str, Any]]:
    return with_ids(items, f"conv_{uuid.uuid4().hex}")


def _changed(services: Services, owner: str, key: str, edit: Callable[[Stored], Stored]) -> Stored:
    is_one = key.startswith(CONVERSATION)
    return (is_one and services.store.change(owner, key, edit, time.time())) or _missing(key)


def _items(stored: Stored) -> list[dict[str, Any]]:
    return msgspec.json.decode(stored.items, type=list[dict[str, Any]])


def _body(services: Services) -> dict[str, Any]:
    sent = sent_json()
    with_documents(services, Record.of(request.environ), request.environ, sent)
    return sent


def _missing(key: str, item: str = "") -> NoReturn:
    if item:
        raise NotFound(
            f"the conversation {key[:100]!r} has no item {item[:100]!r}", param="item_id"
        )
    raise NotFound(f"no such conversation: {key[:100]!r}", param="conversation")

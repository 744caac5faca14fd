"""Conversations of the Responses API: their object, their items, and a response's part in one.

The shapes are those of `openai.types.conversations`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, items, text
from ..responses.items import listed, messages
from ..schema_fields import Schema
from ..vector_stores.request import METADATA, metadata

MOST_ADDED = 20  # items in one request, as the API reference says


class NewConversation(Struct, frozen=True):
    """The body of a new conversation. Its items have no ids yet."""

    metadata: dict[str, str]
    items: list[Any]


def create(body: Body) -> NewConversation:
    """Raises InvalidParameter."""
    return NewConversation(metadata(body) or {}, _items(body))


def added(body: Body) -> list[Any]:
    """The items to add, of which there is at least one. Raises InvalidParameter."""
    found = _items(body)
    if not found:
        raise InvalidParameter("items", "must contain at least one item")
    return found


def change(body: Body) -> dict[str, str]:
    """The new metadata. Raises InvalidParameter."""
    found = metadata(body)
    if found is None:
        raise InvalidParameter("metadata", "is missing: it is what a conversation can change")
    return found


def named(body: Body) -> str:
    """The id of the conversation that a response belongs to, "" for none. Raises
    InvalidParameter."""
    value = body.get("conversation")
    if isinstance(value, dict):
        found = text(value, "id", at="conversation.")
    else:
        found = text(body, "conversation")
    if found and body.get("previous_response_id"):
        raise InvalidParameter(
            "conversation", "cannot be combined with previous_response_id: send one of them"
        )
    return found


def conversation(key: str, created: int, pairs: dict[str, str]) -> dict[str, Any]:
    return {"id": key, "object": "conversation", "created_at": created, "metadata": pairs}


def with_ids(given: list[Any], unique: str) -> list[dict[str, Any]]:
    """Items as they are listed; those without an id get one, made of a `unique` text."""
    return listed(given, f"conv_{unique}")


def deleted(key: str) -> dict[str, Any]:
    return {"id": key, "object": "conversation.deleted", "deleted": True}


def _items(body: Body) -> list[Any]:
    given = items(body, "items")
    if len(given) > MOST_ADDED:
        raise InvalidParameter("items", f"may contain at most {MOST_ADDED} items at a time")
    messages(given, [], at="items")
    return given


_ADDED = doc.array(
    "Items, as in the `input` of a response.",
    [{"role": "user", "content": "Hello!"}],
    maxItems=MOST_ADDED,
)
SCHEMAS: dict[str, Schema] = {
    "ConversationRequest": doc.body(items=_ADDED, metadata=METADATA),
    "ConversationChange": doc.body("metadata", metadata=METADATA),
    "ConversationItems": doc.body("items", items=_ADDED),
}

"""Conversations of the Responses API: their object, their items, and a response's part in one.

The shapes are those of `openai.types.conversations`.
"""

from __future__ import annotations

from typing import Any

from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, items, text
from ..responses.items import messages
from ..schema_fields import Schema
from ..vector_stores.request import METADATA, metadata

MOST_ADDED = 20  # items in one request, as the API reference says


def create(body: Body) -> tuple[dict[str, str], list[Any]]:
    """Metadata and items of a new conversation. Raises InvalidParameter."""
    return metadata(body) or {}, _items(body)


def added(body: Body) -> list[Any]:
    """The items to add, of which there is at least one. Raises InvalidParameter."""
    given = _items(body)
    if not given:
        raise InvalidParameter("items", "must contain at least one item")
    return given


def change(body: Body) -> dict[str, str]:
    """The new metadata. Raises InvalidParameter."""
    pairs = metadata(body)
    if pairs is None:
        raise InvalidParameter("metadata", "is missing: it is what a conversation can change")
    return pairs


def named(body: Body) -> str:
    """The id of the conversation that a response belongs to, "" for none."""
    value = body.get("conversation")
    if isinstance(value, dict):
        key = text(value, "id", at="conversation.")
    else:
        key = text(body, "conversation")
    if key and body.get("previous_response_id"):
        raise InvalidParameter(
            "conversation", "cannot be combined with previous_response_id: send one of them"
        )
    return key


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

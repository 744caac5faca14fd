"""Stored chat completions of OpenAI's API: their list, their messages and their metadata.

The shapes are those of `openai.resources.chat.completions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ...errors import InvalidParameter
from .. import listing
from ..fields import Body, flag
from ..listing import Page
from ..vector_stores.request import metadata


class Wanted(Struct, frozen=True):
    """The query of a list: a page, and what the chats must have."""

    page: Page
    model: str
    metadata: Mapping[str, str]


def wanted(query: Mapping[str, str]) -> Wanted:
    """Parses `limit`, `after`, `order`, `model` and `metadata[KEY]`. The order is ascending unless
    the query says desc. Raises InvalidParameter."""
    page = listing.parse({"order": "asc", **query})
    pairs = {
        name[len("metadata[") : -1]: value
        for name, value in query.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    return Wanted(page, query.get("model") or "", pairs)


def matches(chat: Mapping[str, Any], query: Wanted) -> bool:
    """Whether a chat is of the wanted model and has the wanted metadata."""
    known = chat.get("metadata") or {}
    return (not query.model or chat.get("model") == query.model) and all(
        known.get(name) == value for name, value in query.metadata.items()
    )


def to_store(body: Body) -> dict[str, str] | None:
    """The metadata of a chat completion that the request stores; None if it does not. Raises
    InvalidParameter."""
    return (metadata(body) or {}) if flag(body, "store") else None


def change(body: Body) -> dict[str, str]:
    """The new metadata. Raises InvalidParameter."""
    found = metadata(body)
    if found is None:
        raise InvalidParameter("metadata", "is missing: it is what a stored chat can change")
    return found


def messages(given: list[Any], key: str) -> list[dict[str, Any]]:
    """The messages of a chat with ids. Parts of a message are in `content_parts`."""
    return [
        {**message, "id": f"{key}-{number}", **_content(message.get("content"))}
        for number, message in enumerate(given)
    ]


def _content(content: Any) -> dict[str, Any]:
    parts = content if isinstance(content, list) else None
    return {"content": None if parts is not None else content, "content_parts": parts}


def deleted(key: str) -> dict[str, Any]:
    return {"id": key, "object": "chat.completion.deleted", "deleted": True}

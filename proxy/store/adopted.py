"""Messages of a conversation that comes from elsewhere, as rows of the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from msgspec import Struct

from .records import new_id


class AdoptedMessage(Struct, frozen=True):
    """`parent` is the place of its parent among the messages. `created` is 0 if unknown."""

    parent: int | None
    role: Literal["user", "assistant"]
    content: str
    reasoning: str = ""
    created: float = 0.0


def rows(
    messages: Sequence[AdoptedMessage], conversation_id: str, created: float, now: float
) -> list[dict[str, Any]]:
    """Return a row for each message; parents come before their replies."""
    ids = [new_id("msg_") for _ in messages]
    return [
        {
            "id": ids[n],
            "conversation_id": conversation_id,
            "parent_id": None if one.parent is None else ids[one.parent],
            "number": n + 1,
            "role": one.role,
            "content": one.content,
            "reasoning": one.reasoning,
            "status": "done",
            "extra": {},
            "created": one.created or created,
            "touched": now,
        }
        for n, one in enumerate(messages)
    ]


def size(messages: Sequence[AdoptedMessage]) -> int:
    """Return their bytes, as quotas count them."""
    return sum(len(one.content.encode()) + len(one.reasoning.encode()) for one in messages)

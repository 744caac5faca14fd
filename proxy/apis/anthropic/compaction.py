"""The `compaction` blocks of conversations that were summed up, and what that cost.

Clients send the block back in its place; it stands for everything before it. Its content is null if
there is no summary, and then it means nothing.
"""

from __future__ import annotations

from typing import Any

from ...core.conversation import LEAD
from ...core.events import Compacted
from ...core.request import Message
from ...core.usage import Usage
from ..fields import Body, text

BLOCK = "compaction"
STOP = "compaction"  # the stop reason of an answer that is only the block


def summary(message: Body, at: str) -> Message | None:
    """The summary in a message that a client sends back: the last one. Raises InvalidParameter."""
    content = message.get("content")
    found = None
    for i, block in enumerate(content if type(content) is list else ()):
        if type(block) is dict and block.get("type") == BLOCK:
            found = text(block, "content", at=f"{at}.content[{i}].") or found
    return Message(role="user", content=LEAD + found) if found else None


def block(told: Compacted) -> dict[str, Any]:
    return {"type": BLOCK, "content": told.summary}


def iterations(told: Compacted, answer: Usage) -> list[dict[str, Any]]:
    """The tokens of the summary, if it was written for this answer, and those of the answer."""
    both = [("compaction", told.usage), ("message", answer)]
    return [
        {
            "type": kind,
            "input_tokens": counts.prompt - counts.cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": counts.cached,
            "output_tokens": counts.completion,
        }
        for kind, counts in both
        if counts.total
    ]

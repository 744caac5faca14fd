"""The field `compaction` of answers whose conversation was too long, in all dialects alike."""

from __future__ import annotations

from typing import Any

from ..core.events import Compacted


def field(told: Compacted | None) -> dict[str, Any]:
    """The number of messages that were replaced, their summary, and the tokens that it cost, which
    the usage of the answer leaves out. Empty if nothing was replaced."""
    if told is None:
        return {}
    cost = {
        "input_tokens": told.usage.prompt,
        "cached_tokens": told.usage.cached,
        "output_tokens": told.usage.completion,
    }
    return {"compaction": {"messages": told.messages, "summary": told.summary, "usage": cost}}

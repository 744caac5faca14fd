"""The text of a compaction item, as the `encrypted_content` that clients send back.

It is base64 of the summary, so that no client takes it for text to show. Nothing in it is secret or
trusted: the client wrote the conversation that it sums up.
"""

from __future__ import annotations

import base64
import binascii

from ...core.conversation import LEAD
from ...core.request import Message
from ...errors import InvalidParameter

KINDS = frozenset({"compaction", "compaction_summary"})  # the second is Codex's older name


def sealed(summary: str) -> str:
    return base64.b64encode(summary.encode()).decode()


def message(content: str, at: str) -> Message:
    """What the model reads in place of the compacted items. Raises InvalidParameter."""
    try:
        summary = base64.b64decode(content, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidParameter(
            at + "encrypted_content", "is not from this gateway: send the item as it was returned"
        ) from None
    return Message(role="user", content=LEAD + summary)

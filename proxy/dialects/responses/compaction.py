"""Compaction, POST /v1/responses/compact: the model sums a conversation up.

The instruction is the last message, so that the prompt begins as that of the conversation does and
its cached part is used. The output is to be sent as the beginning of the next input: messages with
instructions as they were, then one `compaction` item in place of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import structs

from ...core.fold import Completion
from ...core.request import CompletionRequest, Message
from ...errors import InvalidParameter, UpstreamFault
from ..fields import Body, model_name
from ..parts import joined
from ..response_meta import ResponseMeta
from . import summary
from .answer import item_id, usage
from .items import listed
from .request import ParsedRequest

LONGEST = 1024  # tokens of a summary
KEPT = ("system", "developer")
FIELDS = ("model", "input", "previous_response_id", "instructions", "prompt_cache_key")
ASK = (
    "Summarize this conversation so that you can continue it without reading it again: what the"
    " user wants, facts, names, numbers, decisions, results of tools, and what remains to be done."
    " Write only the summary."
)


def body(given: Body) -> Body:
    """The body of an ordinary request for the same conversation. Raises InvalidParameter."""
    if not model_name(given):
        raise InvalidParameter("model", "is missing")
    fields = {name: value for name in FIELDS if (value := given.get(name)) is not None}
    return {**fields, "store": False, "truncation": "auto"}


def asking(request: CompletionRequest) -> CompletionRequest:
    """The request for the summary."""
    *before, last = request.messages
    ask = Message(role="user", content=ASK)
    end = [joined(last, ask)] if last.role == "user" else [last, ask]
    return structs.replace(request, messages=(*before, *end), max_tokens=LONGEST)


def whole(
    meta: ResponseMeta, asked: ParsedRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The compaction object. Raises UpstreamFault if the model wrote nothing."""
    (completion,) = completions
    text = completion.text.strip()
    if not text:
        raise UpstreamFault("the model wrote no summary: try again, or use another model")
    kept = [item for item in asked.input if item.get("role") in KEPT]
    item = {
        "id": item_id(meta, "cmp", len(kept)),
        "type": "compaction",
        "encrypted_content": summary.sealed(text),
    }
    return {
        "id": meta.id,
        "object": "response.compaction",
        "created_at": meta.created,
        "output": [*listed(kept, meta.id), item],
        "usage": usage(completion.finished.usage),
    }

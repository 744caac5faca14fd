"""Compaction, POST /v1/responses/compact: the model sums a conversation up.

The output is to be sent as the beginning of the next input: messages with
instructions as they were, then one `compaction` item in place of all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.fold import Completion
from ...errors import InvalidParameter, UpstreamFault
from .. import schema_fields as doc
from ..fields import Body, model_name
from ..openai.answer import SESSION
from ..response_meta import ResponseMeta
from ..schema_fields import Fields
from .answer import item_id, usage
from .items import listed, sealed
from .request import INPUT, ParsedRequest

KEPT = ("system", "developer")
FIELDS: Fields = {
    "model": doc.MODEL,
    "input": INPUT,
    "instructions": doc.text("A system message of the conversation."),
    "previous_response_id": doc.text("The stored response whose conversation is compacted.", ""),
    "prompt_cache_key": SESSION,
}


def body(given: Body) -> Body:
    """The body of an ordinary request for the same conversation. Raises InvalidParameter."""
    if not model_name(given):
        raise InvalidParameter("model", "is missing")
    fields = {name: value for name in FIELDS if (value := given.get(name)) is not None}
    return {**fields, "store": False, "truncation": "auto"}


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
        "encrypted_content": sealed(text),
    }
    return {
        "id": meta.id,
        "object": "response.compaction",
        "created_at": meta.created,
        "output": [*listed(kept, meta.id), item],
        "usage": usage(completion.finished.usage),
    }

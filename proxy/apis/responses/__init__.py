"""OpenAI's Responses API, POST /v1/responses, as its API reference and client types define it.

`request` parses a body, `items` its input items, `answer` builds the Response object and its
events. Pure: a callback receives the response to store.
"""

from ..conversations import objects as conversations
from ..openai.answer import error
from .answer import (
    COMPACT_FIELDS,
    Encoder,
    Writer,
    compact_body,
    compacted,
    response_id,
    whole,
)
from .items import listed
from .request import ParsedRequest, parse

__all__ = [
    "COMPACT_FIELDS",
    "Encoder",
    "ParsedRequest",
    "Writer",
    "compact_body",
    "compacted",
    "conversations",
    "error",
    "listed",
    "parse",
    "response_id",
    "whole",
]

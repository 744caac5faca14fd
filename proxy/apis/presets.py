"""Fields that the table of a model sets in requests, or removes from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from msgspec import structs

from ..core.request import CompletionRequest
from ..core.sampling import FIELDS
from .openai import chat as openai_chat

# What Ollama's requests have in `options`, besides sampling fields.
_OPTIONS = frozenset(FIELDS) | {"num_ctx", "num_keep", "num_predict", "stop"}

# What a table sets in a request that has no body; the rest is the gateway's own.
_SET = ("max_tokens", "stop", "output", "reasoning_effort", "reasoning_format", "template_kwargs")
_NOTHING = CompletionRequest()


def preset(
    body: Mapping[str, Any],
    remove: Collection[str],
    fields: Mapping[str, Any],
    *,
    options: bool = False,
) -> dict[str, Any]:
    """The body without the fields of `remove` and with `fields`, which replace those of the client.
    With `options`, it is one of Ollama's, which has most of them in an object of that name."""
    changed = {key: value for key, value in body.items() if key not in remove}
    if not options:
        return {**changed, **fields}
    inner = changed.get("options", {})
    if not isinstance(inner, dict):
        return changed  # refused by the dialect
    inner = {key: value for key, value in inner.items() if key not in remove}
    for key, value in fields.items():
        (inner if key in _OPTIONS else changed)[key] = value
    return {**changed, "options": inner}


def preset_request(
    request: CompletionRequest, remove: Collection[str], fields: Mapping[str, Any]
) -> CompletionRequest:
    """The same for a request that the gateway makes itself, whose client has sent a sampling and
    `max_tokens` at most. `fields` are those of OpenAI's chat completions. Raises
    InvalidParameter."""
    message = {"role": "user", "content": ""}
    changed = openai_chat.parse({**fields, "messages": [message]})
    sampling = {key: value for key, value in request.sampling.items() if key not in remove}
    values: dict[str, Any] = {"sampling": {**sampling, **changed.sampling}}
    if "max_tokens" in remove:
        values["max_tokens"] = None
    for name in _SET:
        if (value := getattr(changed, name)) != getattr(_NOTHING, name):
            values[name] = value
    return structs.replace(request, **values)

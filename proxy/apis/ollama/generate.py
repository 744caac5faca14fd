"""Ollama's POST /api/generate: one prompt, through the chat template unless `raw` is set.

`context` (token ids of an earlier answer) is ignored and not returned: backends cache prompts
without it. Templates in Go's template language are not supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.fold import Completion
from ...core.request import CompletionRequest, Message
from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, flag, items, text
from ..response_meta import ResponseMeta
from ..schema_fields import Fields
from . import common

error = common.error
FIELDS: Fields = {
    "prompt": doc.text("The prompt; rendered with the chat template unless raw."),
    "suffix": doc.text("The text after the completion.", ""),
    "system": doc.text("The system prompt."),
    "raw": doc.flag("Send the prompt without a chat template."),
    "images": doc.strings("Images in base64."),
    "template": doc.text("Must be empty: templates are configured in the gateway.", ""),
    "context": doc.array("Ignored with a warning: use /api/chat.", [], doc.COUNT),
    **common.COMMON,
}


def parse(body: Body) -> CompletionRequest:
    values = common.shared_fields(body, FIELDS.keys())
    prompt = text(body, "prompt")
    suffix = text(body, "suffix")
    if text(body, "template"):
        raise InvalidParameter(
            "template", "is not supported: the chat template is part of the gateway's configuration"
        )
    if body.get("context"):
        values["warnings"] += ("context is ignored: send the conversation to /api/chat",)
    media = common.images(items(body, "images"), "images")
    if flag(body, "raw") or suffix:
        if media:
            raise InvalidParameter("images", "require the chat template: remove raw and suffix")
        return CompletionRequest(prompts=(prompt,), suffix=suffix, **values)
    system = text(body, "system")
    message = Message(role="user", content=prompt, media=media)
    return CompletionRequest(
        messages=(Message(role="system", content=system), message) if system else (message,),
        **values,
    )


def _said(piece: str, thought: str) -> dict[str, Any]:
    return {"response": piece, "thinking": thought} if thought else {"response": piece}


def reply(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    (completion,) = completions
    return common.whole(meta, request, completion, _said(completion.text, completion.reasoning))


class Encoder(common.NdjsonLines):
    """Encodes events as lines of JSON."""

    said = staticmethod(_said)

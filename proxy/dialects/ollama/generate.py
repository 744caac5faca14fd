"""Ollama's POST /api/generate: one prompt, through the chat template unless it is raw.

`context` (token ids of an earlier answer) is neither taken nor given: the backend keeps what it
has read by itself. Templates in Go's language cannot be honoured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...core.fold import Completion
from ...core.invalid import Invalid
from ...core.request import CompletionRequest, Message
from ..fields import Body, flag, items, text
from ..stamp import Stamp
from . import common

error = common.error


def parse(body: Body) -> CompletionRequest:
    """Raises Invalid naming the field."""
    values = common.common(body)
    prompt = text(body, "prompt")
    suffix = text(body, "suffix")
    if text(body, "template"):
        raise Invalid("template", "is not supported: the chat template is a setting here")
    if body.get("context"):
        values["warnings"] += ("context is left out: send the conversation to /api/chat",)
    media = common.images(items(body, "images"), "images")
    if flag(body, "raw") or suffix:
        if media:
            raise Invalid("images", "need the chat template: neither raw nor suffix")
        return CompletionRequest(prompts=(prompt,), suffix=suffix, **values)
    system = text(body, "system")
    said = Message("user", prompt, media=media)
    return CompletionRequest(
        messages=(Message("system", system), said) if system else (said,), **values
    )


def _said(piece: str, thought: str) -> dict[str, Any]:
    return {"response": piece, "thinking": thought} if thought else {"response": piece}


def reply(
    stamp: Stamp, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The whole answer."""
    (one,) = completions
    return common.whole(stamp, request, one, _said(one.text, one.reasoning))


class Encoder(common.Lines):
    """Events to lines of JSON."""

    def __init__(self, stamp: Stamp, request: CompletionRequest) -> None:
        super().__init__(stamp, _said)

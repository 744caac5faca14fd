"""POST /completions, without /v1: llama.cpp's own path, and that of OpenAI clients whose address
has no /v1. An answer is OpenAI's object with llama.cpp's fields beside, so both kinds of clients
find theirs; of several completions llama.cpp's fields tell the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..core.events import Finished, TextDelta
from ..core.fold import Completion
from ..core.request import CompletionRequest
from . import openai, openai_completions
from .fields import Body, integer
from .stamp import Stamp

error = openai.error


def parse(body: Body) -> CompletionRequest:
    """OpenAI's fields, and `n_probs` where `logprobs` is absent. Raises Invalid."""
    asked = openai_completions.parse(body)
    logprobs = asked.logprobs
    if logprobs is None:
        logprobs = integer(body, "n_probs", 0, openai.MAX_LOGPROBS) or None
    report = msgspec.structs.replace(asked.report, settings=True)
    return msgspec.structs.replace(asked, logprobs=logprobs, report=report)


def reply(
    stamp: Stamp, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The whole answer."""
    first = completions[0]
    theirs = openai.ended(stamp, request, first.finished, first.text)
    whole = openai_completions.reply(stamp, request, completions)
    whole.pop("__verbose", None)
    return {**theirs, "index": first.index, "tokens": list(first.tokens), **whole}


class Encoder(openai_completions.Encoder):
    """Events to OpenAI's chunks, with llama.cpp's fields beside."""

    def _text(self, choice: int, event: TextDelta) -> bytes:
        more = {"index": choice, "content": event.text, "tokens": [], "stop": False}
        return openai.extended(super()._text(choice, event), more)

    def _ending(self, choice: dict[str, Any], finished: Finished) -> dict[str, Any]:
        theirs = openai.ended(self._stamp, self._request, finished, "")
        return {"index": choice["index"], "tokens": [], **theirs}

"""POST /completions without /v1, which both llama.cpp's clients and OpenAI's clients use.

The answer is OpenAI's object with llama.cpp's fields added, so each client finds its own. With
several choices, llama.cpp's fields describe the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ...core.events import Finished, TextDelta
from ...core.fold import Completion
from ...core.request import CompletionRequest
from ..fields import Body, integer
from ..response_meta import ResponseMeta
from ..schema_fields import Fields
from . import answer as openai
from . import completions as openai_completions

error = openai.error
FIELDS: Fields = {
    **openai_completions.FIELDS,
    "n_probs": {**openai.ALTERNATIVES, "description": "logprobs, as llama.cpp calls it."},
}


def parse(body: Body) -> CompletionRequest:
    """OpenAI's fields, plus `n_probs` if `logprobs` is absent. Raises InvalidParameter."""
    request = openai_completions.parse(body, FIELDS.keys())
    logprobs = request.logprobs
    if logprobs is None:
        logprobs = integer(body, "n_probs", 0, openai.MAX_LOGPROBS) or None
    report = msgspec.structs.replace(request.report, settings=True)
    return msgspec.structs.replace(request, logprobs=logprobs, report=report)


def reply(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    first = completions[0]
    native = openai.ended(meta, request, first.finished, first.text)
    whole = openai_completions.reply(meta, request, completions)
    whole.pop("__verbose", None)
    return {**native, "index": first.index, "tokens": list(first.tokens), **whole}


class Encoder(openai_completions.Encoder):
    """Encodes events as OpenAI's chunks with llama.cpp's fields added."""

    def _text(self, choice: int, event: TextDelta) -> bytes:
        more = {"index": choice, "content": event.text, "tokens": [], "stop": False}
        return openai.extended(super()._text(choice, event), more)

    def _ending(self, choice: int, finished: Finished) -> dict[str, Any]:
        native = openai.ended(self._meta, self._request, finished, "")
        return {"index": choice, "tokens": [], **native}

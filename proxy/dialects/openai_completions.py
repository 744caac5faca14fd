"""OpenAI completions, the older API: POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.events import (
    Batch,
    Failed,
    Finished,
    Progress,
    TextDelta,
    TokenDetail,
    TokenLogprob,
)
from ..core.fold import Completion
from ..core.invalid import Invalid
from ..core.request import CompletionRequest
from ..wire import sse
from . import openai
from .fields import Body, flag, integer, text
from .stamp import Stamp

error = openai.error

KIND = "text_completion"
MAX_PROMPTS = 128
MAX_TOKEN_ID = 1 << 30
MAX_TEXTS = 64  # in one prompt beside token ids: a backend is asked for the tokens of each
PROMPT = "a string, or a list of token ids and strings"


def parse(body: Body) -> CompletionRequest:
    """Raises Invalid naming the field."""
    echo = flag(body, "echo")
    logprobs = integer(body, "logprobs", 0, openai.MAX_LOGPROBS)
    if echo and logprobs is not None:
        raise Invalid("logprobs", "cannot be had for the prompt: ask without echo")
    best_of = integer(body, "best_of", 1, openai.MAX_CHOICES)
    values = openai.common(body)
    if best_of is not None and best_of != values.get("n", 1):
        raise Invalid("best_of", "is not supported, ask for n choices instead")
    return CompletionRequest(
        prompts=prompts(body.get("prompt")),
        suffix=text(body, "suffix"),
        echo=echo,
        logprobs=logprobs,
        **values,
    )


def prompts(value: Any, most: int = MAX_PROMPTS) -> tuple[str | tuple[int | str, ...], ...]:
    """One prompt, or a list of them. A prompt is a text, a list of token ids, or, as llama-server
    has it, a list of ids and texts or {"prompt_string": text}."""
    if isinstance(value, list) and not any(type(one) is int for one in value):
        if not value:
            raise Invalid("prompt", f"must be {PROMPT}, or a list of such")
        if len(value) > most:
            raise Invalid("prompt", f"may hold {most} prompts at most")
        return tuple(_prompt(one, f"prompt[{i}]") for i, one in enumerate(value))
    return (_prompt(value, "prompt"),)


def _prompt(value: Any, at: str) -> str | tuple[int | str, ...]:
    if type(value) is str:
        return value
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            raise Invalid(f"{at}.multimodal_data", "is not supported: send images as a chat")
        said = value.get("prompt_string")
        if type(said) is not str:
            raise Invalid(f"{at}.prompt_string", "must be a string")
        return said
    if not isinstance(value, list) or not value:
        raise Invalid(at, f"must be {PROMPT}")
    texts = 0
    for one in value:
        if type(one) is str:
            texts += 1
        elif type(one) is not int or not 0 <= one < MAX_TOKEN_ID:
            raise Invalid(at, "must hold token ids and strings only")
    if texts > MAX_TEXTS:
        raise Invalid(at, f"may hold {MAX_TEXTS} strings between token ids at most")
    return tuple(value)


def reply(
    stamp: Stamp, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    """The whole answer."""
    return openai.whole(stamp, KIND, request, completions, _choice)


def _choice(request: CompletionRequest, one: Completion) -> dict[str, Any]:
    return {
        "index": one.index,
        "text": one.text,
        "logprobs": _logprobs(one.logprobs, 0) if request.logprobs is not None else None,
        "finish_reason": one.finished.reason,
    }


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """The older form: parallel lists; `offset` is where the first token begins in the text."""
    offsets = []
    for one in tokens:
        offsets.append(offset)
        offset += len(one.token)
    return {
        "tokens": [one.token for one in tokens],
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [{a.token: a.logprob for a in one.top} for one in tokens],
        "text_offset": offsets,
    }


class Encoder(openai.Chunks):
    """Events to chunks of the object "text_completion"."""

    def __init__(self, stamp: Stamp, request: CompletionRequest) -> None:
        super().__init__(stamp, request, KIND)
        self._sent: dict[int, int] = {}

    def encode(self, choice: int, batch: Batch) -> bytes:
        """The bytes of one batch; a tick of silence is a comment."""
        if not batch:
            return sse.HEARTBEAT
        out: list[bytes] = []
        for event in batch:
            if isinstance(event, TextDelta):
                if event.text or event.logprobs:
                    out.append(self._text(choice, event))
            elif isinstance(event, Finished):
                last = {"index": choice, "text": "", "logprobs": None}
                out.append(self._last({**last, "finish_reason": event.reason}, event))
            elif isinstance(event, (Progress, TokenDetail)):
                silent = {"index": choice, "text": "", "logprobs": None, "finish_reason": None}
                self._reported(silent, event, out)
            elif isinstance(event, Failed):
                raise AssertionError("a failure is told by fail()")
        return b"".join(out)

    def _text(self, choice: int, event: TextDelta) -> bytes:
        sent = self._sent.get(choice, 0)
        self._sent[choice] = sent + len(event.text)
        logprobs = _logprobs(event.logprobs, sent) if event.logprobs else None
        piece = {"index": choice, "text": event.text, "logprobs": logprobs}
        return self._chunk({**piece, "finish_reason": None})

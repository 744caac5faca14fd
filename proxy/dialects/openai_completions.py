"""OpenAI completions, the older API: POST /v1/completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.events import Batch, Failed, Finished, TextDelta, TokenLogprob
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


def prompts(value: Any, most: int = MAX_PROMPTS) -> tuple[str | tuple[int, ...], ...]:
    """A text, a list of texts, a list of token ids, or a list of such lists."""
    if type(value) is str:
        return (value,)
    if not isinstance(value, list) or not value:
        raise Invalid("prompt", "must be a string, a list of strings, tokens or lists of tokens")
    if type(value[0]) is int:
        return (_tokens(value, "prompt"),)
    if len(value) > most:
        raise Invalid("prompt", f"may hold {most} prompts at most")
    out: list[str | tuple[int, ...]] = []
    for i, one in enumerate(value):
        if type(one) is str:
            out.append(one)
        else:
            out.append(_tokens(one, f"prompt[{i}]"))
    return tuple(out)


def _tokens(value: Any, at: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise Invalid(at, "must be a string or a list of token ids")
    if not all(type(t) is int and 0 <= t < MAX_TOKEN_ID for t in value):
        raise Invalid(at, "must hold token ids only")
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
            elif isinstance(event, Failed):
                raise AssertionError("a failure is told by fail()")
        return b"".join(out)

    def _text(self, choice: int, event: TextDelta) -> bytes:
        sent = self._sent.get(choice, 0)
        self._sent[choice] = sent + len(event.text)
        logprobs = _logprobs(event.logprobs, sent) if event.logprobs else None
        piece = {"index": choice, "text": event.text, "logprobs": logprobs}
        return self._chunk({**piece, "finish_reason": None})

"""OpenAI's older completions API: POST /v1/completions, and POST /completions without /v1, which
llama.cpp's clients use, too.

The answer of the latter is OpenAI's object with llama.cpp's fields added, so each client finds its
own. With several choices, llama.cpp's fields describe the first.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import accumulate
from typing import Any

from msgspec import structs

from ...core.events import Finished, TextDelta, TokenLogprob
from ...core.fold import Completion
from ...core.request import CompletionRequest
from ...errors import InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, flag, integer, text
from ..response_meta import ResponseMeta, RouteDialect
from ..schema_fields import Fields, table
from ..synonyms import NAMES, canonical
from . import answer as openai

error = openai.error

KIND = "text_completion"
MAX_PROMPTS = 128
MAX_TOKEN_ID = 1 << 30
MAX_TEXTS = 64  # strings in one prompt: the backend has to tokenize each on its own
PROMPT = "a string or a list of token ids and strings"


PROMPTS = doc.one_of(
    "A string, a list of token ids and strings, or a list of prompts.",
    "Once upon a time",
    doc.TEXT,
    {"type": "array"},
    doc.OBJECT,
)
FIELDS: Fields = {
    "prompt": PROMPTS,
    "suffix": doc.text("The text after the completion; requires a model with fill-in tokens.", ""),
    "echo": doc.flag("Return the prompt before the answer; cannot be combined with logprobs."),
    "logprobs": openai.ALTERNATIVES,
    "best_of": doc.count("Must equal n.", 1, openai.MAX_CHOICES, 1),
    **openai.COMMON,
}
_TABLE = table(openai.PARSED)
BOTH_FIELDS: Fields = {
    **FIELDS,
    "n_probs": {**openai.ALTERNATIVES, "description": "logprobs, as llama.cpp calls it."},
}


def parse(body: Body, names: Set[str] = FIELDS.keys()) -> CompletionRequest:
    if not body.keys().isdisjoint(NAMES):
        body = canonical(body, chat=False)
    echo = flag(body, "echo")
    logprobs = integer(body, "logprobs", 0, openai.MAX_LOGPROBS)
    if echo and logprobs is not None:
        raise InvalidParameter("logprobs", "is not supported with echo")
    best_of = integer(body, "best_of", 1, openai.MAX_CHOICES)
    values = openai.shared_fields(body, names, _TABLE)
    if best_of is not None and best_of != values.get("n", 1):
        raise InvalidParameter("best_of", "is not supported: use n to get several choices")
    return CompletionRequest(
        prompts=prompts(body.get("prompt")),
        suffix=text(body, "suffix"),
        echo=echo,
        logprobs=logprobs,
        **values,
    )


def prompts(value: Any, most: int = MAX_PROMPTS) -> tuple[str | tuple[int | str, ...], ...]:
    """One prompt or a list: texts, token ids, {"prompt_string": text}, or ids and texts."""
    if isinstance(value, list) and not any(type(prompt) is int for prompt in value):
        if not value:
            raise InvalidParameter("prompt", f"must be {PROMPT}, or a list of these")
        if len(value) > most:
            raise InvalidParameter("prompt", f"may contain at most {most} prompts")
        return tuple(_prompt(prompt, f"prompt[{i}]") for i, prompt in enumerate(value))
    return (_prompt(value, "prompt"),)


def _prompt(value: Any, at: str) -> str | tuple[int | str, ...]:
    if type(value) is str:
        return value
    if isinstance(value, dict):
        if value.get("multimodal_data"):
            raise InvalidParameter(f"{at}.multimodal_data", "is not supported: send it to a chat")
        prompt = value.get("prompt_string")
        if type(prompt) is not str:
            raise InvalidParameter(f"{at}.prompt_string", "must be a string")
        return prompt
    if not isinstance(value, list) or not value:
        raise InvalidParameter(at, f"must be {PROMPT}")
    texts = 0
    for part in value:
        if type(part) is str:
            texts += 1
        elif type(part) is not int or not 0 <= part < MAX_TOKEN_ID:
            raise InvalidParameter(at, "may contain only token ids and strings")
    if texts > MAX_TEXTS:
        raise InvalidParameter(at, f"may contain at most {MAX_TEXTS} strings between token ids")
    return tuple(value)


def reply(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    return openai.whole(meta, KIND, request, completions, _choice)


def _choice(request: CompletionRequest, completion: Completion) -> dict[str, Any]:
    return {
        "index": completion.index,
        "text": completion.text,
        "logprobs": _logprobs(completion.logprobs, 0) if request.logprobs is not None else None,
        "finish_reason": completion.finished.reason,
    }


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """The older format with parallel lists; `offset` is the place of the first token."""
    offsets = accumulate((len(token.token) for token in tokens), initial=offset)
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{alt.token: alt.logprob for alt in token.top} for token in tokens],
        "text_offset": list(offsets)[:-1],
    }


class Encoder(openai.Chunks):
    """Encodes events as chunks of the object "text_completion"."""

    kind, said = KIND, "text"

    def __init__(self, meta: ResponseMeta, request: CompletionRequest) -> None:
        super().__init__(meta, request)
        self._sent: dict[int, int] = {}

    def _event(self, choice: int, event: Any, out: list[bytes]) -> None:
        if type(event) is not TextDelta:
            super()._event(choice, event, out)
        elif event.text or event.logprobs:
            out.append(self._text(choice, event))

    def _text(self, choice: int, event: TextDelta) -> bytes:
        sent = self._sent.get(choice, 0)
        self._sent[choice] = sent + len(event.text)
        logprobs = _logprobs(event.logprobs, sent) if event.logprobs else None
        return self._chunk(choice, event.text, logprobs)


def _parse_both(body: Body) -> CompletionRequest:
    """OpenAI's fields, plus `n_probs` if `logprobs` is absent."""
    request = parse(body, BOTH_FIELDS.keys())
    logprobs = request.logprobs
    if logprobs is None:
        logprobs = integer(body, "n_probs", 0, openai.MAX_LOGPROBS) or None
    report = structs.replace(request.report, settings=True)
    return structs.replace(request, logprobs=logprobs, report=report)


def _reply_both(
    meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
) -> dict[str, Any]:
    first = completions[0]
    native = openai.ended(meta, request, first.finished, first.text)
    whole = reply(meta, request, completions)
    whole.pop("__verbose", None)
    return {**native, "index": first.index, "tokens": list(first.tokens), **whole}


class _BothEncoder(Encoder):
    def _text(self, choice: int, event: TextDelta) -> bytes:
        more = {"index": choice, "content": event.text, "tokens": [], "stop": False}
        return openai.extended(super()._text(choice, event), more)

    def _ending(self, choice: int, finished: Finished) -> dict[str, Any]:
        native = openai.ended(self._meta, self._request, finished, "")
        return {"index": choice, "tokens": [], **native}


both = RouteDialect(_parse_both, _reply_both, error, _BothEncoder)

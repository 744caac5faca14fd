"""What OpenAI's chat completions and completions have in common.

The source of the format is OpenAI's API reference; llama.cpp's additions (its sampler fields,
`timings`, `n_predict`) and the reference script's (`tokenize`, `truncated`) are read and written
beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import structs

from ..core.events import Finished, TokenLogprob
from ..core.fold import Completion
from ..core.request import CompletionRequest, OutputFormat
from ..core.sampling import logit_bias, sampling
from ..core.usage import Timings, Usage, pace
from ..errors import GatewayError
from ..wire import sse
from .fields import Body, Table, flag, integer, mapping, read, stops, text, unheeded
from .stamp import Stamp

MAX_CHOICES = 16
MAX_TOKENS = 1 << 30
MAX_LOGPROBS = 20
UNHEEDED: Mapping[str, tuple[Any, ...]] = {
    "lora": (),
    "store": (),
    "verbosity": ("medium",),
    "web_search_options": (),
}


def common(body: Body) -> dict[str, Any]:
    """The fields of CompletionRequest that both bodies have, where they have them. Raises
    Invalid."""
    values = sampling(body)
    if body.get("logit_bias"):
        values["logit_bias"] = logit_bias(body["logit_bias"])
    return {"sampling": values, **read(body, COMMON), "warnings": unheeded(body, UNHEEDED)}


def _max_tokens(body: Body, _: str) -> int | None:
    """-1 is llama.cpp's way to say "no bound"; 0 has the prompt read and nothing said."""
    for name in filter(body.__contains__, LENGTHS):
        value = integer(body, name, -1, MAX_TOKENS)
        if value is not None and value != -1:
            return value
    return None


def _choices(body: Body, name: str) -> int:
    return integer(body, name, 1, MAX_CHOICES) or 1


def _include_usage(body: Body, name: str) -> bool:
    return flag(mapping(body, name), "include_usage")


def _json_schema(body: Body, name: str) -> OutputFormat:
    """llama.cpp's own field: a schema, left to validation where no grammar can say it."""
    if body.get(name) is None:
        return OutputFormat()
    return OutputFormat("json_schema", mapping(body, name))


LENGTHS = ("max_completion_tokens", "max_tokens", "n_predict")
COMMON: Table = {
    "model": ("model", text),
    **dict.fromkeys(LENGTHS, ("max_tokens", _max_tokens)),
    "stop": ("stop", stops),
    "n": ("n", _choices),
    "stream": ("stream", flag),
    "stream_options": ("include_usage", _include_usage),
    "tokenize": ("return_prompt_tokens", flag),
    "user": ("user", text),
    "prompt_cache_key": ("session", text),
    "json_schema": ("output", _json_schema),
}


def usage(counts: Usage) -> dict[str, Any]:
    told: dict[str, Any] = {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.total,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning},
    }
    if counts.continued:
        told["continued"] = counts.continued
    return told


def total(finished: Mapping[int, Finished], n: int) -> Usage:
    """The counts of all choices; a prompt counts once however many choices were made of it."""
    if n == 1 and len(finished) == 1:
        return next(iter(finished.values())).usage
    counts = [
        one.usage if index % n == 0 else structs.replace(one.usage, prompt=0, cached=0)
        for index, one in finished.items()
    ]
    return sum(counts, Usage())


def timings(times: Timings) -> dict[str, Any]:
    """llama.cpp's own object; milliseconds."""
    prompt_ms, prompt_speed = pace(times.prompt_n, times.prompt_ms)
    predicted_ms, predicted_speed = pace(times.predicted_n, times.predicted_ms)
    return {
        "cache_n": times.cache_n,
        "prompt_n": times.prompt_n,
        "prompt_ms": times.prompt_ms,
        "prompt_per_token_ms": prompt_ms,
        "prompt_per_second": prompt_speed,
        "predicted_n": times.predicted_n,
        "predicted_ms": times.predicted_ms,
        "predicted_per_token_ms": predicted_ms,
        "predicted_per_second": predicted_speed,
    }


def by_index(completions: Iterable[Completion]) -> dict[int, Finished]:
    return {one.index: one.finished for one in completions}


def token(one: TokenLogprob) -> dict[str, Any]:
    """A token in the chat form of logprobs."""
    return {
        "token": one.token,
        "logprob": one.logprob,
        "bytes": list(one.data),
        "top_logprobs": [
            {"token": a.token, "logprob": a.logprob, "bytes": list(a.data)} for a in one.top
        ],
    }


def error(fault: GatewayError) -> dict[str, Any]:
    """The error object: never a string."""
    return {
        "error": {
            "message": fault.message,
            "type": fault.type,
            "param": fault.param,
            "code": fault.code,
            **fault.extra,
        }
    }


def head(stamp: Stamp, kind: str) -> dict[str, Any]:
    """How every object of an answer begins; `kind` is its `object`."""
    return {
        "id": stamp.id,
        "object": kind,
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": stamp.fingerprint,
    }


def whole(
    stamp: Stamp,
    kind: str,
    request: CompletionRequest,
    completions: Sequence[Completion],
    choice: Callable[[CompletionRequest, Completion], dict[str, Any]],
) -> dict[str, Any]:
    """The whole answer, with each completion as `choice` shapes it."""
    return {
        **head(stamp, kind),
        "choices": [choice(request, one) for one in completions],
        "usage": usage(total(by_index(completions), request.n)),
        "timings": timings(completions[0].finished.timings),
        "truncated": any(one.finished.truncated for one in completions),
    }


class Chunks:
    """What both encoders have in common: the frame around a chunk's choice, and the end."""

    content_type = "text/event-stream"

    def __init__(self, stamp: Stamp, request: CompletionRequest, kind: str) -> None:
        self._include_usage = request.include_usage
        self._n = request.n
        self._finished: dict[int, Finished] = {}
        begin = msgspec.json.encode(head(stamp, kind))
        self._head = b"data: " + begin[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if request.include_usage else b"]}\n\n"

    def fail(self, fault: GatewayError) -> bytes:
        """The failure as an event; nothing comes after it."""
        return sse.encode(msgspec.json.encode(error(fault)))

    def end(self) -> bytes:
        """After the last choice has finished."""
        if not self._include_usage:
            return sse.DONE
        counts = usage(total(self._finished, self._n))
        begin = self._head + b'],"usage":' + msgspec.json.encode(counts)
        return begin + b"}\n\n" + sse.DONE

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return self._head + msgspec.json.encode(choice) + self._tail

    def _last(self, choice: dict[str, Any], finished: Finished) -> bytes:
        """The chunk that tells a choice's end."""
        self._finished[choice["index"]] = finished
        more = {"timings": timings(finished.timings), "truncated": finished.truncated}
        tail = self._tail[:-3] + b"," + msgspec.json.encode(more)[1:] + b"\n\n"
        return self._head + msgspec.json.encode(choice) + tail

"""What OpenAI's chat completions and completions have in common.

The source of the format is OpenAI's API reference; llama.cpp's additions (its sampler fields,
`timings`, `n_predict`) and the reference script's (`tokenize`, `truncated`) are read and written
beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.events import Finished, TokenLogprob
from ..core.fold import Completion
from ..core.request import OutputFormat
from ..core.sampling import logit_bias, sampling
from ..core.usage import Timings, Usage
from ..errors import GatewayError
from .fields import Body, flag, integer, mapping, stops, text

MAX_CHOICES = 16
MAX_TOKENS = 1 << 30
MAX_LOGPROBS = 20


def common(body: Body) -> dict[str, Any]:
    """The fields of CompletionRequest that both bodies have. Raises Invalid."""
    values = sampling(body)
    if body.get("logit_bias"):
        values["logit_bias"] = logit_bias(body["logit_bias"])
    return {
        "model": text(body, "model"),
        "sampling": values,
        "max_tokens": _max_tokens(body),
        "stop": stops(body),
        "n": integer(body, "n", 1, MAX_CHOICES) or 1,
        "stream": flag(body, "stream"),
        "include_usage": flag(mapping(body, "stream_options"), "include_usage"),
        "return_prompt_tokens": flag(body, "tokenize"),
        "user": text(body, "user"),
        "session": text(body, "prompt_cache_key"),
        "output": _json_schema(body),
    }


def _max_tokens(body: Body) -> int | None:
    """-1 is llama.cpp's way to say "no bound"; 0 has the prompt read and nothing said."""
    for name in ("max_completion_tokens", "max_tokens", "n_predict"):
        value = integer(body, name, -1, MAX_TOKENS)
        if value is not None and value != -1:
            return value
    return None


def _json_schema(body: Body) -> OutputFormat:
    """llama.cpp's own field: a schema, left to validation where no grammar can say it."""
    if body.get("json_schema") is None:
        return OutputFormat()
    return OutputFormat("json_schema", mapping(body, "json_schema"))


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
    whole = Usage()
    for index, one in finished.items():
        counts = one.usage
        whole += (
            counts
            if index % n == 0
            else Usage(0, counts.completion, 0, counts.reasoning, counts.continued)
        )
    return whole


def timings(times: Timings) -> dict[str, Any]:
    """llama.cpp's own object; milliseconds."""
    return {
        "cache_n": times.cache_n,
        "prompt_n": times.prompt_n,
        "prompt_ms": times.prompt_ms,
        "prompt_per_token_ms": times.prompt_per_token_ms,
        "prompt_per_second": times.prompt_per_second,
        "predicted_n": times.predicted_n,
        "predicted_ms": times.predicted_ms,
        "predicted_per_token_ms": times.predicted_per_token_ms,
        "predicted_per_second": times.predicted_per_second,
    }


def by_index(completions: Iterable[Completion]) -> dict[int, Finished]:
    return {c.index: c.finished for c in completions}


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

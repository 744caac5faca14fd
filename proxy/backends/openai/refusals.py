"""Refusals of servers that speak OpenAI's API, as our errors.

These servers report a prompt that is too long in a message only, and each words it differently.
Clients compact a conversation at that error, so it must not be lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from ...core.request import AUTO, SCHEMAS, TOOLS
from ...errors import ContextExceeded, FormatRefused, GatewayError, UpstreamFault
from ..refusals import MAX_SAID, refusal

# vLLM, SGLang, LM Studio and llama-cpp-python's server, as their sources have them.
_CONTEXT = re.compile(
    r"(?:context length|context window|model length)[^0-9]{0,40}?(?:of|is|\()[^0-9]{0,10}(\d{1,9})",
    re.IGNORECASE,
)
_PROMPT = re.compile(
    r"(?:you requested(?: a total of)?|request has|input \(|prompt \(length|requested tokens \(|"
    r"keep the first) ?(\d{1,9})",
    re.IGNORECASE,
)


# vLLM without a parser of calls; Ollama; OpenAI's models without tools, and others like them.
_NO_AUTO = re.compile(r"auto\W{0,3} tool choice requires", re.IGNORECASE)
_NO_TOOLS = re.compile(
    r"tool_choice=.{0,100} requires --"  # vLLM, of a required and of a named call
    r"|(?:(?:does not|doesn.t|not) support(?:ed)?\b.{0,40}\b(?:tools?|function.call)"
    r"|\b(?:tools?|tool.choice|tool.call\w*|function.call\w*)\b.{0,40}"
    r"(?:not support|unsupported|not available|not enabled))",
    re.IGNORECASE,
)
# These are about the server or its model. Any other may be about the schemas of one request.
_LACKS = re.compile(
    r"auto\W{0,3} tool choice requires|tool_choice=.{0,100} requires --|does not support tools"
    r"|response_format\.type\W{0,3} must be",
    re.IGNORECASE,
)
_NO_SCHEMAS = re.compile(
    r"(?:(?:does not|doesn.t|not) support(?:ed)?\b.{0,60}"
    r"(?:response.format|json.schema|structured|grammar)"
    r"|(?:response.format|json.schema|structured output|grammar).{0,60}"
    r"(?:not support|unsupported|not available|not enabled|must be))",
    re.IGNORECASE,
)


def refused(
    status: int, data: bytes, secret: str = "", formats: frozenset[str] = frozenset()
) -> GatewayError:
    """The error for a status other than 200, for a request that asked for these `formats`."""
    lacked = _lacked(status, data, formats)
    if lacked:
        param = "response_format" if SCHEMAS in lacked else "tools"
        error = refusal(status, data, secret=secret)
        lacks = _LACKS.search(_words(data)) is not None
        return FormatRefused(str(error), lacked, lacks=lacks, param=param, detail=error.detail)
    if status == 400:
        words = _words(data)
        if context := _CONTEXT.search(words):
            n_ctx, asked = int(context[1]), _PROMPT.search(words)
            if asked is None:
                return ContextExceeded(n_ctx + 1, n_ctx, at_least=True)
            return ContextExceeded(int(asked[1]), n_ctx)
    if status == 404:
        return UpstreamFault(
            "the backend does not know this model or endpoint: check its url and model",
            detail=refusal(status, data, secret=secret).detail,
        )
    return refusal(status, data, secret=secret)


def pause_of(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a server asks to be left alone (RFC 9110, Retry-After; `now` is seconds of
    the epoch), or OpenAI's header in milliseconds. None if it does not."""
    known = {name.lower(): value.strip() for name, value in headers.items()}
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", known.get(name, "")):
            return float(known[name]) * unit
    try:
        date = parsedate_to_datetime(known.get("retry-after", ""))
        return max(0.0, date.timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _lacked(status: int, data: bytes, formats: frozenset[str]) -> frozenset[str]:
    """The formats that a refusal says the server does not know, of those it was asked for."""
    if not formats or status not in (400, 404, 405, 422, 500, 501):
        return frozenset()
    words = _words(data)
    if formats >= TOOLS:
        if _NO_AUTO.search(words):
            return AUTO
        if _NO_TOOLS.search(words):
            return TOOLS
    return frozenset({SCHEMAS}) if SCHEMAS in formats and _NO_SCHEMAS.search(words) else frozenset()


def _words(data: bytes) -> str:
    return data[: 4 * MAX_SAID].decode("utf-8", "replace")

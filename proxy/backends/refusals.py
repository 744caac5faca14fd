"""Maps a backend's refusal, an HTTP status or an error within a stream, to one of our errors.

Bodies come as {"error": {code, message, type}}, {"error": text}, {"content": text}, {"detail":
text}, or as plain text from server.cpp's HTTP library. A client sees the backend's message if that
concerns its request, or says why the backend failed: bounded, without addresses, file paths and
keys. Operators see it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..core.decoding import LONGEST, SHORT, is_dear
from ..core.request import AUTO, SCHEMAS, TOOLS
from ..errors import (
    BackendBusy,
    BackendDown,
    BackendFailed,
    BackendLacks,
    BadRequest,
    BodyTooLarge,
    ContextExceeded,
    FormatRefused,
    GatewayError,
    MissingRoute,
    UpstreamFault,
    UpstreamTimeout,
)
from ..runtime.blocking import run_in_native_thread
from ..wire import lenient
from ..wire.servercpp import WireError

MAX_SAID = 300
MAX_BODY = 1 << 20  # bytes of a refusal to read
SLOT_UNAVAILABLE = "slot unavailable"
BUSY = ("", "File Not Found", SLOT_UNAVAILABLE)


_NO_ANSWER = UpstreamFault, "the backend sent no response"
_NO_ROUTE = MissingRoute, "the backend does not support this endpoint: is it a llama.cpp server?"
_NO_KEY = (
    UpstreamFault,
    "the backend rejected the gateway's API key: check the API key configured for the backend",
)
_SLOW = UpstreamTimeout, "the backend timed out"
_FAILED = BackendFailed, "the backend failed"
# By status, or by its first digit.
RULES: Mapping[int, tuple[type[GatewayError], str]] = {
    1: _NO_ANSWER,
    2: _NO_ANSWER,
    3: (UpstreamFault, "the backend sent a redirect: check the backend's URL"),
    4: (BadRequest, "the backend rejected the request"),
    5: _FAILED,
    **dict.fromkeys((401, 403, 407), _NO_KEY),
    **dict.fromkeys((404, 405), _NO_ROUTE),
    **dict.fromkeys((408, 504), _SLOW),
    413: (BodyTooLarge, "the request is too large for the backend"),
    429: (BackendBusy, "the backend has no free slot"),
    501: (BackendLacks, "the backend does not support this"),
    503: (BackendDown, "the backend is not ready"),
}
# To these, the backend's message is appended; for operators to all.
SHOWN = (BadRequest, BodyTooLarge, BackendLacks, BackendFailed, BackendDown)

LOAD_FAILED = "model_load_failed"
# Messages of llama-server, with any status, and the fields of their errors.
BY_MESSAGE: Sequence[tuple[str, type[GatewayError], str, Mapping[str, Any]]] = (
    (
        r"model name=.* failed to load",
        UpstreamFault,
        "the model failed to load: see its server's log for the reason",
        {"code": LOAD_FAILED},
    ),
    # It was evicted between the router's check and its answer: it is loaded again.
    (r"model name=.* is not running", BackendBusy, "the model was just unloaded", {}),
    (
        "model is not loaded",
        UpstreamFault,
        "the model is not loaded, and its server does not load models on demand"
        " (--no-models-autoload)",
        {"code": "model_not_loaded"},
    ),
    (
        ".*too large to process.*",
        BadRequest,
        "an input exceeds the backend's maximum embedding length",
        {"param": "input"},
    ),
)

# Patterns here are compiled when a server first refuses something: it takes milliseconds.
Hidden = Sequence[tuple[str, str]]
_HIDDEN: Hidden = (
    (r"(?i)\b(bearer\s+|api[_-]?key\W{1,3}|sk-)[^\s\"',;]+", r"\1…"),
    (r"(?i)\b[a-z][a-z0-9+.-]*://[^\s\"']+", "…"),
    (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", "…"),
    (r"(?i)\blocalhost(?::\d+)?\b", "…"),
    (r"(?<![\w.])~?(?:/[\w.@+-]+){2,}/?", "…"),
)


def check_cost(data: bytes, most: int = LONGEST) -> None:
    """Raises UpstreamFault for JSON that may take longer than `most` nanoseconds to decode."""
    if len(data) > SHORT and run_in_native_thread(lambda: is_dear(data, most)):
        raise UpstreamFault("the backend's response takes too long to decode")


def refusal(
    status: int, data: bytes, *, secret: str = "", completion: bool = False
) -> GatewayError:
    """The error for a status other than 200. An old server without a free slot answers a
    `completion` with "File Not Found", which means a missing route for everything else."""
    error = _error(data)
    # Today's llama-server names its own 404 not_found_error.
    if completion and status == 404 and not error.type and error.message in BUSY:
        return BackendBusy("the backend has no free slot", detail=error.message)
    return _refused(status, error, secret)


def stream_error(message: bytes | WireError | str, *, secret: str = "") -> GatewayError:
    """The error for an error message within a stream, after status 200."""
    error = _error(message)
    return _refused(error.code, error, secret)


def _refused(status: int, error: WireError, secret: str) -> GatewayError:
    words = said(error.message, secret)
    if error.message == SLOT_UNAVAILABLE:
        return BackendBusy("the backend has no free slot", detail=words)
    if error.type == "exceed_context_size_error":
        return ContextExceeded(error.n_prompt_tokens, error.n_ctx)
    for pattern, kind, message, fields in BY_MESSAGE:
        if re.fullmatch(pattern, error.message[: 4 * MAX_SAID], re.DOTALL):
            return kind(message, detail=words, **fields)
    kind, message = RULES.get(status) or RULES.get(status // 100, _FAILED)
    whole = plain(error.message, secret)
    if whole.startswith("<"):  # a page of a web server
        return kind(message, detail=f"{status} {words}")
    private = (f"{message}: {whole}", "") if whole else None
    if kind in SHOWN and words:
        message = f"{message}: {words}"
    return kind(message, detail=f"{status} {words}", private=private)


def said(text: str, secret: str = "") -> str:
    """The backend's message, made safe for a client."""
    return plain(text, secret, _HIDDEN)


def plain(text: str, secret: str = "", hidden: Hidden = ()) -> str:
    """The backend's message for operators: one line of bounded length, without our own key."""
    text = text[: 4 * MAX_SAID]
    if secret:
        text = text.replace(secret, "…")
    for pattern, instead in hidden:
        text = re.sub(pattern, instead, text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_SAID]


def _error(message: bytes | WireError | str) -> WireError:
    error = message
    if isinstance(message, bytes):
        try:
            body = lenient.value(message)
            inner = body.get("error") if isinstance(body, dict) else None
            # In a stream of an old server, the error is the body itself.
            error = inner if isinstance(inner, str) else lenient.convert(inner or body, WireError)
        except lenient.WireFault:
            error = _words(message)
    if not isinstance(error, WireError):
        return WireError(message=str(error).strip())
    return msgspec.structs.replace(error, message=error.message or error.content or error.detail)


# -- of servers that speak OpenAI's API ------------------------------------------------------------
#
# These servers report a prompt that is too long in a message only, and each words it differently.
# Clients compact a conversation at that error, so it must not be lost.

# vLLM, SGLang, LM Studio and llama-cpp-python's server, as their sources have them.
_CONTEXT = (
    r"(?:context length|context window|model length)[^0-9]{0,40}?(?:of|is|\()[^0-9]{0,10}(\d{1,9})"
)
_PROMPT = (
    r"(?:you requested(?: a total of)?|request has|input \(|prompt \(length|requested tokens \(|"
    r"keep the first) ?(\d{1,9})"
)

# vLLM's admission flags and Ollama answer 503 then.
_FULL = r"queue|overload|server busy|too many requests"

# vLLM without a parser of calls; Ollama; OpenAI's models without tools, and others like them.
_NO_AUTO = r"auto\W{0,3} tool choice requires"
_NO_FORCED = r"tool_choice=.{0,100} requires --"  # vLLM, of a required and of a named call
_NO_TOOLS = (
    _NO_FORCED + r"|(?:(?:does not|doesn.t|not) support(?:ed)?\b.{0,40}\b(?:tools?|function.call)"
    r"|\b(?:tools?|tool.choice|tool.call\w*|function.call\w*)\b.{0,40}"
    r"(?:not support|unsupported|not available|not enabled))"
)
# These are about the server or its model. Any other may be about the schemas of one request.
_LACKS = (
    rf"{_NO_AUTO}|{_NO_FORCED}|does not support tools"
    r"|response_format\.type\W{0,3} must be"
)
_NO_SCHEMAS = (
    r"(?:(?:does not|doesn.t|not) support(?:ed)?\b.{0,60}"
    r"(?:response.format|json.schema|structured|grammar)"
    r"|(?:response.format|json.schema|structured output|grammar).{0,60}"
    r"(?:not support|unsupported|not available|not enabled|must be))"
)


def openai_refusal(
    status: int, data: bytes, secret: str = "", formats: frozenset[str] = frozenset()
) -> GatewayError:
    """The error for a status other than 200, for a request that asked for these `formats`."""
    words = _words(data)
    if status == 503 and re.search(_FULL, words, re.I):
        status = 429
    error = refusal(status, data, secret=secret)
    if status in (400, 404, 405, 422, 500, 501) and (lacked := _lacked(words, formats)):
        param = "response_format" if SCHEMAS in lacked else "tools"
        lacks = re.search(_LACKS, words, re.I) is not None
        return FormatRefused(str(error), lacked, lacks=lacks, param=param, detail=error.detail)
    if status == 400 and (context := re.search(_CONTEXT, words, re.I)):
        n_ctx, prompt = int(context[1]), re.search(_PROMPT, words, re.I)
        if prompt is None:
            return ContextExceeded(n_ctx + 1, n_ctx, at_least=True)
        return ContextExceeded(int(prompt[1]), n_ctx)
    if status == 404:
        return UpstreamFault(
            "the backend does not know this model or endpoint: check its url and model",
            detail=error.detail,
            private=error.private,
        )
    return error


def pause_of(headers: Mapping[str, str]) -> float | None:
    """The seconds that a server asks to be left alone, None if it does not."""
    value = headers.get("retry-after", "").strip()
    return float(value) if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", value) else None


def _lacked(words: str, formats: frozenset[str]) -> frozenset[str]:
    """The formats that a refusal says the server does not know, of those it was asked for."""
    if formats >= TOOLS:
        if re.search(_NO_AUTO, words, re.I):
            return AUTO
        if re.search(_NO_TOOLS, words, re.I):
            return TOOLS
    lacks_schemas = SCHEMAS in formats and re.search(_NO_SCHEMAS, words, re.I)
    return frozenset({SCHEMAS}) if lacks_schemas else frozenset()


def _words(data: bytes) -> str:
    return data[: 4 * MAX_SAID].decode("utf-8", "replace")

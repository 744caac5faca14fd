"""What a backend's refusal becomes: its status, or an error in its stream, as one of our errors.

Every status that is not 200 has a row in `BY_STATUS`, or falls into its class in `BY_CLASS`. Bodies
come as llama-server's and OpenAI's {"error": {code, message, type}}, as {"error": text}, as
{"content": text} or {"detail": text}, or as plain text from server.cpp's HTTP library.

A client reads the backend's words only where they are about its own request, cut to `MAX_SAID`
characters, without addresses, file paths and keys. All else goes to our log alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from ..errors import (
    BackendBusy,
    BackendDown,
    BackendFailed,
    BackendLacks,
    BadRequest,
    BodyTooLarge,
    ContextExceeded,
    GatewayError,
    UpstreamFault,
    UpstreamTimeout,
)
from ..wire import lenient
from ..wire.servercpp import WireError

MAX_SAID = 300
MAX_BODY = 1 << 20  # bytes that are read of a refusal
SLOT_UNAVAILABLE = "slot unavailable"
BUSY = ("", "File Not Found", SLOT_UNAVAILABLE)


class Row(Struct, frozen=True):
    """`told`: the backend's own words follow the message, for they are about the request."""

    error: type[GatewayError]
    message: str
    told: bool = False


_REFUSED = Row(BadRequest, "the backend refused the request", told=True)
_FAILED = Row(BackendFailed, "the backend failed")
_NO_ROUTE = Row(UpstreamFault, "the backend does not know this request: is it a llama.cpp server?")
_NO_KEY = Row(UpstreamFault, "the backend refuses the gateway: check the API key for the backend")
_SLOW = Row(UpstreamTimeout, "the backend did not answer in time")

BY_STATUS: Mapping[int, Row] = {
    400: _REFUSED,
    401: _NO_KEY,
    403: _NO_KEY,
    404: _NO_ROUTE,
    405: _NO_ROUTE,
    407: _NO_KEY,
    408: _SLOW,
    413: Row(BodyTooLarge, "the request is too large for the backend", told=True),
    429: Row(BackendBusy, "the backend has no free slot"),
    500: _FAILED,
    501: Row(BackendLacks, "the backend cannot do this", told=True),
    502: _FAILED,
    503: Row(BackendDown, "the backend is not ready"),
    504: _SLOW,
}
BY_CLASS: Mapping[int, Row] = {
    1: Row(UpstreamFault, "the backend sent no answer"),
    2: Row(UpstreamFault, "the backend sent no answer"),
    3: Row(UpstreamFault, "the backend sent a redirect: check the address of the backend"),
    4: _REFUSED,
    5: _FAILED,
}

LOAD_FAILED = "model_load_failed"
# What a llama-server in router mode says of a model, whatever the status.
BY_ROUTER: Sequence[tuple[str, type[GatewayError], str, str | None]] = (
    (
        r"model name=.* failed to load",
        UpstreamFault,
        "the model could not be loaded: the log of its server says why",
        LOAD_FAILED,
    ),
    # It was evicted between the router's look at it and its own: it is loaded again.
    (r"model name=.* is not running", BackendBusy, "the model was unloaded in this moment", None),
    (
        r"model is not loaded",
        UpstreamFault,
        "the model is not loaded, and its server loads none by itself (--no-models-autoload)",
        "model_not_loaded",
    ),
)

_HIDDEN = (
    (re.compile(r"(?i)\b(bearer\s+|api[_-]?key\W{1,3}|sk-)[^\s\"',;]+"), r"\1…"),
    (re.compile(r"(?i)\b[a-z][a-z0-9+.-]*://[^\s\"']+"), "…"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "…"),
    (re.compile(r"(?i)\blocalhost(?::\d+)?\b"), "…"),
    (re.compile(r"(?<![\w.])~?(?:/[\w.@+-]+){2,}/?"), "…"),
)


def row(status: int) -> Row:
    """The row of a status; a number that is none counts as a failure."""
    return BY_STATUS.get(status) or BY_CLASS.get(status // 100, _FAILED)


def refusal(
    status: int, data: bytes, *, secret: str = "", completion: bool = False
) -> GatewayError:
    """The error for an answer that is not 200. A `completion` that finds every slot of an old
    server taken is told "File Not Found", which means a missing route for everything else."""
    error = _error(data)
    # A llama-server of today names its own 404 not_found_error.
    if completion and status == 404 and not error.type and error.message in BUSY:
        return BackendBusy("the backend has no free slot", detail=error.message)
    return _refused(status, error, secret)


def stream_error(told: bytes | WireError | str, *, secret: str = "") -> GatewayError:
    """The error for an error inside a stream, whose status is 200 already."""
    error = _error(told)
    return _refused(error.code, error, secret)


def _refused(status: int, error: WireError, secret: str) -> GatewayError:
    words = said(error.message, secret)
    if error.message == SLOT_UNAVAILABLE:
        return BackendBusy("the backend has no free slot", detail=words)
    if error.type == "exceed_context_size_error":
        return ContextExceeded(error.n_prompt_tokens, error.n_ctx)
    for pattern, kind, message, code in BY_ROUTER:
        if re.fullmatch(pattern, error.message[: 4 * MAX_SAID], re.DOTALL):
            return kind(message, code=code, detail=words)
    found = row(status)
    message = f"{found.message}: {words}" if found.told and words else found.message
    return found.error(message, detail=f"{status} {words}")


def said(text: str, secret: str = "") -> str:
    """The backend's words, fit for a client."""
    text = text[: 4 * MAX_SAID]
    if secret:
        text = text.replace(secret, "…")
    for pattern, instead in _HIDDEN:
        text = pattern.sub(instead, text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:MAX_SAID]


def _error(told: bytes | WireError | str) -> WireError:
    """What was said, in any form."""
    error = _read(told) if isinstance(told, bytes) else told
    if isinstance(error, str):
        return WireError(message=error.strip())
    return msgspec.structs.replace(error, message=error.message or error.content or error.detail)


def _read(data: bytes) -> WireError | str:
    try:
        body = lenient.value(data)
        error = body.get("error") if isinstance(body, dict) else None
        # In a stream of old servers the error is the body itself.
        return error if isinstance(error, str) else lenient.convert(error or body, WireError)
    except lenient.WireFault:
        return data[: 4 * MAX_SAID].decode("utf-8", "replace")

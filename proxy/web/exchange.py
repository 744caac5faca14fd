"""One spine for every completion, in any dialect: key, body, parse, answer, encode.

A dialect is handed in as its module's functions; what differs between routes is the kind of id and
the dialect alone. Errors become the dialect's own object here, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Protocol

import msgspec
from flask import Response, request

from ..cancel import Cancel
from ..core.fold import Completion, fold
from ..core.invalid import Invalid
from ..core.request import CompletionRequest
from ..dialects import openai
from ..dialects.stamp import Stamp
from ..errors import BadRequest, GatewayError, Unauthorized
from ..gateway import Answer, Caller
from . import body, disconnect
from .body import JSON
from .direct import Environ
from .large import parsed
from .observe import Record, new_id
from .reply import Plain
from .services import Services, services
from .stream import Answering, Encoder, StreamBody

_encode = msgspec.json.Encoder().encode
STREAM_HEADERS = [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]


class Dialect(Protocol):
    """What a module of `proxy.dialects` offers."""

    @property
    def Encoder(self) -> Callable[[Stamp, CompletionRequest], Encoder]: ...

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest: ...

    def reply(
        self, stamp: Stamp, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any: ...

    def error(self, fault: GatewayError) -> dict[str, Any]: ...


def complete(
    here: Services,
    environ: Environ,
    dialect: Dialect,
    prefix: str,
    early: Callable[[dict[str, Any]], dict[str, Any] | None] | None = None,
    begin: Callable[[CompletionRequest, Cancel, Caller], Answering] | None = None,
) -> Plain:
    """Answer a request in this dialect; `prefix` begins the answer's id. `early` may answer a body
    that needs no model at all, `begin` stands for the gateway's `answer`."""
    record = Record.of(environ)
    if not record.route:
        record.route = record.path  # the direct way leads to paths without variable parts
    here.observer.begin(record)
    cancel = Cancel()
    answer: Answering | None = None
    try:
        record.key = here.keys.check(environ)
        raw = body.read_json(environ, here.settings.max_body)
        record.stop = disconnect.watch(environ, cancel)
        known = early(raw) if early is not None else None
        if known is not None:
            return _whole(known, record, here)
        # A module's function alone can be called from a thread.
        pure = isinstance(dialect, ModuleType)
        asked = parsed(partial(dialect.parse, raw), environ) if pure else dialect.parse(raw)
        asked = _with_session(asked, environ)
        caller = here.callers.caller(record.key, environ)
        answer = (begin or here.gateway.answer)(asked, cancel, caller)
        record.info = answer.info
        stamp = Stamp(
            f"{prefix}{new_id()}",
            int(time.time()),
            answer.info.model,
            "slotproxy",
            record.elapsed,
        )
        if asked.stream:
            answer.prime()
            record.status, record.stream = 200, True
            return _streamed(dialect, stamp, answer, record, here)
        reply = dialect.reply(stamp, asked, fold(answer))
        if asked.return_prompt_tokens and isinstance(answer, Answer):
            reply["promptToken"] = here.gateway.prompt_tokens(answer, cancel)
    except (GatewayError, Invalid) as error:
        refusal = _refusal(error, dialect.error, record)
        if answer is not None:
            answer.close()
        here.observer.end(record)
        return refusal
    except BaseException:
        record.status = 500
        if answer is not None:
            answer.close()
        here.observer.end(record)
        raise
    answer.close()
    return _whole(reply, record, here)


def _whole(reply: Any, record: Record, here: Services) -> Plain:
    record.status = 200
    sent = Plain(_encode(reply), JSON, record.headers())
    here.observer.end(record)
    return sent


def _streamed(
    dialect: Dialect, stamp: Stamp, answer: Answering, record: Record, here: Services
) -> Plain:
    encoder = dialect.Encoder(stamp, answer.request)
    body = StreamBody(answer, encoder, partial(here.observer.end, record))
    return Plain(body, encoder.content_type, [*record.headers(), *STREAM_HEADERS])


def refuse(
    error: GatewayError | Invalid,
    shape: Callable[[GatewayError], dict[str, Any]],
    record: Record,
) -> Response:
    """The response for an error, in a dialect's shape."""
    refusal = _refusal(error, shape, record)
    return Response(refusal.body, refusal.status, refusal.headers, mimetype=JSON)


def _refusal(
    error: GatewayError | Invalid,
    shape: Callable[[GatewayError], dict[str, Any]],
    record: Record,
) -> Plain:
    if isinstance(error, Invalid):
        error = BadRequest(str(error), param=error.param)
    record.status = error.status
    record.info.outcome = record.info.outcome or error.code or error.type
    headers = record.headers()
    if error.retry_after is not None:
        headers.append(("Retry-After", str(max(1, round(error.retry_after)))))
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", 'Bearer realm="slotproxy"'))
    return Plain(_encode(shape(error)), JSON, headers, error.status)


def _with_session(asked: CompletionRequest, environ: Mapping[str, Any]) -> CompletionRequest:
    """A session named in a header, unless the body names one."""
    if asked.session:
        return asked
    value = (
        environ.get("HTTP_X_SESSION_ID")
        or environ.get("HTTP_X_LITELLM_SESSION_ID")
        or environ.get("HTTP_X_CONVERSATION_ID")
    )
    return msgspec.structs.replace(asked, session=value) if value else asked


def plain(
    view: Callable[[Services, Record], Any],
    shape: Callable[[GatewayError], dict[str, Any]] = openai.error,
) -> Response:
    """A small JSON answer behind the keys, its errors in a dialect's shape."""
    here = services()
    record = Record.of(request.environ)
    try:
        record.key = here.keys.check(request.environ)
        data = _encode(view(here, record))
        record.status = 200
    except (GatewayError, Invalid) as error:
        return refuse(error, shape, record)
    except BaseException:
        record.status = 500
        raise
    finally:
        if record.begun:  # by the view: it asked a model
            here.observer.end(record)
    return Response(data, mimetype="application/json", headers=record.headers())

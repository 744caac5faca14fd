"""One spine for every completion, in any dialect: key, body, parse, answer, encode.

A dialect is handed in as its module's functions; what differs between routes is the kind of id and
the dialect alone. Errors become the dialect's own object here, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
from .direct import Environ, Sent
from .observe import Record, new_id
from .reply import Plain
from .services import Services, services
from .stream import Answering, Encoder, StreamBody

JSON = "application/json"
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
) -> Sent:
    """Answer a request in this dialect; `prefix` begins the answer's id. `early` may answer a body
    that needs no model at all, `begin` stands for the gateway's `answer`."""
    record = Record(environ)
    here.observer.begin(record)
    cancel = Cancel()
    stop_watching = disconnect.nothing

    def done() -> None:
        stop_watching()
        here.observer.end(record)

    answer: Answering | None = None
    try:
        record.key = here.keys.check(environ)
        raw = body.read_json(environ, here.settings.max_body)
        stop_watching = disconnect.watch(environ, cancel)
        known = early(raw) if early is not None else None
        if known is not None:
            return _whole(known, record, done)
        asked = dialect.parse(raw)
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
            return _streamed(dialect, stamp, answer, record, done)
        reply = dialect.reply(stamp, asked, fold(answer))
        if asked.return_prompt_tokens and isinstance(answer, Answer):
            reply["promptToken"] = here.gateway.prompt_tokens(answer)
    except (GatewayError, Invalid) as error:
        response = refuse(error, dialect.error, record)
        if answer is not None:
            answer.close()
        done()
        return response
    except BaseException:
        record.status = 500
        if answer is not None:
            answer.close()
        done()
        raise
    answer.close()
    return _whole(reply, record, done)


def _whole(reply: Any, record: Record, done: Callable[[], None]) -> Plain:
    record.status = 200
    sent = Plain(msgspec.json.encode(reply), JSON, record.headers())
    done()
    return sent


def _streamed(
    dialect: Dialect, stamp: Stamp, answer: Answering, record: Record, done: Callable[[], None]
) -> Plain:
    encoder = dialect.Encoder(stamp, answer.request)
    body = StreamBody(answer, encoder, done)
    return Plain(body, encoder.content_type, [*record.headers(), *STREAM_HEADERS])


def refuse(
    error: GatewayError | Invalid,
    shape: Callable[[GatewayError], dict[str, Any]],
    record: Record,
) -> Response:
    """The response for an error, in a dialect's shape."""
    if isinstance(error, Invalid):
        error = BadRequest(str(error), param=error.param)
    record.status = error.status
    record.info.outcome = record.info.outcome or error.code or error.type
    headers = record.headers()
    if error.retry_after is not None:
        headers.append(("Retry-After", str(max(1, round(error.retry_after)))))
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", 'Bearer realm="slotproxy"'))
    return Response(
        msgspec.json.encode(shape(error)),
        status=error.status,
        mimetype="application/json",
        headers=headers,
    )


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
    record = Record(request.environ)
    try:
        record.key = here.keys.check(request.environ)
        data = msgspec.json.encode(view(here, record))
    except (GatewayError, Invalid) as error:
        return refuse(error, shape, record)
    return Response(data, mimetype="application/json", headers=record.headers())

"""The common path of all views: check the key, read the body, parse, answer, encode.

Views pass their dialect, usually a module. Errors become the dialect's error object only here.
Requests that ask a model are reported to the observer here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from types import ModuleType
from typing import Any, Protocol, TypeVar

import msgspec
from flask import Response, request
from msgspec.structs import replace

from ..apis.openai import answer as openai
from ..apis.response_meta import ResponseMeta, RouteDialect
from ..core.fold import Completion, fold
from ..core.request import CompletionRequest
from ..errors import (
    BudgetExceeded,
    DataDeleted,
    GatewayError,
    LimitReached,
    RequestCancelled,
    Unauthorized,
)
from ..gateway import Answer, Caller
from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from . import disconnect, permissions
from .body import JSON, parsed, read_json
from .fastpath import BodyAndHeaders, Environ
from .model_tables import read_request, session_name
from .observability import RECORD, Record, new_id
from .routes import Api, Shape
from .services import Services, current_services
from .stream import Encoder, EventSource, SlotBody, encoded

_encode = msgspec.json.Encoder().encode
_PURE = (ModuleType, RouteDialect)  # dialects whose functions may run in another thread
# environ key of what is done instead of an answer, with the dialect and `begin` of the view.
INSTEAD = "slotproxy.instead"
View = TypeVar("View", bound=Callable[..., Any])
STREAM_HEADERS = [("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no")]


class Dialect(Protocol):
    """The interface of the modules in `proxy.apis`."""

    @property
    def Encoder(self) -> Callable[[ResponseMeta, CompletionRequest], Encoder]: ...

    def parse(self, body: Mapping[str, Any]) -> CompletionRequest: ...

    def reply(
        self, meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]
    ) -> Any: ...

    def error(self, fault: GatewayError) -> dict[str, Any]: ...


def completion_view(
    services: Services,
    environ: Environ,
    dialect: Dialect,
    prefix: str,
    early: Callable[[dict[str, Any], Cancel], dict[str, Any] | None] | None = None,
    begin: Callable[[CompletionRequest, Cancel, Caller], EventSource] | None = None,
) -> Response | BodyAndHeaders:
    """Answer a request in this dialect. `prefix` starts the answer's id. `early` may answer a body
    that needs no model; `begin` replaces the gateway's `answer`."""
    record: Record = environ[RECORD]
    if INSTEAD in environ:
        return environ[INSTEAD](dialect, begin)  # type: ignore[no-any-return]
    if not record.route:
        record.route = record.path  # a route on the fast path has no variable parts
    cancel = Cancel()
    answer: EventSource | None = None
    try:
        try:
            record.key = services.keys.check(environ)
        finally:  # a request that is refused counts, too
            services.observer.begin(record, cancel)
        record.shown = permissions.shown_names(services, record.key)
        raw = read_request(services, record, environ)
        record.stop = disconnect.watch(environ, cancel)
        if early is not None and (early_answer := early(raw, cancel)) is not None:
            return _whole(early_answer, record)
        parsed_request, caller = read_chat(services, environ, dialect, raw)
        answer = (begin or services.gateway.answer)(parsed_request, cancel, caller)
        record.info = answer.info
        meta = ResponseMeta(
            f"{prefix}{new_id()}", int(time.time()), answer.info.model, "slotproxy", record.elapsed
        )
        if parsed_request.stream:
            answer.prime()
            encoder = dialect.Encoder(meta, answer.request)
            parts = encoded(answer, encoder, record.shown)
            stream = SlotBody(parts, answer.close, partial(services.observer.finish, record))
            answer = None  # closed by the body from now on
            record.status, record.stream = 200, True
            return stream, [("Content-Type", encoder.content_type), *STREAM_HEADERS]
        write = partial(dialect.reply, meta, parsed_request, fold(answer))
        is_large = parsed_request.logprobs is not None and isinstance(dialect, _PURE)
        reply = run_in_native_thread(write) if is_large else write()
        if parsed_request.return_prompt_tokens and isinstance(answer, Answer):
            reply["promptToken"] = services.gateway.prompt_tokens(answer, cancel)
    except GatewayError as error:
        permissions.word(services, environ, record.key, error)
        return refuse(error, dialect.error, record)
    finally:
        if answer is not None:
            answer.close()
    return _whole(reply, record)


def read_chat(
    services: Services, environ: Environ, dialect: Dialect, raw: dict[str, Any]
) -> tuple[CompletionRequest, Caller]:
    """The request of a body in this dialect, and its caller, whose key was checked."""
    parse = partial(dialect.parse, raw)
    chat = parsed(parse, environ, raw) if isinstance(dialect, _PURE) else parse()
    session = session_name(environ, raw, chat.session)
    if session != chat.session:
        chat = replace(chat, session=session)
    caller = services.callers.caller(environ[RECORD].key, environ)
    return permissions.of_caller(services, environ, chat), caller


def refuse(error: GatewayError, shape: Shape, record: Record) -> Response:
    """Return the response for an error, in a dialect's shape."""
    # Frames of its traceback refer to the error: they would hold the request in a cycle.
    error.__traceback__ = None
    record.status = error.status
    record.info.outcome = record.info.outcome or error.code or error.type
    headers = []
    if error.retry_after is not None:
        headers.append(("Retry-After", str(max(1, math.ceil(error.retry_after)))))
    is_final = error.retry_after is None or isinstance(error, BudgetExceeded)
    if is_final and isinstance(error, (LimitReached, RequestCancelled, DataDeleted)):
        headers.append(("x-should-retry", "false"))  # as the clients of OpenAI and Anthropic read
    if isinstance(error, Unauthorized):
        headers.append(("WWW-Authenticate", 'Bearer realm="slotproxy"'))
    return Response(_encode(shape(error)), error.status, headers, content_type=JSON)


@contextmanager
def asking(services: Services, record: Record, environ: Environ) -> Iterator[Cancel]:
    """Mark a request, whose body was read, as one that asks a model. Yield what ends it."""
    with disconnect.watched(environ) as cancel:
        services.observer.begin(record, cancel)
        yield cancel


def json_view(
    view: Callable[[Services, Record], Any],
    shape: Shape = openai.error,
    key_name: Callable[[Services, Environ], str] = lambda services, env: services.keys.check(env),
    refused: Callable[[GatewayError, Shape, Record], Response] = refuse,
) -> Response:
    """Answer the current request with the result of `view`: a Response, or a value to send as JSON.
    `key_name` returns the name of the caller's key; `refused` makes the response for an error."""
    services = current_services()
    record = Record.of(request.environ)
    try:
        record.key = key_name(services, request.environ)
        reply = view(services, record)
        if isinstance(reply, Response):
            return reply
        parts, headers = _whole(reply, record)
        return Response(parts, 200, headers)
    except GatewayError as error:
        permissions.word(services, request.environ, record.key, error)
        return refused(error, shape, record)


def json_route(
    api: Api,
    methods: str,
    *paths: str,
    shape: Shape | None = None,
    respond: Callable[[Callable[[Services, Record], Any], Shape], Response] = json_view,
    **about: Any,
) -> Callable[[View], View]:
    """Register a view for these methods ("GET POST") and paths. It is called after the check of the
    key, with the services, the record and the variable parts of the path, and returns what
    `json_view` sends. `shape` is the form of errors, if it is not that of the API; `about` is what
    `Route` says of the paths."""

    def register(view: View) -> View:
        @wraps(view)
        def answered(**parts: Any) -> Response:
            return respond(partial(view, **parts), shape or api.error)

        for path in paths:
            api.add_url_rule(path, view_func=answered, methods=methods.split(), **about)
        return view

    return register


def v1_route(api: Api, methods: str, path: str, **about: Any) -> Callable[[View], View]:
    """The same for a path of OpenAI's API, with and without /v1 before it."""
    return json_route(api, methods, f"/v1{path}", path, **about)


def _whole(reply: Any, record: Record) -> BodyAndHeaders:
    data = _encode(reply)
    record.status = 200
    return [data], [("Content-Type", JSON), ("Content-Length", str(len(data)))]


def sent_json(empty: Any = None) -> dict[str, Any]:
    """The body of the current request; `empty` stands for none. Raises as `read_json`."""
    return read_json(request.environ, current_services().settings.max_body, empty)


def json_response(value: object, status: int = 200) -> Response:
    """Return a response outside of `json_view`."""
    return Response(_encode(value), status, content_type=JSON)


def passthrough(
    body: Iterable[bytes], content_type: str, headers: list[tuple[str, str]]
) -> Response:
    """A response whose body reaches the server unwrapped, for `holds_slot` and close()."""
    return Response(body, 200, headers, content_type=content_type, direct_passthrough=True)

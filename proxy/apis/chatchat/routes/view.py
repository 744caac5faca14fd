"""Common parts of Langchain-Chatchat's routes: API key, body and response wrapper.

The client does not support API keys. A key in its base address, http://any:KEY@host:port, is sent
as the password of a Basic authorization, and is read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial, wraps
from itertools import chain
from typing import Any, NamedTuple

import msgspec
from flask import Response, request

from ....errors import BadRequest, Cancelled, GatewayError, InvalidParameter, NotFound
from ....gateway import Caller
from ....runtime.cancel import Cancel
from ....web import disconnect, spine
from ....web.auth import basic_password
from ....web.body import JSON
from ....web.observability import Record
from ....web.routes import Api, Shape
from ....web.services import Services
from ....web.stream import ClosingBody
from ..bodies import BODIES, SCHEMAS, EmptyName, PathName

View = Callable[..., Any]
Document = dict[str, Any]
CONTENT_TYPE = "text/event-stream; charset=utf-8"  # as Chatchat's own servers send it
encode = msgspec.json.encode


class Taken(BadRequest):
    status = 404  # as in 0.2.7
    code = "already_exists"


TOLD = (NotFound, Taken, EmptyName, PathName)  # sent with HTTP 200

# The envelope. Chatchat's servers report errors in `code` with HTTP status 200, and its client
# checks nothing else. The same holds here for errors specific to this API (unknown base, name
# taken). Errors of the gateway (API key, full queue) also set the HTTP status, equal to `code`. An
# invalid body is a 422 with FastAPI's `detail` beside the envelope, since these servers are written
# with FastAPI.
INVALID = 422  # FastAPI's status for a body that it cannot validate


def ok(data: Any = None, msg: str = "success") -> dict[str, Any]:
    return {"code": 200, "msg": msg, "data": data}


def status(fault: GatewayError) -> int:
    return INVALID if type(fault) in (BadRequest, InvalidParameter) else fault.status


def error_reply(fault: GatewayError, data: Any = None) -> dict[str, Any]:
    code = status(fault)
    reply: dict[str, Any] = {"code": code, "msg": fault.message, "data": data}
    if code == INVALID:
        place = ["body", *filter(None, [fault.param])]
        reply["detail"] = [{"loc": place, "msg": fault.message, "type": "value_error"}]
    return reply


# For routes that return a list, or an object: the client reads `data` whatever `code` is.
error_of_list = partial(error_reply, data=[])
error_of_table = partial(error_reply, data={})

blueprint = Api(
    "chatchat",
    __name__,
    group="chatchat",
    tag="Langchain-Chatchat",
    ledger="chatchat",
    error=error_reply,
    error_schema="ChatchatError",
    schemas=SCHEMAS,
)


def route(
    method: str,
    path: str,
    *,
    body: str = "",
    parses: bool = True,
    shape: Shape = error_reply,
    **about: Any,
) -> Callable[[View], View]:
    """Register a view that answers in this API's format. It gets the services, the record, and the
    values of the body as keywords, unless it parses the body itself."""

    def respond(view: Callable[[Services, Record], Any], shape: Shape) -> Response:
        return spine.json_view(view, shape, owner, refused)

    def register(view: View) -> View:
        @spine.json_route(blueprint, method, path, shape=shape, respond=respond, body=body, **about)
        @wraps(view)
        def answered(services: Services, record: Record) -> Any:
            values = BODIES[body].parse(spine.sent_json(empty={})) if body and parses else {}
            return view(services, record, **values)

        return answered

    return register


def refused(error: GatewayError, shape: Shape, record: Record) -> Response:
    response = spine.refuse(error, shape, record)
    record.status = 200 if isinstance(error, TOLD) else status(error)
    response.status_code = record.status
    return response


def owner(services: Services, environ: dict[str, Any]) -> str:
    """Return the name of the caller's key. Raises Unauthorized."""
    return services.keys.check(environ, basic_password(environ))


# Answers that consist of JSON documents: one document a chunk, or all merged into one. The client
# parses every chunk by itself, so each document is sent in one write. The first document is
# computed before the status is sent, so that a full queue is still a 429. Later errors are sent
# as the last document.
Documents = Generator[Document, None, None]
ONE = frozenset({"chat_history_id", "message_id"})  # fields with the same value in every document


class RequestContext(NamedTuple):
    services: Services
    record: Record
    caller: Caller
    cancel: Cancel
    body: dict[str, Any]


def respond(
    view: Callable[[RequestContext], tuple[bool, Documents]], *, as_text: bool = False
) -> Response:
    """Answer with the documents of `view`, as a stream or whole; `as_text` sends only texts."""
    environ, cancel = request.environ, Cancel()
    write = _text if as_text else encode

    def answered(services: Services, record: Record) -> Response:
        caller = services.callers.caller(record.key, environ)
        sent = spine.sent_json(empty={})
        record.stop = disconnect.watch(environ, cancel)
        streams, documents = view(RequestContext(services, record, caller, cancel, sent))
        if streams:
            first = next(documents, {})  # if it raises, the documents are closed
            record.status, record.stream = 200, True
            encoded = _encoded(chain(filter(None, [first]), documents), write)
            parts = _Body(encoded, documents.close, partial(services.observer.finish, record))
            return spine.passthrough(parts, CONTENT_TYPE, spine.STREAM_HEADERS)
        with closing(documents):
            whole = write(whole_of(documents))
        record.status = 200
        return Response(whole, 200, content_type="text/plain; charset=utf-8" if as_text else JSON)

    def begun(services: Services, environ: dict[str, Any]) -> str:
        record = Record.of(environ)
        try:
            record.key = owner(services, environ)
            return record.key
        finally:  # a request that is refused counts, too
            services.observer.begin(record, cancel)

    return spine.json_view(answered, error_reply, begun, refused)


class _Body(ClosingBody):
    # The server disconnects slow readers sooner, since other requests wait for the slot.
    holds_slot = True


def whole_of(documents: Iterable[Document]) -> Document:
    merged: Document = {}
    for document in documents:
        for name, value in document.items():
            merged[name] = value if name in ONE or name not in merged else merged[name] + value
    return merged


def _text(document: Document) -> bytes:
    return str(document.get("text", "")).encode()


def _encoded(documents: Iterable[Document], write: Callable[[Document], bytes]) -> Iterator[bytes]:
    try:
        yield from map(write, documents)
    except GatewayError as error:
        if type(error) is not Cancelled:  # somebody reads it
            yield encode(error_reply(error))  # shown, since its code is not 200

"""Common parts of Langchain-Chatchat's routes: API key, body and response wrapper.

The client does not support API keys. A key in its base address, http://any:KEY@host:port, is sent
as the password of a Basic authorization, and is read from there.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, NamedTuple

from flask import Response, request

from ....errors import BadRequest, Cancelled, GatewayError, NotFound
from ....gateway import Caller
from ....runtime.cancel import Cancel
from ....web import body, disconnect, spine
from ....web.auth import basic_password
from ....web.body import JSON
from ....web.observability import Record
from ....web.routes import Api, Shape
from ....web.services import Services, current_services
from ....web.spine import STREAM_HEADERS, passthrough
from ....web.stream import ClosingBody
from .. import answer, bases, schemas
from ..answer import error_reply, status


class Taken(BadRequest):
    """The name is already taken."""

    status = 404  # as in 0.2.7
    code = "already_exists"


TOLD = (
    NotFound,
    Taken,
    bases.EmptyName,
    bases.PathName,
)  # errors sent with HTTP 200; see the envelope in answer


def _answer(view: Callable[[Services, Record], Any], shape: Shape) -> Response:
    return spine.json_view(view, shape, owner, refused)


api = partial(
    Api,
    group="chatchat",
    tag="Langchain-Chatchat",
    ledger="chatchat",
    error=error_reply,
    error_schema="ChatchatError",
    schemas=schemas.ALL,
)
route = partial(spine.json_route, respond=_answer)
"""Registers a view that answers in this API's format."""


def refused(error: GatewayError, shape: Shape, record: Record) -> Response:
    response = spine.refuse(error, shape, record)
    record.status = 200 if isinstance(error, TOLD) else status(error)
    response.status_code = record.status
    return response


def owner(services: Services, environ: dict[str, Any]) -> str:
    """Return the name of the caller's key. Raises Unauthorized."""
    return services.keys.check(environ, basic_password(environ))


def json_body(services: Services) -> dict[str, Any]:
    """Return the body as a JSON object; an empty body is an empty object. Raises BadRequest or
    BodyTooLarge."""
    value = json_value(services)
    if not isinstance(value, dict):
        raise BadRequest("the request body must be a JSON object")
    return value


def json_value(services: Services) -> Any:
    """Return the body as any JSON value."""
    return body.read_value(request.environ, services.settings.max_body, empty={})


# Answers that consist of JSON documents: one document a chunk, or all merged into one. The client
# parses every chunk by itself, so each document is sent in one write. The first document is
# computed before the status is sent, so that a full queue is still a 429. Later errors are sent
# as the last document.
Documents = Generator[answer.Document, None, None]


class RequestContext(NamedTuple):
    """The parts of a request that its answer depends on."""

    services: Services
    record: Record
    caller: Caller
    cancel: Cancel
    body: dict[str, Any]

    @property
    def owner(self) -> str:
        return self.record.key


class DocumentStream(NamedTuple):
    """`documents` is always closed."""

    stream: bool
    documents: Documents


class StreamFormat(NamedTuple):
    """The wire format of a document, and of all documents merged into one."""

    chunk: Callable[[answer.Document], bytes]
    content_type: str
    whole: str


DOCUMENTS = StreamFormat(answer.chunk, answer.CONTENT_TYPE, JSON)
TEXT = StreamFormat(answer.plain, answer.CONTENT_TYPE, "text/plain; charset=utf-8")


def respond(
    view: Callable[[RequestContext], DocumentStream], form: StreamFormat = DOCUMENTS
) -> Response:
    """Answer the current request with the stream that `view` returns."""
    services = current_services()
    environ = request.environ
    record = Record.of(environ)
    cancel = Cancel()
    services.observer.begin(record, cancel)
    documents: Documents | None = None
    try:
        record.key = owner(services, environ)
        caller = services.callers.caller(record.key, environ)
        asked = json_body(services)
        record.stop = disconnect.watch(environ, cancel)
        speech = view(RequestContext(services, record, caller, cancel, asked))
        documents = speech.documents
        if speech.stream:
            first = next(documents, {})
            record.status, record.stream = 200, True
            encoded = _encoded(first, documents, form)
            parts = _Body(encoded, documents.close, partial(services.observer.finish, record))
            documents = None  # closed by the body from now on
            return passthrough(parts, form.content_type, STREAM_HEADERS)
        whole = form.chunk(answer.whole(documents))
    except GatewayError as error:
        return refused(error, error_reply, record)
    finally:
        if documents is not None:
            documents.close()
    record.status = 200
    return Response(whole, 200, content_type=form.whole)


class _Body(ClosingBody):
    # The server disconnects slow readers sooner, since other requests wait for the slot.
    holds_slot = True


def _encoded(first: answer.Document, rest: Documents, form: StreamFormat) -> Iterator[bytes]:
    try:
        if first:
            yield form.chunk(first)
        for document in rest:
            yield form.chunk(document)
    except GatewayError as error:
        if type(error) is not Cancelled:  # somebody reads it
            yield answer.chunk(error_reply(error))  # shown, since its code is not 200

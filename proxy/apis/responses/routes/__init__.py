"""Routes of OpenAI's Responses API: create, read, list input, cancel and delete."""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec
from flask import Response, request

from ....errors import BadRequest, InvalidParameter, NotFound
from ....store.responses import OTHERS, Stored
from ....web import background
from ....web.admitted import counted
from ....web.fastpath import BodyAndHeaders, Environ, post
from ....web.model_tables import read_request
from ....web.observability import Record
from ....web.permissions import of_caller
from ....web.routes import SSE, Api
from ....web.services import Services
from ....web.spine import completion_view, v1_route
from ... import schema_fields as doc
from ...conversations.routes import page_of_items
from ..answer import COMPACT_FIELDS
from ..items import listed
from ..request import FIELDS
from .dialect import CompactDialect, ResponsesDialect, kept_response
from .websocket import opened

blueprint = Api(
    "responses",
    __name__,
    group="responses",
    tag="OpenAI",
    ledger="responses",
    schemas={
        "ResponseRequest": doc.body("input", **FIELDS),
        "CompactRequest": doc.body("model", **COMPACT_FIELDS),
    },
)


@post(blueprint, "/v1/responses", "/responses", body="ResponseRequest", streams=SSE)
def create(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A response, streamed, whole, or in the background."""
    dialect = ResponsesDialect(services, environ)
    early, begin = dialect.in_background, dialect.begin
    return completion_view(services, environ, dialect, "resp_", early, begin)


@post(blueprint, "/v1/responses/compact", "/responses/compact", body="CompactRequest")
def compact(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    """A conversation summed up by the model."""
    dialect = CompactDialect(services, environ)
    return completion_view(services, environ, dialect, "resp_", begin=dialect.begin)


@v1_route(blueprint, "GET", "/responses", websocket=True)
def connect(services: Services, record: Record) -> Response:
    """Answer over a WebSocket from here on."""
    return opened(services, request.environ, record)


@v1_route(blueprint, "POST", "/responses/input_tokens", body="ResponseRequest")
def input_tokens(services: Services, record: Record) -> Any:
    """How many tokens an input has."""
    dialect = ResponsesDialect(services, request.environ)
    counting = dialect.parse(read_request(services, record, request.environ))
    counting = of_caller(services, request.environ, counting)
    with counted(services, record, counting.model) as (cancel, may):
        counting = dialect.fitted(counting, cancel, may)
        count = services.gateway.count(counting, cancel, may=may)
    return {"object": "response.input_tokens", "input_tokens": count}


@v1_route(blueprint, "GET", "/responses/<key>")
def read(services: Services, record: Record, key: str) -> Any:
    """A stored response."""
    if request.args.get("stream") == "true":
        raise InvalidParameter(
            "stream", "is not supported for a finished response: read it without stream"
        )
    return msgspec.Raw(background.encoded(_kept(services, record, key)))


@v1_route(blueprint, "DELETE", "/responses/<key>")
def delete(services: Services, record: Record, key: str) -> Any:
    """Delete a stored response."""
    services.jobs.cancel(record.key, key)
    if key.startswith(OTHERS) or not services.store.delete(record.key, key):
        _missing(key)
    return {"id": key, "object": "response", "deleted": True}


@v1_route(blueprint, "POST", "/responses/<key>/cancel")
def cancel(services: Services, record: Record, key: str) -> Any:
    """Cancel a response that runs in the background."""
    stored = _kept(services, record, key)
    if not msgspec.json.decode(stored.response).get("background"):
        raise BadRequest("only background responses can be cancelled")
    done = background.cancelled(stored)
    if done and services.store.change_open(record.key, key, msgspec.json.encode(done), over=True):
        services.jobs.cancel(record.key, key)
        return done
    return msgspec.Raw(background.encoded(_kept(services, record, key)))  # already finished


@v1_route(blueprint, "GET", "/responses/<key>/input_items")
def input_items(services: Services, record: Record, key: str) -> Any:
    """The input of a stored response."""
    items = msgspec.json.decode(_kept(services, record, key).items)
    return page_of_items(listed(items, key))


def _kept(services: Services, record: Record, key: str) -> Stored:
    return kept_response(services, record.key, key) or _missing(key)


def _missing(key: str) -> NoReturn:
    raise NotFound(f"no such response: {key[:100]!r}")

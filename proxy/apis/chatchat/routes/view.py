"""Common parts of Langchain-Chatchat's routes: API key, body and response wrapper.

The client does not support API keys. A key in its base address, http://any:KEY@host:port, is sent
as the password of a Basic authorization, and is read from there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Response, request

from ....errors import BadRequest, GatewayError, NotFound
from ....web import body, spine
from ....web.auth import basic_password
from ....web.observability import Record
from ....web.routes import Api, Shape
from ....web.services import Services
from .. import bases, schemas
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

"""What all routes of Langchain-Chatchat's API have in common: the key, the body, the wrapper.

Its client knows no keys. One that stands in its address, http://any:KEY@host:port, comes as the
password of a Basic authorization, and is taken from there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from flask import Response, request

from ...core.invalid import Invalid
from ...dialects.chatchat import reply
from ...errors import BadRequest, GatewayError, NotFound
from .. import body
from ..exchange import refuse
from ..observe import Record
from ..reply import Reply
from ..services import Services, services

Shape = Callable[[GatewayError], dict[str, Any]]


class Taken(BadRequest):
    """There is one of that name already."""

    status = 409
    code = "already_exists"


TOLD = (NotFound, Taken)  # what only this API knows is told under HTTP 200: see dialects' reply


def plain(view: Callable[[Services, Record], Any], shape: Shape = reply.error) -> Response:
    """A small answer behind the keys."""
    here = services()
    record = Record.of(request.environ)
    try:
        record.key = owner(here, request.environ)
        data = msgspec.json.encode(view(here, record))
        record.status = 200
    except (GatewayError, Invalid) as error:
        return refused(error, record, shape)
    except BaseException:
        record.status = 500
        raise
    finally:
        if record.begun:
            here.observer.end(record)
    return Reply(data, body.JSON, record.headers())


def refused(error: GatewayError | Invalid, record: Record, shape: Shape = reply.error) -> Response:
    response = refuse(error, shape, record)
    if isinstance(error, TOLD):
        response.status_code = 200
    return response


def owner(here: Services, environ: Mapping[str, Any]) -> str:
    """The name of the caller's key. Raises Unauthorized."""
    scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() != "basic":
        return here.keys.check(environ)
    try:
        _, _, secret = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        secret = ""
    shown = {"HTTP_AUTHORIZATION": f"Bearer {secret}", "REMOTE_ADDR": environ.get("REMOTE_ADDR")}
    return here.keys.check(shown)


def asked(here: Services) -> dict[str, Any]:
    """The body as a JSON object; none at all is an empty one. Raises BadRequest, BodyTooLarge."""
    value = asked_value(here)
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def asked_value(here: Services) -> Any:
    """The body as any JSON value."""
    return body.read_value(request.environ, here.settings.max_body, empty={})

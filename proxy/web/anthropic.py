"""Anthropic's routes."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from ..dialects import anthropic
from ..dialects.anthropic.answer import status
from ..dialects.anthropic.request import parse
from . import body, disconnect
from .direct import Environ, Sent, post
from .exchange import complete, plain
from .observe import Record
from .services import Services

blueprint = Blueprint("anthropic", __name__)


@post(blueprint, "/v1/messages")
def messages(here: Services, environ: Environ) -> Sent:
    sent = complete(here, environ, anthropic, "msg_")
    sent.status = status(sent.status)
    sent.headers.append(("request-id", dict(sent.headers)["x-request-id"]))
    return sent


@blueprint.post("/v1/messages/count_tokens")
def count_tokens() -> Response:
    def view(here: Services, record: Record) -> Any:
        asked = parse(body.read_json(request.environ, here.settings.max_body), counting=True)
        with disconnect.watched(request.environ) as cancel:
            return {"input_tokens": here.gateway.count(asked, cancel)}

    return _theirs(plain(view, anthropic.error))


def _theirs(response: Response) -> Response:
    """Their status for "full", and their name for the request's id."""
    response.status_code = status(response.status_code)
    response.headers["request-id"] = response.headers["x-request-id"]
    return response

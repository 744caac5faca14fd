"""Anthropic's routes."""

from __future__ import annotations

from typing import Any, TypeVar

from flask import Blueprint, Response, request

from ..dialects import anthropic
from ..dialects.anthropic.answer import status
from ..dialects.anthropic.request import parse
from . import body, disconnect
from .fastpath import BodyAndHeaders, Environ, post
from .observability import Record
from .permissions import check_model
from .services import Services
from .spine import completion_view, json_view

blueprint = Blueprint("anthropic", __name__)
Sent = TypeVar("Sent", bound=Response | BodyAndHeaders)


@post(blueprint, "/v1/messages")
def messages(services: Services, environ: Environ) -> Response | BodyAndHeaders:
    return _theirs(completion_view(services, environ, anthropic, "msg_"), environ)


@blueprint.post("/v1/messages/count_tokens")
def count_tokens() -> Response:
    def view(services: Services, record: Record) -> Any:
        asked = parse(body.read_json(request.environ, services.settings.max_body), counting=True)
        check_model(services, request.environ, asked.model)
        with disconnect.watched(request.environ) as cancel:
            return {"input_tokens": services.gateway.count(asked, cancel)}

    return _theirs(json_view(view, anthropic.error), request.environ)


def _theirs(sent: Sent, environ: Environ) -> Sent:
    """Apply Anthropic's status for "overloaded" and its name for the request id header."""
    record = Record.of(environ)
    if isinstance(sent, Response):
        sent.status_code = status(sent.status_code, record.info.outcome)
        sent.headers["request-id"] = record.id
    else:
        sent[1].append(("request-id", record.id))
    return sent

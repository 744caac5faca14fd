"""Models that the gateway starts itself: their logs."""

from __future__ import annotations

from flask import Blueprint, Response, request

from ..dialects import openai
from ..errors import Forbidden, GatewayError, NotFound
from ..hosting.model import HostedModel
from . import seen
from .observability import Record
from .services import Services, current_services
from .spine import refuse

blueprint = Blueprint("hosting", __name__)


@blueprint.get("/logs/<path:name>")
def logs(name: str) -> Response:
    """The last lines that a model's server printed. They may contain prompts."""
    services, record = current_services(), Record.of(request.environ)
    try:
        record.key = services.keys.check(request.environ)
        _admins_only(services, record.key)
        return Response(_model(services, name).log.text(), mimetype="text/plain")
    except GatewayError as error:
        return refuse(error, openai.error, record)


def _admins_only(services: Services, key: str) -> None:
    if not seen.is_admin(services, key):
        raise Forbidden("this requires an admin API key: see the setting admins")


def _model(services: Services, name: str) -> HostedModel:
    model = services.host.find(name)
    if model is None:
        raise NotFound(f"the gateway starts no model {name[:100]!r}")
    return model

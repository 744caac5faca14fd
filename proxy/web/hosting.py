"""Models that the gateway starts itself: loaded and unloaded by hand, and their logs.

The routes are those of llama-server's router mode (/models/load, /models/unload) and of llama-swap
(/running, /unload). Its GET /unload is a POST here, because any page may make a browser send a GET.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, request

from ..dialects import openai
from ..dialects.llamacpp_requests import parse_model
from ..errors import Forbidden, GatewayError, NotFound
from ..hosting.model import HostedModel
from . import body, seen
from .observability import Record
from .services import Services, current_services
from .spine import json_route, refuse

blueprint = Blueprint("hosting", __name__)

SWAP_STATES = {"loaded": "ready", "loading": "starting"}  # in llama-swap's words; else "stopped"


@json_route(blueprint, "POST", "/models/load")
def load(services: Services, record: Record) -> Any:
    """Begin to load a model."""
    services.host.load(_asked(services, record))
    return {"success": True}


@json_route(blueprint, "POST", "/models/unload")
def unload(services: Services, record: Record) -> Any:
    """Unload a model after its running answers."""
    _asked(services, record).stop()
    return {"success": True}


@json_route(blueprint, "POST", "/unload")
def unload_all(services: Services, record: Record) -> Any:
    """Unload all models after their running answers."""
    _admins_only(services, record.key)
    for model in services.host.models:
        model.stop()
    return {"success": True}


@json_route(blueprint, "GET", "/running")
def running(services: Services, record: Record) -> Any:
    """The models that are loaded, or being loaded."""
    return {
        "running": [
            {
                "model": model.name,
                "name": model.name,
                "state": SWAP_STATES[model.status],
                "ttl": round(model.config.ttl),
                "memory": model.need,
            }
            for model in services.host.models
            if model.status in SWAP_STATES
        ]
    }


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


def _asked(services: Services, record: Record) -> HostedModel:
    _admins_only(services, record.key)
    asked = body.read_json(request.environ, services.settings.max_body)
    return _model(services, parse_model(asked))


def _model(services: Services, name: str) -> HostedModel:
    model = services.host.find(name)
    if model is None:
        raise NotFound(f"the gateway starts no model {name[:100]!r}")
    return model

"""Models that the gateway starts itself: loaded, unloaded and pinned by hand, and their logs.

The routes are those of llama-server's router mode (/models/load, /models/sse, …) and of llama-swap
(/running, /unload). Its GET /unload is a POST here, because any page may make a browser send a GET.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from functools import partial
from itertools import chain
from typing import Any, Literal

from flask import Response, request

from ...web.routes import Api, SSE
from ..fields import filled
from ...errors import NotFound, QueueFull
from ...hosting.model import HostedModel
from ...web import model_events, permissions
from ...web.observability import Record
from ...web.permissions import visible
from ...web.services import Services
from ...web.spine import STREAM_HEADERS, json_route, passthrough, sent_json
from ...web.stream import LIFE, RETRY, ClosingBody

blueprint = Api("hosting", __name__, group="admin", tag="slotproxy")

Action = Literal["load", "unload", "pin", "unpin"]
# In llama-swap's words; else "stopped".
SWAP_STATES = {"loaded": "ready", "loading": "starting", "stopping": "stopping"}


def _route(action: Action, summary: str, tag: str = "slotproxy") -> None:
    def view(services: Services, record: Record) -> Any:
        permissions.check_admin(services, record.key)  # before its body is read
        fields = sent_json()
        act(services, record.key, action, filled(fields, "model"))
        return {"success": True}

    json_route(
        blueprint,
        "POST",
        f"/models/{action}",
        endpoint=action,
        summary=f"{summary}; for the keys of `--admins`.",
        body="ModelActionRequest",
        tag=tag,
    )(view)


_route("load", "Begin to load a model that the gateway starts", "llama.cpp")
_route("unload", "Unload a model after its running answers", "llama.cpp")
_route("pin", "Let a model give way to no other, until slotproxy restarts")
_route("unpin", "Let a model give way to others again")


def act(services: Services, key: str, action: Action, name: str) -> None:
    """Do this with a model for this key. Raises Forbidden, NotFound."""
    permissions.check_admin(services, key)
    model = hosted(services, name)
    match action:
        case "load":
            services.host.load(model)
        case "unload":
            model.stop()
        case _:
            model.pin(action == "pin")


@json_route(blueprint, "GET", "/models/sse", answer=SSE, group="status", tag="llama.cpp")
def events(services: Services, record: Record) -> Any:
    """The changes of models, and the progress of loads.

    Raises QueueFull."""
    return watched(services, record.key, model_events.events(services, request.environ))


@json_route(blueprint, "POST", "/unload")
def unload_all(services: Services, record: Record) -> Any:
    """Unload all models after their running answers; for the keys of `--admins`."""
    permissions.check_admin(services, record.key)
    for model in services.host.models:
        model.stop()
    return {"success": True}


@json_route(blueprint, "GET", "/running", group="status", quiet=True)
def running(services: Services, record: Record) -> Any:
    """The loaded models of those that the gateway starts, as llama-swap."""
    models = [model for model in services.host.models if model.status in SWAP_STATES]
    names = visible(services, request.environ, [model.name for model in models])
    return {
        "running": [
            {
                "model": model.name,
                "name": model.name,
                "state": SWAP_STATES[model.status],
                "ttl": round(model.config.ttl),
                "memory": model.needs.memory,
                "gpu_memory": sum(model.needs.cards),
                "pinned": model.pinned,
                "unloads_in": _unloads_in(model),
                **(model_events.waiting(model) if model.status == "loading" else {}),
            }
            for model in models
            if model.name in names
        ]
    }


def _unloads_in(model: HostedModel) -> float | None:
    """Seconds, if nobody uses it until then; None for never."""
    is_idle = model.status == "loaded" and not model.users and math.isfinite(model.left)
    return round(max(0.0, model.left), 1) if is_idle else None


@json_route(blueprint, "GET", "/logs/<path:name>", answer="text/plain")
def logs(services: Services, record: Record, name: str) -> Response:
    """What the server of a model printed last, and with `Accept: text/event-stream` what
    follows; for the keys of `--admins`. It may contain prompts."""
    if "text/event-stream" in request.headers.get("Accept", ""):
        return log_stream(services, record.key, name, request.headers.get("Last-Event-ID", ""))
    permissions.check_admin(services, record.key)
    return Response(hosted(services, name).log.text(), mimetype="text/plain")


def log_stream(services: Services, key: str, name: str, last_id: str) -> Response:
    """The lines of a model's log after an event. Raises Forbidden, NotFound, QueueFull."""
    permissions.check_admin(services, key)
    return watched(services, key, model_events.log_lines(hosted(services, name).log, last_id))


def watched(services: Services, key: str, parts: Generator[bytes, None, None]) -> Response:
    """Stream events of something that is watched. Raises QueueFull."""
    if not services.watchers.take(key):
        raise QueueFull("too many clients are watching", retry_after=LIFE)
    body = ClosingBody(chain((RETRY,), parts), parts.close, partial(services.watchers.give, key))
    return passthrough(body, "text/event-stream", [*STREAM_HEADERS])


def hosted(services: Services, name: str) -> HostedModel:
    """Raises NotFound."""
    model = services.host.find(name)
    if model is None:
        raise NotFound(f"the gateway starts no model {name[:100]!r}")
    return model

"""The status page and its live stream."""

from __future__ import annotations

from functools import partial

from flask import Response, make_response, render_template, request

from ...errors import QueueFull
from ...gateway import Caller
from ..routes import Api
from ..services import Services, current_services
from ..spine import STREAM_HEADERS, json_response, passthrough
from ..stream import ClosingBody
from . import guard, status_feed

blueprint = Api("panel_status", __name__, group="pages", ledger="pages")
guard.protect(blueprint)

MOST_WATCHERS = 32  # at once, for all keys together


@blueprint.get("/status")
def page() -> Response:
    return make_response(render_template("status.html"))


@blueprint.get("/pages/api/status")
def now() -> Response:
    """Return `status_feed.now` and `points` once."""
    services = current_services()
    data = {**status_feed.now(services, _caller(services)), "points": status_feed.points(services)}
    response = json_response(data)
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get("/pages/api/status/events")
def events() -> Response:
    """Stream the status. Raises QueueFull."""
    services = current_services()
    caller = _caller(services)
    if not services.watchers.take(caller.key):
        raise QueueFull("too many clients are watching the status", retry_after=status_feed.LIFE)
    parts = status_feed.events(services, caller)
    body = ClosingBody(parts, parts.close, partial(services.watchers.give, caller.key))
    return passthrough(body, "text/event-stream", [*STREAM_HEADERS])


def _caller(services: Services) -> Caller:
    return services.callers.caller(services.keys.check(request.environ), request.environ)

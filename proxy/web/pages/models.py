"""The page of the models that the gateway starts itself, and what its script calls."""

from __future__ import annotations

from flask import Response, make_response, render_template, request

from ...apis.llamacpp.native import parse_model
from ...apis.models import routes as hosting
from .. import seen
from ..routes import Api
from ..services import current_services
from ..spine import json_response
from . import api, guard, models_feed

API = "/pages/api/models"

blueprint = Api("panel_models", __name__, group="pages", ledger="pages")
guard.protect(blueprint)


@blueprint.get("/hosting")
def page() -> Response:
    """The page. It is not at /models, which is a route of llama-server."""
    admin = seen.is_admin(current_services(), api.owner())
    return make_response(render_template("models.html", admin=admin))


@blueprint.get(API)
def now() -> Response:
    api.owner()
    response = json_response(models_feed.now(current_services(), request.environ))
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get(f"{API}/events")
def events() -> Response:
    """Stream the state of the models. Raises QueueFull."""
    services, key = current_services(), api.owner()
    return hosting.watched(services, key, models_feed.events(services, request.environ))


@blueprint.post(f"{API}/<any(load, unload, pin, unpin):action>")
def act(action: hosting.Action) -> Response:
    """Do this with `{"model"}`. Raises Forbidden, NotFound, InvalidParameter."""
    hosting.act(current_services(), api.owner(), action, parse_model(api.json_body()))
    return api.done()


@blueprint.get(f"{API}/logs/<path:name>")
def logs(name: str) -> Response:
    """Stream the log of a model. Raises Forbidden, NotFound, QueueFull."""
    services = current_services()
    return hosting.log_stream(services, api.owner(), name, request.headers.get("Last-Event-ID", ""))

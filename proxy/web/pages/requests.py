"""The page of requests: those that run and those that ended, and why a prompt was evaluated."""

from functools import partial
from typing import Any, cast

from flask import Response, current_app, render_template, request

from ...apis.requests import routes
from ...errors import InvalidParameter
from ..fastpath import Application
from ..observability import Record
from ..services import current_services
from ..spine import json_view
from . import api, chat_models, guard

blueprint = guard.guarded("panel_requests")

API = "/pages/api/requests"


@blueprint.get("/requests")
def page() -> str:
    services = current_services()
    admin = bool(services.keys.needed) and services.keys.is_admin(api.owner())
    root, has_ledger = services.settings.api_prefix + API, services.ledger is not None
    models = chat_models.names(services, request.environ)
    return render_template("requests.html", admin=admin, api=root, kept=has_ledger, models=models)


@blueprint.get(API, endpoint="list", defaults={"view": routes.listed})
@blueprint.get(f"{API}/<name>", endpoint="read", defaults={"view": routes.read})
@blueprint.get(f"{API}/<name>/capture", endpoint="capture", defaults={"view": routes.captured})
@blueprint.delete(f"{API}/<name>/capture", endpoint="forget", defaults={"view": routes.forget})
@blueprint.post(f"{API}/<name>/cancel", endpoint="cancel", defaults={"view": routes.cancel})
def as_for_a_key(view: Any, **parts: str) -> Response:
    """What the routes of /v1/requests answer."""
    return json_view(partial(view, **parts))


@blueprint.post(f"{API}/again")
def again() -> Response:
    """Answer a body as the route of an API does: one that was captured, to the signed-in key."""
    path, app = request.args.get("route", ""), cast(Application, current_app)
    if path not in app.direct:
        raise InvalidParameter("route", "must be the path of a route that answers with text")
    own = {
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "HTTP_X_REQUEST_ID": Record.of(request.environ).id,
    }
    environ = {**request.environ, **own}
    return Response.from_app(app.wsgi_app, environ)  # type: ignore[return-value]  # it is flask's

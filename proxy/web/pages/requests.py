"""The page of requests: those that run and those that ended, and why a prompt was evaluated."""

from functools import partial
from typing import Any

from flask import Response, render_template

from ...apis.requests import routes
from .. import permissions
from ..services import current_services
from ..spine import json_view
from . import api, guard

blueprint = guard.guarded("panel_requests")

API = "/pages/api/requests"


@blueprint.get("/requests")
def page() -> str:
    services = current_services()
    admin = bool(services.keys.needed) and permissions.is_admin(services, api.owner())
    root, kept = services.settings.api_prefix + API, services.ledger is not None
    return render_template("requests.html", admin=admin, api=root, kept=kept)


@blueprint.get(API, endpoint="list", defaults={"view": routes.listed})
@blueprint.get(f"{API}/<name>", endpoint="read", defaults={"view": routes.read})
@blueprint.get(f"{API}/<name>/capture", endpoint="capture", defaults={"view": routes.captured})
@blueprint.delete(f"{API}/<name>/capture", endpoint="forget", defaults={"view": routes.forget})
@blueprint.post(f"{API}/<name>/cancel", endpoint="cancel", defaults={"view": routes.cancel})
def as_for_a_key(view: Any, **parts: str) -> Response:
    """What the routes of /v1/requests answer."""
    return json_view(partial(view, **parts))

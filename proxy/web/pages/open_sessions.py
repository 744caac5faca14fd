"""The page of open sign-in sessions: the caller's own; for administrators, those of all keys."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask import Response, make_response, render_template, request

from ...apis import fields
from ...errors import NotFound
from .. import permissions
from ..ledger.query import everyone
from ..services import current_services
from ..spine import json_response
from . import api, guard, session

if TYPE_CHECKING:
    from ...store.sessions import LiveSessions  # it imports SQLAlchemy, an extra

MOST_LISTED = 500

blueprint = guard.guarded("panel_sessions")


@blueprint.get("/sessions")
def page() -> Response:
    services = current_services()
    admin = permissions.is_admin(services, api.owner())
    needed = services.keys.needed and services.sessions is not None
    return make_response(render_template("sessions.html", admin=admin, needed=needed))


@blueprint.get("/pages/api/sessions")
def listed() -> Response:
    """Return the sessions, the newest first. Raises Forbidden, NotFound, InvalidParameter."""
    services, key = current_services(), api.owner()
    all_keys = everyone(request.args)
    if all_keys:
        permissions.check_admin(services, key)
    own = session.current()
    sessions = _opened().listed(None if all_keys else key, time.time(), MOST_LISTED)
    return json_response(
        [
            {
                "id": open_session.id,
                "name": services.keys.shown(open_session.owner),
                "created": open_session.created,
                "agent": open_session.agent,
                "address": open_session.peer,
                "current": own is not None and own.id == open_session.id,
            }
            for open_session in sessions
        ]
    )


@blueprint.post("/pages/api/sessions/end")
def end() -> Response:
    """End the session `{"id"}`: the caller's, or any for administrators. Raises NotFound."""
    services, key = current_services(), api.owner()
    name = fields.required(api.json_body(), "id")
    owner = None if permissions.is_admin(services, key) else key
    if not _opened().end(name, owner):
        raise NotFound("there is no such session: it may have ended already")
    return api.done()


def _opened() -> LiveSessions:
    """Raises NotFound."""
    sessions = current_services().sessions
    if sessions is None:
        raise NotFound("this gateway keeps no sign-in sessions")
    return sessions

"""Routes for signing in and out, invitations, and the page of open sign-in sessions."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from flask import Response, make_response, redirect, render_template, request, url_for

from ...apis.fields import required
from ...apis.litellm.routes import opened
from ...errors import KeyBlocked, KeyExpired, NotFound, TooManyWrongKeys, Unauthorized
from .. import body, permissions
from ..ledger.query import everyone
from ..observability import Record
from ..services import current_services
from ..spine import json_response, sent_json
from . import api, guard, session, shell
from .guard import fields

if TYPE_CHECKING:
    from ...store.sessions import LiveSessions  # it imports SQLAlchemy, an extra

MOST_LISTED = 500  # open sessions
OPEN = ("form", "sign_in", "sign_out", "who", "invitation", "accept")

blueprint = guard.guarded("session", open_to_all=OPEN)


@blueprint.get("/signin")
def form() -> Response:
    if session.signed_in() is not None:
        return _go(request.args.get("to", ""))
    return make_response(page(request.args.get("to", "")))


def page(to: str, **what: object) -> str:
    sign_in = current_services().sign_in
    provider = sign_in.name if sign_in is not None else ""
    return render_template("signin.html", to=guard.local_path(to), provider=provider, **what)


@blueprint.post("/signin")
def sign_in() -> Response:
    """Sign in with the form fields `key` and `to`, the page to open next."""
    to = fields().get("to", "")
    record = Record.of(request.environ)
    try:
        name = current_services().keys.name_of(fields().get("key", "").strip(), record.peer)
    except (Unauthorized, TooManyWrongKeys) as fault:
        record.info.outcome = fault.code or fault.type
        wait = math.ceil(fault.retry_after or 0)
        blocked, expired = isinstance(fault, KeyBlocked), isinstance(fault, KeyExpired)
        text = page(to, blocked=blocked, expired=expired, wrong=not wait, wait=wait)
        response = make_response(text, fault.status)
        if wait:
            response.headers["Retry-After"] = str(wait)
        return response
    record.key, record.info.outcome = name, "signed_in"
    return session.begin(_go(to), name)


@blueprint.post("/signout", defaults={"everywhere": False})
@blueprint.post("/signout/everywhere", defaults={"everywhere": True})
def sign_out(everywhere: bool) -> Response:
    """Sign out this browser, or all browsers that signed in with the same key."""
    response = make_response(redirect(url_for("session.form"), 303))
    return session.end(response, everywhere=everywhere)


@blueprint.get("/pages/api/session")
def who() -> Response:
    """Tell a script who is signed in; links from other sites come without the session."""
    return make_response({"signed_in": session.signed_in() is not None})


def _go(to: str) -> Response:
    return make_response(redirect(guard.local_path(to) or shell.home(), 303))


# -- invitations: a new person gets a key, once, without signing in. The link has the token behind
# a #, which browsers do not send: it is in no log and no Referer. The page sends it when its button
# is pressed, so a look at the link by another program uses up nothing.


@blueprint.get("/invitation")
def invitation() -> Response:
    return make_response(render_template("invitation.html"))


@blueprint.post("/pages/api/invitation")
def accept() -> Response:
    """The key of an invitation, `{"token"}`. Raises NotFound, TooManyWrongKeys."""
    services, record = current_services(), Record.of(request.environ)
    services.keys.wrong_keys.check(record.peer)
    accounts = opened(services)
    token = required(body.read_json(request.environ, guard.MAX_BYTES), "token")
    try:
        secret, key = accounts.keys.accept(token)
    except NotFound:
        services.keys.wrong_keys.count_wrong(record.peer)
        raise NotFound(
            "this invitation has been used or has expired: ask an administrator for a new one"
        ) from None
    accounts.follow()
    record.info.outcome = "accepted"
    return json_response({"key": secret, "name": key.alias or key.user_id or ""})


# -- open sessions: the caller's own; for administrators, those of all keys


@blueprint.get("/sessions")
def open_sessions() -> Response:
    services = current_services()
    admin = services.keys.is_admin(api.owner())
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
    name = required(sent_json(), "id")
    owner = None if services.keys.is_admin(key) else key
    if not _opened().end(name, owner):
        raise NotFound("there is no such session: it may have ended already")
    return api.done()


def _opened() -> LiveSessions:
    """Raises NotFound."""
    sessions = current_services().sessions
    if sessions is None:
        raise NotFound("this gateway keeps no sign-in sessions")
    return sessions

"""Routes for signing in and out."""

from __future__ import annotations

import math

from flask import Response, make_response, redirect, render_template, request, url_for

from ...errors import KeyBlocked, KeyExpired, TooManyWrongKeys, Unauthorized
from ..observability import Record
from ..services import current_services
from . import guard, session
from .guard import fields

blueprint = guard.guarded("session", open_to_all=("form", "sign_in", "sign_out", "who"))


@blueprint.get("/signin")
def form() -> Response:
    if session.signed_in() is not None:
        return _go(request.args.get("to", ""))
    return make_response(page(request.args.get("to", "")))


def page(to: str, **what: object) -> str:
    """The page to sign in, which leads to the page `to`."""
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
        wait = fault.retry_after
        text = page(
            to,
            blocked=isinstance(fault, KeyBlocked),
            expired=isinstance(fault, KeyExpired),
            wrong=wait is None,
            wait=wait and math.ceil(wait),
        )
        response = make_response(text, fault.status)
        if wait:
            response.headers["Retry-After"] = str(math.ceil(wait))
        return response
    record.key, record.info.outcome = name, "signed_in"
    return session.begin(_go(to), name)


@blueprint.post("/signout", defaults={"everywhere": False})
@blueprint.post("/signout/everywhere", defaults={"everywhere": True})
def sign_out(everywhere: bool) -> Response:
    """Sign out this browser, or all browsers that signed in with the same key."""
    there = make_response(redirect(url_for("session.form"), 303))
    return session.end(there, everywhere=everywhere)


@blueprint.get("/pages/api/session")
def who() -> Response:
    """Tell a script who is signed in; links from other sites come without the session."""
    return make_response({"signed_in": session.signed_in() is not None})


def _go(to: str) -> Response:
    return make_response(
        redirect(guard.local_path(to) or f"{current_services().settings.api_prefix}/", 303)
    )

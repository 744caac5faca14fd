"""Guards all page routes: CSRF check, then sign-in. Errors are HTML for browsers, else JSON."""

from __future__ import annotations

from collections.abc import Collection

from flask import Blueprint, Response, redirect, request, url_for

from ...apis.openai import answer as openai
from ...errors import GatewayError, Unauthorized
from .. import seen
from ..observability import Record
from ..services import current_services
from ..spine import refuse
from . import csrf, errors, policy, session


def protect(blueprint: Blueprint, open_to_all: Collection[str] = ()) -> Blueprint:
    """Guard this blueprint's routes. `open_to_all` names endpoints, without the blueprint's name,
    that need no sign-in. Templates get `csrf_token()`, `signed_in` (the key's name, "" if none is
    needed, None if nobody is signed in), `administers` (whether that is an administrator's key) and
    `sign_in_needed`."""
    open_ones = {f"{blueprint.name}.{name}" for name in open_to_all}

    @blueprint.before_request
    def check() -> None:
        csrf.check()
        if request.endpoint not in open_ones:
            session.require()

    blueprint.after_request(session.keep)
    blueprint.after_request(policy.keep)
    blueprint.register_error_handler(GatewayError, answer)
    return blueprint


def template_values() -> dict[str, object]:
    """Return the values available in every page template."""
    name = session.signed_in()
    return {
        "csrf_token": csrf.token,
        "signed_in": name,
        "administers": name is not None and name != "" and seen.is_admin(current_services(), name),
        "sign_in_needed": session.sessions().needed,
    }


def answer(fault: GatewayError) -> Response:
    """Return the response for an error on a page's route."""
    if not errors.wants_page():
        return refuse(fault, openai.error, Record.of(request.environ))
    if isinstance(fault, Unauthorized) and request.method == "GET":
        there = url_for("session.form", to=request.full_path.removesuffix("?"))
        return redirect(there)  # type: ignore[return-value]  # always flask's Response
    return errors.page(fault)


def local_path(to: str) -> str:
    """Return the address if it is on this site, otherwise "": where a form may redirect to."""
    ours = to.startswith("/") and not to.startswith("//")
    return to if ours and to.isprintable() and "\\" not in to else ""

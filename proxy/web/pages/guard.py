"""One guard before every page and all that pages call: CSRF, then who it is; errors come as a page
to a browser that goes somewhere, as JSON to a script."""

from __future__ import annotations

from collections.abc import Collection

from flask import Blueprint, Response, redirect, request, url_for

from ...core.invalid import Invalid
from ...dialects import openai
from ...errors import BadRequest, GatewayError, Unauthorized
from ..exchange import refuse
from ..observe import Record
from . import csrf, errors, policy, session


def protect(blueprint: Blueprint, open_to_all: Collection[str] = ()) -> Blueprint:
    """Guard this blueprint's routes; `open_to_all` names endpoints, without the blueprint's name,
    that need no sign-in. Templates get `csrf_token()`, `signed_in` (the key's name, "" where none
    is needed, None for nobody) and `sign_in_needed`."""
    open_ones = {f"{blueprint.name}.{name}" for name in open_to_all}

    @blueprint.before_request
    def check() -> None:
        csrf.check()
        if request.endpoint not in open_ones:
            session.require()

    blueprint.after_request(session.keep)
    blueprint.after_request(policy.keep)
    blueprint.register_error_handler(GatewayError, answer)
    blueprint.register_error_handler(Invalid, answer)
    return blueprint


def known() -> dict[str, object]:
    """What every template of a page may use."""
    return {
        "csrf_token": csrf.token,
        "signed_in": session.signed_in(),
        "sign_in_needed": session.sessions().needed,
    }


def answer(fault: GatewayError | Invalid) -> Response:
    """The response for an error on a page's way."""
    if isinstance(fault, Invalid):
        fault = BadRequest(str(fault), param=fault.param)
    if not errors.wanted():
        return refuse(fault, openai.error, Record.of(request.environ))
    if isinstance(fault, Unauthorized) and request.method == "GET":
        there = url_for("session.form", to=request.full_path.removesuffix("?"))
        return redirect(there)  # type: ignore[return-value]  # flask's Response it is
    return errors.page(fault)


def local(to: str) -> str:
    """This address if it is one of ours, "" for any other: where a form may lead on to."""
    ours = to.startswith("/") and not to.startswith("//")
    return to if ours and to.isprintable() and "\\" not in to else ""

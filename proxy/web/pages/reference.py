"""The API reference: /openapi.json in a viewer. It needs no key, as the document needs none."""

from __future__ import annotations

from flask import Response, make_response, render_template, request

from ..services import current_services
from . import chat_models, guard, session

blueprint = guard.guarded("panel_reference", open_to_all=("page",))

# The viewer, RapiDoc, has inline styles. It needs no inline scripts, no eval and no fonts.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)


@blueprint.get("/docs")
def page() -> Response:
    response = make_response(render_template("reference.html", model=_model()))
    response.headers["Content-Security-Policy"] = POLICY
    return response


def _model() -> str:
    """A model for the examples, "" for a reader who has not signed in."""
    if session.signed_in() is None:
        return ""
    session.require()
    return next(iter(chat_models.names(current_services(), request.environ)), "")

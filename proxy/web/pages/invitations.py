"""The page of an invitation: a new person gets a key there, once, without signing in.

Its link has the token behind a #, which browsers do not send: it is in no log and no Referer. The
page sends it when its button is pressed, so a look at the link by another program uses up nothing.
"""

from __future__ import annotations

from flask import Response, make_response, render_template, request

from ...apis.fields import required
from ...apis.litellm.routes import opened
from ...errors import NotFound
from .. import body
from ..observability import Record
from ..services import current_services
from ..spine import json_response
from . import guard

blueprint = guard.guarded("invitation", open_to_all=("page", "accept"))


@blueprint.get("/invitation")
def page() -> Response:
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

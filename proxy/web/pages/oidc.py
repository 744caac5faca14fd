"""Signs in at an OpenID provider. A signed cookie remembers what is needed when the browser
returns: any worker can finish the sign-in, and no other browser. A refused code is a wrong key.
"""

from __future__ import annotations

import hmac
import logging
import math
from typing import TYPE_CHECKING

from flask import Response, make_response, redirect, render_template, request, url_for
from itsdangerous import BadSignature
from msgspec.structs import astuple

from ...errors import GatewayError, NotFound, Unauthorized
from ...oidc import Started, start
from ..observability import Record
from ..services import current_services
from . import guard, session, session_routes, shell

if TYPE_CHECKING:
    from ...oidc.service import SignIn  # imports authlib, an extra

COOKIE = "slotproxy_sign_in"
LASTS = 600  # seconds until the browser must be back

log = logging.getLogger("slotproxy")

blueprint = guard.guarded("oidc", open_to_all=("begin", "finish"))


@blueprint.get("/signin/oidc")
def begin() -> Response:
    """Send the browser to the provider. Raises NotFound, TooManyWrongKeys."""
    sign_in = _opened()
    started = start(guard.local_path(request.args.get("to", "")))
    try:
        current_services().keys.wrong_keys.check(Record.of(request.environ).peer)
        location = sign_in.provider.authorization_url(started, _redirect_uri(sign_in))
        response = make_response(redirect(location, 303))
    except GatewayError as fault:
        return _failed(fault, started.to)
    cookie = session.sessions().signer("sign-in").dumps(astuple(started))
    session.set_cookie(response, COOKIE, cookie, "Lax", LASTS)
    response.headers["Cache-Control"] = "no-store"
    return response


@blueprint.get("/signin/oidc/callback")
def finish() -> Response:
    """Sign in who comes back from the provider. Raises NotFound."""
    sign_in, services = _opened(), current_services()
    record = Record.of(request.environ)
    started, belongs = _started(), False
    try:
        services.keys.wrong_keys.check(record.peer)
        started = _checked(started, sign_in)
        belongs = True
        code = request.args.get("code", "")
        name = sign_in.finish(code, started, _redirect_uri(sign_in))
        services.keys.named(name)
    except GatewayError as fault:
        # Another site can send the browser here, but not with the cookie of a sign-in.
        if belongs and isinstance(fault, Unauthorized):
            services.keys.wrong_keys.count_wrong(record.peer)
        return _failed(fault, started.to if started else "")
    record.key, record.info.outcome = name, "signed_in"
    # Browsers send a strict cookie only to a page that one of ours leads to: a redirect would still
    # belong to the provider's page.
    page = render_template("signed_in.html", to=started.to or shell.home())
    return session.begin(_forget(make_response(page)), name)


def _opened() -> SignIn:
    """Raises NotFound."""
    sign_in = current_services().sign_in
    if sign_in is None:
        raise NotFound("this gateway has no sign-in provider: set [oidc], or sign in by key")
    return sign_in


def _started() -> Started | None:
    try:
        signer = session.sessions().signer("sign-in")
        return Started(*signer.loads(request.cookies.get(COOKIE, ""), max_age=LASTS))
    except (BadSignature, TypeError):
        return None


def _checked(started: Started | None, sign_in: SignIn) -> Started:
    """Raises Unauthorized unless the provider's answer belongs to the sign-in that was begun."""
    state = request.args.get("state", "")
    if started is None or not hmac.compare_digest(state.encode(), started.state.encode()):
        raise Unauthorized("it took too long, or began in another browser: begin it again")
    # RFC 9207: the answer is that of another provider.
    if request.args.get("iss", sign_in.rules.issuer) != sign_in.rules.issuer:
        raise Unauthorized("it ended at another provider: begin it again")
    if error := request.args.get("error", ""):
        raise Unauthorized("the provider refused it", detail=f"error {error[:100]!r}")
    return started


def _failed(fault: GatewayError, to: str) -> Response:
    record = Record.of(request.environ)
    record.info.outcome = fault.code or fault.type
    log.warning("a sign-in failed: %s %s", fault.message, fault.detail)
    page = session_routes.page(to, failed=fault.message)
    response = _forget(make_response(page, fault.status))
    if fault.retry_after:
        response.headers["Retry-After"] = str(math.ceil(fault.retry_after))
    return response


def _forget(response: Response) -> Response:
    session.set_cookie(response, COOKIE, "", "Lax", 0)
    return response


def _redirect_uri(sign_in: SignIn) -> str:
    """Where the provider sends the browser, which knows this address too."""
    scheme = "https" if session.is_https() else "http"
    return sign_in.rules.redirect_url or f"{scheme}://{request.host}{url_for('oidc.finish')}"

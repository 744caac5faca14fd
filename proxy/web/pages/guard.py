"""Guards all page routes: CSRF check, then sign-in. Errors are HTML for browsers, else JSON."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping
from typing import cast

from flask import Blueprint, Response, g, make_response, redirect, render_template, request, url_for

from ...apis.openai import answer as openai
from ...errors import Forbidden, GatewayError, Unauthorized
from .. import body
from ..form import plain_fields
from ..observability import Record
from ..routes import Api
from ..services import current_services
from ..spine import refuse
from . import session, texts

# Security headers of every page: nothing from other origins, nothing inline, no frames.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)


def add_security_headers(response: Response) -> Response:
    """Add the headers to a page without its own. Neither it nor data of it stay in the browser."""
    if response.mimetype == "text/html":
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("Referrer-Policy", "same-origin")
    if response.mimetype in ("text/html", "application/json"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def wants_page() -> bool:
    """Whether the current request is a browser's navigation to a page, and pages are enabled."""
    accepted = request.accept_mimetypes
    return (
        current_services().settings.pages
        and accepted.best_match(("application/json", "text/html")) == "text/html"
    )


def error_page(fault: GatewayError) -> Response:
    status = fault.status
    key = f"errors.status.{status}"
    if not texts.known(f"{key}.title"):  # the texts of its class
        key = f"errors.status.{400 if status < 500 else 500}"
    text = render_template("error.html", key=key, status=status, detail=fault.message)
    response = make_response(text, status)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(fault.retry_after)))
    return session.keep(add_security_headers(response))


# Forms and page scripts send a token, a digest of the visitor's cookie that no other site knows.
# It is needed even without API keys: any page can post to an address of the local machine. Forms of
# signing in and out are read before the sender is known, so their size is limited.
MAX_BYTES = 16 << 10
MAX_FIELDS = 16


def fields() -> Mapping[str, str]:
    """Return the form fields of the current request, read once."""
    if "fields" not in g:
        data = body.read(request.environ, MAX_BYTES)
        g.fields = plain_fields(data, MAX_FIELDS) if request.mimetype == body.FORM else {}
    return cast(Mapping[str, str], g.fields)


FIELD = "csrf_token"
HEADER = "X-CSRF-Token"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FORMS = frozenset({"session.sign_in", "session.sign_out"})  # sent without a script


def token() -> str:
    """Return the token for a hidden form field, or for the header that page scripts send."""
    return _of(session.visit())


def check_token() -> None:
    """Raises Forbidden for a change without the token. A valid key in a header replaces it."""
    if request.method in SAFE or session.has_key():
        return
    cookie = request.cookies.get(session.VISIT, "")
    shown = request.headers.get(HEADER, "")
    if not shown and request.endpoint in FORMS:
        shown = fields().get(FIELD, "")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("the request came from another site", code="csrf")
    if not cookie or not hmac.compare_digest(shown.encode(), _of(cookie).encode()):
        raise Forbidden("the page has expired, or the request came from another site", code="csrf")


def _of(cookie: str) -> str:
    return hmac.new(cookie.encode(), b"csrf", hashlib.sha256).hexdigest()


def guarded(name: str, open_to_all: Collection[str] = (), group: str = "pages") -> Api:
    """The routes of a page. `open_to_all` names endpoints that need no sign-in."""
    blueprint = Api(name, __name__, group=group, ledger="pages")
    protect(blueprint, open_to_all)
    return blueprint


def protect(blueprint: Blueprint, open_to_all: Collection[str] = ()) -> None:
    open_ones = {f"{blueprint.name}.{name}" for name in open_to_all}

    @blueprint.before_request
    def check() -> None:
        check_token()
        if request.endpoint not in open_ones:
            session.require()

    blueprint.after_request(session.keep)
    blueprint.after_request(add_security_headers)
    blueprint.register_error_handler(GatewayError, answer)


def answered(page: Callable[[], Response]) -> Response:
    """A page at the address of an API's route, whose blueprint has no guard."""
    try:
        session.require()
        return session.keep(add_security_headers(page()))
    except GatewayError as fault:
        return answer(fault)


def answer(fault: GatewayError) -> Response:
    if not wants_page():
        return refuse(fault, openai.error, Record.of(request.environ))
    if isinstance(fault, Unauthorized) and request.method == "GET":
        location = url_for("session.form", to=request.full_path.removesuffix("?"))
        return redirect(location)  # type: ignore[return-value]  # always flask's Response
    return error_page(fault)


def local_path(to: str) -> str:
    """Return the address if it is on this site, otherwise "": where a form may redirect to."""
    ours = to.startswith("/") and not to.startswith("//")
    return to if ours and to.isprintable() and "\\" not in to else ""

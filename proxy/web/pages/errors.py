"""Error pages for browsers. API clients (`Accept: application/json` or `*/*`) get the error object
of their dialect."""

from __future__ import annotations

from flask import Response, make_response, render_template, request

from ...errors import GatewayError
from ..services import current_services
from . import session, texts

# Security headers of every page: nothing from other origins, nothing inline, no frames.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


def add_security_headers(response: Response) -> Response:
    """Add the headers to a page. Neither it nor data of it stay in the browser."""
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Referrer-Policy"] = "same-origin"
    if response.mimetype in ("text/html", "application/json"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response


def text_key(status: int) -> str:
    """Return the key of the texts for a status, or for its class if it has none of its own."""
    key = f"errors.status.{status}"
    return key if texts.known(f"{key}.title") else f"errors.status.{400 if status < 500 else 500}"


def wants_page() -> bool:
    """Whether the current request is a browser's navigation to a page, and pages are enabled."""
    accepted = request.accept_mimetypes
    return (
        current_services().settings.pages
        and accepted.best_match(("application/json", "text/html")) == "text/html"
    )


def page(fault: GatewayError) -> Response:
    """Return the page of an error."""
    key, status = text_key(fault.status), fault.status
    text = render_template("error.html", key=key, status=status, detail=fault.message)
    response = make_response(text, fault.status)
    if fault.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(fault.retry_after)))
    return session.keep(add_security_headers(response))

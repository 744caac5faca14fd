"""That a request which changes something was meant: forms and pages show a token that no other site
can know.

The token is a digest of the visitor's cookie. It matters without keys too: any page a browser shows
may post to an address of the local machine.
"""

from __future__ import annotations

import hashlib
import hmac

from flask import request

from ...errors import Forbidden
from . import session
from .fields import fields

FIELD = "csrf_token"
HEADER = "X-CSRF-Token"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FORMS = frozenset({"session.sign_in", "session.sign_out"})  # sent without a script


def token() -> str:
    """For a hidden field of a form, and for the header of what a page's script sends."""
    return _of(session.visit())


def check() -> None:
    """Raises Forbidden for a request that changes something and does not show the token; for a form
    that is no form, or too large, what `fields` raises. A right key in a header is as good: another
    site cannot make a browser send one."""
    if request.method in SAFE or session.has_key():
        return
    cookie = request.cookies.get(session.VISIT, "")
    shown = request.headers.get(HEADER, "")
    if not shown and request.endpoint in FORMS:
        shown = fields().get(FIELD, "")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("this came from another site", code="csrf")
    if not cookie or not hmac.compare_digest(shown.encode(), _of(cookie).encode()):
        raise Forbidden("the page is too old, or this came from another site", code="csrf")


def _of(cookie: str) -> str:
    return hmac.new(cookie.encode(), b"csrf", hashlib.sha256).hexdigest()

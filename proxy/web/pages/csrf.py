"""CSRF protection: forms and page scripts send a token that no other site can know.

The token is a digest of the visitor's cookie. It is needed even without API keys: any page in a
browser can post to an address of the local machine.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from flask import g, request

from ...errors import Forbidden
from .. import body
from ..form import plain_fields
from . import session

# Reads the forms of signing in and out, which anybody may send.
#
# They are read before the sender is known, so their size is limited. Other requests of pages
# (JSON, files) are not read here.
# Bytes; a key and an address need some hundreds.
MAX_BYTES = 16 << 10
MAX_FIELDS = 16


def fields() -> Mapping[str, str]:
    """Return the form fields of the current request, read once. Raises BodyTooLarge or
    BadRequest."""
    if "fields" not in g:
        data = body.read(request.environ, MAX_BYTES)
        g.fields = plain_fields(data, MAX_FIELDS) if request.mimetype == body.FORM else {}
    known: Mapping[str, str] = g.fields
    return known


FIELD = "csrf_token"
HEADER = "X-CSRF-Token"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
FORMS = frozenset({"session.sign_in", "session.sign_out"})  # sent without a script


def token() -> str:
    """Return the token for a hidden form field, or for the header that page scripts send."""
    return _of(session.visit())


def check() -> None:
    """Raises Forbidden for a request that changes something without the token, and what `fields`
    raises for an invalid form. A valid key in a header replaces the token: another site cannot make
    a browser send one."""
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

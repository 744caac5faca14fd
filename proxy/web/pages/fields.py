"""Reads the forms of signing in and out, which anybody may send.

They are read before the sender is known, so their size is limited. Other requests of pages (JSON,
files) are not read here.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import g, request

from .. import body
from ..form import plain_fields

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

"""Reads the forms of signing in and out, which anybody may send.

They are read before the sender is known, so their size is limited. Other requests of pages (JSON,
files) are not read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from flask import g, request

from ...errors import BadRequest
from .. import body

# Bytes; a key and an address need some hundreds.
MAX_BYTES = 16 << 10
MAX_FIELDS = 16


def fields() -> Mapping[str, str]:
    """Return the form fields of the current request, read once. Raises BodyTooLarge or
    BadRequest."""
    if "fields" not in g:
        g.fields = _read()
    known: Mapping[str, str] = g.fields
    return known


def _read() -> Mapping[str, str]:
    data = body.read(request.environ, MAX_BYTES)
    if request.mimetype != body.FORM:
        return {}
    try:
        parsed = parse_qs(data.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:  # or UnicodeDecodeError
        raise BadRequest("the form is malformed") from None
    return {name: values[0] for name, values in parsed.items()}

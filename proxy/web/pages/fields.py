"""The fields of a form that anybody may send: of signing in and out, and of no other page.

They are read before it is known who sends them, so they are few and small. What scripts send
(JSON, files) is not looked into here.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qs

from flask import g, request

from ...errors import BadRequest
from .. import body

# Bytes. A key and an address in it have some hundreds.
MAX_BYTES = 16 << 10
MAX_FIELDS = 16


def fields() -> Mapping[str, str]:
    """Those of the current request's form, read once. Raises BodyTooLarge, BadRequest."""
    if "fields" not in g:
        g.fields = _read()
    known: Mapping[str, str] = g.fields
    return known


def _read() -> Mapping[str, str]:
    data = body.read(request.environ, MAX_BYTES)
    if request.mimetype != body.FORM:
        return {}
    try:
        found = parse_qs(data.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:  # UnicodeDecodeError is one
        raise BadRequest("the form is not understood") from None
    return {name: values[0] for name, values in found.items()}

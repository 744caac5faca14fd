"""llama.cpp's POST /slots/{id}, which saves, restores or erases a slot.

The source is the README of its server.
"""

from __future__ import annotations

import re

from ..errors import InvalidParameter
from .fields import Body, text

FILENAME = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"


def parse_filename(body: Body) -> str:
    """The file that a slot is saved to or restored from. Raises InvalidParameter."""
    name = text(body, "filename")
    if not re.fullmatch(FILENAME, name):
        raise InvalidParameter("filename", "must be a plain file name")
    return name

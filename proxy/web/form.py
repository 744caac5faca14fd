"""Reading an uploaded form: its fields and its files, bounded.

A file's name is what the client says, a text like any other: it is never a path here. Nothing is
written to a disk on the way; what is too large is refused before it is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import NamedTuple

from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from ..errors import BadRequest, BodyTooLarge
from .body import Environ

MAX_PARTS = 1000
MAX_NAME = 255


class File(NamedTuple):
    """`field` is the form's name for it."""

    field: str
    name: str
    data: bytes


class Form(NamedTuple):
    fields: Mapping[str, str]
    files: tuple[File, ...]


def read_form(environ: Environ, limit: int) -> Form:
    """A request's form, of `limit` bytes at most, files included. Raises BadRequest,
    BodyTooLarge."""
    parser = FormDataParser(
        stream_factory=lambda *_, **__: BytesIO(),
        max_form_memory_size=limit,
        max_content_length=limit,
        max_form_parts=MAX_PARTS,
    )
    try:
        _, fields, found = parser.parse_from_environ(dict(environ))
        files = [
            File(field, _name(one.filename), one.stream.read())
            for field, many in found.lists()
            for one in many
        ]
    except RequestEntityTooLarge:
        raise BodyTooLarge(f"the form is longer than {limit} bytes") from None
    except HTTPException as error:
        raise BadRequest(error.description or "the form is not understood") from None
    return Form(fields.to_dict(), tuple(files))


def _name(value: str | None) -> str:
    """Raises BadRequest."""
    name = (value or "").strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise BadRequest(f"a file needs a name of up to {MAX_NAME} printable characters")
    return name

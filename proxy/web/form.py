"""Reading an uploaded form: its fields and its files, bounded.

A file's name is what the client says, a text like any other: it is never a path here. Its bytes go
to a file without a name as they come, so they are never all in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import SEEK_END
from typing import IO, NamedTuple

from werkzeug.exceptions import HTTPException, RequestEntityTooLarge
from werkzeug.formparser import FormDataParser

from ..errors import BadRequest, BodyTooLarge
from .body import Environ, Reading, Unnamed, hang_up

MAX_PARTS = 1000
MAX_NAME = 255
_WHOLE = "it was read whole"
NOT_UNDERSTOOD = "the form is broken: multipart/form-data with its boundary was expected"
FRAME = 1 << 20  # bytes of a form beside its files' and its long fields'


class File(NamedTuple):
    """`field` is the form's name for it; `data` is read from its beginning."""

    field: str
    name: str
    data: IO[bytes]


class Form(NamedTuple):
    """To be used in a `with`, whose end closes the files."""

    fields: Mapping[str, str]
    files: tuple[File, ...]

    def __enter__(self) -> Form:
        return self

    def __exit__(self, *error: object) -> None:
        for one in self.files:
            one.data.close()


def read_form(environ: Environ, documents: int, fields: int) -> Form:
    """A request's form: its files have `documents` bytes at most, all together, its fields `fields`
    bytes. Raises BadRequest, BodyTooLarge."""
    opened: list[IO[bytes]] = []

    def place(*_: object, **__: object) -> IO[bytes]:
        opened.append(Unnamed())
        return opened[-1]

    parser = FormDataParser(
        stream_factory=place,
        max_form_memory_size=max(fields, FRAME),  # it counts what it has read of files, too
        max_content_length=max(documents, fields) + FRAME,
        max_form_parts=MAX_PARTS,
        silent=False,  # or a broken form is an empty one, and its files stay open
    )
    try:
        _, found, sent = parser.parse_from_environ({**environ, "wsgi.input": Reading(environ)})
        files = tuple(
            File(field, _name(one.filename), one.stream)
            for field, many in sent.lists()
            for one in many
        )
        told = sum(len(value) for many in found.listvalues() for value in many)
        if told > fields or sum(_size(one.data) for one in files) > documents:
            raise RequestEntityTooLarge(_WHOLE)
    except Exception as error:
        for one in opened:
            one.close()
        if isinstance(error, RequestEntityTooLarge):
            if error.description != _WHOLE:
                hang_up(environ)
            bounds = f"{documents} bytes of files, and {fields} of other fields"
            raise BodyTooLarge(f"a form may have {bounds}") from None
        if isinstance(error, HTTPException):
            raise BadRequest(error.description or NOT_UNDERSTOOD) from None
        if isinstance(error, ValueError):
            raise BadRequest(NOT_UNDERSTOOD) from None
        raise
    return Form(found.to_dict(), files)


def _size(file: IO[bytes]) -> int:
    size = file.seek(0, SEEK_END)
    file.seek(0)
    return size


def _name(value: str | None) -> str:
    """Raises BadRequest."""
    name = (value or "").strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise BadRequest(f"a file needs a name of up to {MAX_NAME} printable characters")
    return name

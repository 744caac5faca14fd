"""Parses uploaded forms into fields and temporary files, with size limits.

File names are plain text, never paths. Contents go to unnamed temporary files as they arrive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, NamedTuple
from urllib.parse import parse_qs

from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, MultipartDecoder, NeedData
from werkzeug.sansio.multipart import Field as MultipartField
from werkzeug.sansio.multipart import File as MultipartFile

from ..errors import BadRequest, BodyTooLarge
from .body import FORM, Environ, Unnamed, hang_up, pieces, read

MAX_PARTS = 1000
MAX_NAME = 255
NOT_UNDERSTOOD = "malformed form: expected multipart/form-data with a boundary"
MAX_HEAD = 64 << 10  # bytes of the headers of one part
FRAME = 1 << 20  # bytes of a form in addition to its files and fields
MAX_PLAIN = 256 << 10  # bytes of a form without files
PIECE = 64 << 10
_parser = MultiPartParser()


class UploadedPart(NamedTuple):
    """An uploaded file: the name of its field, the client's media type, and its content."""

    field: str
    name: str
    data: IO[bytes]
    kind: str = ""


class MultipartForm(NamedTuple):
    """A parsed form. `values` are all fields in their order, `fields` the first of each name. Use
    it in a `with` statement, which closes the files."""

    values: Sequence[tuple[str, str]]
    files: tuple[UploadedPart, ...]

    @property
    def fields(self) -> Mapping[str, str]:
        return dict(reversed(self.values))

    def __enter__(self) -> MultipartForm:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self.files:
            file.data.close()


def read_form(environ: Environ, documents: int, fields: int) -> MultipartForm:
    """Parse the form of a request, with at most `documents` bytes of files and `fields` bytes of
    fields; empty for another content type. Raises BadRequest or BodyTooLarge."""
    kind, options = parse_options_header(environ.get("CONTENT_TYPE", ""))
    if kind.lower() == FORM:
        return MultipartForm([*plain_fields(read(environ, MAX_PLAIN), MAX_PARTS).items()], ())
    if kind.lower() != "multipart/form-data":
        return MultipartForm([], ())
    boundary = options.get("boundary", "").encode("ascii", "replace")
    if not boundary:
        raise BadRequest(NOT_UNDERSTOOD)
    reading = _Reading(boundary, documents, fields)
    try:
        for data in pieces(environ, documents + fields + FRAME, PIECE):
            reading.feed(data)
        reading.feed(None)
    except BaseException as error:
        reading.close()
        if isinstance(error, BodyTooLarge):
            hang_up(environ)
        if isinstance(error, ValueError):
            raise BadRequest(NOT_UNDERSTOOD) from None
        raise
    return MultipartForm(reading.values, tuple(reading.files))


def plain_fields(data: bytes, most: int) -> dict[str, str]:
    """The fields of a form without files. Raises BadRequest if it has more than `most`."""
    try:
        fields = parse_qs(data.decode(), keep_blank_values=True, max_num_fields=most)
    except ValueError:  # or UnicodeDecodeError
        raise BadRequest("the form is malformed") from None
    return {name: values[0] for name, values in fields.items()}


class _Reading:
    """Parses a form incrementally. `feed` raises BodyTooLarge, BadRequest or ValueError."""

    def __init__(self, boundary: bytes, documents: int, fields: int) -> None:
        self.values: list[tuple[str, str]] = []
        self.files: list[UploadedPart] = []
        self._decoder = MultipartDecoder(boundary)
        self._documents, self._fields = documents, fields
        self._too_large = (
            f"a form may contain at most {documents} bytes of files and {fields} bytes of other"
            " fields"
        )
        self._frame = FRAME
        self._parts = 0
        self._part: MultipartField | MultipartFile
        self._value: list[bytes] = []

    def feed(self, data: bytes | None) -> None:
        """Parse the next bytes; None is the end of the body."""
        self._frame -= len(data or b"")
        self._decoder.receive_data(data)
        while not isinstance(event := self._decoder.next_event(), NeedData | Epilogue):
            if isinstance(event, Data):
                self._take(event)
            elif isinstance(event, MultipartField | MultipartFile):
                self._begin(event)
        waiting = len(self._decoder.buffer)
        if self._frame + waiting < 0 or waiting > MAX_HEAD + PIECE:
            raise BodyTooLarge("the headers of a form part are too long")

    def close(self) -> None:
        for file in self.files:
            file.data.close()

    def _begin(self, part: MultipartField | MultipartFile) -> None:
        if not isinstance(part.name, str):
            raise ValueError("a form part has no name")
        self._part = part
        self._value = []
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BodyTooLarge(f"a form may have at most {MAX_PARTS} parts")
        if isinstance(part, MultipartFile):
            name, kind = _name(part.filename), part.headers.get("Content-Type", "")
            self.files.append(UploadedPart(part.name, name, Unnamed(), kind))

    def _take(self, event: Data) -> None:
        size = len(event.data)
        self._frame += size
        if isinstance(self._part, MultipartFile):
            self._documents -= size
            if self._documents < 0:
                raise BodyTooLarge(self._too_large)
            file = self.files[-1].data
            file.write(event.data)
            if not event.more_data:
                file.seek(0)
            return
        self._fields -= size
        if self._fields < 0:
            raise BodyTooLarge(self._too_large)
        self._value.append(event.data)
        if not event.more_data:
            charset = _parser.get_part_charset(self._part.headers)
            text = b"".join(self._value).decode(charset, "replace")
            self.values.append((self._part.name, text))


def _name(value: str | None) -> str:
    """Raises BadRequest."""
    name = (value or "").strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise BadRequest(f"a file name must be 1 to {MAX_NAME} printable characters long")
    return name

"""Reading an uploaded form: its fields and its files, bounded.

A file's name is what the client says, a text like any other: it is never a path here. Its bytes go
to a file without a name as they come, so they are never all in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, NamedTuple
from urllib.parse import parse_qs

from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, MultipartDecoder, NeedData
from werkzeug.sansio.multipart import Field as MultipartField
from werkzeug.sansio.multipart import File as MultipartFile

from ..errors import BadRequest, BodyTooLarge
from .body import FORM, Environ, Reading, Unnamed, hang_up, read

MAX_PARTS = 1000
MAX_NAME = 255
NOT_UNDERSTOOD = "the form is broken: multipart/form-data with its boundary was expected"
MAX_HEAD = 64 << 10  # bytes of the headers of one part
FRAME = 1 << 20  # bytes of a form beside its files' and its fields'
MAX_PLAIN = 256 << 10  # bytes of a form without files
PIECE = 64 << 10
_parser = MultiPartParser()


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
    bytes. A body of another type has nothing in it. Raises BadRequest, BodyTooLarge."""
    kind, options = parse_options_header(environ.get("CONTENT_TYPE", ""))
    if kind.lower() == FORM:
        return Form(_plain(environ), ())
    if kind.lower() != "multipart/form-data":
        return Form({}, ())
    boundary = options.get("boundary", "").encode("ascii", "replace")
    if not boundary:
        raise BadRequest(NOT_UNDERSTOOD)
    most = documents + fields + FRAME
    said = environ.get("CONTENT_LENGTH")
    left = int(said) if said else most + 1 if environ.get("wsgi.input_terminated") else 0
    reading = _Reading(boundary, documents, fields)
    stream = Reading(environ)
    try:
        if said and left > most:
            raise _TooMuch
        while left > 0 and (data := stream.read(min(left, PIECE))):
            left -= len(data)
            reading.feed(data)
        if said and left > 0:
            raise BadRequest("the body broke off")
        reading.feed(None)
    except _TooMuch as error:
        reading.close()
        hang_up(environ)
        bounds = f"a form may have {documents} bytes of files, and {fields} of other fields"
        raise BodyTooLarge(str(error) or bounds) from None
    except BaseException as error:
        reading.close()
        if isinstance(error, ValueError):
            raise BadRequest(NOT_UNDERSTOOD) from None
        raise
    return Form(reading.fields, tuple(reading.files))


def _plain(environ: Environ) -> dict[str, str]:
    """The fields of a form without files. Raises BadRequest, BodyTooLarge."""
    try:
        text = read(environ, MAX_PLAIN).decode()
        found = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_PARTS)
    except ValueError:  # UnicodeDecodeError is one
        raise BadRequest("the form is not understood") from None
    return {name: values[0] for name, values in found.items()}


class _TooMuch(Exception):
    pass


class _Reading:
    """A form as it comes in. `feed` raises _TooMuch, BadRequest (a file's name) and ValueError
    (it is no form)."""

    def __init__(self, boundary: bytes, documents: int, fields: int) -> None:
        self.fields: dict[str, str] = {}
        self.files: list[File] = []
        self._decoder = MultipartDecoder(boundary)
        self._documents, self._fields = documents, fields
        self._frame = FRAME
        self._parts = 0
        self._part: MultipartField | MultipartFile
        self._value: list[bytes] = []

    def feed(self, data: bytes | None) -> None:
        """The next bytes, None at the end."""
        self._frame -= len(data or b"")
        self._decoder.receive_data(data)
        while not isinstance(event := self._decoder.next_event(), NeedData | Epilogue):
            if isinstance(event, Data):
                self._take(event)
            elif isinstance(event, MultipartField | MultipartFile):
                self._begin(event)
        waiting = len(self._decoder.buffer)
        if self._frame + waiting < 0 or waiting > MAX_HEAD + PIECE:
            raise _TooMuch("a form's headers are too long")

    def close(self) -> None:
        for one in self.files:
            one.data.close()

    def _begin(self, part: MultipartField | MultipartFile) -> None:
        if not isinstance(part.name, str):
            raise ValueError("a part without a name")
        self._part = part
        self._value = []
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _TooMuch(f"a form may have {MAX_PARTS} parts")
        if isinstance(part, MultipartFile):
            self.files.append(File(part.name, _name(part.filename), Unnamed()))

    def _take(self, event: Data) -> None:
        size = len(event.data)
        self._frame += size
        if isinstance(self._part, MultipartFile):
            self._documents -= size
            if self._documents < 0:
                raise _TooMuch
            file = self.files[-1].data
            file.write(event.data)
            if not event.more_data:
                file.seek(0)
            return
        self._fields -= size
        if self._fields < 0:
            raise _TooMuch
        self._value.append(event.data)
        if not event.more_data:
            charset = _parser.get_part_charset(self._part.headers)
            text = b"".join(self._value).decode(charset, "replace")
            self.fields.setdefault(self._part.name, text)


def _name(value: str | None) -> str:
    """Raises BadRequest."""
    name = (value or "").strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise BadRequest(f"a file needs a name of up to {MAX_NAME} printable characters")
    return name

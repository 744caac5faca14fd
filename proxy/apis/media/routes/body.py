"""Bodies of requests that are forwarded: read within bounds, and written again with the name that
the server has for the model.

A form is written anew rather than passed on, so the model that is read here is the one that the
server reads, whatever else the client's form contains.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Protocol

import msgspec

from ....core.task import CallBody
from ....errors import BadRequest
from ....web.body import PIECE, Environ, read_json, spooled
from ....web.form import MultipartForm, read_form
from ....web.observability import new_id
from ....web.services import Services
from ...fields import model_name

MULTIPART = "multipart/form-data"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9.+-]{1,100}/[A-Za-z0-9.+-]{1,100}")
_encode = msgspec.json.Encoder().encode


class Body(Protocol):
    """A body that was read. `model` is the model that it names, "" if it names none."""

    @property
    def model(self) -> str: ...

    @property
    def content_type(self) -> str: ...

    def named(self, model: str) -> CallBody:
        """The body to send. `model` replaces the name of the model unless it is empty."""


@contextlib.contextmanager
def read_body(services: Services, environ: Environ) -> Iterator[JSONBody | FormBody]:
    """The form or JSON object of a request, until the end of the block. Raises BadRequest,
    BodyTooLarge."""
    settings = services.settings
    if not environ.get("CONTENT_TYPE", "").lower().startswith(MULTIPART):
        yield JSONBody(read_json(environ, settings.max_body))
        return
    with read_form(environ, settings.max_document, settings.max_body) as form:
        yield FormBody(form)


@contextlib.contextmanager
def read_raw(environ: Environ, limit: int) -> Iterator[CallBody | None]:
    """The body of a request as it is, None if there is none, until the end of the block. Raises
    BodyTooLarge."""
    with spooled(environ, limit) as file:
        size = file.seek(0, os.SEEK_END)
        yield CallBody(size, _Parts([file])) if size else None


class JSONBody:
    content_type = "application/json"

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.model = model_name(fields)

    def named(self, model: str) -> CallBody:
        data = _encode({**self.fields, "model": model} if model else self.fields)
        return CallBody(len(data), (data,))


class FormBody:
    def __init__(self, form: MultipartForm) -> None:
        self._form = form
        self._boundary = new_id()
        self.content_type = f"{MULTIPART}; boundary={self._boundary}"
        self.model = model_name(form.fields)

    def named(self, model: str) -> CallBody:
        values = [(name, value) for name, value in self._form.values if name != "model"]
        if chosen := model or self.model:
            values.append(("model", chosen))
        parts: list[bytes | IO[bytes]] = []
        size = 0
        for name, value in values:
            data = self._head(name) + value.encode("utf-8", "replace") + b"\r\n"
            parts.append(data)
            size += len(data)
        for file in self._form.files:
            if file.field == "model":
                raise BadRequest("the form part model must be a text, not a file", param="model")
            kind = file.kind if _MEDIA_TYPE.fullmatch(file.kind) else "application/octet-stream"
            head = self._head(file.field, f'; filename="{_quoted(file.name)}"', kind)
            parts += [head, file.data, b"\r\n"]
            size += len(head) + file.data.seek(0, os.SEEK_END) + 2
        end = f"--{self._boundary}--\r\n".encode()
        return CallBody(size + len(end), _Parts([*parts, end]))

    def _head(self, name: str, more: str = "", kind: str = "") -> bytes:
        lines = [
            f"--{self._boundary}",
            f'Content-Disposition: form-data; name="{_quoted(name)}"{more}',
            *([f"Content-Type: {kind}"] if kind else []),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "replace")


def _quoted(name: str) -> str:
    """A name within quotes, as browsers write it. Raises BadRequest."""
    if not name.isprintable() or "\\" in name:
        raise BadRequest(
            "the name of a form part or file contains a control character or a backslash: rename it"
        )
    return name.replace('"', "%22")


class _Parts:
    """Bytes and files one after the other, from their beginnings each time."""

    def __init__(self, parts: Sequence[bytes | IO[bytes]]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            part.seek(0)
            while data := part.read(PIECE):
                yield data


def sent_headers(environ: Mapping[str, Any]) -> dict[str, str]:
    """The client's headers that a server may see: what it accepts and asks for. Never keys,
    cookies, or those of the connection."""
    named = {name: environ.get(f"HTTP_{name.upper().replace('-', '_')}") for name in _SENT}
    return {name: text for name, text in named.items() if text and _SAFE.fullmatch(text)}


_SENT = ("Accept", "Accept-Language", "If-Modified-Since", "If-None-Match", "Range", "User-Agent")
_SAFE = re.compile(r"[\x20-\x7e]{1,1000}")

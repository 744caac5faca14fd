"""Answers that are sent as they stand.

werkzeug's Response looks each header over when it is set, copies all of them when it is sent, and
wraps the body in two more iterators; for a short answer that costs as much as routing it. These
headers are made by us and the body is bytes, so nothing is left to correct. The direct way sends a
`Plain`, which is no more than that; for hooks (CORS) and Flask a `Reply` is made of it, an ordinary
Response.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flask import Response
from msgspec import Struct
from werkzeug.datastructures import Headers
from werkzeug.http import HTTP_STATUS_CODES

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Plain(Struct):
    """`body` is bytes, or an iterable of bytes; its close(), if it has one, the server
    calls. `headers` tell neither type nor length."""

    body: bytes | Iterable[bytes]
    content_type: str
    headers: list[tuple[str, str]]
    status: int = 200

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        parts = _parts(self.body, self.content_type, self.headers)
        start_response("200 OK" if self.status == 200 else _line(self.status), self.headers)
        return parts

    def reply(self) -> Reply:
        return Reply(self.body, self.content_type, self.headers, self.status)


def _line(status: int) -> str:
    """As werkzeug writes it."""
    return f"{status} {HTTP_STATUS_CODES.get(status, 'Unknown').upper()}"


class _Sound(Headers):
    """Headers that need no looking over: a list of pairs."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._list = pairs


class Reply(Response):
    """As `Plain`, of any status."""

    def __init__(
        self,
        body: bytes | Iterable[bytes],
        content_type: str,
        headers: list[tuple[str, str]],
        status: int = 200,
    ) -> None:
        parts = _parts(body, content_type, headers)
        super().__init__(None, status, _Sound(headers), direct_passthrough=True)
        self.response = parts

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(self.status, list(self.headers))
        body: Iterable[bytes] = self.response  # type: ignore[assignment]  # never str
        return body


def _parts(
    body: bytes | Iterable[bytes], content_type: str, headers: list[tuple[str, str]]
) -> Iterable[bytes]:
    """What is iterated over; the headers tell the type, and the length where it is known."""
    headers.append(("Content-Type", content_type))
    if not isinstance(body, bytes):
        return body
    headers.append(("Content-Length", str(len(body))))
    return (body,)

"""Reading a request's body: bounded, and JSON that can be trusted to be plain data."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, MutableMapping
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any

import msgspec

from ..errors import BadRequest, BodyTooLarge
from .large import check_cost

Environ = MutableMapping[str, Any]
PIECE = 256 << 10  # bytes
# Bytes that Flask itself reads of a body. Nothing here lets it: it is a net for what forgets to use
# `read`, `spooled` or `read_form`, which have bounds of their own.
NET = 64 << 10
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


class WrongType(BadRequest):
    status = 415
    code = "unsupported_media_type"


class BodyLate(BadRequest):
    status = 408
    code = "request_timeout"


def _not_whole(environ: Environ, error: Exception) -> BadRequest:
    """What a body is answered with that did not come whole: `error` is what reading it raised, of
    its own kind in every server."""
    hang_up(environ)
    late = (TimeoutError, BlockingIOError)  # the second where the system counts the time
    if isinstance(error, late):
        return BodyLate("the body came too slowly")
    return BadRequest("the body broke off")


_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def read(environ: Environ, limit: int) -> bytes:
    """The whole body. One that says it is larger than `limit` bytes is refused unread, one that
    does not say is read no further. Raises BodyTooLarge, BodyLate, BadRequest."""
    raw = environ.get("CONTENT_LENGTH")
    if raw:
        try:
            length = int(raw)
        except ValueError:
            raise BadRequest("Content-Length is no number") from None
        if length > limit:
            hang_up(environ)
            raise BodyTooLarge(f"the body has {length} bytes, {limit} are allowed")
        data = _take(environ, length)
        if len(data) < length:
            raise BadRequest("the body broke off")
        return data
    if not environ.get("wsgi.input_terminated"):
        return b""
    data = _take(environ, limit + 1)
    if len(data) > limit:
        hang_up(environ)
        raise BodyTooLarge(f"the body is longer than {limit} bytes")
    return data


def _take(environ: Environ, size: int) -> bytes:
    stream = environ["wsgi.input"]
    if type(stream) is BytesIO:  # all of it is here already
        return stream.read(size)
    try:
        return stream.read(size)  # type: ignore[no-any-return]
    except Exception as error:
        raise _not_whole(environ, error) from None


def spooled(environ: Environ, limit: int) -> IO[bytes]:
    """As `read`, for what is not to be in memory whole."""
    said = environ.get("CONTENT_LENGTH")
    if said and (not said.isdigit() or int(said) > limit):
        read(environ, limit)  # raises
    length = int(said) if said else limit + 1 if environ.get("wsgi.input_terminated") else 0
    file = Unnamed()
    left = length
    try:
        while left > 0 and (data := _take(environ, min(left, PIECE))):
            left -= file.write(data)
        if said and left > 0:
            raise BadRequest("the body broke off")
        if not said and file.tell() > limit:
            hang_up(environ)
            raise BodyTooLarge(f"the body is longer than {limit} bytes")
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


class Reading:
    """The body as a file, for who wants one. Raises BodyLate, BadRequest."""

    def __init__(self, environ: Environ) -> None:
        self._environ = environ

    def read(self, size: int = -1) -> bytes:
        return _take(self._environ, size)


class Unnamed(SpooledTemporaryFile[bytes]):
    """A file without a name, on a disk only where it is large. While one is written, others get
    their turn: a fast client's bytes are always there, so that to wait for them is no pause."""

    def __init__(self) -> None:
        super().__init__(max_size=PIECE)

    def write(self, data: Any) -> int:
        time.sleep(0)
        return super().write(data)


def hang_up(environ: Environ) -> None:
    """Take no more of what the client is still sending: the server would read it all otherwise,
    to find the next request."""
    is_last = environ.get("slotproxy.is_last")
    if is_last is not None:
        is_last()
    sock = environ.get("gunicorn.socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(0)  # SHUT_RD


def read_json(environ: Environ, limit: int) -> dict[str, Any]:
    """The body as a JSON object. Raises BadRequest, WrongType, BodyTooLarge."""
    value = read_value(environ, limit)
    if not isinstance(value, dict):
        raise BadRequest("the body must be a JSON object")
    return value


def read_value(environ: Environ, limit: int, empty: Any = None) -> Any:
    """The body as any JSON value; `empty` is that of a body without a byte, None forbids it.
    Raises BadRequest, WrongType, BodyTooLarge."""
    kind = environ.get("CONTENT_TYPE", "")
    if kind != JSON:
        kind = kind.partition(";")[0].strip().lower()
    told = kind == JSON or kind.endswith("+json")
    if not told and kind not in ("", FORM):
        raise WrongType("the content type must be application/json")
    data = read(environ, limit)
    if not data:
        if empty is not None:
            return empty
        raise BadRequest("the body is empty, a JSON object was expected")
    # `curl -d` sends a form, and Ollama's own examples leave it at that. A page of another site can
    # send one too, without asking: a browser tells the origin.
    if not told and "HTTP_ORIGIN" in environ:
        raise WrongType("from a page the content type must be application/json")
    check_cost(data)
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the body is no valid JSON: {error}"[:200]) from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None

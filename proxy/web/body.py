"""Read request bodies, with a size limit, as bytes, temporary files or JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from io import BytesIO
from tempfile import SpooledTemporaryFile
from typing import IO, Any, TypeVar

import msgspec

from ..core.decoding import SURE, decode_sure, is_clearly_cheap, is_dear
from ..errors import BadRequest, BodyTooLarge
from ..runtime.blocking import give_way, run_in_native_thread
from . import people
from .observability.record import CAPTURE, Record

# Keeps large JSON bodies from blocking the event loop.
#
# Decoding is one call that cannot be interrupted, so its cost is checked first. Parsing runs in a
# thread: it shares the interpreter with the loop, and yields to it every half a millisecond.
T = TypeVar("T")
LARGE = 256 << 10  # bytes; larger bodies are handled in a thread,
MANY = 512  # or twice as large ones if they have fewer messages


def check_cost(data: bytes) -> None:
    """Raises BadRequest if this JSON takes too long to decode."""
    if costs_much(data):
        raise BadRequest(
            "the request body takes too long to decode: send fewer objects, names, numbers and"
            " escapes"
        )


def costs_much(data: bytes) -> bool:
    """Whether `decode` takes too long for this JSON."""
    if len(data) <= SURE or is_clearly_cheap(data):
        return False
    return run_in_native_thread(lambda: is_dear(data))


def decode(data: bytes) -> Any:
    """The value of JSON whose cost was checked. Raises like msgspec's decoder."""
    return decode_sure(data) if len(data) <= SURE else _decode(data)


def parsed(
    parse: Callable[[], T], environ: Mapping[str, Any], body: Mapping[str, Any], more: int = 0
) -> T:
    """Call `parse`, in a thread if the body, which was read, and `more` bytes are large."""
    length = environ.get("CONTENT_LENGTH")
    size = int(length) + more if length else 2 * LARGE
    if size < LARGE:
        return parse()
    has_few = type(messages := body.get("messages")) is list and len(messages) < MANY
    return parse() if has_few and size < 2 * LARGE else run_in_native_thread(parse)


Environ = MutableMapping[str, Any]
PIECE = 256 << 10  # bytes
# Bytes of a body that Flask itself may read. No view lets Flask read a body; this limits views that
# forget to use `read`, `spooled` or `read_form`, which have limits of their own.
NET = 64 << 10
JSON = "application/json"
FORM = "application/x-www-form-urlencoded"


class WrongType(BadRequest):
    status = 415
    code = "unsupported_media_type"


class BodyLate(BadRequest):
    status = 408
    code = "request_timeout"


_decode: Callable[[bytes], Any] = msgspec.json.Decoder().decode


def read(environ: Environ, limit: int) -> bytes:
    """Return the whole body. If Content-Length exceeds `limit` bytes, the body is not read; without
    Content-Length, reading stops at `limit`. Raises BodyTooLarge, BodyLate or BadRequest."""
    raw = environ.get("CONTENT_LENGTH")
    if raw:
        try:
            length = int(raw)
        except ValueError:
            raise BadRequest("Content-Length is not a number") from None
        if length > limit:
            hang_up(environ)
            raise BodyTooLarge(f"the request body has {length} bytes; at most {limit} are allowed")
        stream = environ["wsgi.input"]
        data = stream.read(length) if type(stream) is BytesIO else _take(environ, length)
        if len(data) < length:
            raise BadRequest("the request body ended early")
        return data
    return b"".join(pieces(environ, limit))


def pieces(environ: Environ, limit: int, size: int = PIECE) -> Iterator[bytes]:
    """Like `read`, but yield the body as it arrives, in pieces of at most `size` bytes."""
    raw = environ.get("CONTENT_LENGTH")
    if raw and (not raw.isdecimal() or int(raw) > limit):
        read(environ, limit)  # raises
    chunked = not raw and environ.get("wsgi.input_terminated")
    left = int(raw) if raw else limit + 1 if chunked else 0
    while left > 0 and (data := _take(environ, min(left, size))):
        left -= len(data)
        yield data
    if raw and left > 0:
        raise BadRequest("the request body ended early")
    if chunked and not left:
        hang_up(environ)
        raise BodyTooLarge(f"the request body exceeds {limit} bytes")


def _take(environ: Environ, size: int) -> bytes:
    try:
        return environ["wsgi.input"].read(size)  # type: ignore[no-any-return]
    except Exception as error:  # each server has its own for a body that does not arrive whole
        hang_up(environ)
        if isinstance(error, TimeoutError | BlockingIOError):  # the second if the kernel waits
            raise BodyLate("the request body took too long") from None
        raise BadRequest("the request body ended early") from None


def spooled(environ: Environ, limit: int) -> IO[bytes]:
    """Like `read`, but into a temporary file, for bodies that should not be in memory whole."""
    file = Unnamed()
    try:
        for data in pieces(environ, limit):
            file.write(data)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return file


class Unnamed(SpooledTemporaryFile[bytes]):
    """An unnamed temporary file, on disk only if it is large. Each write yields to other greenlets:
    a fast client's bytes are always ready, so reading them never yields."""

    def __init__(self) -> None:
        super().__init__(max_size=PIECE)

    def write(self, data: Any) -> int:
        give_way()
        return super().write(data)


def hang_up(environ: Environ) -> None:
    """Close the connection after this response. Otherwise the server would read the rest of the
    body to find the next request; our own worker then discards what still comes."""
    is_last = environ.get("slotproxy.is_last")
    if is_last is not None:
        is_last()


def read_json(environ: Environ, limit: int, empty: Any = None) -> dict[str, Any]:
    """Return the body as a JSON object. Raises as `read_value`."""
    value = read_value(environ, limit, empty)
    if not isinstance(value, dict):
        raise BadRequest("the request body must be a JSON object")
    if people.ON_BODY in environ:
        environ.pop(people.ON_BODY)(environ, value)
    if "metadata" in value or not environ.keys().isdisjoint(people.TAGS):
        Record.of(environ).tags = people.tags_of(environ, value)
    return value


def read_value(environ: Environ, limit: int, empty: Any = None) -> Any:
    """Return the body as any JSON value. An empty body gives `empty`, or is an error if that is
    None. Raises BadRequest, WrongType or BodyTooLarge."""
    kind = environ.get("CONTENT_TYPE", "")
    is_json = kind == JSON
    if not is_json:
        kind = kind.partition(";")[0].strip().lower()
        is_json = kind == JSON or kind.endswith("+json")
        if not is_json and kind not in ("", FORM):
            raise WrongType("the Content-Type must be application/json")
    data = read(environ, limit)
    if CAPTURE in environ and not environ[CAPTURE].sent:
        environ[CAPTURE].sent = data
    if not data:
        if empty is not None:
            return empty
        raise BadRequest("the request body is empty: send a JSON object")
    # `curl -d` sends the type of a form, and Ollama's own examples do not set another. A page of
    # another site can send that type without a preflight request, but then the browser adds Origin.
    if not is_json and "HTTP_ORIGIN" in environ:
        raise WrongType("requests from a web page must have the Content-Type application/json")
    check_cost(data)
    try:
        value = decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadRequest(f"the request body is not valid JSON: {error}"[:200]) from None
    except RecursionError:
        raise BadRequest("the request body is nested too deeply") from None
    if len(data) > SURE:
        give_way()
    return value

"""Reads HTTP/1.1 requests from bytes: no socket, no clock, no waiting.

llhttp (from httptools) does the parsing. `Reader` turns its callbacks into requests, and refuses
what llhttp accepts too readily.

`MAX_INCOMPLETE` bytes may come without progress: a head, a piece of a body, the end of a message. A
head of 26 bytes becomes a request of 800, so only some `MAX_PIPELINED` are parsed ahead of the
answers: bytes that hold more are parsed in slices, and wait in `unparsed`.

llhttp refuses the basis of request smuggling (a repeated length, a length together with a transfer
coding, bare line feeds). This module also refuses transfer codings other than `chunked` or in
HTTP/1.0, a missing, repeated or malformed Host, and other protocol versions. `tests/fuzz/http1.py`
compares all of it with h11.
"""

from __future__ import annotations

import re
from typing import Any

import httptools
from msgspec import Struct

# Bytes of anything incomplete: a head, a chunk's size line, the trailers. The largest heads of real
# clients (cookies, tokens) have 16 kB.
MAX_INCOMPLETE = 65536
MAX_REPEATS = 100  # of headers in a head: their values are joined, copying them each time
MAX_PIPELINED = 8  # requests, after which nothing more is parsed until some are answered
_SLICE = 512  # bytes: twenty heads at most
_VERSION = b"/1."  # each accepted head has it
_BLANK = b"\r\n\r\n"  # its end
_SHORT = 8192  # bytes of a read in which requests are counted at once

# Why the reader stops: the status, whose text is the reason.
BAD = "400 Bad Request: invalid HTTP/1.1 request"
BAD_HOST = "400 Bad Request: exactly one valid Host header is required"
BAD_CODING = "400 Bad Request: Transfer-Encoding is not allowed in HTTP/1.0"
TOO_LONG = f"431 Request Header Fields Too Large: at most {MAX_INCOMPLETE} bytes are allowed"
TOO_MANY = (
    f"431 Request Header Fields Too Large: at most {MAX_REPEATS} repeated headers are allowed"
)
NOT_CODED = "501 Not Implemented: the only supported Transfer-Encoding is chunked"
OTHER_VERSION = "505 HTTP Version Not Supported: use HTTP/1.1"


class Refused(Exception):
    """Ends the connection with this status."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


class Request(Struct, eq=False):
    """A request with a complete head; `body` grows until `complete`."""

    method: str
    url: bytes
    version: str
    environ: dict[str, Any]
    keep: bool
    body: list[bytes] = []
    complete: bool = False

    def is_last(self) -> None:
        """Close the connection after this answer, and say so in its head if that is not sent."""
        self.keep = False


class Reader:
    """`requests` are those with a complete head. `refusal` is why it stopped: earlier requests are
    answered first. `unparsed` are bytes to be fed again, before others, when fewer wait."""

    __slots__ = tuple(
        "_coming _environ _head _left _parser _repeats _url held on_url refusal requests"
        " unparsed".split()
    )

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self._parser: Any = None  # created when bytes come
        self._url = bytearray()
        self.on_url = self._url.extend  # called by the parser, perhaps for each part
        self._head: Any = None  # the environment of a request while its head is being parsed
        self._coming: Request  # the request whose head came last
        self._repeats = 0  # of headers in this head
        self._left = 0  # bytes that still come of a body with a length
        self.requests: list[Request] = []  # a deque takes 700 bytes more
        self.refusal = ""
        self.held = 0  # bytes since the last progress
        self.unparsed = b""

    def feed(self, data: bytes) -> None:
        self.unparsed = b""
        if len(data) > max(_SHORT, self._left) and (end := data.find(_BLANK)) >= 0:
            # The head tells whether a body follows, in which no request begins: to count them there
            # takes longer than to read it.
            self._feed(data[: end + len(_BLANK)])
            data = data[end + len(_BLANK) :]
        if len(data) <= self._left or data.count(_VERSION) <= MAX_PIPELINED:
            self._feed(data)
            return
        for begin in range(0, len(data), _SLICE):
            if len(self.requests) >= MAX_PIPELINED and not self.refusal:
                self.unparsed = data[begin:]
                return
            self._feed(data[begin : begin + _SLICE])

    def _feed(self, data: bytes | memoryview) -> None:
        room = MAX_INCOMPLETE - self.held
        if len(data) > room:
            data = memoryview(data)  # whose slices are no copies
            while len(data) > room and not self.refusal:
                self.held = MAX_INCOMPLETE
                self._parse(data[:room])
                data, room = data[room:], MAX_INCOMPLETE
                if self.held:
                    self._stop(TOO_LONG)
        if not self.refusal:
            self.held += len(data)
            self._parse(data)

    def rest(self) -> None:
        """Free the parser, a kilobyte, for the time of a stream. Only between two messages."""
        if self._head is None and self._coming.complete:
            self._parser = None

    def close(self) -> None:
        """Stop parsing, and break the reference cycle between the parser and the reader."""
        self._parser = None

    # called by the parser: what makes progress sets `held` to 0

    def on_message_begin(self) -> None:
        self._url.clear()
        self._head = self._environ.copy()
        self._repeats = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        head = self._head
        if head is None:
            return  # a trailer, which must not count as a header
        key = _KEYS[name]
        text = value.rstrip(b" \t").decode("latin-1")
        if key in head:
            head[key] += f",{text}"
            self._repeats += 1
            if self._repeats > MAX_REPEATS:
                self._refuse(TOO_MANY)
        elif key:
            head[key] = text

    def on_headers_complete(self) -> None:
        parser, head, self._head = self._parser, self._head, None
        version = parser.get_http_version()
        if "HTTP_TRANSFER_ENCODING" in head or version != "1.1":
            self._check_coding(version, head.get("HTTP_TRANSFER_ENCODING"))
        # A repeated Host would contain a comma.
        host = head.get("HTTP_HOST")
        if version == "1.1" if host is None else not _HOSTS[host]:
            self._refuse(BAD_HOST)
        method, keep = parser.get_method().decode("latin-1"), parser.should_keep_alive()
        request = self._coming = Request(method, bytes(self._url), version, head, keep)
        self.requests.append(request)
        self._left = int(head.get("CONTENT_LENGTH", 0))
        self.held = 0

    def on_body(self, data: bytes) -> None:
        self._coming.body.append(data)
        self._left -= len(data)
        self.held = 0

    def on_message_complete(self) -> None:
        self._coming.complete = True
        self.held = 0

    def _check_coding(self, version: str, coding: str | None) -> None:
        """llhttp accepts any transfer codings whose last is chunked."""
        if version not in ("1.1", "1.0"):
            self._refuse(OTHER_VERSION)
        if coding is not None and version == "1.0":
            self._refuse(BAD_CODING)
        if coding is not None and coding.strip().lower() != "chunked":
            self._refuse(NOT_CODED)

    def _refuse(self, status: str) -> None:
        """Raises Refused, which stops the parser."""
        self._stop(status)
        raise Refused(status)

    def _stop(self, status: str) -> None:
        """Only the first reason counts, and nothing more is parsed."""
        self.refusal = self.refusal or status

    def _parse(self, rest: bytes | memoryview) -> None:
        try:
            while rest:
                if self._parser is None:
                    self._parser = httptools.HttpRequestParser(self)
                try:
                    self._parser.feed_data(rest)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    rest = memoryview(rest)[upgrade.args[0] :]
                    self._without_upgrade()
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._stop(BAD)

    def _without_upgrade(self) -> None:
        """Ignore an Upgrade: pass the head of that request, without the header, to a new parser.
        The application sees an upgrade to a WebSocket, which it may take over."""
        request = self.requests.pop()
        if request.method == "CONNECT":
            raise httptools.HttpParserError("the connection is closed")
        self._parser = httptools.HttpRequestParser(self)
        lines = [
            f"{key.removeprefix('HTTP_').replace('_', '-')}: {value}\r\n"
            for key, value in request.environ.items()
            if key.startswith(("HTTP_", "CONTENT_")) and key != "HTTP_UPGRADE"
        ]
        head = f"{request.method} ".encode("latin-1") + request.url
        lines.insert(0, f" HTTP/{request.version}\r\n")
        self._parser.feed_data(head + f"{''.join(lines)}\r\n".encode("latin-1"))
        if request.environ.get("HTTP_UPGRADE", "").lower() == "websocket" and self.requests:
            self.requests[-1].environ["HTTP_UPGRADE"] = "websocket"


# A valid Host header; it has no comma (RFC 9110), which two joined headers would have.
HOST = r"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?"
_is_host = re.compile(HOST).fullmatch


class _Keys(dict[bytes, str]):
    """Header names in the WSGI environment, the first few hundred. "" for one with an underscore,
    which could pass for another, except `session_id`, as some clients write `session-id`."""

    def __missing__(self, raw: bytes) -> str:
        name = raw.decode("latin-1").upper()
        key = name.replace("-", "_")
        if "_" in name and name != "SESSION_ID":
            key = ""
        elif key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        if len(self) < 256 and len(raw) < 64:
            self[raw] = key
        return key


class _Hosts(dict[str, bool]):
    """A cache of whether a Host is valid. Keeps the first few hundred."""

    def __missing__(self, host: str) -> bool:
        good = _is_host(host) is not None
        if len(self) < 256 and len(host) < 256:
            self[host] = good
        return good


_KEYS = _Keys()
_HOSTS = _Hosts()

"""Server-sent events, framed as in the WHATWG HTML standard.

Lines end at CR, LF or CRLF only. Nearly all servers only send `data: …\\n\\n`, so `plain` handles
that form without looking at lines; anything else takes the general path, `feed`. A 2023 server.cpp
reports a busy slot as a line `error: {…}`, which becomes an event named "error".
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Struct

_json = msgspec.json.Encoder().encode
Event = tuple[str, bytes]
_LINE_END = re.compile(rb"\r\n|\n|\r")
MAX_EVENT = 16 << 20
LONG = 80 << 10  # bytes of one read from which `plain` leaves them to `feed`


class SSEError(ValueError):
    """The stream ended within an event, or an event is larger than MAX_EVENT."""


class Decoder(Struct, eq=False):
    """feed(bytes) -> list of (event name, data). The name of an ordinary event is ""."""

    _rest: bytes = b""
    _more: list[bytes] = []  # the data after it, until a line ends
    _size: int = 0

    def plain(self, data: bytes) -> list[bytes] | None:
        """The data of each event, like `feed`, if all data so far is plain events, the last one
        perhaps incomplete; None if it needs `feed`."""
        if self._rest:
            if self._more or b"\n" not in data:
                return None
            data = self._rest + data
        if len(data) > LONG or not data.startswith(b"data: ") or b"\r" in data:
            return None  # of another form; or slow to decode, which callers of `feed` check
        end = data.find(b"\n")
        if end == len(data) - 2 and data.endswith(b"\n"):  # one event: a paced stream
            if self._rest:  # to set a field of a struct costs as much as to find the end
                self._rest = b""
            return [data[6:end]]
        end = data.rfind(b"\n\n")
        if end < 0:
            return None
        events = data[6:end].split(b"\n\ndata: ")
        if b"\n" in b"".join(events):  # quicker than counting them
            return None  # there are lines of another form
        self._rest = data[end + 2 :]
        return events

    def feed(self, data: bytes) -> list[Event]:
        """Raises SSEError."""
        if self._rest:
            if b"\n" not in data and b"\r" not in data and not self._rest.endswith(b"\r"):
                self._more.append(data)  # joined later: a long event comes in many reads
                self._size += len(data)
                if self._size > MAX_EVENT:
                    raise SSEError("an event is too large")
                return []
            data = self._whole(data)
        held = b""
        if b"\r" in data:
            if data.endswith(b"\r"):  # it may be the first half of a CRLF
                data, held = data[:-1], b"\r"
            data = _LINE_END.sub(b"\n", data)
        events: list[Event] = []
        at = 0
        while (end := data.find(b"\n\n", at)) >= 0:  # to split would copy an event once more
            if data.startswith(b"data: ", at) and data.find(b"\n", at, end) < 0:
                events.append(("", data[at + 6 : end]))
            elif end > at and (event := _parse(data[at:end])) is not None:
                events.append(event)
            at = end + 2
        self._rest = data[at:] + held
        if len(self._rest) > MAX_EVENT:
            raise SSEError("an event is too large")
        return events

    def close(self) -> list[Event]:
        """The last event at the end of the stream. It counts without its blank line if its lines
        are complete; an incomplete line raises SSEError."""
        rest, self._rest = self._whole(), b""
        if b"\r" in rest:  # a pattern takes a tenth of a second for the longest line
            rest = _LINE_END.sub(b"\n", rest)
        if not rest.strip(b"\n"):
            return []
        if not rest.endswith(b"\n"):
            raise SSEError("the stream ended inside an event")
        event = _parse(rest.rstrip(b"\n"))
        return [] if event is None else [event]

    def _whole(self, data: bytes = b"") -> bytes:
        """The rest of the earlier data, joined with what came after it and with `data`."""
        whole = b"".join((self._rest, *self._more, data))
        self._more.clear()
        self._size = 0
        return whole


def _parse(block: bytes) -> Event | None:
    name = ""
    data: list[bytes] = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value.decode("utf-8", "replace")
        elif field == b"error":
            name = "error"
            data.append(value)
    return (name, b"\n".join(data)) if data else None


HEARTBEAT = b":\n\n"
DONE = b"data: [DONE]\n\n"


def encode(value: object, event: str = "") -> bytes:
    """Encode one event, whose data is the value as JSON."""
    data = b"data: " + _json(value) + b"\n\n"
    return b"event: " + event.encode() + b"\n" + data if event else data

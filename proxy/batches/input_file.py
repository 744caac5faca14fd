"""The input file of a batch: JSON lines, checked in one pass and then read one by one, never whole
in memory. The index has eight bytes for a line's place, and four for its length.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct

from ..apis.batches import objects as batches
from ..apis.batches.objects import LineError
from ..runtime.blocking import run_in_native_thread
from ..web.body import LARGE, costs_much, decode

EMPTY = LineError("empty_file", "the input file has no lines")
TOO_MANY = LineError(
    "too_many_requests",
    f"a batch has at most {batches.MOST_LINES} lines, or twice as many with blank ones",
)
GONE = LineError("input_file_deleted", "the input file was deleted, or has expired")

Piece = Callable[[int], bytes | None]
"""Returns a piece of the file by its number, None after the last."""


class Line(Struct, frozen=True):
    """A valid line. `body` is JSON, as it was uploaded; `model` is "" if it names none."""

    custom_id: str
    model: str
    body: bytes


class _Body(Struct, frozen=True):
    body: msgspec.Raw


_decode_body = msgspec.json.Decoder(_Body).decode


class InputFile:
    """The places of a file's lines, and what is wrong with them: `errors` are objects of the API.
    `model` is what all lines name, "" if they differ."""

    def __init__(self, piece: Piece, size: int, endpoint: str, longest: int) -> None:
        """`size`: bytes of a piece, except the last; `longest`: bytes that a line may have."""
        self._piece = piece
        self._size = size
        self._endpoint = endpoint
        self._longest = longest
        self.errors: list[dict[str, Any]] = []
        self._starts, self._sizes = array("Q"), array("L")
        self._models: set[str] = set()
        self._ids: set[bytes] = set()
        self._parts: list[bytes] = []  # of the line that goes on in the next piece
        self._held = self._at = self._line = 0
        self._full = False  # nothing more needs to be read
        self._last = -1, b""  # the piece that was read last

    def __len__(self) -> int:
        return len(self._starts)

    def check(self, alive: Callable[[], object]) -> None:
        """Find the lines; calls `alive` for each piece. Raises LineError without the file."""
        number = 0
        while (data := self._piece(number)) is not None and not self._full:
            run_in_native_thread(partial(self._feed, data))
            alive()
            number += 1
        if not number:
            raise GONE
        if self._held:
            run_in_native_thread(partial(self._feed, b"\n"))
        if not self._starts and not self.errors:
            self.errors.append(EMPTY.at(None))
        self._ids = set()

    def read(self, number: int) -> Line:
        """Return a line of the file. Raises LineError if the file was deleted."""
        data = b"".join(self._read(self._starts[number], self._sizes[number]))
        read = partial(parse, data, self._endpoint)
        return read() if len(data) < LARGE else run_in_native_thread(read)

    def _read(self, start: int, left: int) -> Iterator[bytes]:
        while left:
            number, at = divmod(start, self._size)
            if self._last[0] != number:
                self._last = number, self._piece(number) or b""
            part = self._last[1][at : at + left]
            if not part:
                raise GONE
            yield part
            start, left = start + len(part), left - len(part)

    @property
    def model(self) -> str:
        return next(iter(self._models)) if len(self._models) == 1 else ""

    def _feed(self, piece: bytes) -> None:
        for number, part in enumerate(piece.split(b"\n")):
            if number:
                self._end_line()
                self._at += 1
            if self._full:
                return
            self._at += len(part)
            self._held += len(part)
            if self._held <= self._longest:
                self._parts.append(part)

    def _end_line(self) -> None:
        self._line += 1
        data, size = b"".join(self._parts), self._held
        self._parts, self._held = [], 0
        if self._line > 2 * batches.MOST_LINES:  # blank ones cost time, too
            self.errors, self._full = [TOO_MANY.at(self._line)], True
            return
        try:
            if size > self._longest:
                raise LineError("line_too_long", f"the line has more than {self._longest} bytes")
            if data.strip():
                self._add(parse(data, self._endpoint), size)
        except LineError as error:
            self.errors.append(error.at(self._line))
            self._full = len(self.errors) == batches.MOST_ERRORS

    def _add(self, line: Line, size: int) -> None:
        name = blake2b(line.custom_id.encode("utf-8", "replace"), digest_size=16).digest()
        if name in self._ids:
            raise LineError("duplicate_custom_id", "custom_id is that of another line", "custom_id")
        if len(self._ids) == batches.MOST_LINES:
            self.errors, self._full = [TOO_MANY.at(self._line)], True
            return
        self._ids.add(name)
        if len(self._models) < 2:
            self._models.add(line.model)
        self._starts.append(self._at - size)
        self._sizes.append(size)


def parse(data: bytes, endpoint: str) -> Line:
    """Raises LineError."""
    if costs_much(data):
        raise LineError("line_too_complex", "the line takes too long to decode")
    try:
        value = decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise LineError("invalid_json_line", "the line is not valid JSON") from None
    batches.check_line(value, endpoint)
    model = value["body"].get("model")
    body = bytes(_decode_body(data).body)
    return Line(value["custom_id"], model if type(model) is str else "", body)

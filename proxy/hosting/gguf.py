"""Reads the metadata at the head of a GGUF file, which anybody may have made.

The format is that of ggml (docs/gguf.md there), versions 2 and 3: magic, version, the number of
tensors, the number of fields, the fields. A field is a name, a type and a value; numbers are
little-endian, a string is its length and its bytes.

The package `gguf` maps the file and makes an array of every token: of SmolLM2 it takes 3.4 s, this
module a tenth of a millisecond. And a mapped file that is cut off meanwhile ends the process.
"""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path
from typing import BinaryIO

MAX_FIELDS = 10_000
MAX_BYTES = 64 << 20  # of all fields
MAX_ITEMS = 2_000_000  # strings in arrays
MAX_NAME = 1024  # bytes of a field's name
MAX_TEXT = 128 << 10  # bytes of a string; a longer one is skipped
MAX_LIST = 4096  # numbers of an array; a longer one is skipped, and so is one of strings

Value = int | float | str | tuple[int | float, ...]

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q"}
_NUMBERS[12] = "d"
_STRING, _ARRAY = 8, 9


def metadata(path: Path, *, template: bool = False) -> dict[str, Value]:
    """The fields of a file by name, up to those of the tokenizer, which come last and are long;
    with `template`, also `tokenizer.chat_template`. Raises OSError, or ValueError if it is no GGUF
    file of this format."""
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would block
    with open(opened, "rb") as file:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise ValueError("not a regular file")
        try:
            return _Fields(file).read(template)
        except struct.error:
            raise ValueError("the file is cut off") from None


class _Fields:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_BYTES
        self._items = MAX_ITEMS

    def read(self, template: bool) -> dict[str, Value]:
        if self._file.read(4) != b"GGUF":
            raise ValueError("not a GGUF file")
        if self._number("I") not in (2, 3):
            raise ValueError("an unknown version of GGUF")
        self._number("Q")  # of tensors
        count = int(self._number("Q"))
        if count > MAX_FIELDS:
            raise ValueError("too many fields")
        found: dict[str, Value] = {}
        for _ in range(count):
            name = self._name()
            vocabulary = name.startswith("tokenizer.")
            if vocabulary and not template:
                break
            value = self._value(int(self._number("I")))
            if value is not None and (not vocabulary or name == "tokenizer.chat_template"):
                found[name] = value
        return found

    def _name(self) -> str:
        size = int(self._number("Q"))
        if size > MAX_NAME:
            raise ValueError("a field's name is too long")
        return self._take(size).decode("utf-8", "replace")

    def _value(self, kind: int) -> Value | None:
        """The value, None if it was skipped."""
        if kind == _STRING:
            size = int(self._number("Q"))
            if size > MAX_TEXT:
                self._skip(size)
                return None
            return self._take(size).decode("utf-8", "replace")
        if kind == _ARRAY:
            return self._array(int(self._number("I")), int(self._number("Q")))
        if kind not in _NUMBERS:
            raise ValueError(f"an unknown type of field, {kind}")
        return self._number(_NUMBERS[kind])

    def _array(self, kind: int, count: int) -> Value | None:
        if kind == _STRING:
            self._items -= count
            if self._items < 0:
                raise ValueError("too many strings")
            for _ in range(count):
                self._take(int(self._number("Q")))
            return None
        if kind not in _NUMBERS:
            raise ValueError(f"an unknown type of array, {kind}")
        form = _NUMBERS[kind]
        if count > MAX_LIST:
            self._skip(count * struct.calcsize(f"<{form}"))
            return None
        return struct.unpack(f"<{count}{form}", self._take(count * struct.calcsize(f"<{form}")))

    def _number(self, form: str) -> int | float:
        number: int | float = struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]
        return number

    def _take(self, size: int) -> bytes:
        self._spend(size)
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError("the file is cut off")
        return data

    def _skip(self, size: int) -> None:
        self._spend(size)
        self._file.seek(size, os.SEEK_CUR)

    def _spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise ValueError("its metadata is too large")

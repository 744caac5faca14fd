"""Reads the metadata at the head of a GGUF file, which anybody may have made.

The format is that of ggml (docs/gguf.md there), versions 2 and 3: magic, version, the number of
tensors, the number of fields, the fields: a name, a type and a value each.

Only fields that somebody asks for are read, so a hostile head costs a few tenths of a second. The
package `gguf` makes an array of every token, which takes 3.4 s for SmolLM2; and it maps the file,
which ends the process if it is cut off.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import stat
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from ..runtime.blocking import NativeThreads, run_in_native_thread
from ..wire.router import as_dict
from .driver import Capabilities

# At the beginning of a file; PowerInfer has another one for its files about graphics cards.
MAGIC = (b"GGUF", b"PWRI")
MAX_FIELDS = 10_000
MAX_BYTES = 64 << 20  # of all fields, most of them skipped
MAX_READ = 1 << 20  # bytes of names and of values that are asked for
MAX_ITEMS = 2_000_000  # strings in arrays
MAX_NAME = 1024  # bytes of a field's name
MAX_TEXT = 128 << 10  # bytes of a string; a longer one is skipped
MAX_LIST = 4096  # numbers of an array; a longer one is skipped, and so is one of strings
BLOCK = 1 << 16  # bytes of an array of strings that are read at once

Value = int | float | str | tuple[int | float, ...]

_NUMBERS = dict(zip((*range(8), 10, 11, 12), "BbHhIifBQqd", strict=True))
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_FAMILY = "general.architecture"
_VOCABULARY = "tokenizer."
_TOKENS = "tokenizer.ggml.tokens"
_OF_PROMPTS = (
    "tokenizer.ggml.model",
    "tokenizer.chat_template",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.add_bos_token",
)


class Tokenizer(Struct, frozen=True, kw_only=True):
    """What a file says about prompts; `adds_bos`: they begin with BOS."""

    template: str = ""
    bos_token: str = ""
    eos_token: str = ""
    adds_bos: bool = True


def metadata(path: Path, names: Collection[str]) -> dict[str, Value]:
    """The fields of these names that come before those of the tokenizer, which are long. A name
    that begins with a dot (".block_count") is one of the model's architecture. Raises OSError, or
    ValueError if it is no GGUF file of this format."""

    def wants(name: str) -> bool:
        return name in names or f".{name.partition('.')[2]}" in names or name == _FAMILY

    with _opened(path) as file:
        fields = _Fields(file).read(wants)
    family = fields.get(_FAMILY)
    return {
        name: value
        for name, value in fields.items()
        if name in names or name.partition(".")[0] == family
    }


def tokenizer(path: Path) -> Tokenizer:
    """What a file says about prompts. Takes up to half a second. Raises OSError, ValueError."""
    with _opened(path) as file:
        fields = _Fields(file)
        values = fields.read(_OF_PROMPTS.__contains__, vocabulary=True)
        model, template, bos, eos, adds_bos = map(values.get, _OF_PROMPTS)
        if adds_bos is None:  # servers add BOS to prompts of a SentencePiece vocabulary
            adds_bos = model == "llama"
        return Tokenizer(
            template=template if isinstance(template, str) else "",
            bos_token=fields.token(bos),
            eos_token=fields.token(eos),
            adds_bos=bool(adds_bos),
        )


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Raises OSError, ValueError."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a device may have effects
        raise ValueError("not a regular file")
    opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would block
    with open(opened, "rb") as file:
        yield file


class _Fields:
    """The fields of an open file. Every method raises ValueError for an invalid file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MAX_BYTES
        self._readable = MAX_READ
        self._items = MAX_ITEMS
        self._tokens: tuple[int, int] | None = None  # offset and number of the vocabulary's

    def read(self, wants: Callable[[str], bool], *, vocabulary: bool = False) -> dict[str, Value]:
        """The fields that `wants` names, without `vocabulary` up to those of the tokenizer."""
        if self._file.read(4) != MAGIC[0]:
            raise ValueError("not a GGUF file")
        if self._number("I") not in (2, 3):
            raise ValueError("an unknown version of GGUF")
        self._number("Q")  # of tensors
        count = int(self._number("Q"))
        if count > MAX_FIELDS:
            raise ValueError("too many fields")
        values: dict[str, Value] = {}
        for _ in range(count):
            size = int(self._number("Q"))
            if size > MAX_NAME:
                raise ValueError("a field's name is too long")
            name = self._take(size).decode("utf-8", "replace")
            if name.startswith(_VOCABULARY) and not vocabulary:
                break
            value = self._value(wants(name), name == _TOKENS)
            if value is not None:
                values[name] = value
        return values

    def token(self, number: object) -> str:
        """The text of a token, "" if the vocabulary has none of this number."""
        if self._tokens is None or not isinstance(number, int):
            return ""
        offset, count = self._tokens
        if not 0 <= number < count:
            return ""
        self._file.seek(offset)
        self._skip_strings(number)
        return self._text() or ""

    def _value(self, keep: bool, tokens: bool) -> Value | None:
        """The value of a field, None if it was skipped."""
        kind, count = int(self._number("I")), 1
        is_array = kind == _ARRAY
        if is_array:
            kind, count = int(self._number("I")), int(self._number("Q"))
        if kind == _STRING and not is_array:
            return self._text(keep)
        if kind == _STRING:
            if tokens:
                self._tokens = self._file.tell(), count
            self._skip_strings(count)
            return None
        if kind not in _NUMBERS:
            raise ValueError(f"an unknown type of {'array' if is_array else 'field'}, {kind}")
        size = count * struct.calcsize(f"<{_NUMBERS[kind]}")
        if count > MAX_LIST or not keep:
            self._skip(size)
            return None
        numbers = struct.unpack(f"<{count}{_NUMBERS[kind]}", self._take(size))
        return numbers if is_array else numbers[0]

    def _text(self, keep: bool = True) -> str | None:
        size = int(self._number("Q"))
        if size > MAX_TEXT or not keep:
            self._skip(size)
            return None
        return self._take(size).decode("utf-8", "replace")

    def _skip_strings(self, count: int) -> None:
        self._items -= count
        if self._items < 0:
            raise ValueError("too many strings")
        length = _LENGTH.unpack_from
        while count:
            block = self._file.read(BLOCK)
            at, last = 0, len(block) - _LENGTH.size
            if last < 0:
                raise ValueError("the file is cut off")
            while count and at <= last:
                at += length(block, at)[0] + _LENGTH.size
                count -= 1
            self._spend(at)
            self._file.seek(at - len(block), os.SEEK_CUR)

    def _number(self, form: str) -> int | float:
        number: int | float = struct.unpack(f"<{form}", self._take(struct.calcsize(f"<{form}")))[0]
        return number

    def _take(self, size: int) -> bytes:
        self._readable -= size
        if self._readable < 0:
            raise ValueError("its metadata is too large")
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


# -- the chat template of a server that reports none ----------------------------------------------
#
# The servers of 2023 and PowerInfer report only the name of the model file, as -m gave it.

log = logging.getLogger("slotproxy.backends")

_threads = NativeThreads(1)


def with_template(caps: Capabilities, url: str, *answers: Mapping[str, Any]) -> Capabilities:
    """The capabilities, with the template of the model file that one of the server's answers names
    if it reports none and runs on this machine."""
    if caps.template or not _is_here(url):
        return caps
    names: list[object] = []
    for answer in answers:
        settings = as_dict(answer.get("default_generation_settings"))
        names += answer.get("model_path"), answer.get("model"), settings.get("model")
    for name in names:
        if not isinstance(name, str):
            continue
        try:
            in_file = run_in_native_thread(partial(tokenizer, Path(name)), _threads)
        except (OSError, ValueError):
            continue
        if in_file.template:
            log.info("the server at %s reports no chat template: using that of %s", url, name)
            fields = msgspec.structs.asdict(in_file)
            return msgspec.structs.replace(caps, template_from="file", **fields)
    return caps


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

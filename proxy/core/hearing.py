"""A request to write down what a recording says: the fields of OpenAI's form, checked, and the
tokens that it counts."""

from __future__ import annotations

import math
import re
from typing import Literal

from msgspec import Struct

from .usage import Usage

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
TIMED = frozenset(("srt", "verbose_json", "vtt"))  # formats with the times of each sentence

TAIL = 4096  # bytes of an answer that may have its usage
TOKENS_OF_A_SECOND = 10  # as OpenAI's Realtime API counts what it hears
MOST_SECONDS = 10**8  # of a recording; a server that says more is not believed
_USAGE = re.compile(rb'"((?:input|output|cached)_tokens|seconds)"\s*:\s*(\d{1,9}(?:\.\d{1,20})?)\b')


class Hearing(Struct, frozen=True, kw_only=True):
    """`language` is a code, "" to detect it. With `words` or `segments`, verbose_json has their
    times."""

    language: str = ""
    prompt: str = ""
    temperature: str = ""  # a number from 0 to 1, "" for that of the server
    format: Format = "json"
    stream: bool = False
    words: bool = False
    segments: bool = True


def usage(data: bytes) -> Usage:
    """The tokens that the end of an answer reports; for seconds, as many as they count for."""
    end = data[-TAIL:]
    counts = {name: float(count) for name, count in _USAGE.findall(end[end.rfind(b'"usage"') :])}
    heard = counts.get(b"input_tokens") or tokens_of(counts.get(b"seconds", 0.0))
    return Usage(
        int(heard),
        int(counts.get(b"output_tokens", 0)),
        cached=int(counts.get(b"cached_tokens", 0)),
    )


def tokens_of(seconds: float) -> int:
    """What a recording of so many seconds counts in limits and the ledger."""
    return math.ceil(seconds * TOKENS_OF_A_SECOND) if 0 < seconds < MOST_SECONDS else 0

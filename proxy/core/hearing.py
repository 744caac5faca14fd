"""A request to write down what a recording says: the fields of OpenAI's form, checked."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
TIMED = frozenset(("srt", "verbose_json", "vtt"))  # formats with the times of each sentence


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

"""Reads OpenAI's form of transcriptions and translations, and the length of a recording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast, get_args

from ...core.hearing import Format, Hearing
from ...errors import InvalidParameter
from .. import fields

LONGEST = 4 * 3600  # seconds of a recording whose header says how long it is
HEAD = 4096  # bytes of a file in which that header ends
GRANULARITIES = "timestamp_granularities[]"
_LANGUAGE = re.compile(r"[A-Za-z]{2,20}(-[A-Za-z]{2,8})?")
_SHARE = re.compile(r"0?\.\d{1,20}|[01](\.0{0,20})?")


def parse(values: Sequence[tuple[str, str]]) -> Hearing:
    """Raises InvalidParameter."""
    form = {name: value for name, value in values if value}
    language = form.get("language", "")
    if language and not _LANGUAGE.fullmatch(language):
        raise InvalidParameter("language", "must be a code such as en")
    temperature = form.get("temperature", "")
    if temperature and not _SHARE.fullmatch(temperature):
        raise InvalidParameter("temperature", "must be a number from 0 to 1")
    times = {value for name, value in values if name == GRANULARITIES}
    if not times <= {"word", "segment"}:
        raise InvalidParameter(GRANULARITIES, "must be word or segment")
    return Hearing(
        language=language,
        prompt=form.get("prompt", ""),
        temperature=temperature,
        format=cast(Format, fields.choice(form, "response_format", get_args(Format), "json")),
        stream=form.get("stream", "").lower() in ("true", "1"),
        words="word" in times,
        segments=times != {"word"},
    )


def wav_seconds(head: bytes, size: int) -> float:
    """The length of a WAV file of `size` bytes that begins so; 0 for another file. Of a header that
    names more bytes than there are, those that there are count."""
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return 0.0
    at, rate = 12, 0
    while at + 8 <= len(head):
        name, length = head[at : at + 4], int.from_bytes(head[at + 4 : at + 8], "little")
        if name == b"fmt ":
            rate = int.from_bytes(head[at + 16 : at + 20], "little")  # bytes of a second
        elif name == b"data":
            return min(length, size - at - 8) / rate if rate else 0.0
        at += 8 + length + length % 2
    return 0.0

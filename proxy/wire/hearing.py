"""What whisper.cpp's server gets and sends, and its answers in the forms of OpenAI's API.

It is always asked for verbose_json, which alone says how long the recording is. Its words are
tokens: one that begins without a space continues a word, except in scripts without spaces.
"""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from ..core.task import Hearing
from . import lenient

PATH = "/inference"
# Whisper's languages. Of another one, the server makes a string of nothing, which may end it.
LANGUAGES = frozenset(
    """
    auto af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw
    he hi hr ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne
    nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur
    uz vi yi yo yue zh
    """.split()
)
UNWRAPPED = "1000000"  # letters of a segment; with the times of words, the server begins one at 60
SPACELESS = "\u2e80"  # Chinese, Japanese and Korean begin here
KINDS = {"verbose_json": "application/json", "json": "application/json", "vtt": "text/vtt"}
EVENTS = "text/event-stream"
_json = msgspec.json.encode


class Word(Struct):
    word: str = ""
    start: float = 0.0
    end: float = 0.0


class Segment(Struct):
    id: int = 0
    seek: int = 0
    start: float = 0.0
    end: float = 0.0
    text: str = ""
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0
    words: list[Word] | UnsetType = UNSET


class Heard(Struct):
    text: str = ""
    task: str = ""
    language: str = ""
    duration: float = 0.0
    segments: list[Segment] = []


heard = lenient.decoder(Heard)


def language_of(hearing: Hearing) -> str:
    """One of LANGUAGES, if Whisper knows it."""
    return hearing.language.partition("-")[0].lower() or "auto"


def whisper_fields(hearing: Hearing, *, translate: bool) -> list[tuple[str, str]]:
    """The fields of a form for whisper.cpp, which takes English for granted unless it is asked to
    detect the language."""
    return _fields(
        hearing,
        response_format="verbose_json",
        language=language_of(hearing),
        token_timestamps="true" if hearing.words else "false",
        max_len=UNWRAPPED if hearing.words else "",
        no_language_probabilities="true",
        translate="true" if translate else "",
    )


def llama_fields(hearing: Hearing, model: str) -> list[tuple[str, str]]:
    """The same for llama-server; as a router, it needs the model."""
    own = {"model": model, "language": hearing.language, "stream": str(hearing.stream).lower()}
    return _fields(hearing, response_format="json", **own)


def _fields(hearing: Hearing, **own: str) -> list[tuple[str, str]]:
    both = {**own, "prompt": hearing.prompt, "temperature": hearing.temperature}
    return [(name, value) for name, value in both.items() if value]


def reply(answer: Heard, hearing: Hearing) -> tuple[str, bytes]:
    """The media type and the body of an answer in the form that the request names."""
    text = "".join(segment.text for segment in answer.segments) or answer.text
    text, form = text.strip(), hearing.format
    usage = {"type": "duration", "seconds": round(answer.duration, 2)}
    kind = KINDS.get(form, "text/plain; charset=utf-8")
    if form == "verbose_json":
        return kind, _json({**_verbose(answer, hearing), "text": text, "usage": usage})
    if hearing.stream and form in ("json", "text"):
        deltas = [segment.text for segment in answer.segments]
        deltas[:1] = [first.lstrip() for first in deltas[:1]]
        deltas[-1:] = [last.rstrip() for last in deltas[-1:]]
        events = [{"type": "transcript.text.delta", "delta": delta} for delta in deltas]
        events.append({"type": "transcript.text.done", "text": text})
        return EVENTS, b"".join(b"data: " + _json(event) + b"\n\n" for event in events)
    if form == "json":
        return kind, _json({"text": text, "usage": usage})
    if form == "text":
        return kind, f"{text}\n".encode("utf-8", "replace")
    is_vtt, mark = form == "vtt", "." if form == "vtt" else ","
    cues = (
        ("" if is_vtt else f"{number}\n")
        + f"{_clock(cue.start, mark)} --> {_clock(cue.end, mark)}\n{cue.text.strip()}\n\n"
        for number, cue in enumerate(answer.segments, 1)
    )
    return kind, "".join(["WEBVTT\n\n" if is_vtt else "", *cues]).encode("utf-8", "replace")


def _verbose(answer: Heard, hearing: Hearing) -> dict[str, Any]:
    words: list[Word] = []
    for number, segment in enumerate(answer.segments):
        data = segment.text.encode("utf-8", "replace")
        ratio = len(data) / len(zlib.compress(data))  # so Whisper measures repetitions
        segment.id, segment.compression_ratio = number, round(ratio, 3)
        for piece in segment.words or ():
            if words and piece.word and piece.word[0] != " " and piece.word[0] < SPACELESS:
                words[-1].word, words[-1].end = words[-1].word + piece.word, piece.end
            elif word := piece.word.strip():
                words.append(Word(word, piece.start, piece.end))
        segment.words = UNSET
    whole = msgspec.structs.asdict(answer)
    if not hearing.segments:
        del whole["segments"]
    return {**whole, "words": words} if hearing.words else whole


def _clock(seconds: float, mark: str) -> str:
    whole, thousandths = divmod(round(max(seconds, 0.0) * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{thousandths:03}"

"""What whisper.cpp's server gets and sends, and its answers in the forms of OpenAI's API.

It is always asked for verbose_json, which alone says how long the recording is. Its words are
tokens: one that begins without a space continues a word, except in scripts without spaces.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ..core.hearing import Hearing
from . import lenient

PATH = "/inference"
SPACELESS = "\u2e80"  # Chinese, Japanese and Korean begin here
TEXT = "text/plain; charset=utf-8"
KINDS = {"text": TEXT, "srt": TEXT, "vtt": "text/vtt; charset=utf-8"}
JSON, EVENTS = "application/json", "text/event-stream"
_json = msgspec.json.encode


class Word(Struct):
    word: str = ""
    start: float = 0.0
    end: float = 0.0


class Segment(Struct):
    text: str = ""
    start: float = 0.0
    end: float = 0.0
    tokens: list[int] = []
    temperature: float = 0.0
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    words: list[Word] = []


class Heard(Struct):
    text: str = ""
    task: str = ""
    language: str = ""
    duration: float = 0.0
    segments: list[Segment] = []


heard = lenient.decoder(Heard)


def whisper_fields(hearing: Hearing, *, translate: bool) -> list[tuple[str, str]]:
    """The fields of a form for whisper.cpp, which takes English for granted unless it is told to
    detect the language."""
    sent = [
        ("response_format", "verbose_json"),
        ("language", hearing.language.partition("-")[0].lower() or "auto"),
        ("token_timestamps", "true" if hearing.words else "false"),
        ("no_language_probabilities", "true"),
    ]
    if translate:
        sent.append(("translate", "true"))
    return [*sent, *_common(hearing)]


def llama_fields(hearing: Hearing) -> list[tuple[str, str]]:
    """The same for llama-server."""
    sent = [("response_format", "json"), ("stream", "true" if hearing.stream else "false")]
    if hearing.language:
        sent.append(("language", hearing.language))
    return [*sent, *_common(hearing)]


def _common(hearing: Hearing) -> Iterator[tuple[str, str]]:
    if hearing.prompt:
        yield "prompt", hearing.prompt
    if hearing.temperature is not None:
        yield "temperature", f"{hearing.temperature:f}"


def reply(answer: Heard, hearing: Hearing) -> tuple[str, bytes]:
    """The media type and the body of an answer in the form that the request names."""
    text, said = answer.text.strip(), answer.segments
    form = hearing.format
    if form in ("json", "text") and hearing.stream:
        events = [
            {"type": "transcript.text.delta", "delta": segment.text if at else segment.text.strip()}
            for at, segment in enumerate(said)
        ]
        whole = "".join(str(event["delta"]) for event in events)
        events.append({"type": "transcript.text.done", "text": whole})
        return EVENTS, b"".join(b"data: " + _json(event) + b"\n\n" for event in events)
    if form == "json":
        return JSON, _json({"text": text, "usage": _usage(answer)})
    if form == "verbose_json":
        return JSON, _json(_verbose(answer, hearing, text))
    if form == "text":
        return KINDS[form], f"{text}\n".encode("utf-8", "replace")
    mark = "." if form == "vtt" else ","
    cues = (
        ("" if form == "vtt" else f"{number}\n")
        + f"{_clock(cue.start, mark)} --> {_clock(cue.end, mark)}\n{cue.text.strip()}\n\n"
        for number, cue in enumerate(said, 1)
    )
    head = "WEBVTT\n\n" if form == "vtt" else ""
    return KINDS[form], (head + "".join(cues)).encode("utf-8", "replace")


def _verbose(answer: Heard, hearing: Hearing, text: str) -> dict[str, Any]:
    whole: dict[str, Any] = {
        "task": answer.task,
        "language": answer.language,
        "duration": answer.duration,
        "text": text,
        "usage": _usage(answer),
    }
    if hearing.segments:
        whole["segments"] = [
            {
                "id": number,
                "seek": 0,
                "start": segment.start,
                "end": segment.end,
                "text": segment.text,
                "tokens": segment.tokens,
                "temperature": segment.temperature,
                "avg_logprob": segment.avg_logprob,
                "compression_ratio": _compression(segment.text),
                "no_speech_prob": segment.no_speech_prob,
            }
            for number, segment in enumerate(answer.segments)
        ]
    if hearing.words:
        words = _words([word for segment in answer.segments for word in segment.words])
        whole["words"] = [{"word": w.word.strip(), "start": w.start, "end": w.end} for w in words]
    return whole


def _usage(answer: Heard) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(answer.duration, 2)}


def _compression(text: str) -> float:
    """Whisper's own measure of repetitions: bytes for each compressed byte."""
    data = text.encode("utf-8", "replace")
    return round(len(data) / len(zlib.compress(data)), 3)


def _words(pieces: Sequence[Word]) -> list[Word]:
    words: list[Word] = []
    for piece in pieces:
        if words and piece.word and piece.word[0] != " " and piece.word[0] < SPACELESS:
            last = words[-1]
            words[-1] = Word(last.word + piece.word, last.start, piece.end)
        elif piece.word.strip():
            words.append(piece)
    return words


def _clock(seconds: float, mark: str) -> str:
    whole, thousandths = divmod(round(max(seconds, 0.0) * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{mark}{thousandths:03}"

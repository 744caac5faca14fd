"""Chunks of server.cpp's /completion, of both generations: bytes in, values out.

One struct decodes the chunks of every generation: a missing field keeps its default. Old (2023,
PowerInfer): slot_id, stopped_eos/word/limit, completion_probabilities of {content, probs:
[{tok_str, prob}]}. New (2026): id_slot, stop_type, tokens, prompt_progress, timings.cache_n,
completion_probabilities of {id, token, bytes, logprob, top_logprobs}.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import Struct

from ..core.events import FinishReason, TokenLogprob
from ..core.usage import Timings
from . import lenient
from .lenient import WireFault

METRICS_PREFIX = "llamacpp:"


# A stream has one per token, and JSON cannot have cycles, so the garbage collector ignores them.
class WireTimings(Struct, gc=False, kw_only=True):
    cache_n: int = -1
    prompt_n: int = 0
    prompt_ms: float | None = 0.0
    predicted_n: int = 0
    predicted_ms: float | None = 0.0
    draft_n: int = 0
    draft_n_accepted: int = 0


class WireProgress(Struct):
    total: int = 0
    cache: int = 0
    processed: int = 0
    time_ms: float | None = 0.0


class WireError(Struct, kw_only=True):
    """An error. A server of 2023 has its message in `content`, others in `detail`."""

    code: int = 500
    message: str = ""
    content: str = ""
    detail: str = ""
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class SlotMoved(Struct):
    """The answer of POST /slots/{id}?action=save|restore|erase: tokens and bytes moved."""

    n_saved: int = 0
    n_written: int = 0
    n_restored: int = 0
    n_read: int = 0


def counters(text: bytes) -> dict[str, float]:
    """The metrics without labels of a /metrics page, by name without the prefix. Values that are
    not numbers are omitted."""
    out: dict[str, float] = {}
    for line in text.decode("utf-8", "replace").split("\n"):
        name, _, value = line.partition(" ")
        if name.startswith(METRICS_PREFIX) and "{" not in name:
            with contextlib.suppress(ValueError):
                number = float(value)
                if math.isfinite(number):
                    out[name.removeprefix(METRICS_PREFIX)] = number
    return out


class ChunkPiece(Struct):
    """A token from /tokenize with with_pieces: its text, or its bytes if they are not text."""

    id: int
    piece: str | list[int]


class Chunk(Struct, gc=False, kw_only=True):
    """An event of a /completion stream, or its whole answer."""

    content: str = ""
    stop: bool = False
    slot_id: int = -1
    id_slot: int = -1
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    truncated: bool = False
    stop_type: str = ""
    stopped_eos: bool = False
    stopped_word: bool = False
    stopped_limit: bool = False
    stopping_word: str = ""
    timings: WireTimings | None = None
    prompt_progress: WireProgress | None = None
    completion_probabilities: tuple[Any, ...] = ()
    error: WireError | str | None = None

    @property
    def slot(self) -> int:
        return self.id_slot if self.id_slot >= 0 else self.slot_id

    @property
    def finish_reason(self) -> FinishReason:
        if self.stop_type:
            return "stop" if self.stop_type in ("eos", "word") else "length"
        return "stop" if self.stopped_eos or self.stopped_word else "length"

    @property
    def cached(self) -> int:
        """Prompt tokens that were not evaluated again."""
        if self.timings is None:
            return 0
        if self.timings.cache_n >= 0:
            return self.timings.cache_n
        return max(0, self.tokens_evaluated - self.timings.prompt_n)


class DetailedChunk(Chunk, gc=False):
    """A chunk with fields that few requests need: token ids, and in the last chunk the settings and
    the prompt that the backend used."""

    tokens: tuple[int, ...] = ()
    generation_settings: dict[str, Any] | None = None
    prompt: Any = None


# Decoders of one event's data.
chunk = lenient.decoder(Chunk)
detailed_chunk = lenient.decoder(DetailedChunk)


class Text(Struct, gc=False):
    """What is read of chunks that came together: an error or progress has another form."""

    content: str = ""
    stop: bool = False
    error: None = None
    prompt_progress: None = None


_texts = msgspec.json.Decoder(list[Text]).decode


def texts(data: list[bytes]) -> list[Text]:
    """Decode several events in one call, which costs little more than one. Raises WireFault if any
    of them is odd, an error or progress; each by itself may still be decoded."""
    try:
        return _texts(b"[%b]" % b",".join(data))
    except (ValueError, RecursionError) as error:
        raise WireFault(str(error)) from None


_REPEATED, _REST = b'{"completion_probabilities":[', b'],"content":"'


def without_repeated(data: bytes) -> bytes:
    """The last event of an old server without the probabilities of all tokens, which it repeats
    there: of a long answer, they would take long to decode. Every other event as it is."""
    if not data.startswith(_REPEATED):
        return data
    # A quote within a string has a backslash before it, so this ends the list.
    end = data.find(_REST, len(_REPEATED) - 1)
    if end < 0 or data.find(b'"stop":true', end) < 0:
        return data
    return b"{" + data[end + 2 :]


def times(timings: WireTimings | None, cached: int) -> Timings:
    """The times in a last chunk; an evaluation of nothing is reported as null."""
    if timings is None:
        return Timings()
    return Timings(
        cache_n=cached,
        prompt_n=timings.prompt_n,
        prompt_ms=timings.prompt_ms or 0.0,
        predicted_n=timings.predicted_n,
        predicted_ms=timings.predicted_ms or 0.0,
        draft_n=timings.draft_n,
        draft_n_accepted=timings.draft_n_accepted,
    )


class _Likely(Struct):
    """A token with its probability: `tok_str` and `prob` in 2023, also `prob` after sampling."""

    id: int = -1
    token: str = ""
    tok_str: str = ""
    bytes: list[int] | None = None
    logprob: float | None = 0.0
    prob: float | None = None


class _Token(_Likely):
    """A chosen token, whose text is `content` in 2023, and the likely ones."""

    content: str = ""
    probs: list[_Likely] = []
    top_logprobs: list[_Likely] = []
    top_probs: list[_Likely] = []


LEAST_LOGPROB = -9999.0  # what OpenAI reports for a token not among the likely ones


def logprobs(probabilities: Iterable[Any], top: int) -> tuple[TokenLogprob, ...]:
    """Tokens with their `top` likeliest alternatives, from either generation's
    completion_probabilities or a chat's logprobs. Raises WireFault."""
    out = []
    try:
        for raw in probabilities:
            token = lenient.convert(raw, _Token)
            likely = token.top_logprobs or token.top_probs or token.probs
            alternatives = tuple(_alternative(entry, entry.tok_str) for entry in likely)
            chosen = _alternative(token, token.content)
            logprob = chosen.logprob
            if "probs" in raw:  # without that of the chosen token
                same = (entry.logprob for entry in alternatives if entry.token == chosen.token)
                logprob = next(same, LEAST_LOGPROB)
            out.append(
                TokenLogprob(chosen.token, logprob, chosen.data, alternatives[:top], chosen.id)
            )
    except (TypeError, ValueError) as error:
        raise WireFault(f"completion_probabilities: {error}") from None
    return tuple(out)


def _alternative(likely: _Likely, old: str) -> TokenLogprob:
    """`old` is the text in the format of 2023."""
    text = likely.token or old
    data = text.encode("utf-8", "replace") if likely.bytes is None else bytes(likely.bytes)
    logprob = likely.logprob
    if likely.prob is not None:
        logprob = math.log(likely.prob) if likely.prob > 0 else LEAST_LOGPROB
    elif logprob is None or not math.isfinite(logprob):
        logprob = LEAST_LOGPROB
    return TokenLogprob(text, logprob, data, id=likely.id)

"""Shared by /api/chat and /api/generate."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from typing import Any

import msgspec

from ...core.events import Batch, Compacted, Finished, ReasoningDelta, TextDelta, TokenLogprob
from ...core.fold import Completion
from ...core.request import CompletionRequest, Media, OutputFormat
from ...core.sampling import FIELDS, check
from ...errors import GatewayError, InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, flag, ignored_fields, integer, mapping, model_name, plain, stops
from ..openai.answer import LIKELIEST, LOGPROBS, MAX_TOKENS, token
from ..response_meta import ResponseMeta, compaction_field
from ..schema_fields import Fields

# str.splitlines and similar functions, with which clients split such streams, take these for line
# ends; JSON itself escapes control characters below U+0020.
_ENDS = {"\x85": b"\\u0085", "\u2028": b"\\u2028", "\u2029": b"\\u2029"}


def encode_line(value: Any) -> bytes:
    """A document of newline-delimited JSON."""
    data = msgspec.json.encode(value)
    if not data.isascii():
        for char, escape in _ENDS.items():
            data = data.replace(char.encode(), escape)
    return data + b"\n"


MAX_LOGPROBS = 20
RENAMED = {"num_keep": "n_keep", "penalize_newline": "penalize_nl"}
HERE = {"num_predict", "stop"}  # options with a field of their own in CompletionRequest
# How the base64 of each image format begins.
IMAGES = {"iVBOR": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp", "Qk": "bmp"}


def error(fault: GatewayError) -> dict[str, Any]:
    """Ollama's error object; `error` is a string."""
    return {"error": fault.message}


COMMON: Fields = {
    "model": doc.MODEL,
    "stream": {**doc.STREAM, "default": True},
    "options": doc.mapping("Sampler settings, `num_predict` and `stop`.", {"num_predict": 16}),
    "format": doc.one_of("json, or a JSON schema.", "json", doc.TEXT, doc.OBJECT),
    "think": doc.one_of("Passed to the chat template.", False, {"type": "boolean"}, doc.TEXT),
    "logprobs": LOGPROBS,
    "top_logprobs": LIKELIEST,
}


def shared_fields(body: Body, known: Set[str]) -> dict[str, Any]:
    """The fields of CompletionRequest that both bodies share; `known` are those of the route."""
    options = mapping(body, "options")
    values, warnings = _sampling(options)
    limit = integer(options, "num_predict", -2, MAX_TOKENS, at="options.")
    think = body.get("think")
    if think is not None and type(think) not in (bool, str):
        raise InvalidParameter("think", "must be true, false, low, medium or high")
    logprobs = None
    if flag(body, "logprobs"):
        logprobs = integer(body, "top_logprobs", 0, MAX_LOGPROBS) or 0
    return {
        "model": untagged(model_name(body)),
        "sampling": values,
        # Ollama's own runner knows no limit of 0 either.
        "max_tokens": limit if limit is not None and limit > 0 else None,
        "stop": stops(options),
        "stream": flag(body, "stream", True),
        "logprobs": logprobs,
        "output": _output(body.get("format")),
        "reasoning_effort": think if type(think) is str else "",
        "template_kwargs": {} if think is None else {"enable_thinking": think is not False},
        "warnings": ignored_fields(body, known) + warnings,
    }


def _sampling(options: Body) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sampler options under llama.cpp's names; others are ignored with a warning."""
    given = {name: value for name, value in options.items() if value is not None}
    names = {name: RENAMED.get(name, name) for name in given if name not in HERE}
    values = {own: check(own, given[name]) for name, own in names.items() if own in FIELDS}
    ignored = [plain(name) for name, own in names.items() if own not in FIELDS]
    return values, tuple(f"the option {name} is ignored" for name in ignored)


def _output(value: Any) -> OutputFormat:
    if value is None or value == "":
        return OutputFormat()
    if value == "json":
        return OutputFormat("json_object")
    if isinstance(value, dict):
        return OutputFormat("json_schema", value, "format")
    raise InvalidParameter("format", 'must be "json" or a JSON schema')


def images(values: Sequence[Any], at: str) -> tuple[Media, ...]:
    out = []
    for i, value in enumerate(values):
        if type(value) is not str:
            raise InvalidParameter(f"{at}[{i}]", "must be base64")
        kind = next((k for mark, k in IMAGES.items() if value.startswith(mark)), "png")
        out.append(Media(kind="image", url=f"data:image/{kind};base64,{value}"))
    return tuple(out)


def timestamp(seconds: float) -> str:
    """A time in RFC 3339."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def head(meta: ResponseMeta) -> dict[str, Any]:
    """The fields every object of an answer begins with."""
    return {"model": meta.model, "created_at": timestamp(meta.created + meta.elapsed())}


def tail(meta: ResponseMeta, finished: Finished, told: Compacted | None = None) -> dict[str, Any]:
    """The fields of the last object; durations in nanoseconds. eval_duration is the total duration
    if the backend reported no timings, as when one of our stop strings ended the generation."""
    counts, times = finished.usage, finished.timings
    total = meta.elapsed()
    return {
        "done": True,
        "done_reason": "length" if finished.reason == "length" else "stop",
        "total_duration": _ns(total),
        "load_duration": 0,
        "prompt_eval_count": counts.prompt,
        "prompt_eval_duration": _ns(times.prompt_ms / 1000),
        "eval_count": counts.completion,
        "eval_duration": _ns(times.predicted_ms / 1000 or total),
        **compaction_field(told),
    }


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


_DURATION = re.compile(r"[+-]?\d{1,9}(\.\d{1,9})?|[+-]?(\d{1,9}(\.\d{1,9})?(ms|s|m|h)){1,4}")
_UNITS = {"": 1.0, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def keep_alive(body: Body) -> float | None:
    """The idle seconds after which the model may be unloaded: inf for never, 0 for at once, None if
    not said. A number of seconds, or a duration of Go (https://pkg.go.dev/time#ParseDuration).
    Raises InvalidParameter."""
    value = body.get("keep_alive")
    if value is None or value == "":
        return None
    written = value if isinstance(value, bool | str) else str(value)
    if not (type(written) is str and _DURATION.fullmatch(written)):
        raise InvalidParameter("keep_alive", "must be seconds or a duration like 5m")
    parts = re.findall(r"([\d.]+)([a-z]*)", written)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return math.inf if written.startswith("-") else seconds


def loaded(body: Mapping[str, Any], meta: ResponseMeta) -> dict[str, Any]:
    """The answer to a request without a prompt, which only loads or unloads the model."""
    unload = body.get("keep_alive") in (0, "0", "0s", "0m")
    return {**head(meta), "done": True, "done_reason": "unload" if unload else "load"}


def whole(
    meta: ResponseMeta, request: CompletionRequest, completion: Completion, content: dict[str, Any]
) -> dict[str, Any]:
    """The whole answer; `content` is its part that depends on the route."""
    ended = tail(meta, completion.finished, completion.compacted)
    out = {**head(meta), **content, **ended}
    if request.logprobs is not None:
        out["logprobs"] = list(map(token, completion.logprobs))
    return out


class NdjsonLines:
    """Encodes events as lines of JSON."""

    content_type = "application/x-ndjson"

    def __init__(self, meta: ResponseMeta, request: CompletionRequest) -> None:
        self._meta = meta
        self._compacted: Compacted | None = None

    def said(self, piece: str, thought: str) -> dict[str, Any]:
        """The fields for a piece of text or of thinking."""
        raise NotImplementedError

    def encode(self, choice: int, batch: Batch) -> bytes:
        """The bytes of one batch; an empty batch sends nothing."""
        lines: list[bytes] = []
        for event in batch:
            match event:
                case TextDelta():
                    if event.text or event.logprobs:
                        lines.append(self._line(self.said(event.text, ""), event.logprobs))
                case ReasoningDelta():
                    lines.append(self._line(self.said("", event.text)))
                case Compacted():
                    self._compacted = event.after(self._compacted)
                case Finished():
                    last = tail(self._meta, event, self._compacted)
                    lines.append(encode_line({**head(self._meta), **self.said("", ""), **last}))
        return b"".join(lines)

    def fail(self, fault: GatewayError) -> bytes:
        """The failure as the last line."""
        return encode_line(error(fault))

    def end(self) -> bytes:
        return b""

    def _line(self, content: dict[str, Any], tokens: Sequence[TokenLogprob] = ()) -> bytes:
        out = {**head(self._meta), **content, "done": False}
        if tokens:
            out["logprobs"] = list(map(token, tokens))
        return encode_line(out)


def untagged(name: str) -> str:
    """The name in a request without the tag that lists add."""
    return name.removesuffix(":latest")

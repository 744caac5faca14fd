"""Shared by /api/chat and /api/generate."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from ...core.events import Batch, Compacted, Finished, ReasoningDelta, TextDelta, TokenLogprob
from ...core.fold import Completion
from ...core.request import CompletionRequest, Media, OutputFormat
from ...core.sampling import FIELDS, check
from ...errors import GatewayError, InvalidParameter
from .. import schema_fields as doc
from ..fields import Body, flag, ignored_fields, integer, mapping, model_name, plain, stops, text
from ..openai.answer import LIKELIEST, LOGPROBS, MAX_TOKENS, token
from ..response_meta import ResponseMeta, compaction_field
from ..schema_fields import Fields

# Newline-delimited JSON: one document per line.
#
# Characters that str.splitlines and similar functions treat as line ends are escaped, because
# clients split such streams with them; JSON itself escapes control characters below U+0020.
_ENDS = (("\x85", b"\\u0085"), ("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"))
_RARE = tuple((char.encode(), escape) for char, escape in _ENDS)


def encode_line(value: Any) -> bytes:
    """One line, including its newline."""
    data = msgspec.json.encode(value)
    if not data.isascii():
        for char, escape in _RARE:
            if char in data:
                data = data.replace(char, escape)
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
    """The fields of CompletionRequest that both bodies share. One that is not `known` to the route
    gets a warning. Raises InvalidParameter."""
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
    """Sampler options under llama.cpp's names; options for loading the model are ignored with a
    warning."""
    values: dict[str, Any] = {}
    warnings = []
    for name, value in options.items():
        known = RENAMED.get(name, name)
        if value is None or name in HERE:
            continue
        if known in FIELDS:
            values[known] = check(known, value)
        else:
            warnings.append(f"the option {plain(name)} is ignored")
    return values, tuple(warnings)


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


def moment(meta: ResponseMeta) -> str:
    """The current time in RFC 3339."""
    now = datetime.fromtimestamp(meta.created + meta.elapsed(), UTC)
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


def head(meta: ResponseMeta) -> dict[str, Any]:
    """The fields every object of an answer begins with."""
    return {"model": meta.model, "created_at": moment(meta)}


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


def keep_alive(body: Body) -> float | None:
    """The idle seconds after which the model may be unloaded: inf for never, 0 for at once, None if
    not said. A number of seconds, or a duration of Go (https://pkg.go.dev/time#ParseDuration).
    Raises InvalidParameter."""
    value = body.get("keep_alive")
    if value is None or value == "":
        return None
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str):
        seconds = _duration(value)
    if seconds is None or seconds != seconds:
        raise InvalidParameter("keep_alive", "must be seconds or a duration like 5m")
    return math.inf if seconds < 0 else seconds


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _duration(value: str) -> float | None:
    number = r"\d{1,9}(?:\.\d{1,9})?"
    found = re.fullmatch(rf"([+-]?)({number}|(?:{number}(?:ns|us|µs|ms|s|m|h)){{1,8}})", value)
    if found is None:
        return None
    parts = re.findall(r"([\d.]+)([a-zµ]*)", found[2])
    total = sum(float(number) * _UNITS[unit or "s"] for number, unit in parts)
    return -total if found[1] == "-" else total


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
    """Encodes events as lines of JSON; `said` formats a piece of text or of thinking."""

    content_type = "application/x-ndjson"

    def __init__(self, meta: ResponseMeta, said: Callable[[str, str], dict[str, Any]]) -> None:
        self._meta = meta
        self._said = said
        self._compacted: Compacted | None = None

    def encode(self, choice: int, batch: Batch) -> bytes:
        """The bytes of one batch; an empty batch sends nothing."""
        out: list[bytes] = []
        for event in batch:
            match event:
                case TextDelta():
                    if event.text or event.logprobs:
                        out.append(self._line(self._said(event.text, ""), event.logprobs))
                case ReasoningDelta():
                    out.append(self._line(self._said("", event.text)))
                case Compacted():
                    self._compacted = event.after(self._compacted)
                case Finished():
                    last = {**self._said("", ""), **tail(self._meta, event, self._compacted)}
                    out.append(encode_line({**head(self._meta), **last}))
        return b"".join(out)

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


# Entries of models for /api/tags, /api/ps and /api/show. Backends do not report the size and
# digest of their file: the size is 0, except for a model that the gateway starts, and the digest
# is that of the name, which suffices to tell models apart.
VERSION = "0.12.6"  # the Ollama version reported; clients require a minimum


class OllamaModel(Struct, frozen=True, kw_only=True):
    """A served model; `created` in seconds since 1970, `n_ctx` in tokens, 0 if unknown. `status` is
    that of a model that is loaded on demand, "" for others. `size` is the memory that it takes in
    bytes, `on_cards` of it on graphics cards, `on_disk` the size of its file, 0 if unknown;
    `expires` is when it is unloaded if nobody uses it, in seconds since 1970.
    `family`, `parameters` ("8B"), `quantization` and `trained` (tokens) are from its file."""

    name: str
    created: int
    n_ctx: int = 0
    template: str = ""
    infill: bool = False
    vision: bool = False
    embeddings: bool = False
    generates: bool = True
    status: str = ""
    size: int = 0
    on_cards: int = 0
    on_disk: int = 0
    expires: float = math.inf
    family: str = ""
    parameters: str = ""
    quantization: str = ""
    trained: int = 0


NEVER = "9999-12-31T23:59:59Z"
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "",
    "quantization_level": "",
}


def _details(model: OllamaModel) -> dict[str, Any]:
    family = model.family or DETAILS["family"]
    return {
        **DETAILS,
        "family": family,
        "families": [family],
        "parameter_size": model.parameters,
        "quantization_level": model.quantization,
    }


def _tagged(name: str) -> str:
    """The name with a tag, as Ollama lists all models: clients look for it there."""
    return name if ":" in name else f"{name}:latest"


def untagged(name: str) -> str:
    """The name in a request without the tag that lists add."""
    return name.removesuffix(":latest")


def _entry(model: OllamaModel) -> dict[str, Any]:
    name = _tagged(model.name)
    return {
        "name": name,
        "model": name,
        "size": model.size,
        "digest": hashlib.sha256(model.name.encode()).hexdigest(),
        "details": _details(model),
        **({"status": model.status} if model.status else {}),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def model_tag(model: OllamaModel) -> dict[str, Any]:
    """An entry of /api/tags."""
    size = model.on_disk or model.size
    return {**_entry(model), "size": size, "modified_at": _time(model.created)}


def running_model(model: OllamaModel) -> dict[str, Any]:
    """An entry of /api/ps, for a model that is loaded."""
    return {
        **_entry(model),
        "expires_at": NEVER if model.expires == math.inf else _time(model.expires),
        "size_vram": model.on_cards,
        "context_length": model.n_ctx,
    }


def parse_show(body: Body) -> str:
    """The name of the model that /api/show is asked about. Raises InvalidParameter."""
    return untagged(model_name(body) or text(body, "name"))


def shown_model(model: OllamaModel) -> dict[str, Any]:
    """The answer of /api/show."""
    family = model.family or DETAILS["family"]
    can = {
        "completion": model.generates,
        "tools": model.generates,
        "insert": model.infill,
        "vision": model.vision,
        "embedding": model.embeddings,
    }
    return {
        "modelfile": "",
        "parameters": "",
        "template": model.template,
        "details": _details(model),
        "model_info": {
            "general.architecture": family,
            "general.basename": model.name,
            f"{family}.context_length": model.n_ctx or model.trained,
        },
        "capabilities": [name for name in can if can[name]],
        "modified_at": _time(model.created),
    }

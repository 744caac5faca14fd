"""What /api/chat and /api/generate have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ...core.events import (
    Batch,
    Failed,
    Finished,
    ReasoningDelta,
    TextDelta,
    TokenLogprob,
)
from ...core.fold import Completion
from ...core.invalid import Invalid
from ...core.request import CompletionRequest, Media, OutputFormat
from ...core.sampling import FIELDS, check
from ...errors import GatewayError
from ...wire import ndjson
from ..fields import Body, flag, integer, mapping, stops, text
from ..openai import token
from ..openai_tools import plain
from ..stamp import Stamp

MAX_TOKENS = 1 << 30
MAX_LOGPROBS = 20
RENAMED = {"num_keep": "n_keep", "penalize_newline": "penalize_nl"}
HERE = {"num_predict", "stop"}  # options with a place of their own in a request
# Begin of the base64 of the files that images come as.
IMAGES = {"iVBOR": "png", "/9j/": "jpeg", "R0lGOD": "gif", "UklGR": "webp", "Qk": "bmp"}


def error(fault: GatewayError) -> dict[str, Any]:
    """Ollama's errors are a text."""
    return {"error": fault.message}


def common(body: Body) -> dict[str, Any]:
    """The fields of CompletionRequest that both bodies have; ":latest" is the tag of a name that
    has none. Raises Invalid."""
    options = mapping(body, "options")
    values, warnings = _sampling(options)
    limit = integer(options, "num_predict", -2, MAX_TOKENS, at="options.")
    think = body.get("think")
    if think is not None and type(think) not in (bool, str):
        raise Invalid("think", "must be true, false, low, medium or high")
    logprobs = None
    if flag(body, "logprobs"):
        logprobs = integer(body, "top_logprobs", 0, MAX_LOGPROBS) or 0
    return {
        "model": text(body, "model").removesuffix(":latest"),
        "sampling": values,
        "max_tokens": limit if limit is not None and limit > 0 else None,
        "stop": stops(options),
        "stream": flag(body, "stream", True),
        "logprobs": logprobs,
        "output": _output(body.get("format")),
        "reasoning_effort": think if type(think) is str else "",
        "template_kwargs": {} if think is None else {"enable_thinking": think is not False},
        "warnings": warnings,
    }


def _sampling(options: Body) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Sampler options under llama.cpp's names; those that shape the model's loading are the
    backend's own business."""
    values: dict[str, Any] = {}
    warnings = []
    for name, value in options.items():
        known = RENAMED.get(name, name)
        if value is None or name in HERE:
            continue
        if known in FIELDS:
            values[known] = check(known, value)
        else:
            warnings.append(f"the option {plain(name)} is left out")
    return values, tuple(warnings)


def _output(value: Any) -> OutputFormat:
    if value is None or value == "":
        return OutputFormat()
    if value == "json":
        return OutputFormat("json_object")
    if isinstance(value, dict):
        return OutputFormat("json_schema", value, "format")
    raise Invalid("format", 'must be "json" or a JSON schema')


def images(values: Sequence[Any], at: str) -> tuple[Media, ...]:
    out = []
    for i, value in enumerate(values):
        if type(value) is not str:
            raise Invalid(f"{at}[{i}]", "must be base64")
        kind = next((k for mark, k in IMAGES.items() if value.startswith(mark)), "png")
        out.append(Media("image", url=f"data:image/{kind};base64,{value}"))
    return tuple(out)


def moment(stamp: Stamp) -> str:
    """Now, as RFC 3339 says it."""
    now = datetime.fromtimestamp(stamp.created + stamp.elapsed(), UTC)
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


def head(stamp: Stamp) -> dict[str, Any]:
    """How every object of an answer begins."""
    return {"model": stamp.model, "created_at": moment(stamp)}


def tail(stamp: Stamp, finished: Finished) -> dict[str, Any]:
    """What the last object says; durations in nanoseconds. Where the backend did not tell how long
    it took (it was stopped by a stop string of ours) the whole time stands for it."""
    counts, times = finished.usage, finished.timings
    total = stamp.elapsed()
    return {
        "done": True,
        "done_reason": "length" if finished.reason == "length" else "stop",
        "total_duration": _ns(total),
        "load_duration": 0,
        "prompt_eval_count": counts.prompt,
        "prompt_eval_duration": _ns(times.prompt_ms / 1000),
        "eval_count": counts.completion,
        "eval_duration": _ns(times.predicted_ms / 1000 or total),
    }


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def loaded(body: Mapping[str, Any], stamp: Stamp) -> dict[str, Any]:
    """The answer to a request without a prompt, which only wants the model loaded, or let go."""
    gone = body.get("keep_alive") in (0, "0", "0s", "0m")
    return {**head(stamp), "done": True, "done_reason": "unload" if gone else "load"}


def logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [token(one) for one in tokens]


def whole(
    stamp: Stamp, request: CompletionRequest, one: Completion, said: dict[str, Any]
) -> dict[str, Any]:
    """The whole answer around what was said."""
    out = {**head(stamp), **said, **tail(stamp, one.finished)}
    if request.logprobs is not None:
        out["logprobs"] = logprobs(one.logprobs)
    return out


class Lines:
    """Events to lines of JSON; `said` is how the API writes a piece of text or of thought."""

    content_type = "application/x-ndjson"

    def __init__(self, stamp: Stamp, said: Callable[[str, str], dict[str, Any]]) -> None:
        self._stamp = stamp
        self._said = said

    def encode(self, choice: int, batch: Batch) -> bytes:
        """The bytes of one batch; silence has no sign in these streams."""
        out: list[bytes] = []
        for event in batch:
            match event:
                case TextDelta():
                    if event.text or event.logprobs:
                        out.append(self._line(self._said(event.text, ""), event.logprobs))
                case ReasoningDelta():
                    out.append(self._line(self._said("", event.text)))
                case Finished():
                    last = {**self._said("", ""), **tail(self._stamp, event)}
                    out.append(ndjson.encode({**head(self._stamp), **last}))
                case Failed():
                    raise AssertionError("a failure is told by fail()")
        return b"".join(out)

    def fail(self, fault: GatewayError) -> bytes:
        """The failure as the last line."""
        return ndjson.encode(error(fault))

    def end(self) -> bytes:
        return b""

    def _line(self, said: dict[str, Any], tokens: Sequence[TokenLogprob] = ()) -> bytes:
        out = {**head(self._stamp), **said, "done": False}
        if tokens:
            out["logprobs"] = logprobs(tokens)
        return ndjson.encode(out)

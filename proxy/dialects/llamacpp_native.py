"""llama.cpp's own completions: POST /completion and POST /infill.

The source is the README of llama.cpp's server, today's and 2023's, and today's server-task.cpp. An
answer carries the field names of both (id_slot and slot_id, stop_type and stopped_*), so clients of
either age find theirs. `tokens` holds ids where `return_tokens` asks for them and the backend names
them. Slots are placed by us: id_slot is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from ..core.events import (
    Batch,
    Failed,
    Finished,
    Progress,
    Started,
    TextDelta,
    TokenDetail,
    TokenLogprob,
)
from ..core.fold import Completion
from ..core.invalid import Invalid
from ..core.request import CompletionRequest, OutputFormat, Report
from ..core.sampling import logit_bias, sampling
from ..errors import GatewayError
from ..wire import sse
from . import openai
from .fields import Body, entry, flag, integer, items, stops, text, unheeded
from .openai_completions import prompts
from .stamp import Stamp

MAX_TOKENS = 1 << 30
MAX_EXTRA = 256
MAX_PROBS = 1000
SETTINGS = ("generation_settings", "prompt")  # what of an answer the backend is asked for


def status(value: str) -> dict[str, Any]:
    """What a router's /v1/models says of a model's state; a failed load leaves it unloaded."""
    if value == "failed":
        return {"value": "unloaded", "failed": True}
    return {"value": value}


def parse(body: Body) -> CompletionRequest:
    """A body of /completion. Raises Invalid naming the field."""
    return CompletionRequest(prompts=prompts(body.get("prompt")), **_common(body))


def parse_infill(body: Body) -> CompletionRequest:
    """A body of /infill: what stands before and after, the texts of other files, and the beginning
    of what is to be filled in. Raises Invalid naming the field."""
    files = items(body, "input_extra")
    if len(files) > MAX_EXTRA:
        raise Invalid("input_extra", f"may hold {MAX_EXTRA} files at most")
    context = []
    for i, value in enumerate(files):
        at = f"input_extra[{i}]"
        one = entry(value, at)
        context.append(
            {"filename": text(one, "filename", at=at + "."), "text": text(one, "text", at=at + ".")}
        )
    values = _common(body)
    infill: dict[str, Any] = {"input_extra": context} if context else {}
    if body.get("prompt"):
        infill["prompt"] = text(body, "prompt")
    values["extra"]["infill"] = infill
    return CompletionRequest(
        prompts=(text(body, "input_prefix"),), suffix=text(body, "input_suffix"), **values
    )


def _common(body: Body) -> dict[str, Any]:
    values = sampling(body)
    if body.get("logit_bias"):
        values["logit_bias"] = logit_bias(body["logit_bias"])
    if body.get("image_data"):
        raise Invalid("image_data", "is not supported: send images to /v1/chat/completions")
    limit = integer(body, "n_predict", -2, MAX_TOKENS)
    schema = body.get("json_schema")
    if schema is not None and not isinstance(schema, dict):
        raise Invalid("json_schema", "must be an object")
    wanted = items(body, "response_fields")
    if not all(type(name) is str for name in wanted):
        raise Invalid("response_fields", "must be a list of strings")
    report = Report(
        progress=flag(body, "return_progress"),
        timings=flag(body, "timings_per_token"),
        tokens=flag(body, "return_tokens"),
        settings=not wanted or any(name.startswith(SETTINGS) for name in wanted),
        sampled=flag(body, "post_sampling_probs"),
    )
    return {
        "model": text(body, "model"),
        "sampling": values,
        "max_tokens": limit if limit is not None and limit >= 0 else None,
        "stop": stops(body),
        "n": integer(body, "n_cmpl", 1, openai.MAX_CHOICES) or 1,
        "stream": flag(body, "stream"),
        "logprobs": integer(body, "n_probs", 0, MAX_PROBS) or None,
        "output": OutputFormat("json_schema", schema) if schema is not None else OutputFormat(),
        "session": text(body, "session"),
        "warnings": unheeded(body, {"lora": (), "system_prompt": ()}),
        "report": report,
        "extra": {"response_fields": tuple(wanted)} if wanted else {},
    }


def error(fault: GatewayError) -> dict[str, Any]:
    """llama-server's: the code is the status."""
    return {
        "error": {
            "code": fault.status,
            "message": fault.message,
            "type": fault.type,
            **fault.extra,
        }
    }


def _token(one: TokenLogprob, sampled: bool) -> dict[str, Any]:
    """A token with its likeliest rivals. `sampled`: with probabilities after the samplers in place
    of logarithms before them. The id is left out where the backend does not name it."""
    value, likely = ("prob", "top_probs") if sampled else ("logprob", "top_logprobs")

    def told(token: str, data: bytes, logprob: float, number: int) -> dict[str, Any]:
        out: dict[str, Any] = {"id": number} if number >= 0 else {}
        out |= {"token": token, "bytes": list(data)}
        out[value] = math.exp(logprob) if sampled else logprob
        return out

    return {
        **told(one.token, one.data, one.logprob, one.id),
        likely: [told(a.token, a.data, a.logprob, a.id) for a in one.top],
    }


def _probabilities(
    request: CompletionRequest, tokens: Sequence[TokenLogprob]
) -> list[dict[str, Any]]:
    return [_token(one, request.report.sampled) for one in tokens]


def _last(
    stamp: Stamp,
    request: CompletionRequest,
    index: int,
    finished: Finished,
    one: Completion | None = None,
) -> dict[str, Any]:
    """The object that says how a completion ended; the whole answer where `one` is given."""
    out = {
        "index": index,
        "tokens": list(one.tokens) if one is not None else [],
        "multimodal": False,
        **openai.ended(stamp, request, finished, one.text if one is not None else ""),
    }
    if one is not None and one.logprobs:
        out["completion_probabilities"] = _probabilities(request, one.logprobs)
    return trimmed(out, request.extra.get("response_fields", ()))


def trimmed(answer: dict[str, Any], wanted: Sequence[str]) -> dict[str, Any]:
    """The fields that were asked for; one with a slash (timings/prompt_n) is lifted out, under the
    name it was asked by. All, if none was named."""
    if not wanted:
        return answer
    out = {}
    for name in wanted:
        value: Any = answer
        for part in name.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            out[name] = value
    return out


def reply(stamp: Stamp, request: CompletionRequest, completions: Sequence[Completion]) -> Any:
    """The whole answer: one object, or a list of them."""
    answers = [_last(stamp, request, one.index, one.finished, one) for one in completions]
    return answers[0] if len(answers) == 1 else answers


class Encoder:
    """Events to the stream's objects; the last of a completion says how it ended."""

    content_type = "text/event-stream"

    def __init__(self, stamp: Stamp, request: CompletionRequest) -> None:
        self._stamp = stamp
        self._request = request
        self._slots: dict[int, int] = {}
        self._lines: set[int] = set()  # the choices whose text holds a line break

    def encode(self, choice: int, batch: Batch) -> bytes:
        """The bytes of one batch; a tick of silence is a comment."""
        if not batch:
            return sse.HEARTBEAT
        out: list[bytes] = []
        for event in batch:
            match event:
                case Started():
                    self._slots[choice] = event.slot
                case TextDelta():
                    if event.text or event.logprobs:
                        if "\n" in event.text:
                            self._lines.add(choice)
                        tokens = _probabilities(self._request, event.logprobs)
                        out.append(self._piece(choice, event.text, tokens))
                case Progress():
                    out.append(openai.extended(self._piece(choice), openai.reported(event)))
                case TokenDetail():
                    if not out:
                        out.append(self._piece(choice))
                    more = openai.reported(event)
                    if event.tokens:
                        more["tokens"] = event.tokens
                    out[-1] = openai.extended(out[-1], more)
                case Finished():
                    last = _last(self._stamp, self._request, choice, event)
                    if choice in self._lines and "has_new_line" in last:
                        last["has_new_line"] = True
                    out.append(_event(last))
                case Failed():
                    raise AssertionError("a failure is told by fail()")
        return b"".join(out)

    def _piece(
        self, choice: int, content: str = "", probabilities: Sequence[dict[str, Any]] = ()
    ) -> bytes:
        slot = self._slots.get(choice, -1)
        piece = {
            "index": choice,
            "content": content,
            "stop": False,
            "id_slot": slot,
            "slot_id": slot,
            "multimodal": False,
        }
        if not self._request.report.tokens:
            piece["tokens"] = []
        if probabilities:
            piece["completion_probabilities"] = probabilities
        return _event(piece)

    def fail(self, fault: GatewayError) -> bytes:
        """The failure as an event; nothing comes after it."""
        return _event(error(fault))

    def end(self) -> bytes:
        return b""


def _event(value: dict[str, Any]) -> bytes:
    return sse.encode(msgspec.json.encode(value))


class Form(NamedTuple):
    """One route's dialect."""

    parse: Callable[[Body], CompletionRequest]
    reply: Callable[[Stamp, CompletionRequest, Sequence[Completion]], Any] = reply
    error: Callable[[GatewayError], dict[str, Any]] = error
    Encoder: Callable[[Stamp, CompletionRequest], Encoder] = Encoder


completion = Form(parse)
infill = Form(parse_infill)

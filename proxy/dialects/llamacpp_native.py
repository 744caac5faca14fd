"""llama.cpp's own completions: POST /completion and POST /infill.

The source is the README of llama.cpp's server, today's and 2023's. An answer carries the field
names of both (id_slot and slot_id, stop_type and stopped_*), so clients of either age find theirs.
Token ids are not known here: `tokens` is empty. Slots are placed by us: id_slot is not taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from ..core.events import Batch, Failed, Finished, Started, TextDelta
from ..core.fold import Completion
from ..core.invalid import Invalid
from ..core.request import CompletionRequest, OutputFormat
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


def _piece(
    index: int, content: str, slot: int, probabilities: list[dict[str, Any]]
) -> dict[str, Any]:
    out = {
        "index": index,
        "content": content,
        "tokens": [],
        "stop": False,
        "id_slot": slot,
        "slot_id": slot,
        "multimodal": False,
    }
    if probabilities:
        out["completion_probabilities"] = probabilities
    return out


def _last(
    stamp: Stamp,
    request: CompletionRequest,
    index: int,
    content: str,
    finished: Finished,
    probabilities: list[dict[str, Any]],
) -> dict[str, Any]:
    counts = finished.usage
    word = finished.stop_sequence if finished.stop_sequence in request.stop else ""
    kind = "limit" if finished.reason == "length" else "word" if word else "eos"
    limit = request.max_tokens
    prompt = request.prompts[index // request.n] if request.prompts else ""
    out = {
        **_piece(index, content, finished.slot, probabilities),
        "stop": True,
        "model": stamp.model,
        "tokens_predicted": counts.completion,
        "tokens_evaluated": counts.prompt,
        "tokens_cached": counts.total,
        "generation_settings": {**request.sampling, "n_predict": -1 if limit is None else limit},
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "has_new_line": "\n" in content,
        "truncated": finished.truncated,
        "stop_type": kind,
        "stopped_eos": kind == "eos",
        "stopped_word": kind == "word",
        "stopped_limit": kind == "limit",
        "stopping_word": word,
        "timings": openai.timings(finished.timings),
    }
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
    answers = [
        _last(
            stamp,
            request,
            one.index,
            one.text,
            one.finished,
            [openai.token(token) for token in one.logprobs],
        )
        for one in completions
    ]
    return answers[0] if len(answers) == 1 else answers


class Encoder:
    """Events to the stream's objects; the last of a completion says how it ended."""

    content_type = "text/event-stream"

    def __init__(self, stamp: Stamp, request: CompletionRequest) -> None:
        self._stamp = stamp
        self._request = request
        self._slots: dict[int, int] = {}

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
                        tokens = [openai.token(token) for token in event.logprobs]
                        slot = self._slots.get(choice, -1)
                        out.append(_event(_piece(choice, event.text, slot, tokens)))
                case Finished():
                    out.append(_event(_last(self._stamp, self._request, choice, "", event, [])))
                case Failed():
                    raise AssertionError("a failure is told by fail()")
        return b"".join(out)

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

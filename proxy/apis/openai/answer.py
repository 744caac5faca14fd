"""Shared by OpenAI's chat completions and completions, with llama.cpp's additions and those of the
reference script (`tokenize`, `truncated`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import msgspec
from msgspec import structs

from ...core import events
from ...core.fold import Completion
from ...core.request import CompletionRequest, OutputFormat, Report
from ...core.sampling import sampling
from ...core.usage import Timings, Usage
from ...errors import GatewayError
from ...wire import sse
from .. import fields
from .. import schema_fields as doc
from ..fields import Body
from ..response_meta import ResponseMeta, compaction_field
from ..schema_fields import Field, Fields, Schema, table

to_json = msgspec.json.Encoder().encode
MAX_CHOICES = 16
MAX_TOKENS = 1 << 30
MAX_LOGPROBS = 20


def shared_fields(body: Body, names: Set[str], readers: fields.Table) -> dict[str, Any]:
    """The fields of CompletionRequest that both kinds of body share, and those of `readers`, if
    present. A field that is not `known` to the kind gets a warning. Raises InvalidParameter."""
    values = fields.read(body, readers)
    if not _SAMPLING.isdisjoint(body):
        values["sampling"] = sampling(body)
    if not _REPORT.keys().isdisjoint(body):
        values["report"] = report(body)
    values["warnings"] = fields.ignored_fields(body, names)
    return values


def report(body: Body) -> Report:
    return Report(**fields.read(body, _REPORT))


def _max_tokens(body: Body, _: str) -> int | None:
    """The first limit that is set. -1 is llama.cpp's "no limit"; 0 evaluates the prompt only."""
    for name in filter(body.__contains__, LENGTHS):
        value = fields.integer(body, name, -1, MAX_TOKENS)
        if value is not None and value != -1:
            return value
    return None


def token_limit(body: Body, name: str) -> int | None:
    """A limit of its own; -1 is llama.cpp's "no limit"."""
    value = fields.integer(body, name, -1, MAX_TOKENS)
    return None if value == -1 else value


def json_schema(body: Body, name: str) -> OutputFormat:
    """llama.cpp's own field; a schema that no grammar can express is left to output validation."""
    if body.get(name) is None:
        return OutputFormat()
    return OutputFormat("json_schema", fields.mapping(body, name))


def output_format(form: Body, at: str, inside: str = "") -> OutputFormat:
    """The format at the path `at`; a schema and its name are in its field `inside`."""
    kind = fields.choice(form, "type", ("text", "json_object", "json_schema"), "text", at)
    if kind == "json_object":
        return OutputFormat("json_object", fields.mapping(form, "schema", at) or None)
    if kind == "text":
        return OutputFormat()
    if inside:
        form, at = fields.mapping(form, inside, at), f"{at}{inside}."
    schema = fields.entry(form.get("schema"), at + "schema")
    name, strict = fields.text(form, "name", at=at), fields.flag(form, "strict", at=at)
    return OutputFormat("json_schema", schema, name, strict)


LENGTHS = ("max_completion_tokens", "max_tokens", "n_predict")


def tokens(description: str, low: int = -1) -> Schema:
    return doc.count(description, low, MAX_TOKENS, 16)


STOP = doc.one_of(
    "A stop string, or up to 16, of up to 1000 characters each.",
    ["\n\n"],
    doc.TEXT,
    {**doc.STRINGS, "maxItems": 16},
)
LOGIT_BIAS = doc.one_of(
    "A bias for each token id or text: an object, or a list of pairs.",
    {"15": -1.0},
    doc.OBJECT,
    doc.list_of({"type": "array"}),
)
LOGPROBS = doc.flag("Return the log probability of each token.")
ALTERNATIVES = doc.count("Number of alternatives for each token.", 0, MAX_LOGPROBS, 0)
LIKELIEST = {
    **ALTERNATIVES,
    "description": "Number of alternatives for each token; requires logprobs.",
}
SESSION = doc.text_field(
    "session", "Identifies the conversation, to reuse the slot that has its cache.", "c"
)
USER = doc.text_field("user", "Ignored by the backends.", "u")
TEMPLATE = Field(
    doc.mapping("Variables for the chat template.", {"enable_thinking": False}),
    "template_kwargs",
    fields.mapping,
)
REPORT: dict[str, Field] = {
    "return_progress": doc.flag_field("progress", "Stream the progress of prompt evaluation."),
    "timings_per_token": doc.flag_field("timings", "Add `timings` to each chunk."),
    "verbose": doc.flag_field("settings", "Add the prompt and the backend's settings."),
}
"""The extra information that llama-server's clients can request."""
_REPORT = table(REPORT)
PARSED: dict[str, Field] = {
    "model": Field(doc.MODEL, "model", fields.model_name),
    "max_completion_tokens": Field(
        tokens("The same as max_tokens; takes precedence."), "max_tokens", _max_tokens
    ),
    "max_tokens": Field(
        tokens("Maximum tokens of the answer; -1: limited by the context only."),
        "max_tokens",
        _max_tokens,
    ),
    "n_predict": Field(tokens("llama.cpp's name for max_tokens."), "max_tokens", _max_tokens),
    "stop": Field(STOP, "stop", fields.stops),
    "n": doc.count_field("n", "Number of choices.", 1, MAX_CHOICES, 1, 1),
    "stream": Field(doc.STREAM, "stream", fields.flag),
    "stream_options": Field(
        doc.mapping("`include_usage`: send a last chunk with the usage.", {"include_usage": True}),
        "include_usage",
        lambda body, name: fields.flag(fields.mapping(body, name), "include_usage"),
    ),
    "tokenize": doc.flag_field("return_prompt_tokens", "Return the tokens of the prompt."),
    "user": USER,
    "prompt_cache_key": SESSION,
    "json_schema": Field(
        doc.mapping("A JSON schema for the answer, llama.cpp's field.", {"type": "object"}),
        "output",
        json_schema,
    ),
}
_OTHERS: Fields = {"logit_bias": LOGIT_BIAS, **REPORT, **doc.SAMPLERS}
COMMON: Fields = {**PARSED, **_OTHERS, "capture": doc.CAPTURE}
"""The fields that both kinds of body have."""
_SAMPLING = _OTHERS.keys() - REPORT.keys()


def usage(counts: Usage) -> dict[str, Any]:
    out: dict[str, Any] = {
        "prompt_tokens": counts.prompt,
        "completion_tokens": counts.completion,
        "total_tokens": counts.total,
        "prompt_tokens_details": {"cached_tokens": counts.cached},
        "completion_tokens_details": {"reasoning_tokens": counts.reasoning},
    }
    if counts.continued:
        out["continued"] = counts.continued
    return out


def total(finished: Mapping[int, events.Finished], n: int) -> Usage:
    """The usage of all choices; a prompt counts once for all choices generated from it."""
    if n == 1 and len(finished) == 1:
        return next(iter(finished.values())).usage
    counts = [
        choice.usage if index % n == 0 else structs.replace(choice.usage, prompt=0, cached=0)
        for index, choice in finished.items()
    ]
    return sum(counts, Usage())


def timings(times: Timings) -> dict[str, Any]:
    """llama.cpp's timings object; times are in milliseconds, and what is unknown is 0."""
    prompt, prompt_ms = times.prompt_n, times.prompt_ms
    # The first token comes with the end of the prompt's evaluation.
    later, later_ms = times.predicted_n - 1, times.predicted_ms
    out: dict[str, Any] = {
        "cache_n": times.cache_n,
        "prompt_n": prompt,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / prompt if prompt > 0 else 0.0,
        "prompt_per_second": 1000.0 * prompt / prompt_ms if prompt > 0 and prompt_ms > 0 else 0.0,
        "predicted_n": times.predicted_n,
        "predicted_ms": later_ms,
        "predicted_per_token_ms": later_ms / later if later > 0 else 0.0,
        "predicted_per_second": 1000.0 * later / later_ms if later > 0 and later_ms > 0 else 0.0,
    }
    if times.draft_n:
        out["draft_n"], out["draft_n_accepted"] = times.draft_n, times.draft_n_accepted
    return out


def reported(event: events.Progress | events.TokenDetail) -> dict[str, Any]:
    """The fields that llama-server adds to a chunk for progress or a token's details."""
    out: dict[str, Any] = {}
    if isinstance(event, events.Progress):
        out["prompt_progress"] = {
            "total": event.total,
            "cache": event.cached,
            "processed": event.processed,
            "time_ms": event.ms,
        }
    if event.timings is not None:
        out["timings"] = timings(event.timings)
    return out


def extended(frame: bytes, more: Mapping[str, Any]) -> bytes:
    """Adds fields to the JSON object at the end of an SSE frame."""
    if not more:
        return frame
    assert frame.endswith(b"}\n\n"), "an SSE frame must end with its object"
    return frame[:-3] + b"," + to_json(more)[1:] + b"\n\n"


def ended(
    meta: ResponseMeta, request: CompletionRequest, finished: events.Finished, content: str
) -> dict[str, Any]:
    """How an answer ended, as /completion tells it, under the names of both generations."""
    counts = finished.usage
    word = finished.stop_sequence if finished.stop_sequence in request.stop else ""
    kind = "limit" if finished.reason == "length" else "word" if word else "eos"
    return {
        "content": content,
        "id_slot": finished.slot,
        "slot_id": finished.slot,
        "stop": True,
        "model": meta.model,
        "tokens_predicted": counts.completion,
        "tokens_evaluated": counts.prompt,
        "tokens_cached": counts.total,
        "generation_settings": finished.settings or {},
        "prompt": finished.prompt or "",
        "has_new_line": "\n" in content,
        "truncated": finished.truncated,
        "stop_type": kind,
        "stopped_eos": kind == "eos",
        "stopped_word": kind == "word",
        "stopped_limit": kind == "limit",
        "stopping_word": word,
        "timings": timings(finished.timings),
    }


def token(logprob: events.TokenLogprob) -> dict[str, Any]:
    return {**_likely(logprob), "top_logprobs": [_likely(other) for other in logprob.top]}


def _likely(token: events.TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.data)}


def error(fault: GatewayError) -> dict[str, Any]:
    """OpenAI's error object; `error` is never a plain string."""
    return {
        "error": {
            "message": fault.message,
            "type": fault.type,
            "param": fault.param,
            "code": fault.code,
            **fault.more,
            **fault.extra,
        }
    }


def head(meta: ResponseMeta, kind: str) -> dict[str, Any]:
    """The fields every object of an answer begins with; `kind` is its `object`."""
    return {
        "id": meta.id,
        "object": kind,
        "created": meta.created,
        "model": meta.model,
        "system_fingerprint": meta.fingerprint,
    }


def whole(
    meta: ResponseMeta,
    kind: str,
    request: CompletionRequest,
    completions: Sequence[Completion],
    choice: Callable[[CompletionRequest, Completion], dict[str, Any]],
) -> dict[str, Any]:
    """The whole answer; `choice` formats one completion."""
    first = completions[0]
    counts, truncated = first.finished.usage, first.finished.truncated
    if len(completions) > 1:
        finished = {completion.index: completion.finished for completion in completions}
        counts = total(finished, request.n)
        truncated = any(end.truncated for end in finished.values())
    answer = head(meta, kind)
    answer["choices"] = [choice(request, completion) for completion in completions]
    answer["usage"] = usage(counts)
    answer["timings"] = timings(first.finished.timings)
    answer["truncated"] = truncated
    if request.report.settings:  # as llama-server
        answer["__verbose"] = ended(meta, request, first.finished, first.text)
    if first.compacted is not None:
        answer |= compaction_field(first.compacted)
    return answer


class StreamEncoder:
    """Encodes events as a stream; an API overrides `_event`. Empty batches keep it open."""

    content_type = "text/event-stream"
    error = staticmethod(error)

    def __init__(self, meta: ResponseMeta, request: CompletionRequest) -> None:
        self._meta = meta
        self._request = request

    def encode(self, choice: int, batch: events.Batch) -> bytes:
        if not batch:
            return sse.HEARTBEAT
        out: list[bytes] = []
        for event in batch:
            self._event(choice, event, out)
        return b"".join(out)

    def _event(self, choice: int, event: Any, out: list[bytes]) -> None:
        """Add the bytes of an event to those of its batch."""

    def fail(self, fault: GatewayError) -> bytes:
        return sse.encode(self.error(fault))

    def end(self) -> bytes:
        return b""


class Chunks(StreamEncoder):
    """Encodes events as chunks of a `kind`; choices have their piece, or `silence`, in `said`."""

    kind = said = ""
    silence: Any = ""
    _compacted: events.Compacted | None = None

    def __init__(self, meta: ResponseMeta, request: CompletionRequest) -> None:
        self._meta, self._request = meta, request
        self._finished: dict[int, events.Finished] = {}
        begin = to_json(head(meta, self.kind))
        self._head = b"data: " + begin[:-1] + b',"choices":['
        self._tail = b'],"usage":null}\n\n' if request.include_usage else b"]}\n\n"

    def end(self) -> bytes:
        if not self._request.include_usage:
            return sse.DONE
        first = next(iter(self._finished.values()), None)
        last = {
            "usage": usage(total(self._finished, self._request.n)),
            "timings": timings(first.timings if first is not None else Timings()),
        }
        return self._head + b"]," + to_json(last)[1:] + b"\n\n" + sse.DONE

    def _event(self, choice: int, event: Any, out: list[bytes]) -> None:
        match event:
            case events.Finished():
                out.append(self._last(choice, event))
            case events.Progress():  # in a chunk of its own
                out.append(extended(self._chunk(choice, self.silence), reported(event)))
            case events.TokenDetail():
                if out:  # the chunk of its text
                    out[-1] = extended(out[-1], reported(event))
            case events.Compacted():
                self._compacted = event.after(self._compacted)

    def _last(self, choice: int, finished: events.Finished) -> bytes:
        self._finished[choice] = finished
        last = self._chunk(choice, self.silence, reason=self.reason(finished, self._request))
        return extended(last, self._ending(choice, finished))

    def _chunk(self, choice: int, text: Any, logprobs: Any = None, reason: Any = None) -> bytes:
        piece = {"index": choice, self.said: text, "logprobs": logprobs, "finish_reason": reason}
        return self._head + to_json(piece) + self._tail

    @staticmethod
    def reason(finished: events.Finished, request: CompletionRequest) -> str:
        return finished.reason

    def _ending(self, choice: int, finished: events.Finished) -> dict[str, Any]:
        """The fields beside the choice in its last chunk."""
        ending = {"timings": timings(finished.timings), "truncated": finished.truncated}
        if self._request.report.settings:
            ending["__verbose"] = ended(self._meta, self._request, finished, "")
        if self._compacted is not None:
            ending |= compaction_field(self._compacted)
        return ending

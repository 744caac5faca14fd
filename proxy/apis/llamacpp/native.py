"""llama.cpp's own completions: POST /completion and POST /infill.

The format is that of llama.cpp's server of 2023 and of today: answers have the field names of both.
The `id_slot` of a request is ignored: the scheduler chooses the slot.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from typing import Any

from ...core.events import Finished, Progress, Started, TextDelta, TokenDetail, TokenLogprob
from ...core.fold import Completion
from ...core.request import CompletionRequest, Report
from ...core.sampling import sampling
from ...errors import GatewayError, InvalidParameter
from ...wire import sse
from .. import schema_fields as doc
from ..fields import Body, ignored_fields, integer, items, objects, read, strings, text
from ..openai import answer as openai
from ..openai.answer import MAX_TOKENS
from ..openai.completions import MAX_TOKEN_ID, PROMPTS, prompts
from ..response_meta import ResponseMeta, RouteDialect
from ..schema_fields import Field, Fields, Schema, table

MAX_EXTRA = 256
MAX_PROBS = 1000
FILENAME = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}$"


def _limit(body: Body, name: str) -> int | None:
    limit = integer(body, name, -2, MAX_TOKENS)
    return limit if limit is not None and limit >= 0 else None


_PARSED: dict[str, Field] = {
    **{name: openai.PARSED[name] for name in ("model", "stop", "stream", "json_schema")},
    "n_predict": Field(
        openai.tokens("Maximum tokens; -1: limited by the context only.", -2), "max_tokens", _limit
    ),
    "n_cmpl": openai.PARSED["n"]._replace(
        schema=doc.count("Number of completions.", 1, openai.MAX_CHOICES, 1)
    ),
    "n_probs": doc.count_field(
        "logprobs", "Number of alternatives for each token.", 0, MAX_PROBS, 0
    ),
    "session": openai.SESSION,
}
_REPORT: dict[str, Field] = {
    "return_tokens": doc.flag_field("tokens", "Return the ids of the tokens."),
    "post_sampling_probs": doc.flag_field("sampled", "Report probabilities after sampling."),
    **{name: openai.REPORT[name] for name in ("return_progress", "timings_per_token")},
}
_COMMON: Fields = {
    **_PARSED,
    "logit_bias": openai.LOGIT_BIAS,
    "image_data": doc.array("Must be empty: send images to a chat endpoint.", []),
    "response_fields": doc.strings("Return only these fields.", "content"),
    "capture": doc.CAPTURE,
    **_REPORT,
    **doc.SAMPLERS,
}
_TABLE, _REPORT_TABLE = table(_PARSED), table(_REPORT)
FIELDS: Fields = {"prompt": PROMPTS, **_COMMON}
INFILL: Fields = {
    "input_prefix": doc.text("The text before the gap."),
    "input_suffix": doc.text("The text after the gap."),
    "input_extra": doc.array("Other files: `filename` and `text`.", []),
    "prompt": doc.text("The beginning of the text in the gap."),
    **_COMMON,
}
SETTINGS = ("generation_settings", "prompt")  # answer fields that only the backend can supply


def status(value: str) -> dict[str, Any]:
    """A model's state in a router's /v1/models; after a failed load it is unloaded."""
    if value == "failed":
        return {"value": "unloaded", "failed": True}
    return {"value": value}


def model_event(name: str, value: str, loading: Mapping[str, Any]) -> bytes:
    """An event of a router's /models/sse. A failed load ends with an exit code."""
    data: dict[str, Any] = {"status": value, **loading}
    if value in ("failed", "unloaded"):
        data = {"status": "unloaded", "exit_code": int(value == "failed")}
    return sse.encode({"model": name, "event": "model_status", "data": data})


def models_reload() -> bytes:
    """An event of a router's /models/sse: the list of models has changed."""
    return sse.encode({"model": "*", "event": "models_reload"})


def architecture(*, vision: bool, audio: bool) -> dict[str, Any]:
    """What a model takes and returns, in a router's /v1/models."""
    kinds = ["text", *(["image"] if vision else []), *(["audio"] if audio else [])]
    return {"input_modalities": kinds, "output_modalities": ["text"]}


def parse(body: Body) -> CompletionRequest:
    return CompletionRequest(prompts=prompts(body.get("prompt")), **_common(body, FIELDS.keys()))


def parse_infill(body: Body) -> CompletionRequest:
    """Parses a body of /infill. Raises InvalidParameter."""
    context = [
        {name: text(file, name, at=at) for name in ("filename", "text")}
        for file, at in objects(body, "input_extra")
    ]
    if len(context) > MAX_EXTRA:
        raise InvalidParameter("input_extra", f"may contain at most {MAX_EXTRA} files")
    values = _common(body, INFILL.keys())
    infill: dict[str, Any] = {"input_extra": context} if context else {}
    if body.get("prompt"):
        infill["prompt"] = text(body, "prompt")
    values["extra"]["infill"] = infill
    return CompletionRequest(
        prompts=(text(body, "input_prefix"),), suffix=text(body, "input_suffix"), **values
    )


def _common(body: Body, names: Set[str]) -> dict[str, Any]:
    if body.get("image_data"):
        raise InvalidParameter(
            "image_data", "is not supported: send images to /v1/chat/completions"
        )
    response_fields = strings(body, "response_fields")
    settings = not response_fields or any(name.startswith(SETTINGS) for name in response_fields)
    return {
        "sampling": sampling(body),
        "warnings": ignored_fields(body, names),
        "report": Report(settings=settings, **read(body, _REPORT_TABLE)),
        "extra": {"response_fields": response_fields} if response_fields else {},
        **read(body, _TABLE),
    }


def error(fault: GatewayError) -> dict[str, Any]:
    """llama-server's error object; `code` is the HTTP status."""
    return {
        "error": {
            "code": fault.status,
            "message": fault.message,
            "type": fault.type,
            **fault.more,
            **fault.extra,
        }
    }


def _probabilities(
    request: CompletionRequest, tokens: Sequence[TokenLogprob]
) -> list[dict[str, Any]]:
    """Tokens with their alternatives. `sampled` reports probabilities after the samplers instead of
    logprobs before them. The id is omitted if the backend does not send it."""
    sampled = request.report.sampled
    value, likely = ("prob", "top_probs") if sampled else ("logprob", "top_logprobs")

    def candidate(token: Any) -> dict[str, Any]:
        out: dict[str, Any] = {"id": token.id} if token.id >= 0 else {}
        out |= {"token": token.token, "bytes": list(token.data)}
        out[value] = math.exp(token.logprob) if sampled else token.logprob
        return out

    return [{**candidate(token), likely: list(map(candidate, token.top))} for token in tokens]


def _last(
    meta: ResponseMeta,
    request: CompletionRequest,
    index: int,
    finished: Finished,
    completion: Completion | None = None,
) -> dict[str, Any]:
    """The last object of a completion, which is also its whole answer if `completion` is given."""
    out = {
        "index": index,
        "tokens": list(completion.tokens) if completion is not None else [],
        "multimodal": False,
        **openai.ended(meta, request, finished, completion.text if completion is not None else ""),
    }
    if completion is not None and completion.logprobs:
        out["completion_probabilities"] = _probabilities(request, completion.logprobs)
    return trimmed(out, request.extra.get("response_fields", ()))


def trimmed(answer: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Selects the requested fields, or all if none is requested. A path such as timings/prompt_n
    selects a nested field, which keeps the path as its name."""
    if not names:
        return answer
    out = {}
    for name in names:
        value: Any = answer
        for part in name.split("/"):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            out[name] = value
    return out


def reply(meta: ResponseMeta, request: CompletionRequest, completions: Sequence[Completion]) -> Any:
    """The whole answer: one object, or a list if there are several completions."""
    answers = [
        _last(meta, request, completion.index, completion.finished, completion)
        for completion in completions
    ]
    return answers[0] if len(answers) == 1 else answers


class Encoder(openai.StreamEncoder):
    """Encodes events as the stream's objects; the last object of a completion says why it ended."""

    error = staticmethod(error)

    def __init__(self, meta: ResponseMeta, request: CompletionRequest) -> None:
        super().__init__(meta, request)
        self._slots: dict[int, int] = {}
        self._lines: set[int] = set()  # choices whose text contains a line break

    def _event(self, choice: int, event: Any, out: list[bytes]) -> None:
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
                last = _last(self._meta, self._request, choice, event)
                if choice in self._lines and "has_new_line" in last:
                    last["has_new_line"] = True
                out.append(sse.encode(last))

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
        return sse.encode(piece)


completion = RouteDialect(parse, reply, error, Encoder)
infill = RouteDialect(parse_infill, reply, error, Encoder)


# Bodies of POST /tokenize, /detokenize, /slots/{id} and /models/load. The source is the README of
# llama.cpp's server.


def _tokens(body: Body, name: str) -> list[int]:
    tokens = items(body, name)
    if not all(type(token) is int and 0 <= token < MAX_TOKEN_ID for token in tokens):
        raise InvalidParameter(name, "must contain token ids only")
    return tokens


def _filename(body: Body, name: str) -> str:
    value = text(body, name)
    if not re.fullmatch(FILENAME, value):
        raise InvalidParameter(name, "must be a plain file name")
    return value


_MODEL = openai.PARSED["model"]
TOKENIZE: dict[str, Field] = {
    "content": doc.text_field(
        "content", "The text to split into tokens, 4 194 304 characters at most."
    ),
    "model": _MODEL,
    "add_special": doc.flag_field("add_special", "Add the tokens that begin and end a prompt."),
    "with_pieces": doc.flag_field("with_pieces", "Return the text of each token too."),
}
GLM_TOKENIZE: dict[str, Field] = {
    "prompt": doc.text_field("prompt", "The text to split into tokens."),
    "model": _MODEL,
    "max_length": doc.count_field(
        "max_length", "How many tokens to return.", 1, MAX_TOKENS, 16, MAX_TOKENS
    ),
}
DETOKENIZE: dict[str, Field] = {
    "tokens": Field(
        doc.array(
            "The ids of the tokens.",
            [1, 2],
            {**doc.COUNT, "minimum": 0, "maximum": MAX_TOKEN_ID - 1},
        ),
        "tokens",
        _tokens,
    ),
    "model": _MODEL,
}
SLOT_FILE: dict[str, Field] = {
    "filename": doc.text_field(
        "filename",
        "A file in the server's --slot-save-path; not needed to erase.",
        "conversation-7.bin",
        _filename,
        pattern=FILENAME,
    ),
}
SCHEMAS: dict[str, Schema] = {
    "GLMTokenizeRequest": doc.body("prompt", **GLM_TOKENIZE),
    "TokenizeRequest": doc.body(**TOKENIZE),
    "DetokenizeRequest": doc.body(**DETOKENIZE),
    "ModelActionRequest": doc.body(
        "model", model=doc.text("The name of a model that the gateway starts itself.", "any")
    ),
    "SlotFileRequest": doc.body("filename", **SLOT_FILE),
    "LlamaCompletionRequest": doc.body("prompt", **FIELDS),
    "LlamaInfillRequest": doc.body(**INFILL),
}

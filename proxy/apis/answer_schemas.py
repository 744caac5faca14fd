"""JSON schemas of whole answers and of errors, for the OpenAPI document.

They are derived from two answers of each API, a plain one and one with everything: a field that
both have is required.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import structs

from ..core.events import (
    Citation,
    Compacted,
    Finished,
    ReasoningDelta,
    Searched,
    ServerCall,
    TextDelta,
    TokenLogprob,
)
from ..core.fold import Completion
from ..core.request import Compaction, CompletionRequest, Search, ToolCall
from ..core.usage import Timings, Usage
from ..errors import BadRequest, GatewayError
from . import anthropic
from .llamacpp import native
from .mcp import server as mcp
from .ollama.dialects import chat as ollama_chat
from .ollama.dialects import generate as ollama_generate
from .ollama.dialects import loaded
from .openai import chat, completions
from .openai.tools import LEGACY
from .response_meta import ResponseMeta
from .responses import answer as responses
from .responses.request import parse as parse_response
from .schema_fields import Schema

_KINDS = {type(None): "null", bool: "boolean", int: "integer", float: "number"} | {
    str: "string",
    list: "array",
    dict: "object",
}
_META = ResponseMeta("resp_1", 1, "model", "build", float)
_USAGE = Usage(9, 3, cached=2, reasoning=1, continued=1)
_TOKEN = TokenLogprob("a", -0.5, b"a", (TokenLogprob("a", -0.5, b"a"),))
_CALL = ToolCall("call_1", "f", "{}")
_MADE = ServerCall(id="call_2", label="s", name="f", arguments="{}", over=True)
_PLAIN = Completion(
    index=0,
    text="a",
    reasoning="",
    tool_calls=(),
    logprobs=(),
    finished=Finished(reason="length", usage=Usage(9, 3)),
    parts=(TextDelta("a"),),
)
_FULL = Completion(
    index=0,
    text="",
    reasoning="t",
    tool_calls=(_CALL,),
    logprobs=(_TOKEN,),
    finished=Finished(reason="stop", usage=_USAGE, timings=Timings(draft_n=1), stop_sequence="END"),
    parts=(ReasoningDelta("t"), TextDelta("a", (_TOKEN,)), _CALL, _MADE),
    tokens=(1,),
    compacted=Compacted(2, "s", _USAGE),
)
_PAGE = Citation(title="t", text="t", number=1, url="https://example.com/")
_SEARCH = Searched("web", "q", over=True, found=(_PAGE,))
_FAILURE = Searched("web", "q", over=True, error="unavailable")
_SEARCHED = structs.replace(_PLAIN, parts=(_SEARCH, _FAILURE, TextDelta("[1]")))
_UNLIKELY = structs.replace(_FULL, logprobs=(structs.replace(_TOKEN, top=()),))
_SHORT = CompletionRequest()
_LONG = CompletionRequest(logprobs=1, stop=("END",))
_RESPONSE = parse_response({"input": "Hi"})
_TEXTS = "instructions previous_response_id user safety_identifier prompt_cache_key"
_LONG_RESPONSE = parse_response(
    {
        **dict.fromkeys(_TEXTS.split(), "text"),
        **dict.fromkeys(("max_output_tokens", "max_tool_calls"), 1),
        "input": "Hi",
        "reasoning": {"effort": "low"},
        "tool_choice": {"type": "function", "name": "f"},
    }
)


def schema_of(*samples: Any) -> Schema:
    return _described(msgspec.json.decode(msgspec.json.encode(samples)))


def _described(values: list[Any]) -> Schema:
    kinds = sorted({_KINDS[type(value)] for value in values})
    if "number" in kinds and "integer" in kinds:
        kinds.remove("integer")
    schema: Schema = {"type": kinds[0] if len(kinds) == 1 else kinds}
    objects = [value for value in values if isinstance(value, dict)]
    if names := dict.fromkeys(name for each in objects for name in each):
        schema["properties"] = {
            name: _described([each[name] for each in objects if name in each]) for name in names
        }
        schema["required"] = [name for name in names if all(name in each for each in objects)]
    if entries := [entry for value in values if isinstance(value, list) for entry in value]:
        schema["items"] = _described(entries)
    return schema


def _answers(dialect: Any, *more: Any, full: Completion = _FULL) -> Schema:
    plain = dialect.reply(_META, _SHORT, [_PLAIN])
    return schema_of(plain, dialect.reply(_META, _LONG, [full]), *more)


def _optional(schema: Schema) -> Schema:
    """Where `response_fields` of the request may leave out any field."""
    return {name: value for name, value in schema.items() if name != "required"}


def _native() -> Schema:
    answer = _optional(_answers(native.completion))
    return {"anyOf": [answer, {"type": "array", "items": answer}]}


def _searched() -> dict[str, Any]:
    request = structs.replace(_SHORT, searches=(Search(kind="web"),))
    message = anthropic.reply(_META, request, [_SEARCHED])
    for use in message["content"][:4:2]:
        use["input"] = {}  # each tool has its own fields
    return message


_EDITS = [
    {"type": "edit", "cleared_input_tokens": 1, "cleared_tool_uses": 1},
    {"type": "edit", "cleared_input_tokens": 1, "cleared_thinking_turns": 1},
]
_LOADED = loaded({}, _META)
# Keyed by the schema's name in the OpenAPI document.
ANSWERS: dict[str, Schema] = {
    "ChatCompletion": _answers(
        chat, chat.reply(_META, structs.replace(_SHORT, extra={LEGACY: True}), [_FULL])
    ),
    "Completion": _answers(completions, full=_UNLIKELY),
    "CompletionBoth": _answers(completions.both, full=_UNLIKELY),
    "LlamaCompletion": _native(),
    "Message": _answers(
        anthropic,
        anthropic.reply(_META, structs.replace(_SHORT, compaction=Compaction(1)), [_FULL], _EDITS),
        _searched(),
    ),
    "OllamaChat": _answers(ollama_chat, {**_LOADED, "message": {"role": "", "content": ""}}),
    "OllamaGenerate": _answers(ollama_generate, {**_LOADED, "response": ""}),
    "Response": schema_of(
        responses.Writer(_META, _RESPONSE).response("queued"),
        responses.Writer(_META, _RESPONSE).failed(GatewayError("it broke")),
        responses.whole(_META, _LONG_RESPONSE, [_PLAIN]),
        responses.whole(_META, _RESPONSE, [_FULL]),
    ),
    "McpAnswer": schema_of(mcp.answer(1, {}), mcp.refusal("1", 1, "it is wrong")),
    "Compaction": schema_of(responses.compacted(_META, _RESPONSE, [_PLAIN])),
}
_FAULTS = (
    GatewayError("it broke"),
    BadRequest("it is wrong", param="model", code="prompt_too_large"),
)
# Errors, by the same names.
ERRORS: dict[str, Schema] = {
    "Error": schema_of(*map(chat.error, _FAULTS), *map(native.error, _FAULTS)),
    "AnthropicError": schema_of(*map(anthropic.error, _FAULTS)),
    "OllamaError": schema_of(*map(ollama_chat.error, _FAULTS)),
    "McpError": schema_of(*map(mcp.error, _FAULTS)),
}

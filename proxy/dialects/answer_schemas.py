"""JSON schemas of whole answers, for the OpenAPI document.

`tests/contract/test_dialects.py` checks that every answer matches its schema and has no field that
the schema leaves out.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer"}
NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}


def _object(*always: str, **fields: Schema) -> Schema:
    """`always` lists the required fields."""
    schema: Schema = {"type": "object", "properties": fields}
    return {**schema, "required": list(always)} if always else schema


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _one_of(*values: str | None) -> Schema:
    return {"enum": list(values)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_LIKELY = {"token": TEXT, "logprob": NUMBER, "bytes": _list(COUNT), "id": COUNT}
TOKEN = _object("token", "logprob", **_LIKELY, top_logprobs=_list(_object(**_LIKELY)))
TIMINGS = _object(
    **dict.fromkeys(("cache_n", "prompt_n", "predicted_n", "draft_n", "draft_n_accepted"), COUNT),
    **dict.fromkeys(("prompt_ms", "prompt_per_token_ms", "prompt_per_second"), NUMBER),
    **dict.fromkeys(("predicted_ms", "predicted_per_token_ms", "predicted_per_second"), NUMBER),
)
USAGE = _object(
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    prompt_tokens_details=_object("cached_tokens", cached_tokens=COUNT),
    completion_tokens_details=_object("reasoning_tokens", reasoning_tokens=COUNT),
    continued=COUNT,
)
CALL = _object(
    "id",
    "type",
    "function",
    id=TEXT,
    type=_one_of("function"),
    function=_object("name", "arguments", name=TEXT, arguments=TEXT),
)


def _openai(kind: str, choice: Schema) -> Schema:
    return _object(
        "id",
        "object",
        "created",
        "model",
        "choices",
        "usage",
        id=TEXT,
        object=_one_of(kind),
        created=COUNT,
        model=TEXT,
        system_fingerprint=TEXT,
        choices=_list(choice),
        usage=USAGE,
        timings=TIMINGS,
        truncated=FLAG,
    )


CHAT = _openai(
    "chat.completion",
    _object(
        "index",
        "message",
        "finish_reason",
        index=COUNT,
        message=_object(
            "role",
            "content",
            role=_one_of("assistant"),
            content=TEXT_OR_NULL,
            refusal={"type": "null"},
            reasoning_content=TEXT,
            tool_calls=_list(CALL),
            function_call=_object(name=TEXT, arguments=TEXT),
        ),
        logprobs=_or_null(_object(content=_list(TOKEN), refusal={"type": "null"})),
        finish_reason=_one_of("stop", "length", "tool_calls", "function_call", "content_filter"),
    ),
)
COMPLETION = _openai(
    "text_completion",
    _object(
        "index",
        "text",
        "finish_reason",
        index=COUNT,
        text=TEXT,
        logprobs=_or_null(
            _object(
                tokens=_list(TEXT),
                token_logprobs=_list(NUMBER),
                top_logprobs=_list(OBJECT),
                text_offset=_list(COUNT),
            )
        ),
        finish_reason=_one_of("stop", "length", "content_filter"),
    ),
)
_LLAMA: dict[str, Schema] = {
    "content": TEXT,
    "id_slot": COUNT,
    "slot_id": COUNT,
    "stop": FLAG,
    "model": TEXT,
    "tokens_predicted": COUNT,
    "tokens_evaluated": COUNT,
    "tokens_cached": COUNT,
    "generation_settings": OBJECT,
    "prompt": TEXT,
    "has_new_line": FLAG,
    "truncated": FLAG,
    "stop_type": TEXT,
    "stopped_eos": FLAG,
    "stopped_word": FLAG,
    "stopped_limit": FLAG,
    "stopping_word": TEXT,
    "timings": TIMINGS,
    "index": COUNT,
    "tokens": _list(COUNT),
}
COMPLETION_BOTH = _object("content", "choices", **{**COMPLETION["properties"], **_LLAMA})
_LLAMA_ONE = _object(
    "content",
    "stop",
    **_LLAMA,
    multimodal=FLAG,
    completion_probabilities=_list(OBJECT),
)
LLAMA_COMPLETION: Schema = {"anyOf": [_LLAMA_ONE, _list(_LLAMA_ONE)]}
MESSAGE = _object(
    "id",
    "type",
    "role",
    "model",
    "content",
    "stop_reason",
    "usage",
    id=TEXT,
    type=_one_of("message"),
    role=_one_of("assistant"),
    model=TEXT,
    content=_list(
        _object(
            "type",
            type=_one_of("text", "thinking", "tool_use"),
            text=TEXT,
            thinking=TEXT,
            signature=TEXT,
            id=TEXT,
            name=TEXT,
            input=OBJECT,
        )
    ),
    stop_reason=TEXT,
    stop_sequence=TEXT_OR_NULL,
    usage=_object(
        "input_tokens",
        "output_tokens",
        input_tokens=COUNT,
        cache_creation_input_tokens=COUNT,
        cache_read_input_tokens=COUNT,
        output_tokens=COUNT,
    ),
)


def _ollama(**answer: Schema) -> Schema:
    return _object(
        "model",
        "created_at",
        "done",
        model=TEXT,
        created_at=TEXT,
        done=FLAG,
        done_reason=TEXT,
        total_duration=COUNT,
        load_duration=COUNT,
        prompt_eval_count=COUNT,
        prompt_eval_duration=COUNT,
        eval_count=COUNT,
        eval_duration=COUNT,
        logprobs=_list(TOKEN),
        **answer,
    )


OLLAMA_CHAT = _ollama(
    message=_object(
        "role",
        "content",
        role=_one_of("assistant"),
        content=TEXT,
        thinking=TEXT,
        tool_calls=_list(
            _object(id=TEXT, function=_object(index=COUNT, name=TEXT, arguments=OBJECT))
        ),
    )
)
OLLAMA_GENERATE = _ollama(response=TEXT, thinking=TEXT)
GLM_CHAT = _object(
    "content",
    content=TEXT,
    prompt_tokens=COUNT,
    completion_tokens=COUNT,
    total_tokens=COUNT,
    model=TEXT,
    object=TEXT,
)
RESPONSE = _object(
    "id",
    "object",
    "status",
    "output",
    id=TEXT,
    object=_one_of("response"),
    created_at=COUNT,
    completed_at={"type": ["integer", "null"]},
    status=_one_of("queued", "in_progress", "completed", "incomplete", "failed", "cancelled"),
    error=_or_null(_object(code=TEXT, message=TEXT)),
    incomplete_details=_or_null(_object(reason=TEXT)),
    model=TEXT,
    output=_list({"type": "object", "required": ["type"]}),
    usage=_or_null(
        _object(
            input_tokens=COUNT,
            input_tokens_details=OBJECT,
            output_tokens=COUNT,
            output_tokens_details=OBJECT,
            total_tokens=COUNT,
        )
    ),
    instructions=TEXT_OR_NULL,
    max_output_tokens={"type": ["integer", "null"]},
    metadata=OBJECT,
    parallel_tool_calls=FLAG,
    previous_response_id=TEXT_OR_NULL,
    reasoning=OBJECT,
    temperature={"type": ["number", "null"]},
    text=OBJECT,
    tool_choice={"type": ["string", "object"]},
    tools=_list(OBJECT),
    top_p={"type": ["number", "null"]},
    truncation=_one_of("auto", "disabled"),
    user=TEXT_OR_NULL,
    store=FLAG,
    background=FLAG,
)

# Keyed by the schema's name in the OpenAPI document.
ANSWERS: dict[str, Schema] = {
    "ChatCompletion": CHAT,
    "Completion": COMPLETION,
    "CompletionBoth": COMPLETION_BOTH,
    "LlamaCompletion": LLAMA_COMPLETION,
    "Message": MESSAGE,
    "OllamaChat": OLLAMA_CHAT,
    "OllamaGenerate": OLLAMA_GENERATE,
    "GLMChat": GLM_CHAT,
    "Response": RESPONSE,
}

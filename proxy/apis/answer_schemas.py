"""JSON schemas of whole answers and of errors, for the OpenAPI document.

`tests/contract/test_dialects.py` checks that every answer matches its schema and has no field that
the schema leaves out.
"""

from __future__ import annotations

from .schema_fields import COUNT, NULL, OBJECT, STRINGS, TEXT, Schema, list_of, object_of

NUMBER: Schema = {"type": "number"}
FLAG: Schema = {"type": "boolean"}
TEXT_OR_NULL: Schema = {"type": ["string", "null"]}
COUNT_OR_NULL: Schema = {"type": ["integer", "null"]}


def _each(schema: Schema, names: str) -> dict[str, Schema]:
    """Fields with the same schema."""
    return dict.fromkeys(names.split(), schema)


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, NULL]}


_LIKELY = {"token": TEXT, "logprob": NUMBER, "bytes": list_of(COUNT), "id": COUNT}
TOKEN = object_of("token logprob", **_LIKELY, top_logprobs=list_of(object_of(**_LIKELY)))
TIMINGS = object_of(
    **_each(COUNT, "cache_n prompt_n predicted_n draft_n draft_n_accepted"),
    **_each(NUMBER, "prompt_ms prompt_per_token_ms prompt_per_second"),
    **_each(NUMBER, "predicted_ms predicted_per_token_ms predicted_per_second"),
)
USAGE = object_of(
    "prompt_tokens completion_tokens total_tokens",
    **_each(COUNT, "prompt_tokens completion_tokens total_tokens"),
    prompt_tokens_details=object_of("cached_tokens", cached_tokens=COUNT),
    completion_tokens_details=object_of("reasoning_tokens", reasoning_tokens=COUNT),
    continued=COUNT,
)


COMPACTION = object_of(
    "messages summary usage",
    messages=COUNT,
    summary=TEXT,
    usage=object_of(**_each(COUNT, "input_tokens cached_tokens output_tokens")),
)


def _openai(kind: str, choice: Schema) -> Schema:
    return object_of(
        "id object created model choices usage",
        id=TEXT,
        object=_one_of(kind),
        created=COUNT,
        **_each(TEXT, "model system_fingerprint"),
        choices=list_of(choice),
        usage=USAGE,
        timings=TIMINGS,
        truncated=FLAG,
        compaction=COMPACTION,
    )


COMPLETION = _openai(
    "text_completion",
    object_of(
        "index text finish_reason",
        index=COUNT,
        text=TEXT,
        logprobs=_or_null(
            object_of(
                tokens=STRINGS,
                token_logprobs=list_of(NUMBER),
                top_logprobs=list_of(OBJECT),
                text_offset=list_of(COUNT),
            )
        ),
        finish_reason=_one_of("stop", "length", "content_filter"),
    ),
)
_LLAMA: dict[str, Schema] = {
    **_each(COUNT, "id_slot slot_id tokens_predicted tokens_evaluated tokens_cached index"),
    **_each(TEXT, "content model prompt stop_type stopping_word"),
    **_each(FLAG, "stop has_new_line truncated stopped_eos stopped_word stopped_limit"),
    "generation_settings": OBJECT,
    "timings": TIMINGS,
    "tokens": list_of(COUNT),
}
# No field is required: `response_fields` of the request may leave out any.
_LLAMA_ONE = object_of(**_LLAMA, multimodal=FLAG, completion_probabilities=list_of(OBJECT))


def _ollama(**answer: Schema) -> Schema:
    return object_of(
        "model created_at done",
        **_each(TEXT, "model created_at done_reason"),
        done=FLAG,
        **_each(COUNT, "total_duration load_duration prompt_eval_count prompt_eval_duration"),
        **_each(COUNT, "eval_count eval_duration"),
        logprobs=list_of(TOKEN),
        compaction=COMPACTION,
        **answer,
    )


# Keyed by the schema's name in the OpenAPI document.
ANSWERS: dict[str, Schema] = {
    "ChatCompletion": _openai(
        "chat.completion",
        object_of(
            "index message finish_reason",
            index=COUNT,
            message=object_of(
                "role content",
                role=_one_of("assistant"),
                content=TEXT_OR_NULL,
                refusal=NULL,
                reasoning_content=TEXT,
                reasoning=TEXT,
                tool_calls=list_of(
                    object_of(
                        "id type function",
                        id=TEXT,
                        type=_one_of("function"),
                        function=object_of("name arguments", name=TEXT, arguments=TEXT),
                    )
                ),
                function_call=object_of(name=TEXT, arguments=TEXT),
            ),
            logprobs=_or_null(object_of(content=list_of(TOKEN), refusal=NULL)),
            finish_reason=_one_of(
                "stop", "length", "tool_calls", "function_call", "content_filter"
            ),
        ),
    ),
    "Completion": COMPLETION,
    "CompletionBoth": object_of("content choices", **{**COMPLETION["properties"], **_LLAMA}),
    "LlamaCompletion": {"anyOf": [_LLAMA_ONE, list_of(_LLAMA_ONE)]},
    "Message": object_of(
        "id type role model content stop_reason usage",
        id=TEXT,
        type=_one_of("message"),
        role=_one_of("assistant"),
        model=TEXT,
        content=list_of(
            object_of(
                "type",
                type=_one_of(
                    "text", "thinking", "tool_use", "mcp_tool_use", "mcp_tool_result", "compaction"
                ),
                **_each(TEXT, "text thinking signature id name server_name tool_use_id"),
                input=OBJECT,
                is_error=FLAG,
                content={"type": ["string", "array"]},
            )
        ),
        stop_reason=TEXT,
        stop_sequence=TEXT_OR_NULL,
        usage=object_of(
            "input_tokens output_tokens",
            **_each(COUNT, "input_tokens output_tokens"),
            **_each(COUNT, "cache_creation_input_tokens cache_read_input_tokens"),
            iterations=list_of(OBJECT),
        ),
        compaction=COMPACTION,
        context_management=object_of(
            "applied_edits",
            applied_edits=list_of(
                object_of(
                    "type cleared_input_tokens",
                    type=TEXT,
                    **_each(COUNT, "cleared_tool_uses cleared_thinking_turns"),
                    cleared_input_tokens=COUNT,
                )
            ),
        ),
    ),
    "OllamaChat": _ollama(
        message=object_of(
            "role content",
            role=_one_of("assistant"),
            content=TEXT,
            thinking=TEXT,
            tool_calls=list_of(
                object_of(id=TEXT, function=object_of(index=COUNT, name=TEXT, arguments=OBJECT))
            ),
        )
    ),
    "OllamaGenerate": _ollama(response=TEXT, thinking=TEXT),
    "Response": object_of(
        # as the schema of Open Responses requires
        "id object created_at completed_at status incomplete_details model previous_response_id "
        "instructions output error tools tool_choice truncation parallel_tool_calls text top_p "
        "presence_penalty frequency_penalty top_logprobs temperature reasoning user usage "
        "max_output_tokens max_tool_calls store background service_tier metadata "
        "safety_identifier prompt_cache_key",
        id=TEXT,
        object=_one_of("response"),
        created_at=COUNT,
        completed_at=COUNT_OR_NULL,
        status=_one_of("queued", "in_progress", "completed", "incomplete", "failed", "cancelled"),
        error=_or_null(object_of("code message", code=TEXT, message=TEXT)),
        incomplete_details=_or_null(object_of("reason", reason=TEXT)),
        model=TEXT,
        output=list_of({"type": "object", "required": ["type"]}),
        usage=_or_null(
            object_of(
                "input_tokens output_tokens total_tokens input_tokens_details "
                "output_tokens_details",
                **_each(COUNT, "input_tokens output_tokens total_tokens"),
                **_each(OBJECT, "input_tokens_details output_tokens_details"),
            )
        ),
        **_each(TEXT_OR_NULL, "instructions previous_response_id user"),
        **_each(TEXT_OR_NULL, "safety_identifier prompt_cache_key"),
        **_each(COUNT_OR_NULL, "max_output_tokens max_tool_calls"),
        **_each(OBJECT, "metadata reasoning text"),
        **_each(FLAG, "parallel_tool_calls store background"),
        **_each(NUMBER, "temperature top_p presence_penalty frequency_penalty"),
        top_logprobs=COUNT,
        service_tier=TEXT,
        tool_choice={"type": ["string", "object"]},
        tools=list_of(OBJECT),
        truncation=_one_of("auto", "disabled"),
        compaction=COMPACTION,
    ),
    "McpAnswer": object_of(
        "jsonrpc id",
        jsonrpc={"const": "2.0"},
        id={"type": ["string", "integer"]},
        result=OBJECT,
        error=object_of("code message", code={"type": "integer"}, message=TEXT),
    ),
    "Compaction": object_of(
        "id object created_at output usage",
        id=TEXT,
        object=_one_of("response.compaction"),
        created_at=COUNT,
        output=list_of({"type": "object", "required": ["type", "id"]}),
        usage=object_of(
            **_each(COUNT, "input_tokens output_tokens total_tokens"),
            **_each(OBJECT, "input_tokens_details output_tokens_details"),
        ),
    ),
}
# Errors, by the same names.
ERRORS: dict[str, Schema] = {
    "Error": object_of(
        "error",
        error=object_of(
            "message type",
            **_each(TEXT, "message type"),
            param=TEXT_OR_NULL,
            code={"type": ["string", "integer", "null"]},
        ),
    ),
    "AnthropicError": object_of(
        "type error",
        type={"const": "error"},
        error=object_of("type message", type=TEXT, message=TEXT),
    ),
    "OllamaError": object_of("error", error=TEXT),
    "McpError": object_of(
        "jsonrpc id error",
        jsonrpc={"const": "2.0"},
        id=NULL,
        error=object_of("code message", code={"type": "integer"}, message=TEXT),
    ),
}

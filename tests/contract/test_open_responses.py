"""Every Response, whole and in each event, has the fields of the Open Responses schema.

The tables repeat the required fields of openapi.json of openresponses/openresponses, version
2026-04-24; its compliance suite checks the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from proxy.apis import responses
from proxy.apis.response_meta import ResponseMeta
from proxy.core.fold import fold
from proxy.gateway import Answer
from proxy.web.stream import StreamBody
from tests.contract import ears
from tests.contract.scripts import SCRIPTS
from tests.contract.test_dialects import Telling

NONE = type(None)
NUMBER = (int, float)
Fields = Mapping[str, Any]  # the type of each required field, or several

RESPONSE: Fields = {
    "id": str,
    "object": str,
    "created_at": int,
    "completed_at": (int, NONE),
    "status": str,
    "incomplete_details": (dict, NONE),
    "model": str,
    "previous_response_id": (str, NONE),
    "instructions": (str, NONE),
    "output": list,
    "error": (dict, NONE),
    "tools": list,
    "tool_choice": (str, dict),
    "truncation": str,
    "parallel_tool_calls": bool,
    "text": dict,
    "top_p": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "top_logprobs": int,
    "temperature": NUMBER,
    "reasoning": (dict, NONE),
    "user": (str, NONE),
    "usage": (dict, NONE),
    "max_output_tokens": (int, NONE),
    "max_tool_calls": (int, NONE),
    "store": bool,
    "background": bool,
    "service_tier": str,
    "metadata": dict,
    "safety_identifier": (str, NONE),
    "prompt_cache_key": (str, NONE),
}
OUTPUT: Mapping[str, Fields] = {
    "message": {"id": str, "status": str, "role": str, "content": list},
    "reasoning": {"id": str, "summary": list},
    "function_call": {"id": str, "call_id": str, "name": str, "arguments": str, "status": str},
    "custom_tool_call": {"id": str, "call_id": str, "name": str, "input": str, "status": str},
    "file_search_call": {"id": str, "status": str, "queries": list, "results": (list, NONE)},
    "web_search_call": {"id": str, "status": str},
}
PARTS: Mapping[str, Fields] = {
    "output_text": {"text": str, "annotations": list},
    "reasoning_text": {"text": str},
}
TOOLS: Mapping[str, Fields] = {
    "function": {
        "name": str,
        "description": (str, NONE),
        "parameters": (dict, NONE),
        "strict": (bool, NONE),
    },
    "custom": {"name": str, "description": (str, NONE), "format": (dict, NONE)},
    "file_search": {
        "vector_store_ids": list,
        "max_num_results": int,
        "ranking_options": dict,
        "filters": (dict, NONE),
    },
    "mcp": {
        "server_label": str,
        "allowed_tools": (list, dict, NONE),
        "headers": (dict, NONE),
        "require_approval": (str, dict),
        "server_description": (str, NONE),
    },
    "web_search_preview": {"user_location": (dict, NONE), "search_context_size": str},
}
FORMATS: Mapping[str, Fields] = {
    "text": {},
    "json_object": {},
    "json_schema": {
        "name": str,
        "description": (str, NONE),
        "schema": (dict, NONE),
        "strict": bool,
    },
}
USAGE: Fields = {
    "input_tokens": int,
    "output_tokens": int,
    "total_tokens": int,
    "input_tokens_details": dict,
    "output_tokens_details": dict,
}
ITEM_EVENT: Fields = {"item_id": str, "output_index": int}
PART_EVENT: Fields = {**ITEM_EVENT, "content_index": int}
STATES = ("created", "in_progress", "completed", "incomplete", "failed")
ENDS = ("added", "done")
EVENTS: Mapping[str, Fields] = {
    **{kind: {"response": dict} for kind in STATES},
    **{f"output_item.{kind}": {"output_index": int, "item": dict} for kind in ENDS},
    **{f"content_part.{kind}": {**PART_EVENT, "part": dict} for kind in ENDS},
    "output_text.delta": {**PART_EVENT, "delta": str},
    "output_text.done": {**PART_EVENT, "text": str},
    # OpenAI's own names, which its clients read; the schema says response.reasoning.delta.
    "reasoning_text.delta": {**PART_EVENT, "delta": str},
    "reasoning_text.done": {**PART_EVENT, "text": str},
    "function_call_arguments.delta": {**ITEM_EVENT, "delta": str},
    "function_call_arguments.done": {**ITEM_EVENT, "arguments": str},
}
FUNCTION = {"type": "function", "name": "weather"}
BODIES: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "nulls": dict.fromkeys([*RESPONSE, "conversation", "include", "stream"]),
    "tools": {"tools": [FUNCTION, {"type": "custom", "name": "patch"}]},
    "searches": {
        "tools": [
            {"type": "file_search", "vector_store_ids": ["vs_1"], "ranking_options": None},
            {"type": "web_search_preview", "user_location": None},
        ],
        "max_tool_calls": 3,
    },
    "servers": {
        "tools": [
            {"type": "mcp", "server_label": "far"},
            {
                "type": "mcp",
                "server_label": "web",
                "server_url": "https://m.example/a",
                "headers": {},
            },
        ],
    },
    "schema": {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}},
    "all": {
        "instructions": "Be brief.",
        "temperature": 0,
        "top_p": 0.5,
        "presence_penalty": 0.25,
        "frequency_penalty": -1,
        "top_logprobs": 2,
        "max_output_tokens": 16,
        "safety_identifier": "who",
        "prompt_cache_key": "key",
        "service_tier": "flex",
        "user": "u",
        "metadata": {"a": "b"},
        "reasoning": {"effort": "low", "summary": "auto"},
        "tools": [{**FUNCTION, "strict": True, "parameters": {"type": "object"}}],
        "tool_choice": {"type": "function", "name": "weather"},
        "truncation": "auto",
        "store": False,
    },
}
META = ResponseMeta("resp_0123", 1_700_000_000, "tiny", "fp", lambda: 0.25)


def complete(value: Any, fields: Fields) -> None:
    for name, kinds in fields.items():
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        assert name in value, name
        assert type(value[name]) in kinds, (name, value[name])


def check(response: Any) -> None:
    """Assert that a Response and all that it holds have the required fields."""
    complete(response, RESPONSE)
    for tool in response["tools"]:
        complete(tool, TOOLS[tool["type"]])
    complete(response["reasoning"], {"effort": (str, NONE), "summary": (str, NONE)})
    form = response["text"]["format"]
    complete(form, FORMATS[form["type"]])
    if response["usage"] is not None:
        complete(response["usage"], USAGE)
    if response["error"] is not None:
        complete(response["error"], {"code": str, "message": str})
    for item in response["output"]:
        complete(item, OUTPUT[item["type"]])
        for part in item.get("content", ()):
            complete(part, PARTS[part["type"]])
    assert (response["completed_at"] is not None) == (response["status"] == "completed")


def asked(body: dict[str, Any]) -> responses.ParsedRequest:
    both = frozenset({"file_search", "web_search"})
    return responses.parse({"model": "tiny", **body, "input": "Hi"}, (), both)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_every_event_has_the_whole_response(body: dict[str, Any]) -> None:
    for script in SCRIPTS.values():
        if script.prompts > 1 or len({choice for choice, _ in script.steps}) > 1:
            continue
        encoder = responses.Encoder(META, asked(body), lambda _: None)
        stream = StreamBody(cast(Answer, Telling(script.steps)), encoder, lambda: None)
        for name, event in ears.sse(b"".join(stream)):
            complete(event, {"sequence_number": int, **EVENTS[name.removeprefix("response.")]})
            if "response" in event:
                check(event["response"])


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_whole_answers_are_complete(body: dict[str, Any]) -> None:
    for title in ("text", "all kinds", "length"):
        completions = fold(cast(Answer, Telling(SCRIPTS[title].steps)))
        check(json.loads(json.dumps(responses.whole(META, asked(body), completions))))


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
def test_unfinished_responses_are_complete(status: str) -> None:
    check(responses.Writer(META, asked({})).response(status))


def test_sampling_of_the_request_is_repeated() -> None:
    told = responses.Writer(META, asked(BODIES["all"])).response("queued")
    names = ["temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"]
    assert [told[name] for name in names] == [0, 0.5, 0.25, -1, 2]
    assert told["tools"][0]["strict"] is True
    assert asked(BODIES["all"]).request.sampling["presence_penalty"] == 0.25

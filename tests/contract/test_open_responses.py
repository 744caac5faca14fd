"""Every Response, whole and in each event, has the fields of the Open Responses schema.

The tables repeat the required fields of openapi.json of openresponses/openresponses, version
2026-04-24; its compliance suite checks the same. `test_official_types` checks their types.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import pytest

from proxy.apis.response_meta import ResponseMeta
from proxy.apis.responses import answer as responses
from proxy.apis.responses.request import ParsedRequest, parse
from proxy.core.fold import fold
from proxy.gateway import Answer
from proxy.web.stream import StreamBody
from tests.contract import ears
from tests.contract.scripts import SCRIPTS
from tests.contract.test_dialects import Telling

RESPONSE = (
    "id object created_at completed_at status incomplete_details model previous_response_id"
    " instructions output error tools tool_choice truncation parallel_tool_calls text top_p"
    " presence_penalty frequency_penalty top_logprobs temperature reasoning user usage"
    " max_output_tokens max_tool_calls store background service_tier metadata safety_identifier"
    " prompt_cache_key"
)
OUTPUT = {
    "message": "id status role content",
    "reasoning": "id summary",
    "function_call": "id call_id name arguments status",
    "custom_tool_call": "id call_id name input status",
    "file_search_call": "id status queries results",
    "web_search_call": "id status",
}
PARTS = {"output_text": "text annotations", "reasoning_text": "text"}
TOOLS = {
    "function": "name description parameters strict",
    "custom": "name description format",
    "file_search": "vector_store_ids max_num_results ranking_options filters",
    "mcp": "server_label allowed_tools headers require_approval server_description",
    "web_search_preview": "user_location search_context_size",
}
FORMATS = {"text": "", "json_object": "", "json_schema": "name description schema strict"}
USAGE = "input_tokens output_tokens total_tokens input_tokens_details output_tokens_details"
ITEM_EVENT = "item_id output_index"
PART_EVENT = f"{ITEM_EVENT} content_index"
STATES = ("created", "in_progress", "completed", "incomplete", "failed")
ENDS = ("added", "done")
EVENTS = {
    **dict.fromkeys(STATES, "response"),
    **{f"output_item.{kind}": "output_index item" for kind in ENDS},
    **{f"content_part.{kind}": f"{PART_EVENT} part" for kind in ENDS},
    "output_text.delta": f"{PART_EVENT} delta",
    "output_text.done": f"{PART_EVENT} text",
    # OpenAI's own names, which its clients read; the schema says response.reasoning.delta.
    "reasoning_text.delta": f"{PART_EVENT} delta",
    "reasoning_text.done": f"{PART_EVENT} text",
    "function_call_arguments.delta": f"{ITEM_EVENT} delta",
    "function_call_arguments.done": f"{ITEM_EVENT} arguments",
}
FUNCTION = {"type": "function", "name": "weather"}
BODIES: Mapping[str, dict[str, Any]] = {
    "plain": {},
    "nulls": dict.fromkeys([*RESPONSE.split(), "conversation", "include", "stream"]),
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


def complete(value: Any, fields: str) -> None:
    assert set(fields.split()) <= set(value)


def check(response: Any) -> None:
    """Assert that a Response and all that it holds have the required fields."""
    complete(response, RESPONSE)
    for tool in response["tools"]:
        complete(tool, TOOLS[tool["type"]])
    complete(response["reasoning"], "effort summary")
    form = response["text"]["format"]
    complete(form, FORMATS[form["type"]])
    if response["usage"] is not None:
        complete(response["usage"], USAGE)
    if response["error"] is not None:
        complete(response["error"], "code message")
    for item in response["output"]:
        complete(item, OUTPUT[item["type"]])
        for part in item.get("content", ()):
            complete(part, PARTS[part["type"]])
    assert (response["completed_at"] is not None) == (response["status"] == "completed")


def asked(body: dict[str, Any]) -> ParsedRequest:
    both = frozenset({"file_search", "web_search"})
    return parse({"model": "tiny", **body, "input": "Hi"}, (), both)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_every_event_has_the_whole_response(body: dict[str, Any]) -> None:
    for script in SCRIPTS.values():
        if script.prompts > 1 or len({choice for choice, _ in script.steps}) > 1:
            continue
        encoder = responses.Encoder(META, asked(body), lambda _: None)
        stream = StreamBody(cast(Answer, Telling(script.steps)), encoder, lambda: None)
        for name, event in ears.sse(b"".join(stream)):
            complete(event, "sequence_number " + EVENTS[name.removeprefix("response.")])
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

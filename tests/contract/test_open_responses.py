"""A Response repeats its request with all fields that the Open Responses schema requires.

The tables are of openapi.json of openresponses/openresponses, version 2026-04-24. Its compliance
suite checks answers and events, `test_official_types` their types.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from proxy.apis.response_meta import ResponseMeta
from proxy.apis.responses import answer as responses
from proxy.apis.responses.request import ParsedRequest, parse

RESPONSE = (
    "id object created_at completed_at status incomplete_details model previous_response_id"
    " instructions output error tools tool_choice truncation parallel_tool_calls text top_p"
    " presence_penalty frequency_penalty top_logprobs temperature reasoning user usage"
    " max_output_tokens max_tool_calls store background service_tier metadata safety_identifier"
    " prompt_cache_key"
)
TOOLS = {
    "function": "name description parameters strict",
    "custom": "name description format",
    "file_search": "vector_store_ids max_num_results ranking_options filters",
    "mcp": "server_label allowed_tools headers require_approval server_description",
    "web_search_preview": "user_location search_context_size",
}
FORMATS = {"text": "", "json_object": "", "json_schema": "name description schema strict"}
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


def parsed(body: dict[str, Any]) -> ParsedRequest:
    both = frozenset({"file_search", "web_search"})
    return parse({"model": "tiny", **body, "input": "Hi"}, (), both)


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_response_repeats_the_request(body: dict[str, Any], status: str) -> None:
    check(responses.Writer(META, parsed(body)).response(status))


def test_sampling_of_the_request_is_repeated() -> None:
    response = responses.Writer(META, parsed(BODIES["all"])).response("queued")
    names = ["temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs"]
    assert [response[name] for name in names] == [0, 0.5, 0.25, -1, 2]
    assert response["tools"][0]["strict"] is True
    assert parsed(BODIES["all"]).request.sampling["presence_penalty"] == 0.25

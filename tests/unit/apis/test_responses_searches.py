"""Built-in searches of /v1/responses: requests, calls and citations."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis import responses
from proxy.core.request import Search, ToolChoice
from proxy.errors import InvalidParameter

BOTH = frozenset({"file_search", "web_search"})
FILE: Any = {"type": "file_search", "vector_store_ids": ["vs_1"]}


def parse(**body: Any) -> responses.ParsedRequest:
    return responses.parse({"input": "Hi", **body}, (), BOTH)


def test_search_tools_are_taken_out_of_the_tools() -> None:
    file = {**FILE, "max_num_results": 7, "ranking_options": {"score_threshold": 0.25}}
    web = {"type": "web_search_preview_2025_03_11", "search_context_size": "low"}
    asked = parse(tools=[file, web, {"type": "function", "name": "f"}])
    assert asked.request.searches == (
        Search("file", ("vs_1",), count=7, threshold=0.25),
        Search("web", count=3),
    )
    assert [tool.name for tool in asked.request.tools] == ["f"]
    assert asked.request.warnings == ()


def test_attributes_filter_files() -> None:
    filters = {"type": "eq", "key": "year", "value": 2026}
    (search,) = parse(tools=[{**FILE, "filters": filters}]).request.searches
    assert search.wanted is not None
    assert search.wanted({"year": 2026})
    assert not search.wanted({"year": 2025})


def test_unsupported_hosted_tools_are_ignored_with_a_warning() -> None:
    asked = responses.parse({"input": "Hi", "tools": [FILE, {"type": "web_search"}]})
    assert asked.request.searches == ()
    assert [text.split()[-3] for text in asked.request.warnings] == ["file_search", "web_search"]


def test_client_function_named_like_a_search_is_kept() -> None:
    own = {"type": "function", "name": "web_search"}
    asked = parse(tools=[{"type": "web_search"}, own])
    assert asked.request.searches == ()
    assert [tool.name for tool in asked.request.tools] == ["web_search"]


def test_search_can_be_forced() -> None:
    for kind, name in (("file_search", "file_search"), ("web_search_preview", "web_search")):
        tools = [FILE, {"type": "web_search"}]
        choice = parse(tools=tools, tool_choice={"type": kind}).request.tool_choice
        assert choice == ToolChoice("named", name)


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "file_search"}, "vector_store_ids"),
        ({**FILE, "vector_store_ids": [1]}, "vector_store_ids"),
        ({**FILE, "max_num_results": 51}, "max_num_results"),
        ({**FILE, "ranking_options": {"score_threshold": 2}}, "score_threshold"),
        ({**FILE, "filters": {"type": "like"}}, "filters"),
        ({"type": "web_search", "search_context_size": "huge"}, "search_context_size"),
    ],
)
def test_invalid_search_tools_are_refused(tool: Any, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse(tools=[tool])
    assert param in caught.value.param


def test_hosted_tool_calls_may_be_sent_back() -> None:
    call = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}}
    asked = parse(input=[{"role": "user", "content": "Hi"}, call])
    assert len(asked.request.messages) == 1
    assert asked.request.warnings == ()

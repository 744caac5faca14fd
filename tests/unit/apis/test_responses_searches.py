"""Built-in searches of /v1/responses: requests, calls and citations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from proxy.apis import responses
from proxy.apis.response_meta import ResponseMeta
from proxy.core.events import Batch, Finished, Found, ReasoningDelta, Searched, Started, TextDelta
from proxy.core.fold import fold
from proxy.core.request import Search, ToolChoice
from proxy.core.usage import Usage
from proxy.errors import InvalidParameter

BOTH = frozenset({"file_search", "web_search"})
FILE: Any = {"type": "file_search", "vector_store_ids": ["vs_1"]}
STAMP = ResponseMeta("resp_1", 1, "m")
PAGE = Found(number=1, title="Tides", text="It is high.", url="https://tide.example/")
DOCUMENT = Found(number=2, title="guide.pdf", text="It is low.", file_id="file-1", score=0.5)


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


def batches(*texts: str) -> list[Batch]:
    return [
        [Started()],
        [ReasoningDelta("hm")],
        [Searched("web", "tide")],
        [],
        [Searched("web", "tide", over=True, found=(PAGE,))],
        [Searched("file", "tide")],
        [Searched("file", "tide", over=True, found=(DOCUMENT,))],
        [TextDelta(text) for text in texts],
        [Finished(reason="stop", usage=Usage(9, 5))],
    ]


URL = {
    "type": "url_citation",
    "start_index": 8,
    "end_index": 14,
    "url": "https://tide.example/",
    "title": "Tides",
}
CITED = {"type": "file_citation", "index": 8, "file_id": "file-1", "filename": "guide.pdf"}


def told(asked: responses.ParsedRequest, given: Sequence[Batch]) -> list[Any]:
    encoder = responses.Encoder(STAMP, asked, lambda _: None)
    data = b"".join(encoder.encode(0, batch) for batch in given)
    lines = [line for line in data.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(line[6:]) for line in lines]


def test_whole_answer_has_searches_and_citations() -> None:
    whole = responses.whole(STAMP, parse(), fold((0, b) for b in batches("It is hi", "[1, 2]")))
    kinds = [item["type"] for item in whole["output"]]
    assert kinds == ["reasoning", "web_search_call", "file_search_call", "message"]
    web, file, message = whole["output"][1:]
    assert web["action"] == {"type": "search", "query": "tide", "queries": ["tide"]}
    assert (file["queries"], file["results"]) == (["tide"], None)
    assert message["content"][0]["annotations"] == [URL, CITED]


def test_search_results_are_included_on_request() -> None:
    include = ["file_search_call.results", "web_search_call.action.sources"]
    asked = parse(include=include)
    whole = responses.whole(STAMP, asked, fold((0, b) for b in batches("x")))
    web, file = whole["output"][1:3]
    assert web["action"]["sources"] == [{"type": "url", "url": "https://tide.example/"}]
    (result,) = file["results"]
    assert (result["file_id"], result["text"], result["score"]) == ("file-1", "It is low.", 0.5)


def test_stream_ends_with_the_whole_answer() -> None:
    asked = parse()
    given = batches("It is hi", "[1, 2]")
    events = told(asked, given)
    whole = responses.whole(STAMP, asked, fold((0, b) for b in given))
    final = events[-1]["response"]
    assert final["output"] == whole["output"]
    added = [e for e in events if e["type"] == "response.output_text.annotation.added"]
    assert [(e["annotation_index"], e["annotation"]) for e in added] == [(0, URL), (1, CITED)]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    kinds = [e["type"].removeprefix("response.") for e in events]
    at = kinds.index("web_search_call.in_progress")
    assert kinds[at - 1 : at + 4] == [
        "output_item.added",
        "web_search_call.in_progress",
        "web_search_call.searching",
        "web_search_call.completed",
        "output_item.done",
    ]


def test_citation_of_unknown_number_stays_text() -> None:
    whole = responses.whole(STAMP, parse(), fold((0, b) for b in batches("a[3] [x] [12345] 【1】")))
    (one,) = whole["output"][-1]["content"][0]["annotations"]
    assert one["type"] == "url_citation"


def test_failed_search_is_reported() -> None:
    given: list[Batch] = [
        [Started()],
        [Searched("web", "q")],
        [Searched("web", "q", over=True, failed=True)],
        [TextDelta("x")],
        [Finished(reason="stop", usage=Usage())],
    ]
    assert told(parse(), given)[-1]["response"]["output"][0]["status"] == "failed"
    whole = responses.whole(STAMP, parse(), fold((0, b) for b in given))
    assert whole["output"][0]["status"] == "failed"

"""The web search of /v1/messages, with the request of Claude Code's tool WebSearch, on a scripted
backend and a scripted search engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.core.events import Batch, Finished, Started, ToolCallDelta
from proxy.core.usage import Usage
from tests.contract import ears
from tests.fakes import CAPS, ScriptsInTurn, client, say
from tests.integration.searxng import SearXNG

BODY: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "cases/anthropic/web_search_claude_code.json").read_text("utf-8")
)["body"]
TOOL = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
NATIVE = msgspec.structs.replace(CAPS, dialect="openai", native=True, chat=True)


@pytest.fixture
def searxng() -> Iterator[SearXNG]:
    server = SearXNG({"tide": "The tide is high.", "light": "The lamp is lit."})
    yield server
    server.end()


def calls(query: str) -> list[Batch]:
    call = ToolCallDelta(0, "c1", "web_search", json.dumps({"query": query}))
    return [[Started(slot=0)], [call], [Finished(reason="tool_calls", usage=Usage(7, 3, 2))]]


def served(searxng: SearXNG, *scripts: Any) -> tuple[Any, ScriptsInTurn]:
    driver = ScriptsInTurn(*scripts, caps=NATIVE)
    return client(driver, search_engine=("searxng",), searxng_url=searxng.url), driver


def content(http: Any, **more: Any) -> Any:
    """The blocks of an answer, and the number of searches."""
    body = {**BODY, "tools": [TOOL], "stream": False, **more}
    answer = http.post("/v1/messages", json=body)
    assert answer.status_code == 200, answer.json
    return answer.json["content"], answer.json["usage"]["server_tool_use"]["web_search_requests"]


def test_claude_code_gets_results_in_a_stream_and_whole(searxng: SearXNG) -> None:
    scripts = calls("tide"), say("High ", "[1].")
    http, driver = served(searxng, *scripts, *scripts)
    body = {**BODY, "tools": [TOOL]}
    answer = http.post("/v1/messages", json=body)
    assert answer.status_code == 200
    blocks: list[Any] = []
    counts: Any = None
    for kind, event in ears.sse(answer.get_data()):
        if kind == "content_block_start":
            blocks.append(event["content_block"])
        elif kind == "content_block_delta":
            delta = event["delta"]
            if delta["type"] == "input_json_delta":
                blocks[-1]["input"] = json.loads(delta["partial_json"])
            elif delta["type"] == "citations_delta":
                blocks[-1].setdefault("citations", []).append(delta["citation"])
            else:
                blocks[-1]["text"] += delta["text"]
        elif kind == "message_delta":
            counts = event
    use, result, text = blocks
    assert use["type"] == "server_tool_use" and use["id"].startswith("srvtoolu_")
    assert (use["name"], use["input"]) == ("web_search", {"query": "tide"})
    assert (result["type"], result["tool_use_id"]) == ("web_search_tool_result", use["id"])
    assert [(page["type"], page["title"], page["url"]) for page in result["content"]] == [
        ("web_search_result", "tide", "https://tide.example/"),
        ("web_search_result", "light", "https://light.example/"),
    ]
    (citation,) = text["citations"]
    assert (citation["url"], citation["cited_text"]) == (
        "https://tide.example/",
        "The tide is high.",
    )
    assert counts["delta"]["stop_reason"] == "end_turn"
    assert counts["usage"]["server_tool_use"] == {
        "web_search_requests": 1,
        "web_fetch_requests": 0,
    }
    assert [task.request.tool_choice.mode for task in driver.tasks] == ["named", "auto"]
    whole, searches = content(http)
    assert searches == 1
    ids = {use["id"]: "", whole[0]["id"]: ""}  # those of another message
    for block in (use, result, whole[0], whole[1]):
        for name in {"id", "tool_use_id"} & block.keys():
            block[name] = ids[block[name]]
    assert whole == blocks


def test_blocks_that_a_client_sends_back_continue_the_prompt(searxng: SearXNG) -> None:
    http, driver = served(searxng, calls("tide"), say("High [1]."), say("Yes."))
    blocks, _ = content(http)
    more = [{"role": "assistant", "content": blocks}, {"role": "user", "content": "Sure?"}]
    content(http, messages=[*BODY["messages"], *more], tool_choice={"type": "auto"})
    _, second, third = [task.request.messages for task in driver.tasks]
    assert [m.content for m in third[: len(second)]] == [m.content for m in second]
    assert third[-1].content == "Sure?"


@pytest.mark.parametrize(
    ("query", "more", "error"),
    [("", {}, "invalid_tool_input"), ("tide", {"max_uses": 1}, "max_uses_exceeded")],
)
def test_a_search_that_is_not_made_is_an_error_block(
    searxng: SearXNG, query: str, more: Any, error: str
) -> None:
    http, _ = served(searxng, calls("tide"), calls(query), say("So."))
    blocks, searches = content(http, tools=[{**TOOL, **more}])
    wrong = blocks[3]["content"]
    assert wrong == {"type": "web_search_tool_result_error", "error_code": error}
    assert searches == len(searxng.asked) == 1


def test_results_are_of_the_domains_of_the_tool(searxng: SearXNG) -> None:
    http, _ = served(searxng, calls("tide"), say("So."))
    tool = {**TOOL, "allowed_domains": ["light.example"], "blocked_domains": []}
    blocks, _ = content(http, tools=[tool])
    assert [page["title"] for page in blocks[1]["content"]] == ["light"]


def test_without_a_search_engine_the_setting_is_named() -> None:
    answer = client().post("/v1/messages", json=BODY)
    assert answer.status_code == 400
    assert "set --search-engine" in answer.json["error"]["message"]

"""web_search and file_search of /v1/responses, and web_search of /v1/messages, by the official
clients, strict, on a server of 2023: the model of random weights is bound to the call, what it
searches for is its own babble."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients import anthropic, openai
from tests.integration.asking import openai_client
from tools.processes import Gateway

from .conftest import StartGateway, StartServer
from .searxng import SearXNG

FORCED: Any = {"type": "web_search_preview"}  # the name its types have for the choice
TOOLS: Any = [{"type": "web_search"}]
SOURCES: Any = ["web_search_call.action.sources"]


@pytest.fixture(scope="module")
def searxng() -> Iterator[SearXNG]:
    server = SearXNG({"tide": "The tide is high.", "light": "The lamp is lit."})
    yield server
    server.end()


@pytest.fixture(scope="module")
def served(
    start_server: StartServer,
    module_gateway: StartGateway,
    searxng: SearXNG,
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    flags = ["--search-engine", "searxng", "--searxng-url", searxng.url]
    flags += ["--data", str(tmp_path_factory.mktemp("data"))]
    rounds = {"SLOTPROXY_AGENT_ROUNDS": "2"}
    return module_gateway("--llama-api", start_server("llama-2023").url, *flags, env=rounds)


@pytest.fixture
def client(served: Gateway) -> Iterator[openai.OpenAI]:
    with openai_client(served, _strict_response_validation=True) as api:
        yield api


def fields() -> dict[str, Any]:
    return {
        "model": "any",
        "input": "What of the tide?",
        "tools": TOOLS,
        "tool_choice": FORCED,
        "max_output_tokens": 250,
        "include": SOURCES,
    }


def searched(item: Any) -> Any:
    assert (item.type, item.status) == ("web_search_call", "completed")
    assert item.action.type == "search"
    return item.action


def test_search_is_executed_and_the_model_continues(
    client: openai.OpenAI, searxng: SearXNG
) -> None:
    before = len(searxng.asked)
    whole = client.responses.create(**fields())
    search, message = whole.output[0], whole.output[1]
    action = searched(search)
    if len(searxng.asked) > before:  # babble may be only blanks, which is no search query
        assert [source.url for source in action.sources] == [
            "https://tide.example/", "https://light.example/",
        ]  # fmt: skip
    assert message.type == "message"
    assert whole.usage is not None
    assert whole.usage.output_tokens > 0


def test_messages_search_too(served: Gateway) -> None:
    """Claude Code's tool WebSearch reads the blocks of such a message."""
    question: Any = {"role": "user", "content": "Perform a web search for the query: the tide"}
    body: dict[str, Any] = {
        "model": "any",
        "max_tokens": 250,
        "messages": [question],
        "tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}],
        "tool_choice": {"type": "tool", "name": "web_search"},
    }
    with anthropic.Anthropic(
        base_url=served.url, api_key="x", max_retries=0, _strict_response_validation=True
    ) as claude:
        whole = claude.messages.create(**body)
        with claude.messages.stream(**body) as events:
            streamed = events.get_final_message()
        for message in (whole, streamed):
            use, result = message.content[:2]
            assert (use.type, result.type) == ("server_tool_use", "web_search_tool_result")
            assert result.tool_use_id == use.id
            searches = message.usage.server_tool_use
            assert searches is not None
            if searches.web_search_requests:  # babble may be only blanks, which is no search query
                assert [page.url for page in result.content] == [
                    "https://tide.example/", "https://light.example/",
                ]  # fmt: skip
        more: Any = [{"role": "assistant", "content": whole.content}, question]
        again = claude.messages.create(
            **{**body, "messages": [question, *more], "tool_choice": {"type": "none"}}
        )
        assert again.usage.output_tokens > 0


def test_files_are_searched(client: openai.OpenAI) -> None:
    """What the model searches for is babble; that a file is found by it cannot be asked for, but
    that the search is made, told and passed on can."""
    store = client.vector_stores.create(name="harbour")
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("tide.txt", b"The tide is high."), poll_interval_ms=100
    )
    assert file.status == "completed"
    tools: Any = [{"type": "file_search", "vector_store_ids": [store.id]}]
    include: Any = ["file_search_call.results"]
    body = {**fields(), "tools": tools, "tool_choice": {"type": "file_search"}}
    whole = client.responses.create(**{**body, "include": include})
    call, message = whole.output
    assert call.type == "file_search_call"
    assert call.status == "completed"
    assert len(call.queries) == 1
    assert call.results is not None
    assert message.type == "message"
    missing: Any = [{"type": "file_search", "vector_store_ids": ["vs_none"]}]
    whole = client.responses.create(**{**body, "tools": missing})
    assert [item.status for item in whole.output[:1]] == ["failed"]

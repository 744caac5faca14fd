"""An answer that searches on the way, over a scripted gateway."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from proxy.config import AgentConfig
from proxy.core.events import (
    Batch,
    Citation,
    Event,
    Failed,
    Finished,
    FinishReason,
    Searched,
    Started,
    TextDelta,
    ToolCallDelta,
)
from proxy.core.request import CompletionRequest, Message, Search, Tool
from proxy.core.usage import Usage
from proxy.dialogue.finding import Finder
from proxy.dialogue.loop import Runner, SearchRunner, ToolAnswer
from proxy.errors import UpstreamFault, UpstreamTimeout
from proxy.gateway import Caller, Info
from proxy.gateway.context import ANYBODY
from proxy.runtime.cancel import Cancel
from proxy.websearch.engines import MOST, read

ASKED = CompletionRequest(
    messages=(Message(role="user", content="q"),),
    tools=(Tool("own"),),
    searches=(Search(kind="web"),),
)
FOUND = Citation(number=1, title="T", text="text", url="https://t.example/")


class Scripted:
    """Stands for the gateway: each answer is the next script."""

    def __init__(self, *scripts: list[Event]) -> None:
        self.scripts = list(scripts)
        self.requests: list[CompletionRequest] = []
        self.closed = 0
        self.registry = SimpleNamespace(resolve=lambda name: (name, name))
        self.clock = lambda: 0.0

    def answer(self, request: CompletionRequest, cancel: Cancel, caller: Any) -> Any:
        self.requests.append(request)
        script = self.scripts.pop(0)
        outer = self

        class Answer:
            info = Info(usage=script[-1].usage if isinstance(script[-1], Finished) else Usage())

            def __iter__(self) -> Iterator[tuple[int, Batch]]:
                for event in [Started(), *script]:
                    yield 0, [event]

            def close(self) -> None:
                outer.closed += 1

        return Answer()


class Finds:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.searches: list[tuple[str, str]] = []

    def result(self, search: Search, owner: str, query: str, cancel: Cancel) -> list[Citation]:
        self.searches.append((owner, query))
        if self.error is not None:
            raise self.error
        return [Citation(title="T", text="text", url="https://t.example/")]


def done(reason: FinishReason, usage: Usage = Usage(10, 5)) -> Finished:  # noqa: B008  # frozen
    return Finished(reason=reason, usage=usage)


def call(name: str, arguments: str, *before: Event) -> list[Event]:
    pieces = [ToolCallDelta(0, "c1", name), ToolCallDelta(0, arguments=arguments)]
    return [*before, *pieces, done("tool_calls")]


def events_of(
    gateway: Any,
    runner: Runner,
    request: CompletionRequest,
    caller: Caller = ANYBODY,
    cancel: Cancel | None = None,
) -> list[Event]:
    bounds = AgentConfig(rounds=4)
    answer = ToolAnswer(gateway, [runner], request, cancel or Cancel(), caller, bounds)
    try:
        return [event for _, batch in answer for event in batch]
    finally:
        answer.close()


def run(
    gateway: Scripted, finds: Finds | None = None, request: CompletionRequest = ASKED
) -> list[Event]:
    finder: Any = finds or Finds()
    searches = {search.name: search for search in request.searches}
    return events_of(gateway, SearchRunner(Cancel(), 0, finder, searches, "owner"), request)


SEARCH = call("web_search", '{"query": " tide "}', TextDelta("Let me see. "))


def test_search_is_executed_and_the_model_continues() -> None:
    gateway, finds = Scripted(SEARCH, [TextDelta("High [1]."), done("stop")]), Finds()
    assert run(gateway, finds) == [
        Started(),
        TextDelta("Let me see. "),
        Searched("web", "tide"),
        Searched("web", "tide", over=True, found=(FOUND,)),
        TextDelta("High [1]."),
        Finished(reason="stop", usage=Usage(20, 10)),
    ]
    assert finds.searches == [("owner", "tide")]
    first, second = gateway.requests
    assert [tool.name for tool in first.tools] == ["own", "web_search"]
    assert not first.parallel_tool_calls
    assert second.messages[: len(first.messages)] == first.messages
    assert second.messages[-1].content == "[1] T\ntext"
    assert gateway.closed == 2


def test_client_tool_call_ends_the_answer() -> None:
    events = run(Scripted(SEARCH, call("own", "{}")))
    assert events[-3:] == [
        ToolCallDelta(0, "c1", "own"),
        ToolCallDelta(0, arguments="{}"),
        Finished(reason="tool_calls", usage=Usage(20, 10)),
    ]


def test_number_of_calls_is_bounded_by_the_request() -> None:
    gateway = Scripted(SEARCH, [TextDelta("x"), done("stop")])
    run(gateway, request=msgspec.structs.replace(ASKED, max_tool_calls=1))
    assert [request.tool_choice.mode for request in gateway.requests] == ["auto", "none"]


def test_failed_search_is_reported_and_the_model_continues() -> None:
    gateway = Scripted(SEARCH, [TextDelta("Alas."), done("stop")])
    events = run(gateway, Finds(UpstreamTimeout("too late")))
    assert Searched("web", "tide", over=True, error="unavailable") in events
    assert gateway.requests[1].messages[-1].content == "Error: too late"


def test_more_searches_than_the_request_allows_are_not_made() -> None:
    gateway, finds = Scripted(SEARCH, SEARCH, [TextDelta("x"), done("stop")]), Finds()
    once = msgspec.structs.replace(ASKED, searches=(Search(kind="web", most=1),))
    events = run(gateway, finds, once)
    ends = [event.error for event in events if isinstance(event, Searched) and event.over]
    assert ends == ["", "max_uses_exceeded"]
    assert len(finds.searches) == 1
    assert gateway.requests[-1].messages[-1].content.startswith("Error: ")


def test_an_engine_that_limits_requests_is_reported_as_such() -> None:
    def error(status: int) -> str:
        with pytest.raises(UpstreamFault) as caught:
            read("brave", status, b"")
        events = run(Scripted(SEARCH, [done("stop")]), Finds(caught.value))
        return next(event.error for event in events if isinstance(event, Searched) and event.over)

    assert (error(429), error(500)) == ("too_many_requests", "unavailable")


def test_results_are_of_the_sites_that_a_search_allows() -> None:
    queries: list[tuple[str, int]] = []
    urls = (
        "https://a.example/blog/x",
        "https://docs.a.example/blog/y/en",
        "https://a.example/shop",
        "https://nota.example/blog/",
        "https://B.Example/",
    )

    class Web:
        def search(self, query: str, engine: str, count: int, cancel: Any) -> Any:
            queries.append((query, count))
            return [Citation(title=url, text="", url=url) for url in urls]

    finder = Finder(None, cast(Any, Web()))

    def results(**bounds: Any) -> list[str]:
        search = Search(kind="web", **bounds)
        return [page.url for page in finder.result(search, "owner", "tide", Cancel())]

    assert results(sites=("a.example",)) == [*urls[:3]]
    assert queries.pop() == ("tide site:a.example", MOST)
    assert results(sites=("a.example/blog", "b.example"), count=2) == [*urls[:2]]
    assert queries.pop()[0] == "tide site:a.example/blog OR site:b.example"
    assert results(sites=("a.example/blog/*/en",)) == [urls[1]]
    assert results(blocked=("a.example",)) == [*urls[3:]]
    assert queries[-1][0].strip() == "tide"


def test_truncated_call_ends_the_answer() -> None:
    cut: list[Event] = [ToolCallDelta(0, "c", "web_search", '{"qu'), done("length")]
    assert run(Scripted(cut))[-1] == Finished(reason="length", usage=Usage(10, 5))


def test_model_failure_in_later_round_is_a_failed_event() -> None:
    fault = UpstreamTimeout("gone")
    events = run(Scripted(SEARCH, [TextDelta("x"), Failed(fault)]))
    assert events[-1] == Failed(fault)

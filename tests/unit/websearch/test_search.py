"""Engines over real HTTP on loopback, also those that fail or are silent."""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest

from proxy.core.events import Citation
from proxy.errors import (
    Cancelled,
    Forbidden,
    GatewayError,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from proxy.runtime.cancel import Cancel
from proxy.websearch import engines
from proxy.websearch.engines import Engine, WebSearch, results_of

from .conftest import Web

RESULTS = [
    {"title": "Harbour &amp; <b>sea</b>", "url": "https://a.example/1", "content": "Ships  come."},
    {"title": "again", "url": "https://a.example/1", "content": "twice"},
    {"title": "", "url": "https://b.example/", "content": None},
    {"title": "Third", "url": "https://c.example/", "content": "3"},
    {"title": "script", "url": "javascript:alert(1)", "content": "x"},
    {"title": "lines", "url": "https://c.example/\r\nHost: x", "content": "x"},
    "no object",
]
FOUND = (
    Citation(title="Harbour & sea", text="Ships come.", url="https://a.example/1"),
    Citation(title="https://b.example/", text="", url="https://b.example/"),
    Citation(title="Third", text="3", url="https://c.example/"),
)


def searching(*engines: Engine, seconds: float = 60) -> WebSearch:
    return WebSearch(engines, seconds=seconds, clock=time.monotonic)


def test_searxng_json_results_are_parsed(web: Web) -> None:
    web.json("/search", json.dumps({"query": "x", "results": RESULTS}))
    search = searching(Engine("searxng", web.url + "/"))
    assert search.search("where  do ships 停靠?", cancel=Cancel()) == FOUND
    assert search.search("where do ships 停靠?", "searx", 1, cancel=Cancel()) == FOUND[:1]
    method, path, headers, _ = web.seen[0]
    assert (method, headers["Accept"]) == ("GET", "application/json")
    assert path == "/search?q=where+do+ships+%E5%81%9C%E9%9D%A0%3F&format=json"


@pytest.mark.parametrize("name", ["brave", "tavily"])
def test_search_engines_with_a_key(web: Web, name: str) -> None:
    engine: Engine
    if name == "brave":
        engine = Engine("brave", web.url, "k-1")
        entries = [{"title": "T", "url": "https://x.example/", "description": "D"}]
        web.json("/res/v1/web/search", json.dumps({"web": {"results": entries}}))
    else:
        engine = Engine("tavily", web.url, "k-1")
        web.json("/search", '{"results": [{"title":"T","url":"https://x.example/","content":"D"}]}')
    assert searching(engine).search("q", count=3, cancel=Cancel()) == (
        Citation(title="T", text="D", url="https://x.example/"),
    )
    method, path, headers, body = web.seen[0]
    if name == "tavily":
        assert (method, json.loads(body)) == ("POST", {"query": "q", "max_results": 3})
        assert headers["Authorization"] == "Bearer k-1"
    else:
        assert method == "GET"
        assert "q=q&count=3" in path
        assert "k-1" in headers.values()
        assert "k-1" not in path


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (403, "", "does not allow the json format"),
        (429, "{}", "rate limiting"),
        (500, "oops", "status 500"),
        (200, "<html>", "did not return a JSON object"),
        (200, "[]", "did not return a JSON object"),
    ],
)
def test_malformed_engine_answer_is_a_clear_error(
    web: Web, status: int, text: str, said: str
) -> None:
    web.json("/search", text, status)
    with pytest.raises(UpstreamFault, match=said):
        searching(Engine("searxng", web.url)).search("q", cancel=Cancel())


def test_unreachable_engines_fail_without_hanging(web: Web) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(UpstreamFault, match="unreachable"):
        searching(Engine("searxng", f"http://127.0.0.1:{port}")).search("q", cancel=Cancel())
    web.silent.add("/search")
    with pytest.raises(UpstreamTimeout, match="timed out"):
        searching(Engine("searxng", web.url), seconds=0.3).search("q", cancel=Cancel())


def test_cancel_ends_a_waiting_search(web: Web) -> None:
    web.silent.add("/search")
    cancel, caught = Cancel(), list[GatewayError]()

    def ask() -> None:
        try:
            searching(Engine("searxng", web.url), seconds=60).search("q", cancel=cancel)
        except GatewayError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert web.waiting.wait(60)
    cancel.cancel()
    thread.join(60)
    assert isinstance(caught[0], Cancelled)


def test_search_engine_without_settings_is_refused() -> None:
    with pytest.raises(Forbidden, match="--search-engine"):
        searching().search("q", cancel=Cancel())
    with pytest.raises(Unsupported, match="'bing' is not configured; available: searxng"):
        searching(Engine("searxng", "http://127.0.0.1:1")).search("q", "bing", cancel=Cancel())


def test_search_results_are_cached_for_a_while(web: Web) -> None:
    web.json("/search", json.dumps({"results": RESULTS}))
    now = [0.0]
    search = WebSearch([Engine("searxng", web.url)], seconds=60, clock=lambda: now[0])
    assert search.search("ships", cancel=None) == ()
    assert search.search("ships", cancel=Cancel()) == FOUND
    assert search.search(" ships ", cancel=None) == FOUND
    now[0] = 1000
    assert search.search("ships", cancel=None) == ()


def test_hostile_snippet_is_treated_as_text() -> None:
    rows = [
        {"title": "<b>" * 3000 + "T", "href": "https://x.example/", "body": f"a&#{'9' * 9000};b"}
    ]
    (result,) = results_of([*rows, {"href": 3}], "title", "href", "body")
    assert (result.title, result.text) == ("T", "a;b")


def test_number_of_concurrent_searches_is_bounded(web: Web) -> None:
    results = [
        {"title": f"{i}", "url": f"https://{i}.example/", "content": "x" * 2 * engines.LONGEST}
        for i in range(engines.MOST + 5)
    ]
    web.json("/search", json.dumps({"results": results}))
    many = searching(Engine("searxng", web.url)).search(
        "x" * (engines.MOST_QUERY + 5), count=100, cancel=Cancel()
    )
    assert len(many) == engines.MOST
    assert {len(result.text) for result in many} == {engines.LONGEST}
    _, path, _, _ = web.seen[0]
    assert path.count("x") == engines.MOST_QUERY


def test_number_of_cached_searches_is_bounded(web: Web) -> None:
    web.json("/search", json.dumps({"results": []}))
    search = searching(Engine("searxng", web.url))
    for number in range(3):
        search.search(f"{number}", cancel=Cancel())
    for number in range(engines.CACHED - 3):
        search._cached.put(b"made %d" % number, (0.0, ()), 1)
    search.search("one more", cancel=Cancel())
    assert search._cached.size == engines.CACHED
    before = len(web.seen)
    search.search("0", cancel=Cancel())
    assert len(web.seen) == before + 1

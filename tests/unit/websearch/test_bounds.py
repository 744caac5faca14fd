"""Bounds on searches and the pages they lead to, each at its edge."""

from __future__ import annotations

import json
import time

from proxy.runtime.cancel import Cancel
from proxy.websearch import engines
from proxy.websearch.engines import Engine, WebSearch

from .conftest import Web


def test_number_of_concurrent_searches_is_bounded(web: Web) -> None:
    results = [
        {"title": f"{i}", "url": f"https://{i}.example/", "content": "x" * 2 * engines.LONGEST}
        for i in range(engines.MOST + 5)
    ]
    web.json("/search", json.dumps({"results": results}))
    engine = Engine("searxng", web.url)
    searching = WebSearch([engine], seconds=60, clock=time.monotonic)
    many = searching.search("x" * (engines.MOST_QUERY + 5), count=100, cancel=Cancel())
    assert len(many) == engines.MOST
    assert {len(result.text) for result in many} == {engines.LONGEST}
    _, path, _, _ = web.seen[0]
    assert path.count("x") == engines.MOST_QUERY
    searching.close()


def test_number_of_cached_searches_is_bounded(web: Web) -> None:
    web.json("/search", json.dumps({"results": []}))
    searching = WebSearch([Engine("searxng", web.url)], seconds=60, clock=time.monotonic)
    for number in range(3):
        searching.search(f"{number}", cancel=Cancel())
    cached, (value, *_) = searching._cached, searching._cached.values()
    for number in range(engines.CACHED - 3):
        cached["", f"made {number}", 1] = value
    searching.search("one more", cancel=Cancel())
    assert len(cached) == engines.CACHED and ("searxng", "0", 5) not in cached
    searching.close()

"""The library's child, with a library that is made up: what it gives, and how it fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cancel import Cancel
from proxy.errors import UpstreamFault, UpstreamTimeout
from proxy.websearch import Result, WebSearch
from proxy.websearch.metasearch import Metasearch

LIBRARY = """
import time
from .exceptions import DDGSException, TimeoutException

class DDGS:
    def __init__(self, timeout):
        assert type(timeout) is int and timeout >= 1

    def text(self, query, max_results):
        print("it chatters")
        if query == "none":
            raise DDGSException("No results found.")
        if query == "down":
            raise DDGSException("DNSError")
        if query == "late":
            raise TimeoutException("timed out")
        if query == "defect":
            raise ZeroDivisionError
        if query == "hangs":
            time.sleep(60)
        return [{"title": query, "href": "https://x.example/", "body": "b"}] * max_results
"""
EXCEPTIONS = """
class DDGSException(Exception): pass
class TimeoutException(DDGSException): pass
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metasearch]:
    (tmp_path / "ddgs").mkdir()
    (tmp_path / "ddgs" / "__init__.py").write_text(LIBRARY)
    (tmp_path / "ddgs" / "exceptions.py").write_text(EXCEPTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = Metasearch()
    yield found
    found.close()


def test_what_it_finds_and_how_it_fails(engine: Metasearch) -> None:
    web = WebSearch([engine], seconds=5, clock=time.monotonic)
    assert web.search("tides", "duckduckgo") == (Result("tides", "https://x.example/", "b"),)
    assert web.search("none") == ()
    for query in ("down", "defect"):
        with pytest.raises(UpstreamFault, match="no search engine can be reached"):
            web.search(query)
    with pytest.raises(UpstreamTimeout, match="no search engine answered in time"):
        web.search("late")


def test_a_library_that_hangs_is_ended(engine: Metasearch) -> None:
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout, match=r"longer than 1\.2 seconds"):
        engine.search("hangs", 1, Cancel(), 0.2)
    assert time.monotonic() - began < 10

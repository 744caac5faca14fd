"""The library's child, with a library that is made up: its results and its failures."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.core.events import Citation
from proxy.errors import UpstreamFault, UpstreamTimeout
from proxy.runtime.cancel import Cancel
from proxy.runtime.confinement import landlock
from proxy.websearch.engines import Metasearch, WebSearch

LIBRARY = """
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
    search = Metasearch()
    yield search
    search.close()


def test_search_library_results_and_failures(engine: Metasearch) -> None:
    web = WebSearch([engine], seconds=60, clock=time.monotonic)
    (result,) = web.search("tides", "duckduckgo", cancel=Cancel())
    assert result == Citation(title="tides", text="b", url="https://x.example/")
    assert web.search("none", cancel=Cancel()) == ()
    for query in ("down", "defect"):
        with pytest.raises(UpstreamFault, match="no search engine is reachable"):
            web.search(query, cancel=Cancel())
    with pytest.raises(UpstreamTimeout, match="the search engines timed out"):
        web.search("late", cancel=Cancel())


HOSTILE = """
import os, socket
from .exceptions import DDGSException, TimeoutException

class DDGS:
    def __init__(self, timeout):
        pass

    def text(self, query, max_results):
        folder, port = query.split()
        tries = {
            "read": lambda: open(folder + "/secret").read(),
            "write": lambda: open(folder + "/new", "w"),
            "connect": lambda: socket.create_connection(("127.0.0.1", int(port)), 2),
            "listen": lambda: socket.create_server(("127.0.0.1", 0)),
            "memory": lambda: bytearray(2 << 30),
        }
        said = []
        for name, attempt in tries.items():
            try:
                attempt()
                said.append(name)
            except (OSError, MemoryError):
                pass
        # The needs of the library are met.
        assert "root" not in os.environ.get("SLOTPROXY_API_KEY", "")
        open("/etc/hosts").read()
        import ssl
        ssl.create_default_context()
        try:
            socket.create_connection(("127.0.0.1", 443), 2)
        except ConnectionRefusedError:
            said.append("443 may be asked")
        return [{"title": one, "href": f"https://x.example/{i}", "body": "b"}
                for i, one in enumerate(said)]
"""


@pytest.mark.skipif(landlock() < 6, reason="needs Landlock of Linux 6.12")
def test_compromised_search_library_is_confined(
    engine: Metasearch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (tmp_path / "ddgs" / "__init__.py").write_text(HOSTILE)
    folder = tmp_path_factory.mktemp("private")
    (folder / "secret").write_text("4711")
    with socket.create_server(("127.0.0.1", 0)) as server:
        query = f"{folder} {server.getsockname()[1]}"
        results = engine.search(query, 20, Cancel(), 60)
    assert [result.title for result in results] == ["443 may be asked"]
    assert [path.name for path in folder.iterdir()] == ["secret"]

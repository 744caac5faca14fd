"""A loopback server with SearXNG's JSON API."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from tests.http_fakes import FakeHandler, FakeServer


class SearXNG(FakeServer):
    """A server with SearXNG's JSON API; while `silent` it does not answer."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        """`pages` are snippets by name."""
        self.asked: list[str] = []
        self.silent = False
        self.waiting, self.over = threading.Event(), threading.Event()
        super().__init__(_Handler, outer=self, pages=pages)

    def end(self) -> None:
        self.over.set()
        self.close()


class _Handler(FakeHandler):
    protocol_version = "HTTP/1.0"
    outer: SearXNG
    pages: Mapping[str, str]

    def do_GET(self) -> None:
        self.outer.asked.append(self.path)
        if self.outer.silent:
            self.outer.waiting.set()
            self.outer.over.wait(60)
            return
        results = [
            {"title": name, "url": f"https://{name}.example/", "content": text}
            for name, text in self.pages.items()
        ]
        self.send({"results": results})

"""A small web of its own on loopback: pages, redirects, silence, and engines' answers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Answer = tuple[int, dict[str, str], bytes]


class Web:
    """`pages` by path; a path of `silent` gets no answer until the test is over. `seen` are the
    requests: method, path with query, headers, body."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.silent: set[str] = set()
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []
        self.over = threading.Event()
        self.waiting = threading.Event()
        self.url = ""

    def page(self, path: str, text: str, kind: str = "text/html; charset=utf-8") -> str:
        self.pages[path] = 200, {"Content-Type": kind}, text.encode()
        return self.url + path

    def json(self, path: str, text: str, status: int = 200) -> None:
        self.pages[path] = status, {"Content-Type": "application/json"}, text.encode()


@pytest.fixture
def web() -> Iterator[Web]:
    site = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            site.seen.append((self.command, self.path, dict(self.headers), body))
            path = self.path.partition("?")[0]
            if path in site.silent:
                site.waiting.set()
                site.over.wait(60)
                self.close_connection = True
                return
            status, headers, data = site.pages.get(path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET  # the library's own name

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        site.over.set()
        server.shutdown()
        server.server_close()
        thread.join()

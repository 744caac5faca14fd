"""A loopback server with SearXNG's JSON API."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class SearXNG:
    """A server with SearXNG's JSON API; while `silent` it does not answer."""

    def __init__(self, pages: Mapping[str, str]) -> None:
        """`pages` are snippets by name."""
        self.asked: list[str] = []
        self.silent = False
        self.waiting, self.over = threading.Event(), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                if outer.silent:
                    outer.waiting.set()
                    outer.over.wait(60)
                    return
                results = [
                    {"title": name, "url": f"https://{name}.example/", "content": text}
                    for name, text in pages.items()
                ]
                data = json.dumps({"results": results}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def end(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""A hub of models as Hugging Face's, as far as downloads use it, which does what a test says: cuts,
wrong contents, refusals. Routes and fields: huggingface.co/docs/hub/api and the library itself.

It answers without sockets (`Hub.transport`, in the process of the library), or on a port of
loopback (`HubServer`, for HF_ENDPOINT)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.http_fakes import FakeHandler, FakeServer

REVISION = "0123456789abcdef0123456789abcdef01234567"
BLOCK = 1 << 16


class Hub:
    """`files` by path. The first requests for contents are cut after as many bytes as `cuts` says,
    in their order; None: not. `seen` has method, path, range and token of each request."""

    repository = "maker/Small-GGUF"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.cuts: list[int | None] = []
        self.status = 200  # of the list
        self.content_status = 200
        self.code = ""  # X-Error-Code
        self.damaged = False  # contents differ from the digests in the list
        self.told: dict[str, Any] = {}  # replaces fields of the list
        self.url = ""
        self.pause_after = 0  # bytes of contents, behind which a `HubServer` waits for `go`
        self.go = threading.Event()
        self.cdn = ""  # where contents are redirected to
        self.ignores_ranges = False
        self.seen: list[tuple[str, str, str, str]] = []

    def answer(
        self, method: str, target: str, headers: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes, int | None]:
        """Status, headers, body, and after how many bytes of it the connection is cut."""
        path = unquote(urlsplit(target).path)
        token = headers.get("authorization", "")
        self.seen.append((method, path, headers.get("range", ""), token))
        error = {"X-Error-Code": self.code} if self.code else {}
        if path == f"/api/models/{self.repository}":
            if self.status != 200:
                return self.status, error, b"{}", None
            return 200, {"Content-Type": "application/json"}, self._list(), None
        start = f"/{self.repository}/resolve/{REVISION}/"
        name = path.removeprefix("/cdn").removeprefix(start)
        if name not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}", None
        if self.content_status != 200:
            return self.content_status, error, b"", None
        if self.cdn and not path.startswith("/cdn"):
            return 302, {"Location": f"{self.cdn}/cdn{path}"}, b"", None
        data = self.files[name]
        if self.damaged:
            data = bytes([data[0] ^ 1]) + data[1:]
        ranged = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        cut = self.cuts.pop(0) if self.cuts else None
        if ranged is None or self.ignores_ranges:
            return 200, {}, data, cut
        begin = int(ranged[1])
        if begin >= len(data):
            return 416, {}, b"", None
        reply_headers = {"Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"}
        return 206, reply_headers, data[begin:], cut

    def _list(self) -> bytes:
        siblings = [
            {
                "rfilename": name,
                "size": len(data),
                "blobId": "0" * 40,
                "lfs": {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                },
            }
            for name, data in self.files.items()
        ]
        gguf = {"total": 1000, "architecture": "llama", "context_length": 32768}
        model = {"id": self.repository, "sha": REVISION, "siblings": siblings, "gguf": gguf}
        return json.dumps({**model, **self.told}).encode()

    def transport(self) -> Any:
        """For a client of httpx2, the library's own."""
        import httpx2

        class Cut(httpx2.SyncByteStream):
            def __init__(self, data: bytes, cut: int) -> None:
                self._data = data[:cut]

            def __iter__(self) -> Iterator[bytes]:
                for at in range(0, len(self._data), BLOCK):
                    yield self._data[at : at + BLOCK]
                raise httpx2.ReadError("connection reset by peer")

        def handle(request: Any) -> Any:
            answer = self.answer(request.method, str(request.url), request.headers)
            status, headers, body, cut = answer
            headers["Content-Length"] = str(len(body))
            if cut is not None:
                return httpx2.Response(status, headers=headers, stream=Cut(body, cut))
            return httpx2.Response(status, headers=headers, content=body)

        return httpx2.MockTransport(handle)


class HubServer(FakeServer):
    """A hub on a port of loopback, for a process whose HF_ENDPOINT is its `url`."""

    def __init__(self, hub: Hub) -> None:
        super().__init__(_Handler, hub=hub)


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub on a port of loopback, which is its `url`."""
    hub = Hub(files)
    with HubServer(hub) as server:
        hub.url = server.url
        yield hub
        hub.go.set()


class _Handler(FakeHandler):
    hub: Hub

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, more, body, cut = self.hub.answer(self.command, self.path, headers)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._write(body if cut is None else body[:cut])
        self.close_connection = cut is not None

    def _write(self, body: bytes) -> None:
        pause = self.hub.pause_after
        with contextlib.suppress(OSError):  # the reader was killed
            if "/resolve/" in self.path and pause and not self.hub.go.is_set():
                self.wfile.write(body[:pause])
                self.hub.go.wait(60)
                body = body[pause:]
            self.wfile.write(body)

    do_HEAD = do_GET

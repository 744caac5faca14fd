"""A server of 2023 with a bounded number of threads, each of which serves one connection to its
end, as httplib's do. Its answers wait until they are released, so that tests see how many run at
once.

    broken   every answer is 200 with nothing
    talkative    it writes twenty words at once, whatever is asked
    silent   every stream is, whole answers are right
"""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from typing import Any

from tests.http_fakes import FakeHandler

KEPT = 5.0  # seconds for which a connection holds its thread without a request


class ThreadedServer:
    """`running` are the answers under way, `most` the most of them; `go` lets them end."""

    def __init__(self, slots: int, threads: int, state: str = "") -> None:
        self.slots = slots
        self.state = state
        self.go = threading.Event()
        self.running = self.most = 0
        self.taken: set[int] = set()
        self.lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepted: queue.Queue[socket.socket | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._serve) for _ in range(threads)]
        self._threads.append(threading.Thread(target=self._accept))
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def close(self) -> None:
        self.go.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for _ in self._threads[:-1]:
            self._accepted.put(None)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._accepted.put(client)

    def _serve(self) -> None:
        while (client := self._accepted.get()) is not None:
            client.settimeout(KEPT)
            with client, contextlib.suppress(OSError):
                _Handler(client, self)

    def take(self, wanted: int) -> int | None:
        with self.lock:
            free = [slot for slot in range(self.slots) if slot not in self.taken]
            if not free:
                return None
            slot = wanted if wanted in free else free[0]
            self.taken.add(slot)
            return slot


class _Handler(FakeHandler):
    def __init__(self, client: socket.socket, server: ThreadedServer) -> None:
        self.our = server
        super().__init__(client, None, server)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        known = {
            "/props": {"user_name": "", "assistant_name": ""},
            "/model.json": {"model": "models/tiny.gguf", "n_ctx": 2048},
        }
        self._send(known.get(self.path))

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/tokenize":
            self._send({"tokens": [*body["content"].encode()]})
        elif self.path == "/detokenize":
            self._send({"content": bytes(body["tokens"]).decode()})
        elif self.path == "/completion":
            self._complete(body)
        else:
            self._send(None)

    def _complete(self, body: dict[str, Any]) -> None:
        server = self.our
        if server.state == "broken" or (server.state == "silent" and body.get("stream")):
            self._send(b"")
            return
        slot = server.take(body.get("slot_id", -1))
        if slot is None:
            self._send(b"" if body.get("stream") else None)
            return
        last = {"content": "", "stop": True, "slot_id": slot, "tokens_predicted": 1}
        last |= {"tokens_evaluated": 3, "stopped_eos": True, "generation_settings": {}}
        try:
            if body.get("stream"):
                self._stream(slot, last, waits=body["n_predict"] > 1)
            else:
                self._send(last)
        finally:
            with server.lock:
                server.taken.discard(slot)

    def _stream(self, slot: int, last: dict[str, Any], waits: bool) -> None:
        server = self.our
        self.begin_stream()
        with server.lock:
            server.running += 1
            server.most = max(server.most, server.running)
        try:
            piece = {"content": "Hi", "stop": False, "slot_id": slot}
            if server.state == "talkative":
                data = b"data: " + json.dumps({**piece, "content": " word"}).encode() + b"\n\n"
                data = data * 20 + b"data: " + json.dumps(last).encode() + b"\n\n"
                self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
                return
            self.send_event(piece)
            if waits:
                server.go.wait(30)
            self.send_event(last)
            self.end_stream()
        finally:
            with server.lock:
                server.running -= 1

    def _send(self, value: Any) -> None:
        if value is None:
            self.send(b"File Not Found", 404, "text/plain")
        else:
            self.send(value, kind="text/plain")

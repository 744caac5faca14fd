"""A server with OpenAI's API whose answers are given, as `wire` of each kind of server has them."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tests.http_fakes import FakeHandler, FakeServer

LONGEST = 7  # characters of a chunk
Reply = str | tuple[int, Any] | Iterable[Mapping[str, Any]]
"""The text of an answer; a status and the document of a refusal; or the chunks of a stream."""


class OpenAIServerFake(FakeServer):
    """Answers on a port of 127.0.0.1. `replies` are given in turn, the last one again and again;
    `pages` are the documents of other paths, by "GET /path"; `bodies` are the requests so far.
    `known` are attributes of the handler."""

    def __init__(
        self,
        *replies: Reply,
        owner: str = "",
        pages: Mapping[str, Any] | None = None,
        **known: Any,
    ) -> None:
        listed = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": owner}]}
        self.pages = {"GET /v1/models": listed, **(pages or {})}
        self.replies = list(replies)
        self.bodies: list[dict[str, Any]] = []
        self.times: list[float] = []  # when each came
        self.pause = 0  # seconds, in refusals
        super().__init__(_Handler, server_fake=self, **known)
        self.root = self.url
        self.url = f"{self.root}/v1"

    def reply(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class _Handler(FakeHandler):
    server_fake: OpenAIServerFake

    def do_GET(self) -> None:
        self._page()

    def do_POST(self) -> None:
        body = self.body()
        if not self.path.endswith("/completions"):
            self._page()
            return
        self.server_fake.times.append(time.monotonic())
        self.server_fake.bodies.append(body)
        reply = self.server_fake.reply()
        if isinstance(reply, tuple):
            self.send(reply[1], reply[0], pause=self.server_fake.pause)
            return
        chunks = chunks_of(reply) if isinstance(reply, str) else reply
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def _page(self) -> None:
        page = self.server_fake.pages.get(f"{self.command} {self.path}")
        if page is None:
            self._send(404, {"detail": "Not Found"})
        elif isinstance(page, tuple):
            self._send(*page)
        else:
            self._send(200, page)

    def _send(self, status: int, document: Any) -> None:
        self.send(document.encode() if isinstance(document, str) else document, status)


class Feed:
    """A stream whose chunks come when the test says so. It must be ended."""

    def __init__(self) -> None:
        self._chunks: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.say(role="assistant", content="")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._chunks.get, None)

    def say(self, **delta: Any) -> None:
        """Send a chunk with this delta, such as `content` or `reasoning_content`."""
        self._chunks.put(_chunk({"index": 0, "delta": delta, "finish_reason": None}))

    def end(self, reason: str = "stop") -> None:
        self._chunks.put(_chunk({"index": 0, "delta": {}, "finish_reason": reason}))
        self._chunks.put(None)


def chunks_of(text: str, reason: str = "stop") -> list[dict[str, Any]]:
    """The chunks of an answer with this text."""
    pieces = [text[at : at + LONGEST] for at in range(0, len(text), LONGEST)]
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in pieces]
    chunks = [_chunk({"index": 0, "delta": delta, "finish_reason": None}) for delta in deltas]
    chunks.append(_chunk({"index": 0, "delta": {}, "finish_reason": reason}))
    usage = {"prompt_tokens": 12, "completion_tokens": len(pieces), "total_tokens": 12}
    return [*chunks, {**_chunk(), "usage": usage}]


def _chunk(*choices: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": list(choices),
    }

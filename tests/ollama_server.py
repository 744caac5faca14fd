"""A server with the routes of Ollama that a backend needs, after its `api/types.go`,
`server/routes.go`, `server/sched.go` and `llm/llama_server.go` of August 2026: it loads its model
again for another `num_ctx` or `shift`, and passes on what its llama-server says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.http_fakes import FakeHandler, FakeServer

NAME = "m:latest"
TOO_LONG = (
    '{"error":{"code":400,"message":"request (%d tokens) exceeds the available context size (%d'
    ' tokens), try increasing it","type":"exceed_context_size_error"}}'
)
HELLO: Sequence[Mapping[str, Any]] = (
    {"message": {"role": "assistant", "content": "Hel"}, "done": False},
    {"message": {"role": "assistant", "content": "lo"}, "done": False},
)
DONE: Mapping[str, Any] = {
    "message": {"role": "assistant", "content": ""},
    "done": True,
    "done_reason": "stop",
    "total_duration": 5,
    "prompt_eval_count": 33,
    "eval_count": 2,
}


class OllamaFake(FakeServer):
    """Its model reads a token for each `width` characters, and has a context of `trained` tokens.
    It answers with `lines`. `loads` are the contexts with which it was loaded, `bodies` those of
    its chats, `cut` how many prompts it shortened, `shifts` whether a long answer
    would shorten its own."""

    def __init__(
        self,
        lines: Sequence[Mapping[str, Any]] = (*HELLO, DONE),
        *,
        trained: int = 32768,
        width: int = 4,
        parameters: str = "",
        capabilities: Sequence[str] = ("completion", "tools", "vision"),
    ) -> None:
        self.lines, self.width, self.trained = lines, width, trained
        self.shown = {
            "parameters": parameters,
            "model_info": {"general.architecture": "a", "a.context_length": trained},
            "capabilities": list(capabilities),
        }
        self.loaded = self.cut = 0
        self.shifts = True
        self.loads: list[int] = []
        self.bodies: list[Any] = []
        self.busy = False
        super().__init__(_Handler, outer=self)


class _Handler(FakeHandler):
    outer: OllamaFake

    def do_GET(self) -> None:
        loaded = {"name": NAME, "model": NAME, "context_length": self.outer.loaded}
        pages: dict[str, Any] = {
            "/v1/models": {"object": "list", "data": [{"id": NAME, "owned_by": "library"}]},
            "/api/version": {"version": "0.33.2"},
            "/api/ps": {"models": [loaded] if self.outer.loaded else []},
        }
        page = pages.get(self.path)
        self.send(page or {"error": "not found"}, 200 if page else 404)

    def do_POST(self) -> None:
        body, outer = self.body(), self.outer
        if self.path == "/api/show":
            self.send(outer.shown)
        elif self.path == "/api/chat":
            self._chat(body)
        else:
            self.send({"error": "not found"}, 404)

    def _chat(self, body: Any) -> None:
        outer = self.outer
        if outer.busy:
            error = "server busy, please try again.  maximum pending requests exceeded"
            self.send({"error": error}, 503)
            return
        outer.bodies.append(body)
        n_ctx = min(body["options"].get("num_ctx", 4096), outer.trained)
        load = n_ctx, body.get("shift", True)
        if load != (outer.loaded, outer.shifts):
            outer.loaded, outer.shifts = load
            outer.loads.append(n_ctx)
        tokens = sum(len(m["content"]) for m in body["messages"]) // outer.width
        if tokens >= n_ctx:
            if body.get("truncate") is False:
                self.send({"error": TOO_LONG % (tokens, n_ctx)}, 400)
                return
            outer.cut += 1
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in outer.lines)
        self.send(lines, kind="application/x-ndjson")

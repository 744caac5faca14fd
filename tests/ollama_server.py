"""A server with the routes of Ollama that a backend needs, after its `api/types.go`,
`server/routes.go` and `server/sched.go`: it loads its model again for each new `num_ctx`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.http_fakes import FakeHandler, FakeServer

NAME = "m:latest"
TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the"
    " prompt, adjust the context length in settings, or use a model with a longer context length"
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
    its chats, `cut` how many prompts it shortened."""

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
        if n_ctx != outer.loaded:
            outer.loaded = n_ctx
            outer.loads.append(n_ctx)
        if sum(len(m["content"]) for m in body["messages"]) // outer.width >= n_ctx:
            if body.get("shift") is False:
                self.send({"error": TOO_LONG}, 400)
                return
            outer.cut += 1
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in outer.lines)
        self.send(lines, kind="application/x-ndjson")

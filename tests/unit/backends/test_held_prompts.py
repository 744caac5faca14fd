"""A conversation on a server of 2023, whose model spells a text in other tokens than a prompt does:
a toy server that compares token ids, as it does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.llamacpp import LlamaCpp
from proxy.core.events import Finished
from proxy.core.request import CompletionRequest
from proxy.core.task import Task
from proxy.runtime.cancel import Cancel
from tests.unit.backends.test_held_tokens import VOCABULARY, WRITTEN, detokenize, tokenize

CONTEXT = 100
CAPS = Capabilities(dialect="2023", slots=1, n_ctx=CONTEXT)


class Handler(BaseHTTPRequestHandler):
    held: list[int]
    bodies: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer: dict[str, Any] = {"slot_id": 0, "content": "", "stop": True}
        if self.path == "/tokenize":
            answer = {"tokens": _ids(body["content"])}
        elif self.path == "/detokenize":
            answer = {"content": detokenize(body["tokens"])}
        if not body.get("stream"):
            self._send("application/json", json.dumps(answer).encode())
            return
        cls = type(self)
        cls.bodies.append(body)
        ids = _ids(body["prompt"])
        same = next(
            (at for at, (a, b) in enumerate(zip(ids, cls.held, strict=False)) if a != b),
            min(len(ids), len(cls.held)),
        )
        cls.held = ids + [VOCABULARY.index(piece) for piece in WRITTEN]
        chunks: list[dict[str, Any]] = [
            {"content": piece, "stop": False, "slot_id": 0}
            for piece in (*WRITTEN, "")  # the end token has a chunk without text
        ]
        end = {"content": "", "stop": True, "slot_id": 0, "stopped_eos": True}
        end |= {"tokens_predicted": len(WRITTEN), "tokens_evaluated": len(ids)}
        end["timings"] = {"prompt_n": len(ids) - same, "predicted_n": len(WRITTEN)}
        lines = (f"data: {json.dumps(chunk)}\n\n" for chunk in (*chunks, end))
        self._send("text/event-stream", "".join(lines).encode())

    def _send(self, kind: str, data: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


def _ids(prompt: str | list[str | int]) -> list[int]:
    parts = [prompt] if isinstance(prompt, str) else prompt
    return [one for p in parts for one in (tokenize(p) if isinstance(p, str) else [p])]


@pytest.fixture
def server() -> Iterator[tuple[LlamaCpp, type[Handler]]]:
    handler = type("Own", (Handler,), {"held": [], "bodies": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as toy:
        Thread(target=toy.serve_forever, daemon=True).start()
        driver = LlamaCpp(f"http://127.0.0.1:{toy.server_port}", timeout=10)
        yield driver, handler
        driver.close()
        toy.shutdown()


def ask(driver: LlamaCpp, text: str, limit: int, asked: int | None) -> Finished:
    request = CompletionRequest(max_tokens=asked)
    task = Task(prompt=text, max_tokens=limit, stop_tokens=("<end>",), request=request)
    run = driver.stream(task, 0, CAPS, Cancel())
    *_, last = [event for batch in run for event in batch]
    run.close()
    assert isinstance(last, Finished)
    return last


@pytest.mark.parametrize("asked", [None, 1000, 20])
def test_next_turn_finds_all_of_the_last_one(
    server: tuple[LlamaCpp, type[Handler]], asked: int | None
) -> None:
    """Also without a limit of the answer, or with one beyond the context: its own tokens are more
    than those of its text."""
    driver, handler = server
    text = "<end>user x<end>"
    before = 0
    for _ in range(3):
        room = CONTEXT - len(tokenize(text))
        finished = ask(driver, text, min(asked or room, room), asked)
        assert finished.usage.cached >= before
        before = len(handler.held)
        sent = handler.bodies[-1]
        assert len(_ids(sent["prompt"])) + sent["n_predict"] <= CONTEXT
        text += "".join(WRITTEN) + "<end>user y<end>"


def test_answer_is_as_long_as_the_client_asked(server: tuple[LlamaCpp, type[Handler]]) -> None:
    driver, handler = server
    text = "<end>user x<end>"
    ask(driver, text, 20, 20)
    text += "".join(WRITTEN) + "<end>user y<end>"
    most = CONTEXT - len(tokenize(text))
    ask(driver, text, most, most)  # in its own tokens, the prompt would leave one less
    assert handler.bodies[-1]["prompt"] == text

"""A llama-server of 2026 whose answers are a function of the prompt, for clients that need a model
which calls tools sensibly over several turns.

It is for clients, not for the driver: it keeps no cache, counts four characters as a token, and
supports just what the gateway's probe and completions use.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

CONTEXT = 200_000  # tokens of a slot
SLOTS = 2
PIECE = 6  # characters of an event
TURN = "<|im_start|>assistant\n"  # after which models/tinychat.jinja lets the model answer


class ScriptedServer:
    """Answers on a port of 127.0.0.1. `script` maps a prompt, up to the beginning of the answer, to
    the whole answer; a prompt that ends with a part of its answer is continued."""

    def __init__(self, script: Callable[[str], str]) -> None:
        handler = type("Handler", (_Handler,), {"script": staticmethod(script)})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    script: ClassVar[Callable[[str], str]]

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        slot = {"n_ctx": CONTEXT, "is_processing": False}
        known: dict[str, Any] = {
            "/health": {"status": "ok"},
            "/props": {
                "total_slots": SLOTS,
                "chat_template": "{{ messages }}",
                "default_generation_settings": {"n_ctx": CONTEXT},
                "modalities": {"vision": False, "audio": False},
                "model_path": "scripted.gguf",
                "bos_token": "<s>",
                "eos_token": "<|im_end|>",
                "build_info": "b1-scripted",
            },
            "/v1/models": {"object": "list", "data": [{"id": "scripted", "object": "model"}]},
            "/slots": [{"id": number, **slot} for number in range(SLOTS)],
        }
        self._send(known.get(self.path.partition("?")[0]))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._send({"tokens": [1] * _count(body["content"])})
        elif self.path == "/completion":
            self._complete(body)
        else:
            self._send(None)

    def _complete(self, body: dict[str, Any]) -> None:
        text, stop = _until(remainder(type(self).script, body["prompt"]), body.get("stop") or ())
        prompt, written = _count(body["prompt"]), _count(text)
        slot = {"id_slot": max(0, body.get("id_slot", 0))}
        end = {
            **slot,
            "content": "",
            "stop": True,
            "stop_type": "word" if stop else "eos",
            "stopping_word": stop,
            "tokens_predicted": written,
            "tokens_evaluated": prompt,
            "truncated": False,
            "timings": {"cache_n": 0, "prompt_n": prompt, "predicted_n": written},
        }
        if not body.get("stream"):
            self._send({**end, "content": text})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(text), PIECE):
            self._event({**slot, "content": text[start : start + PIECE], "stop": False})
        self._event(end)
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, value: dict[str, Any]) -> None:
        data = b"data: " + json.dumps(value).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _send(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(404 if value is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def remainder(script: Callable[[str], str], prompt: str) -> str:
    """The answer of the script to a prompt, without what the prompt has of it already."""
    before, _, begun = prompt.rpartition(TURN)
    whole = script(before)
    return whole[len(begun) :] if whole.startswith(begun) else whole


def _count(text: str) -> int:
    return len(text) // 4 + 1


def _until(text: str, stops: list[str] | tuple[str, ...]) -> tuple[str, str]:
    """The text before the first of these strings, and that string; "" for none."""
    found = [(text.find(stop), stop) for stop in stops if stop in text]
    place, stop = min(found, default=(len(text), ""))
    return text[:place], stop

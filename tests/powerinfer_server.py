"""A server that behaves as PowerInfer's, which no package index has, where that is peculiar.

It knows no /slots, /health or /v1. A busy one answers 404 "File Not Found", and a stream 200 with
nothing. A field of a wrong type ends it, and a token id that does not exist. /tokenize takes time
with the square of the text. A prompt beyond the context is cut in silence. It repeats the
probabilities of all tokens in the last event of a stream, and has none in a whole answer. It closes
a connection after five requests, and reads special tokens as plain text.

A token is a byte of UTF-8. An answer continues the last prompt with the words of WORDS in turn.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

from tests.http_fakes import FakeHandler, FakeServer

VOCABULARY = 256
LEAST = 4  # pieces of an answer, whatever n_predict is
PER_CONNECTION = 5  # requests
TOKENIZE = 1.4e-8  # seconds of /tokenize for the square of a token
WORDS = (" one", " two", " three", " four", " five")
NUMBERS = {"temperature": float, "n_predict": int, "n_probs": int, "top_k": int, "slot_id": int}


class PowerInferServer(FakeServer):
    """`pace` is the seconds for a token of an answer. `bodies` are those of /completion, `longest`
    the most characters that /tokenize got at once, `refused` how many completions found all slots
    busy, `died` why it ended."""

    def __init__(self, slots: int = 2, n_ctx: int = 2048, pace: float = 0.0) -> None:
        self.n_ctx = n_ctx
        self.pace = pace
        self.bodies: list[dict[str, Any]] = []
        self.longest = 0
        self.refused = 0
        self.died = ""
        self._lock = threading.Lock()
        self._busy = [False] * slots
        self._used = [0.0] * slots
        super().__init__(_Handler, server_=self)

    def die(self, why: str) -> None:
        self.died = self.died or why
        threading.Thread(target=self.close).start()

    def take(self, wanted: int) -> int | None:
        """A slot: that of this id if it is idle, else the one that was used longest ago; None if
        all are busy."""
        with self._lock:
            idle = [slot for slot, busy in enumerate(self._busy) if not busy]
            if not idle:
                return None
            slot = wanted if wanted in idle else min(idle, key=self._used.__getitem__)
            self._busy[slot] = True
            return slot

    def free(self, slot: int) -> None:
        with self._lock:
            self._busy[slot], self._used[slot] = False, time.monotonic()

    def hold(self) -> None:
        """Another program takes all slots, until `let_go`."""
        with self._lock:
            self._busy = [True] * len(self._busy)

    def let_go(self) -> None:
        with self._lock:
            self._busy = [False] * len(self._busy)


def count(prompt: Any) -> int:
    parts = prompt if isinstance(prompt, list) else [prompt]
    return sum(len(part.encode()) if isinstance(part, str) else 1 for part in parts)


def fault(body: dict[str, Any]) -> str:
    """Why this request would end the server; "" if it would not."""
    for name, kind in NUMBERS.items():
        value = body.get(name, 0)
        if type(value) is not kind and type(value) is not int:
            return f"{name} is {value!r}"
    stop = body.get("stop", [])
    if isinstance(stop, list) and not all(isinstance(text, str) for text in stop):
        return f"stop is {stop!r}"
    prompt = body.get("prompt")
    for part in prompt if isinstance(prompt, list) else ():
        if type(part) is int and not 0 <= part < VOCABULARY:
            return f"the prompt has the token {part}"
    return ""


class _Handler(FakeHandler):
    server_: PowerInferServer
    requests = 0

    def do_GET(self) -> None:
        known = {
            "/props": {"user_name": "", "assistant_name": ""},
            "/model.json": {"model": "models/tiny.gguf", "n_ctx": self.server_.n_ctx},
        }
        self._send(known.get(self.path))

    def do_POST(self) -> None:
        body = self.body()
        match self.path:
            case "/completion":
                self._complete(body)
            case "/tokenize":
                text = body.get("content", "")
                self.server_.longest = max(self.server_.longest, len(text))
                tokens = list(text.encode())
                time.sleep(TOKENIZE * len(tokens) ** 2)
                self._send({"tokens": tokens})
            case "/detokenize":
                data = bytes(token for token in body["tokens"] if token < VOCABULARY)
                try:
                    self._send({"content": data.decode()})
                except UnicodeDecodeError:
                    self._send(b"[json.exception.type_error.316] invalid UTF-8 byte", 500)
            case _:
                self._send(None)

    def _complete(self, body: dict[str, Any]) -> None:
        server = self.server_
        server.bodies.append(body)
        if why := fault(body):
            server.die(why)
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        slot = server.take(body.get("slot_id", -1))
        if slot is None:
            server.refused += 1
            self._send(b"" if body.get("stream") else None)
            return
        try:
            self._answer(body, slot)
        except OSError:
            pass  # the client has closed the stream, which frees the slot
        finally:
            server.free(slot)

    def _answer(self, body: dict[str, Any], slot: int) -> None:
        prompt, n = body.get("prompt", ""), body.get("n_predict", -1)
        evaluated = count(prompt)
        # Also -1, "until the end": an answer of this server ends only at its limit.
        pieces = max(LEAST, n + 1) if n >= 0 else 1 << 20
        pieces = pieces if evaluated else 0
        probs = body.get("n_probs", 0)
        probabilities: list[dict[str, Any]] = []
        said: list[str] = []
        if body.get("stream"):
            self._head(200, "text/event-stream", None)
        for number in range(pieces):
            time.sleep(self.server_.pace)
            text = WORDS[number % len(WORDS)]
            said.append(text)
            event = {"content": text, "stop": False, "slot_id": slot, "multimodal": False}
            if probs:
                likely = [{"tok_str": word, "prob": 1 / len(WORDS)} for word in WORDS[:probs]]
                probabilities.append({"content": text, "probs": likely})
                event["completion_probabilities"] = probabilities[-1:]
            if body.get("stream"):
                self.send_event(event)
        pairs = [pair for pair in body.get("logit_bias", ()) if pair[0] < VOCABULARY]
        end = {
            "content": "",
            "stop": True,
            "slot_id": slot,
            "model": "models/tiny.gguf",
            "prompt": prompt,
            "generation_settings": {"n_ctx": self.server_.n_ctx, "logit_bias": pairs},
            "tokens_predicted": max(n, 0),
            "tokens_evaluated": min(evaluated, self.server_.n_ctx),
            "tokens_cached": evaluated,
            "truncated": evaluated > self.server_.n_ctx,
            "stopped_eos": False,
            "stopped_word": False,
            "stopped_limit": True,
            "stopping_word": "",
            "timings": {"prompt_n": evaluated, "predicted_n": max(n, 0)},
        }
        if not body.get("stream"):
            self._send({**end, "content": "".join(said), "completion_probabilities": []})
            return
        self.send_event({**end, "completion_probabilities": probabilities} if probs else end)
        self.end_stream()

    def _send(self, value: Any, status: int = 200) -> None:
        """Send JSON, or bytes as plain text. None is the 404 of every unknown or refused thing."""
        if value is None:
            value, status = b"File Not Found", 404
        is_text = isinstance(value, bytes)
        data = value if is_text else json.dumps(value).encode()
        self._head(status, "text/plain" if is_text else "application/json", len(data))
        self.wfile.write(data)

    def _head(self, status: int, kind: str, length: int | None) -> None:
        self.requests += 1
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is None:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        if self.requests == PER_CONNECTION:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()

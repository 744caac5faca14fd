"""A stand-in for server.cpp that costs almost nothing, so that measurements show the gateway's
cost.

    python -m benchmarks.stub [--generation 2023|2026] [--slots 1024] [--context 4096] [--words]

It answers /completion in the format of either generation and, like the newer one, OpenAI's
/v1/chat/completions, with as many tokens as requested. Each token is one send, as in the real
server, and a complete HTTP chunk. A token's text is the time it was sent, `t` and 15 digits of
microseconds of the system's monotonic clock, and a blank, so that the reader knows its delay. `GET
/pace/20` sets the tokens per second of streams that start later; 0, the default, means full speed,
with streams served in turn. A client that does not read holds up no other. With `--words`,
`/tokenize` counts words and marks as tokens, so that a text can be tokenized in pieces; otherwise
every text has as many. A paced stream of twenty more tokens, while another has the slot that it was
sent to by number, is printed: `doubled SLOT FIRST SECOND TIME`, with the addresses of both clients.

It is one process with one thread and epoll; all messages but the time in them are prepared. It
trusts its input, which only comes from the load generator.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import json
import re
import select
import socket
import time
from collections import deque
from functools import lru_cache
from typing import Any

STAMP = b"t%015d "
MODEL = "stub"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PROMPT_TOKENS = 24
TOKEN = re.compile(r"<[^\s<]*|[^\s<]+|\s(?=\s)|\s$")
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: stub\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)

SLOT = 99_999_999  # placeholder for the slot id in prepared messages, which no count equals
HOLE = b"%d" % SLOT

Frame = tuple[bytes, bytes]  # the bytes before and after a token's time


def now() -> int:
    return time.monotonic_ns() // 1000


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def frame(value: Any) -> Frame:
    """Return a server-sent event as one HTTP chunk, split where the time goes."""
    text = b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
    before, _, after = chunked(text.replace(b"@", STAMP % 0)).partition(STAMP % 0)
    return before, after


def timings(tokens: int) -> dict[str, Any]:
    return {
        "cache_n": 0,
        "prompt_n": PROMPT_TOKENS,
        "prompt_ms": 1.0,
        "predicted_n": tokens,
        "predicted_ms": 1.0 * tokens,
    }


def chat_chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {
        "choices": [{"finish_reason": reason, "index": 0, "delta": delta}],
        "created": 1700000000,
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "model": MODEL,
        "system_fingerprint": "b1-stub",
        "object": "chat.completion.chunk",
    }


def last_chunk(modern: bool, tokens: int, content: str = "") -> dict[str, Any]:
    """Return the last chunk of a completion, or the whole of one that is not streamed."""
    value = {
        "content": content,
        "stop": True,
        "model": MODEL,
        "tokens_predicted": tokens,
        "tokens_evaluated": PROMPT_TOKENS,
        "truncated": False,
        "stopping_word": "",
        "timings": timings(tokens),
    }
    if modern:
        return {**value, "id_slot": SLOT, "stop_type": "limit"}
    ended = {"stopped_eos": False, "stopped_word": False, "stopped_limit": True}
    return {**value, **ended, "slot_id": SLOT, "tokens_cached": 0}


@lru_cache
def native(modern: bool, tokens: int) -> tuple[list[Frame], bytes]:
    """Return the frames of a /completion stream, and its end."""
    frames = []
    for i in range(tokens):
        if modern:
            more = {"id_slot": SLOT, "tokens": [1], "index": 0, "tokens_predicted": i + 1}
            more["tokens_evaluated"] = PROMPT_TOKENS
        else:
            more = {"slot_id": SLOT, "multimodal": False}
        frames.append(frame({"content": "@", "stop": False, **more}))
    last = json.dumps(last_chunk(modern, tokens), separators=(",", ":")).encode()
    return frames, chunked(b"data: " + last + b"\n\n") + b"0\r\n\r\n"


@lru_cache
def chat(tokens: int) -> tuple[list[Frame], bytes]:
    """Return the frames of a /v1/chat/completions stream, and its end."""
    first = b"".join(frame(chat_chunk({"role": "assistant", "content": None})))
    frames = [frame(chat_chunk({"content": "@"})) for _ in range(tokens)]
    frames[0] = first + frames[0][0], frames[0][1]
    ending = b"".join(frame({**chat_chunk({}, "length"), "timings": timings(tokens)}))
    return frames, ending + chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n"


@lru_cache
def whole_native(modern: bool, tokens: int) -> bytes:
    return json.dumps(last_chunk(modern, tokens, "@" * tokens)).encode()


@lru_cache
def whole_chat(tokens: int) -> bytes:
    message = {"role": "assistant", "content": "@" * tokens}
    value = {
        **chat_chunk({}),
        "object": "chat.completion",
        "choices": [{"finish_reason": "length", "index": 0, "message": message}],
        "usage": {
            "completion_tokens": tokens,
            "prompt_tokens": PROMPT_TOKENS,
            "total_tokens": tokens + PROMPT_TOKENS,
        },
    }
    return json.dumps(value).encode()


class Stream:
    """A stream in progress, with `pause` seconds between tokens. `unsent`: bytes that its client
    had no room for. `rival`: the request that got its slot, and after how many of its tokens."""

    __slots__ = ("client", "ending", "frames", "pause", "rival", "sent", "slot", "unsent")

    def __init__(
        self, client: socket.socket, frames: list[Frame], ending: bytes, slot: bytes
    ) -> None:
        self.client = client
        self.frames = frames
        self.ending = ending.replace(HOLE, slot)
        self.slot = slot
        self.sent = 0
        self.pause = 0.0
        self.unsent = b""
        self.rival: tuple[str, str, int] | None = None

    def token(self) -> bool:
        """Send the next token, or the unsent bytes; return False after the last, or if the client
        has disconnected."""
        parts = (b"",) if self.unsent else self._next()
        sent = all([self._send(part) for part in parts])
        return sent and (self.sent < len(self.frames) or bool(self.unsent))

    def _next(self) -> tuple[bytes, ...]:
        before, after = self.frames[self.sent]
        data = before + STAMP % now() + after.replace(HOLE, self.slot)
        if not self.sent:
            data = STREAM_HEAD + data
        self.sent += 1
        return (data, self.ending) if self.sent == len(self.frames) else (data,)

    def _send(self, data: bytes) -> bool:
        """Send as much as the client has room for; return False if it has disconnected."""
        data = self.unsent + data
        try:
            sent = self.client.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        self.unsent = data[sent:]
        return True


class Stub:
    def __init__(
        self, modern: bool, slots: int, port: int, context: int, words: bool = False
    ) -> None:
        self._modern = modern
        self._slots = slots
        self._context = context
        self._words = words
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._epoll = select.epoll()
        self._epoll.register(self._listener, select.EPOLLIN)
        self._clients: dict[int, socket.socket] = {}
        self._rests: dict[int, bytes] = {}
        self._rate = 0.0
        self._ready: deque[Stream] = deque()  # unpaced streams, in turn
        self._blocked: dict[int, Stream] = {}  # those of them whose client does not read
        self._due: list[tuple[float, int, Stream]] = []  # paced streams, by time
        self._pinned: dict[int, Stream] = {}  # the newest of them, by the slot in their request
        self._number = 0
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        listener = self._listener.fileno()
        while True:
            for number, events in self._epoll.poll(self._pause()):
                if number == listener:
                    self._accept()
                    continue
                if events & select.EPOLLOUT:
                    self._epoll.modify(number, select.EPOLLIN)
                    self._ready.append(self._blocked.pop(number))
                if events & ~select.EPOLLOUT:
                    self._read(number)
            for _ in range(len(self._ready)):
                stream = self._ready.popleft()
                if not stream.token():
                    continue
                if stream.unsent:
                    number = stream.client.fileno()
                    self._blocked[number] = stream
                    self._epoll.modify(number, select.EPOLLIN | select.EPOLLOUT)
                else:
                    self._ready.append(stream)
            if self._due:
                self._send_due()

    def _pause(self) -> float:
        if self._ready:
            return 0.0
        return max(0.0, self._due[0][0] - time.monotonic()) if self._due else -1

    def _send_due(self) -> None:
        moment = time.monotonic()
        due = self._due
        while due and due[0][0] <= moment:
            at, number, stream = due[0]
            if stream.token():
                heapq.heapreplace(due, (at + stream.pause, number, stream))
            else:
                heapq.heappop(due)
                if stream.rival and stream.sent >= stream.rival[2] + 20:
                    first, second, _ = stream.rival
                    print("doubled", int(stream.slot), first, second, moment, flush=True)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._clients[client.fileno()] = client
        self._epoll.register(client, select.EPOLLIN)

    def _read(self, number: int) -> None:
        client = self._clients[number]
        try:
            data = client.recv(1 << 20)
        except OSError:
            data = b""
        if not data:
            del self._clients[number]
            self._rests.pop(number, None)
            self._blocked.pop(number, None)
            self._epoll.unregister(client)
            client.close()
            return
        data = self._rests.pop(number, b"") + data
        head, blank, body = data.partition(b"\r\n\r\n")
        lower = head.lower()
        at = lower.find(b"content-length:")
        length = int(lower[at + 15 :].partition(b"\r")[0]) if at >= 0 else 0
        if not blank or len(body) < length:
            self._rests[number] = data
            return
        self._answer(client, head.split(b" ", 2)[1].decode(), body)

    def _answer(self, client: socket.socket, path: str, body: bytes) -> None:
        if path in ("/completion", "/v1/chat/completions"):
            fields = json.loads(body)
            names = ("max_tokens", "max_completion_tokens", "n_predict")
            wanted = next((fields[name] for name in names if fields.get(name)), 16)
            if path == "/completion":
                count = wanted if self._modern else max(4, wanted + 1)
                pinned = fields.get("id_slot" if self._modern else "slot_id", 0)
                # The same width as the placeholder.
                slot = b"%8d" % (pinned if 0 <= pinned < self._slots else 0)
                if fields.get("stream"):
                    stream = self._begin(client, *native(self._modern, count), slot)
                    if "id_slot" in fields and 0 <= pinned < self._slots:
                        self._pin(pinned, stream)
                else:
                    self._all(client, whole_native(self._modern, wanted).replace(HOLE, slot))
            elif fields.get("stream"):
                self._begin(client, *chat(wanted), HOLE)
            else:
                self._all(client, whole_chat(wanted))
        elif path == "/tokenize":
            count = PROMPT_TOKENS
            if self._words:
                count = sum(1 for _ in TOKEN.finditer(json.loads(body)["content"]))
            self._whole(client, b'{"tokens":[%b]}' % b",".join([b"1"] * count))
        elif path.startswith("/pace/"):
            self._rate = float(path.rpartition("/")[2])
            self._whole(client, b"{}")
        else:
            value = self._about(path)
            known = value is not None
            self._whole(client, json.dumps(value or {}).encode(), "200 OK" if known else "404 No")

    def _begin(
        self, client: socket.socket, frames: list[Frame], ending: bytes, slot: bytes
    ) -> Stream:
        stream = Stream(client, frames, ending, slot)
        if not self._rate:
            self._ready.append(stream)
            return stream
        stream.pause = 1 / self._rate
        self._number += 1
        heapq.heappush(self._due, (time.monotonic(), self._number, stream))
        return stream

    def _pin(self, slot: int, stream: Stream) -> None:
        before = self._pinned.get(slot)
        self._pinned[slot] = stream
        if before and before.sent < len(before.frames) and before.client.fileno() >= 0:
            with contextlib.suppress(OSError):  # it has disconnected
                first, second = (each.client.getpeername()[0] for each in (before, stream))
                before.rival = first, second, before.sent

    def _all(self, client: socket.socket, template: bytes) -> None:
        self._whole(client, template.replace(b"@", STAMP % now()))

    @staticmethod
    def _whole(client: socket.socket, body: bytes, status: str = "200 OK") -> None:
        head = "HTTP/1.1 %s\r\nServer: stub\r\nContent-Type: application/json\r\n"
        head += "Content-Length: %d\r\n\r\n"
        client.sendall((head % (status, len(body))).encode() + body)

    def _about(self, path: str) -> Any:
        """Return the server's description of itself; None for a route that this generation
        lacks."""
        route = path.partition("?")[0]
        if route == "/props" and not self._modern:
            return {"user_name": "", "assistant_name": ""}
        if route == "/model.json" and not self._modern:
            return {"n_ctx": self._context, "model": f"{MODEL}.gguf"}
        if route == "/v1/models":
            return {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        if not self._modern:
            return None
        known: dict[str, Any] = {
            "/health": {"status": "ok"},
            "/props": {
                "total_slots": self._slots,
                "chat_template": TEMPLATE,
                "default_generation_settings": {"n_ctx": self._context},
                "modalities": {"vision": False, "audio": False},
                "model_path": f"{MODEL}.gguf",
                "bos_token": "<s>",
                "eos_token": "<|im_end|>",
                "build_info": "b1-stub",
            },
            # Requested by sglang-router.
            "/get_server_info": {},
            "/server_info": {},
            "/get_model_info": {"model_path": MODEL, "is_generation": True},
            "/model_info": {"model_path": MODEL, "is_generation": True},
        }
        return known.get(route)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stub")
    parser.add_argument("--generation", choices=["2023", "2026"], default="2026")
    parser.add_argument("--slots", type=int, default=1024)
    parser.add_argument("--context", type=int, default=4096, help="tokens of a slot")
    parser.add_argument("--words", action="store_true", help="/tokenize counts words and marks")
    parser.add_argument("--port", type=int, default=0)
    args = parser.parse_args()
    stub = Stub(args.generation == "2026", args.slots, args.port, args.context, args.words)
    print(f"listening on http://127.0.0.1:{stub.port}", flush=True)
    stub.run()


if __name__ == "__main__":
    main()

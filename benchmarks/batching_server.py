"""A model server whose steps take time but no CPU, to measure how requests delay each other.

    python -m benchmarks.batching_server SLOTS PORT [--chunk 512]

It speaks the API of a llama-server without a RAM cache, and batches like one: each step evaluates
up to CHUNK prompt tokens and generates one token for every other slot. A slot keeps its last
prompt, and the beginning that the next one shares with it is not evaluated again; a request that
names no slot gets the one that shares most, or the least recently used. A closed connection frees
its slot at the next step. It trusts its input, which only comes from a benchmark.

The times are those of a model with 8 billion parameters on a small GPU. How much a step grows with
its slots is taken from llama-batched-bench (ggml-org/llama.cpp#16894: 32 tokens take 0.41, 0.47 and
0.57 seconds in 1, 2 and 4 slots).
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from typing import Any

STEP = 0.020  # seconds of a step, and more for each of these
A_PROMPT_TOKEN = 1 / 1500
A_SLOT = 0.0025
CHUNK = 512  # prompt tokens of a step
CHARACTERS = 4  # of a token
TOKEN = "word"
MODEL = "modelled"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


class Sequence:
    """A request: `left` prompt tokens are to be evaluated, `written` tokens are generated. `slot`
    is the one that it asks for, -1 for any, and then the one that it has."""

    def __init__(self, prompt: str, most: int, slot: int) -> None:
        self.prompt = prompt
        self.most = most
        self.slot = slot
        self.left = self.cached = 0
        self.gone = False
        self.written = 0
        self.tokens: asyncio.Queue[int] = asyncio.Queue()

    @property
    def over(self) -> bool:
        return self.gone or self.written >= self.most


class Engine:
    def __init__(self, slots: int, chunk: int) -> None:
        self._chunk = chunk
        self._slots: list[Sequence | None] = [None] * slots
        self._held = [""] * slots
        self._used = [0] * slots
        self._placed = 0
        self._line: deque[Sequence] = deque()
        self._woken = asyncio.Event()

    @property
    def size(self) -> int:
        return len(self._slots)

    def add(self, sequence: Sequence) -> None:
        self._line.append(sequence)
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._place()
            running = [sequence for sequence in self._slots if sequence is not None]
            if running:
                await self._step(running)
            else:
                self._woken.clear()
                await self._woken.wait()

    def _place(self) -> None:
        """Free the slots of finished sequences, and give free ones to those that wait."""
        for number, sequence in enumerate(self._slots):
            if sequence is not None and sequence.over:
                self._slots[number] = None
                # The answer is cached as well.
                self._held[number] = sequence.prompt + TOKEN * sequence.written
        for sequence in tuple(self._line):
            free = [i for i, held in enumerate(self._slots) if held is None]
            if sequence.slot >= 0:
                free = [i for i in free if i == sequence.slot]
            if not free:
                continue
            self._line.remove(sequence)
            shared = {i: _shared(self._held[i], sequence.prompt) for i in free}
            slot = max(free, key=lambda i: (shared[i], -self._used[i]))
            sequence.cached = min(shared[slot], len(sequence.prompt) - 1) // CHARACTERS
            sequence.left = _tokens(sequence.prompt) - sequence.cached
            self._placed += 1
            self._used[slot] = self._placed
            sequence.slot, self._slots[slot], self._held[slot] = slot, sequence, ""

    async def _step(self, running: list[Sequence]) -> None:
        room, generating = self._chunk, []
        for sequence in running:
            if sequence.left:
                tokens = min(room, sequence.left)
                room -= tokens
                sequence.left -= tokens
            if not sequence.left:
                generating.append(sequence)
        evaluated = self._chunk - room
        await asyncio.sleep(STEP + evaluated * A_PROMPT_TOKEN + len(generating) * A_SLOT)
        for sequence in generating:
            sequence.written += 1
            sequence.tokens.put_nowait(sequence.written)


class Server:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            size = int(head.lower().partition("content-length:")[2].split("\r\n")[0] or 0)
            body = await reader.readexactly(size)
            path = head.split(" ", 2)[1].partition("?")[0]
            if path == "/completion":
                await self._complete(json.loads(body), reader, writer)
            else:
                _write(writer, self._about(path, body))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _complete(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        sequence = Sequence(body["prompt"], body.get("n_predict") or 16, body.get("id_slot", -1))
        self._engine.add(sequence)
        streamed = bool(body.get("stream"))
        if streamed:
            writer.write(_head("text/event-stream"))
        left = asyncio.create_task(reader.read(1))
        try:
            for number in range(1, sequence.most + 1):
                token = asyncio.create_task(sequence.tokens.get())
                await asyncio.wait({token, left}, return_when=asyncio.FIRST_COMPLETED)
                if not token.done():
                    token.cancel()
                    return
                if streamed:
                    writer.write(_event(_chunk(sequence, TOKEN, number)))
                    await writer.drain()
            if streamed:
                writer.write(_event(_last(sequence, "")))
            else:
                _write(writer, _last(sequence, TOKEN * sequence.most))
        finally:
            sequence.gone = True
            left.cancel()

    def _about(self, path: str, body: bytes) -> Any:
        """The answer of a route, None if there is no such route."""
        if path == "/tokenize":
            return {"tokens": [1] * (len(json.loads(body)["content"]) // CHARACTERS)}
        routes: dict[str, Any] = {
            "/health": {"status": "ok"},
            "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model"}]},
            "/props": {
                "total_slots": self._engine.size,
                "chat_template": TEMPLATE,
                "default_generation_settings": {"n_ctx": 8192},
                "modalities": {"vision": False, "audio": False},
                "model_path": f"{MODEL}.gguf",
                "bos_token": "",
                "eos_token": "<|im_end|>",
                "build_info": "b1-modelled",
            },
        }
        return routes.get(path)


def _tokens(text: str) -> int:
    return max(1, -(-len(text) // CHARACTERS))


def _shared(text: str, other: str) -> int:
    """How many characters at their beginning two texts share."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))


def _chunk(sequence: Sequence, text: str, number: int) -> dict[str, Any]:
    counts = {"tokens_predicted": number, "tokens_evaluated": _tokens(sequence.prompt)}
    return {"content": text, "stop": False, "id_slot": sequence.slot, "index": 0, **counts}


def _last(sequence: Sequence, text: str) -> dict[str, Any]:
    tokens = _tokens(sequence.prompt)
    timings = {
        "cache_n": sequence.cached,
        "prompt_n": tokens - sequence.cached,
        "prompt_ms": 1000 * (tokens - sequence.cached) * A_PROMPT_TOKEN,
        "predicted_n": sequence.most,
        "predicted_ms": 1000 * sequence.most * STEP,
    }
    ending = {"stop": True, "stop_type": "limit", "stopping_word": "", "truncated": False}
    return {**_chunk(sequence, text, sequence.most), **ending, "model": MODEL, "timings": timings}


def _head(kind: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _write(writer: asyncio.StreamWriter, value: Any) -> None:
    status = "404 Not Found" if value is None else "200 OK"
    writer.write(_head("application/json", status) + json.dumps(value or {}).encode())


async def serve(slots: int, port: int, chunk: int) -> None:
    engine = Engine(slots, chunk)
    running = asyncio.create_task(engine.run())
    server = await asyncio.start_server(Server(engine).answer, "127.0.0.1", port, limit=1 << 24)
    async with server:
        await asyncio.gather(running, server.serve_forever())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slots", type=int)
    parser.add_argument("port", type=int)
    parser.add_argument("--chunk", type=int, default=CHUNK, help="prompt tokens of a step")
    options = parser.parse_args()
    asyncio.run(serve(options.slots, options.port, options.chunk))


if __name__ == "__main__":
    main()

"""A model server whose steps take time but no CPU, to measure how requests delay each other.

    python -m benchmarks.batching_server SLOTS PORT

It speaks OpenAI's API and batches like llama-server: each step evaluates up to CHUNK prompt tokens
and generates one token for every other slot. A slot keeps its last prompt, and the beginning that
the next one shares with it is not evaluated again. A closed connection frees its slot at the next
step. It trusts its input, which only comes from a benchmark.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import deque
from typing import Any

STEP = 0.020  # seconds of a step, and more for each of these
A_PROMPT_TOKEN = 1 / 2500
A_SLOT = 0.0007
CHUNK = 512  # prompt tokens of a step
CHARACTERS = 4  # of a token
END = b"data: [DONE]\n\n"


class Sequence:
    """A request: `left` prompt tokens are to be evaluated, `written` tokens are generated."""

    def __init__(self, prompt: str, most: int) -> None:
        self.prompt = prompt
        self.most = most
        self.left = 0
        self.gone = False
        self.written = 0
        self.tokens: asyncio.Queue[int] = asyncio.Queue()

    @property
    def over(self) -> bool:
        return self.gone or self.written >= self.most


class Engine:
    def __init__(self, slots: int) -> None:
        self._slots: list[Sequence | None] = [None] * slots
        self._held = [""] * slots
        self._line: deque[Sequence] = deque()
        self._woken = asyncio.Event()

    def add(self, sequence: Sequence) -> None:
        self._line.append(sequence)
        self._woken.set()

    async def run(self) -> None:
        while True:
            self._place()
            running = [one for one in self._slots if one is not None]
            if running:
                await self._step(running)
            else:
                self._woken.clear()
                await self._woken.wait()

    def _place(self) -> None:
        """Free the slots of finished sequences, and give free ones to those that wait."""
        self._slots = [None if one is None or one.over else one for one in self._slots]
        while self._line and None in self._slots:
            one = self._line.popleft()
            free = [i for i, held in enumerate(self._slots) if held is None]
            shared = {i: _shared(self._held[i], one.prompt) for i in free}
            slot = max(free, key=shared.__getitem__)
            one.left = max(1, (len(one.prompt) - shared[slot]) // CHARACTERS)
            self._slots[slot], self._held[slot] = one, one.prompt

    async def _step(self, running: list[Sequence]) -> None:
        room, generating = CHUNK, []
        for one in running:
            if one.left:
                tokens = min(room, one.left)
                room -= tokens
                one.left -= tokens
            if not one.left:
                generating.append(one)
        evaluated = CHUNK - room
        await asyncio.sleep(STEP + evaluated * A_PROMPT_TOKEN + len(generating) * A_SLOT)
        for one in generating:
            one.written += 1
            one.tokens.put_nowait(one.written)


class Server:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
            body = await reader.readexactly(size)
            if "/chat/completions" in head.split("\r\n")[0]:
                await self._stream(json.loads(body), reader, writer)
            else:
                whole = json.dumps({"object": "list", "data": [{"id": "m", "object": "model"}]})
                writer.write(_head("application/json") + whole.encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _stream(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        one = Sequence(json.dumps(body["messages"]), body.get("max_tokens") or 16)
        self._engine.add(one)
        writer.write(_head("text/event-stream"))
        left = asyncio.create_task(reader.read(1))
        try:
            for _ in range(one.most):
                token = asyncio.create_task(one.tokens.get())
                await asyncio.wait({token, left}, return_when=asyncio.FIRST_COMPLETED)
                if not token.done():
                    token.cancel()
                    return
                writer.write(_chunk({"content": f"w{token.result()} "}, None))
                await writer.drain()
            writer.write(_chunk({}, "length") + END)
        finally:
            one.gone = True
            left.cancel()


def _shared(text: str, other: str) -> int:
    """How many characters at their beginning two texts share."""
    pairs = enumerate(zip(text, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(text), len(other)))


def _head(kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()


def _chunk(delta: dict[str, str], reason: str | None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    return b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n"


async def serve(slots: int, port: int) -> None:
    engine = Engine(slots)
    running = asyncio.create_task(engine.run())
    server = await asyncio.start_server(Server(engine).answer, "127.0.0.1", port, limit=1 << 24)
    async with server:
        await asyncio.gather(running, server.serve_forever())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slots", type=int)
    parser.add_argument("port", type=int)
    options = parser.parse_args()
    asyncio.run(serve(options.slots, options.port))


if __name__ == "__main__":
    main()

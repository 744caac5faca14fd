"""TCP relays on loopback that can be cut, as a network that drops every packet.

    python -m tests.soak.relay CUTS SOURCE PORT:TARGET…

Each listens on PORT and connects to TARGET from the address SOURCE. While the file CUTS has TARGET
in a line, its connections stay open and nothing passes, not even their end.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

HOST = "127.0.0.1"
LOOK = 0.05  # seconds between two looks at CUTS


class Relay:
    def __init__(self, source: str, target: str) -> None:
        self._source = source
        self._target = target
        self._whole = asyncio.Event()
        self._whole.set()

    def cut(self, targets: list[str]) -> None:
        if self._target in targets:
            self._whole.clear()
        else:
            self._whole.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._whole.wait()
        local = (self._source, 0)
        try:
            opened = await asyncio.open_connection(HOST, int(self._target), local_addr=local)
        except OSError:
            writer.transport.abort()
            return
        await asyncio.gather(self._pass(reader, opened[1]), self._pass(opened[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._whole.wait()
                writer.write(data)
                await writer.drain()
        await self._whole.wait()
        writer.close()


async def relay(cuts: Path, source: str, links: list[str]) -> None:
    relays, before = [], ""
    for ports in links:
        port, _, target = ports.partition(":")
        relays.append(Relay(source, target))
        await asyncio.start_server(relays[-1].serve, HOST, int(port), backlog=1024)
    print("ready", flush=True)
    while True:
        await asyncio.sleep(LOOK)
        if (text := cuts.read_text()) != before:
            before = text
            for each in relays:
                each.cut(text.split())


if __name__ == "__main__":
    asyncio.run(relay(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))

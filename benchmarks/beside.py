"""Measures how much knowledge work delays streams: python -m benchmarks.beside [--database URL]

Eight streams of fifty tokens per second run through a gateway with one worker, while it does
nothing else, opens its storage for the first time, stores and returns a file of 60 MB, reads a long
document, and searches 10 000 chunks, one search after the other. Each token of the stub contains
the time it was sent, so its delay is known: the time for which the worker's event loop was blocked.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
from openai import OpenAI
from openai.types import StaticFileChunkingStrategyObjectParam

from benchmarks.search import texts
from tools.processes import ROOT, Child, Gateway, free_port

STREAMS, PACE = 8, 50  # streams, tokens per second of each
CHUNKS = 10_000
LARGE = 60 << 20  # bytes


class Streams:
    """Runs streams for `seconds`, beside the work in the `with` block."""

    def __init__(self, url: str, seconds: float) -> None:
        plan = {
            "url": f"{url}/v1/chat/completions",
            "at_once": STREAMS,
            "requests": STREAMS,
            "tokens": int(seconds * PACE),
            "stream": True,
        }
        self._load = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.load"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self._load.stdin is not None
        self._load.stdin.write(json.dumps(plan).encode() + b"\n")
        self._load.stdin.close()

    @property
    def going(self) -> bool:
        return self._load.poll() is None

    def over(self) -> list[float]:
        """Return the delays of tokens in milliseconds: the percentiles 50, 90, 99 and 100."""
        assert self._load.stdout is not None
        with closing(self._load.stdout) as out:
            outcome: dict[str, Any] = json.loads(out.readline())
        self._load.wait()
        assert not outcome["failed"], outcome
        return [delay / 1000 for delay in outcome["relay"]]


def measured(database: str = "", chunks: int = CHUNKS) -> dict[str, list[float]]:
    """Return, for each kind of work beside the streams, the percentiles of token delays in
    milliseconds."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.stub", "--port", str(port)]
        stub = Child(command, Path(folder) / "stub.log")
        flags = ["--llama-api", f"http://127.0.0.1:{port}", "--data", folder]
        if database:
            flags += ["--database", database]
        stub.launch()
        gateway = Gateway(flags, Path(folder) / "log")
        try:
            gateway.start(ready=60)
            with httpx.Client(trust_env=False) as http:
                http.get(f"http://127.0.0.1:{port}/pace/{PACE}")
            return _phases(gateway.url, chunks)
        finally:
            gateway.stop()
            stub.kill()


def _phases(url: str, chunks: int) -> dict[str, list[float]]:
    api = OpenAI(base_url=f"{url}/v1", api_key="x", timeout=300)
    draw = random.Random(1)
    text = texts(draw)
    data = "\n\n".join(text(i % 2 == 0, 60) for i in range(chunks)).encode()
    delays: dict[str, list[float]] = {}

    def beside(name: str, seconds: float, work: Callable[[Streams], object]) -> None:
        streams = Streams(url, seconds)
        time.sleep(1)  # wait until all have started
        work(streams)
        delays[name] = streams.over()

    beside("nothing", 3, lambda streams: None)
    store = ""

    def opened(streams: Streams) -> None:
        nonlocal store
        store = api.vector_stores.create(name="b").id

    beside("the first use", 5, opened)

    def upload(streams: Streams) -> None:
        content = random.Random(1).randbytes(LARGE)
        file = api.files.create(file=("large.bin", content), purpose="user_data")
        assert api.files.content(file.id).read() == content
        api.files.delete(file.id)

    beside("uploading", 5, upload)

    def read(streams: Streams) -> None:
        file = api.files.create(file=("a.txt", data), purpose="assistants")
        cut: StaticFileChunkingStrategyObjectParam = {
            "type": "static",
            "static": {"max_chunk_size_tokens": 200, "chunk_overlap_tokens": 0},
        }
        api.vector_stores.files.create_and_poll(
            file.id,
            vector_store_id=store,
            poll_interval_ms=500,
            chunking_strategy=cut,
        )

    beside("reading", 20 if chunks > 1000 else 4, read)
    times: list[float] = []

    def search(streams: Streams) -> None:
        while streams.going:
            chinese = len(times) % 2 == 0
            began = time.monotonic()
            query = text(chinese, 6 if chinese else 8)
            api.vector_stores.search(store, query=query, max_num_results=3)
            times.append(1000 * (time.monotonic() - began))

    beside("searching", 10, search)
    times.sort()
    delays["a search itself"] = [times[int(len(times) * part)] for part in (0.5, 0.9, 0.99, 0.9999)]
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--database", default="", help="address of a PostgreSQL database to use instead of SQLite"
    )
    print("| beside | p50, ms | p90 | p99 | longest |\n|---|---|---|---|---|")
    for name, ways in measured(parser.parse_args().database).items():
        print(f"| {name} | " + " | ".join(f"{delay:.1f}" for delay in ways) + " |")


if __name__ == "__main__":
    main()

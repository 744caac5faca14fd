"""Measures the cost of a turn in a long conversation, compared with a short one.

    python -m benchmarks.turn

A conversation of 200 messages and about 100 kB continues for some turns, in one process, in front
of the stub. The result is the CPU time of the answering thread, the minimum of ten conversations,
from the request's first byte to the answer's last. So it includes parsing JSON, the template and
hashing the prefix.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from flask import Flask

from proxy.app import create_app, services_of
from proxy.config import load

from .stub_process import Stub

TURNS = 3
CONVERSATIONS = 10
CONTEXT = 1 << 17  # tokens of a slot, enough for all of them


def history(count: int, size: int, name: str) -> list[dict[str, str]]:
    """Return so many messages of so many characters, alternating between user and model."""
    words = "the quick brown fox jumps over the lazy dog and runs away from it "
    text = (words * (size // len(words) + 1))[:size]
    return [
        {"role": ("user", "assistant")[i % 2], "content": f"{name} {i} {text}"}
        for i in range(count)
    ]


def answer(app: Flask, messages: list[dict[str, str]]) -> tuple[float, int]:
    """Return the CPU seconds, and the bytes of the request."""
    body = json.dumps({"messages": messages, "max_tokens": 4}).encode()
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/v1/chat/completions",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
        "wsgi.errors": sys.stderr,
    }
    statuses: list[str] = []

    def start(status: str, *_: Any) -> Any:
        statuses.append(status)

    began = time.thread_time()
    parts = app(environ, start)
    data = b"".join(parts)
    seconds = time.thread_time() - began
    if statuses != ["200 OK"]:
        raise SystemExit(f"not answered: {data[:200]!r}")
    return seconds, len(body)


def measure(app: Flask, count: int, size: int) -> tuple[float, float, int]:
    """Return the milliseconds of the first and of the last turn, and the bytes of the last
    request."""
    first, last, length = [], [], 0
    for number in range(CONVERSATIONS):
        messages = history(count, size, str(number))
        times = []
        for turn in range(TURNS):
            seconds, length = answer(app, messages)
            times.append(1000 * seconds)
            messages += history(2, 20, f"{number}.{turn}")[::-1]
        first.append(times[0])
        last.append(times[-1])
    return min(first), min(last), length


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stub = Stub(Path(folder), context=CONTEXT)
        try:
            flags = ["--llama-api", stub.upstream, "--log-level", "warning", "--data", folder]
            app = create_app(load(flags, {}))
            services_of(app).gateway.registry.looked.wait(10)
            print("messages     bytes   first turn   next turn (ms)")
            for count, size in ((1, 70), (201, 480), (201, 1980)):
                first, after, length = measure(app, count, size)
                print(f"{count:8}{length:10}{first:13.2f}{after:12.2f}", flush=True)
        finally:
            stub.process.kill()
    os._exit(0)  # the registry's threads would still poll the stopped stub


if __name__ == "__main__":
    main()

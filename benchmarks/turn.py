"""What a turn of a long conversation costs a gateway, beside a short one.

    python -m benchmarks.turn

A conversation of 200 messages and about 100 kB goes on for some turns, in one process, before the
stub. Told is the CPU time of the thread that answers, the least of ten conversations: from the
request's first byte to the answer's last, so the reading of its JSON, the template and the hashes
of its prefix are all in it.
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

from .__main__ import Stub

TURNS = 3
CONVERSATIONS = 10


def history(count: int, size: int, name: str) -> list[dict[str, str]]:
    """So many messages of so many characters, the user's and the model's in turn."""
    words = "the quick brown fox jumps over the lazy dog and runs away from it "
    text = (words * (size // len(words) + 1))[:size]
    return [
        {"role": ("user", "assistant")[i % 2], "content": f"{name} {i} {text}"}
        for i in range(count)
    ]


def answer(app: Flask, messages: list[dict[str, str]]) -> tuple[float, int]:
    """Seconds of CPU, and bytes of the request."""
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
    began = time.thread_time()
    parts = app(environ, lambda status, headers: statuses.append(status))
    told = b"".join(parts)
    took = time.thread_time() - began
    if statuses != ["200 OK"]:
        raise SystemExit(f"not answered: {told[:200]!r}")
    return took, len(body)


def measure(app: Flask, count: int, size: int) -> tuple[float, float, int]:
    """Milliseconds of a conversation's first turn and of its last, and bytes of the last."""
    first, last, length = [], [], 0
    for number in range(CONVERSATIONS):
        messages = history(count, size, str(number))
        times = []
        for turn in range(TURNS):
            took, length = answer(app, messages)
            times.append(1000 * took)
            messages += history(2, 20, f"{number}.{turn}")[::-1]
        first.append(times[0])
        last.append(times[-1])
    return min(first), min(last), length


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        stub = Stub(Path(folder))
        try:
            flags = ["--llama-api", stub.upstream, "--log-level", "warning", "--data", folder]
            app = create_app(load(flags, {}))
            services_of(app).gateway.registry.looked.wait(10)
            print("messages     bytes   first turn   next turn (ms)")
            for count, size in ((1, 70), (201, 480)):
                first, after, length = measure(app, count, size)
                print(f"{count:8}{length:10}{first:13.2f}{after:12.2f}", flush=True)
        finally:
            stub.process.kill()
    os._exit(0)  # the registry's threads look after a stub that is gone


if __name__ == "__main__":
    main()

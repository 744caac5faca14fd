"""Measures reading long PDFs: time from upload to ready, memory, and delays of other requests.

    python -m benchmarks.ingest [PAGES …]

A new gateway reads a PDF of each size. Memory is the maximum resident set of the gateway's
processes together with the reading child, and of that child alone. Delays are those of GET /health,
requested continuously.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from openai import OpenAI

from tests.documents import pdf
from tools.processes import Gateway, ask

NOBODY = "http://127.0.0.1:9"  # reading needs no model
MB = 1 << 20


def tree(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from tree(int(child))


def resident(pid: int) -> tuple[int, bool]:
    """Return the resident bytes, and whether this is the reading child. Raises OSError if the
    process has ended."""
    folder = Path(f"/proc/{pid}")
    pages = int((folder / "statm").read_text().split()[1])
    return pages * 4096, b"proxy.knowledge.extract" in (folder / "cmdline").read_bytes()


def row(pages: int) -> str:
    """Return a line of the table."""
    words = "The quick brown zebra runs over page {}, where nobody has seen it before. " * 40
    data = pdf(*[words.replace("{}", str(number)) for number in range(pages)])
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(("--llama-api", NOBODY, "--data", folder), Path(folder) / "log")
        gateway.start(ready=0)
        try:
            api = OpenAI(base_url=f"{gateway.url}/v1", api_key="x", timeout=300)
            store = api.vector_stores.create(name="b")
            before = sum(resident(pid)[0] for pid in tree(gateway.pid))
            began = time.monotonic()
            file = api.files.create(file=("a.pdf", data), purpose="assistants")
            api.vector_stores.files.create(store.id, file_id=file.id)
            uploaded = time.monotonic() - began
            most = reader = 0
            waits: list[float] = []
            while True:
                sent = time.monotonic()
                ask(f"{gateway.url}/health", seconds=60)
                waits.append(time.monotonic() - sent)
                try:
                    seen = [resident(pid) for pid in tree(gateway.pid)]
                except OSError:
                    continue
                most = max(most, sum(size for size, _ in seen))
                reader = max([reader, *(size for size, reads in seen if reads)])
                if len(waits) % 20 == 0:
                    status = api.vector_stores.files.retrieve(file.id, vector_store_id=store.id)
                    if status.status != "in_progress":
                        break
                time.sleep(0.02)
            ready = time.monotonic() - began
            assert status.status == "completed", status
        finally:
            gateway.stop()
    waits.sort()
    p99, longest = waits[int(len(waits) * 0.99)], waits[-1]
    return (
        f"| {pages} | {len(data) / MB:.1f} | {uploaded:.1f} | {ready:.1f} | {before / MB:.0f} | "
        f"{most / MB:.0f} | {reader / MB:.0f} | {p99 * 1000:.0f} | {longest * 1000:.0f} |"
    )


def main() -> None:
    print(
        "| pages | MB | upload, s | ready, s | idle, MB | highest, MB | reader, MB "
        "| /health p99, ms | longest, ms |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for pages in [int(word) for word in sys.argv[1:]] or [100, 1000]:
        print(row(pages), flush=True)


if __name__ == "__main__":
    main()

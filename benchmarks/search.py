"""Measures searches in a knowledge base: python -m benchmarks.search

It uses random chunks of about 100 words, half English and half Chinese, with word frequencies as in
natural language (Zipf), and questions of eight words or a dozen characters. No model is used:
vectors, if requested, are random. Nothing else runs in the process.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from proxy.knowledge.index import Index, IndexBackend
from proxy.knowledge.index.postgres import PostgresShelf
from proxy.knowledge.index.records import IndexEntry
from proxy.knowledge.index.sqlite import SqliteShelf

DOCUMENTS = 100


def texts(draw: random.Random) -> Callable[[bool, int], str]:
    """Return a function (Chinese?, words) -> text."""
    words = [f"word{i}x" for i in range(30_000)]
    characters = [chr(0x4E00 + i) for i in range(3000)]
    shares = [1 / (i + 1) for i in range(30_000)]

    def text(chinese: bool, length: int) -> str:
        if chinese:
            return "".join(draw.choices(characters, shares[:3000], k=length * 2))
        return " ".join(draw.choices(words, shares, k=length))

    return text


@contextmanager
def opened(url: str) -> Iterator[Callable[[], IndexBackend]]:
    """Return a function that opens a shelf at `url`, or in a temporary file."""
    if url:
        from sqlalchemy import create_engine

        engine = create_engine(url)
        yield lambda: PostgresShelf(engine)
        engine.dispose()
        return
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: SqliteShelf(Path(folder) / "index.sqlite")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=10_000)
    parser.add_argument("--dims", type=int, default=0, help="dimensions of vectors; 0: words only")
    parser.add_argument("--searches", type=int, default=300)
    parser.add_argument(
        "--database", default="", help="address of a PostgreSQL database to use instead of SQLite"
    )
    args = parser.parse_args()
    draw = random.Random(1)
    text = texts(draw)

    def embed(model: str, many: Sequence[str]) -> list[list[float]]:
        return [[draw.gauss(0, 1) for _ in range(args.dims)] for _ in many]

    with opened(args.database) as shelf:
        index = Index(shelf(), embed if args.dims else None)
        begun = time.perf_counter()
        each = args.chunks // DOCUMENTS
        for d in range(DOCUMENTS):
            chunks = [IndexEntry(f"{d}-{i}", f"d{d}", text(i % 2 == 0, 100)) for i in range(each)]
            index.add("bench", chunks)
        built = time.perf_counter() - begun
        times, busy = [], []
        for i in range(args.searches):
            question = text(i % 2 == 0, 6 if i % 2 == 0 else 8)
            begun, used = time.perf_counter(), time.process_time()
            index.search(["bench"], question, 3)
            times.append(1000 * (time.perf_counter() - begun))
            busy.append(1000 * (time.process_time() - used))
        index.shelf.drop(base="bench")
        index.shelf.close()
    times.sort()
    busy.sort()
    p50, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
    print(
        f"{args.chunks} chunks, {args.dims} dims, built in {built:.1f} s;"
        f" search p50 {p50:.1f} ms, p95 {p95:.1f} ms, most {times[-1]:.1f} ms;"
        f" our processor time p95 {busy[int(len(busy) * 0.95)]:.1f} ms;"
        f" load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()

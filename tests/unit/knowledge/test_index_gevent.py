"""A search does not hold up gevent's hub, which all streams of the process run in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

# Many greenlets search and write while another one, which represents a stream, ticks.
SCRIPT = """
from gevent import monkey
monkey.patch_all()
import gevent, sys, threading
from pathlib import Path
from proxy.knowledge.index import Index, IndexEntry
from proxy.knowledge.index.sqlite import SqliteShelf

index = Index(SqliteShelf(Path(sys.argv[1])))
text = "the great wall number {0}, 长城 {0}"
index.add("b", [IndexEntry(f"c{i}", "d", text.format(i)) for i in range(500)])

threads = set()
real = SqliteShelf._read
def read(self, work):
    def noted(db):
        threads.add(gevent.monkey.get_original("_thread", "get_ident")())
        return work(db)
    return real(self, noted)
SqliteShelf._read = read

def searches():
    for i in range(10):
        assert index.search(["b"], f"wall {i}", 3)

def writes(n):
    for i in range(5):
        index.add("b", [IndexEntry(f"w{n}-{i}", "w", "一段新的文字")])

jobs = [gevent.spawn(searches) for _ in range(8)] + [gevent.spawn(writes, n) for n in range(3)]
gevent.joinall(jobs, raise_error=True)
assert index.search(["b"], "新的", 50) and len(index.search(["b"], "新的", 50)) == 15
hub = gevent.monkey.get_original("_thread", "get_ident")()
assert threads and hub not in threads, (threads, hub)
print("apart")
"""


def test_hub_never_runs_a_query(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path / "index.sqlite")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout.strip(), done.returncode) == ("apart", 0), done.stderr[-2000:]

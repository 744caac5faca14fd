"""SQLite's calls do not hold up gevent's hub, which all streams of the process run in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gevent", reason="gevent is not installed")

ROOT = Path(__file__).resolve().parents[3]

# More greenlets than connections write and read while another process holds the write lock: the hub
# continues, and lets the other one go; a hub that waited for the lock would never do so. No call
# fails, and no row is lost.
SCRIPT = """
from gevent import monkey
monkey.patch_all()
import gevent, sqlite3, sys
from gevent import subprocess
from proxy.app.storage import LazyServices
from proxy.config import Settings
from proxy.store import database

ident = monkey.get_original("_thread", "get_ident")
hub, threads = ident(), set()
real = database._aside
def noted(work):
    def run():
        threads.add(ident())
        return work()
    return real(run)
database._aside = noted
database.BUSY = 60.0  # a busy machine is slow

keeping = LazyServices(Settings(data=sys.argv[1]), None, None)
conversations = keeping.conversations
ids = []

def work(n):
    for i in range(5):
        made = conversations.create("me", f"{n}-{i}")
        assert conversations.get("me", made.id).title == f"{n}-{i}"
        ids.append(made.id)

HOLD = '''
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("begin immediate")
print("held", flush=True)
sys.stdin.readline()
db.execute("commit")
'''
conversations.create("me", "first")
holder = subprocess.Popen(
    [sys.executable, "-c", HOLD, sys.argv[1] + "/slotproxy.db"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
)
holder.stdout.readline()
working = [gevent.spawn(work, n) for n in range(30)]
for _ in range(20):
    gevent.sleep(0.01)
assert not ids, "nobody had to wait"
holder.stdin.write(b"\\n")
holder.stdin.flush()
gevent.joinall(working, raise_error=True)
holder.wait()
assert len(set(ids)) == 150 and len(conversations.recent("me", limit=500)) == 151
assert threads and hub not in threads, (threads, hub)
print("apart")
"""


# The database is opened soon after the start, while the first chats stream.
OPENED = """
from gevent import monkey
monkey.patch_all()
import sys
from proxy.app.storage import LazyServices
from proxy.config import Settings

ident = monkey.get_original("_thread", "get_ident")
imported_in = []

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in ("sqlalchemy", "apsw"):
            imported_in.append((name, ident()))

keeping = LazyServices(Settings(data=sys.argv[1]), None, None)
sys.meta_path.insert(0, Finder())
keeping._open(lambda: None)
assert {name for name, _ in imported_in} >= {"sqlalchemy", "apsw"}, imported_in
assert ident() not in {where for _, where in imported_in}, imported_in
print("apart")
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [SCRIPT, OPENED], ids=["files and locks", "imports"])
def test_hub_never_waits_for_the_database(tmp_path: Path, script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout.strip(), done.returncode) == ("apart", 0), done.stderr[-2000:]

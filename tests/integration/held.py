"""Measures how long a gateway's event loop is blocked, however busy the machine is.

A process of its own asks for /livez, or another path, again and again. From each answer's time the
time is taken off that the gateway's threads, or the asking one, were ready to run and had no
processor: that is the machine's, not the gateway's. What remains is a loop that computes, or that
waits in a call, or for the interpreter's lock.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from tools.processes import ROOT, Gateway

PAUSE = 0.003  # seconds between an answer and the next request


def worker(pid: int) -> int:
    """The pid of gunicorn's first child."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            return int(child)
    return pid


class Held:
    """`longest`: seconds that the loop was blocked, in `count` requests. Set by `watched`."""

    longest = 0.0
    count = 0


@contextmanager
def watched(gateway: Gateway, path: str = "/livez") -> Iterator[Held]:
    """Watches the gateway's loop meanwhile."""
    held, port = Held(), urlsplit(gateway.url).port
    poller = subprocess.Popen(
        [sys.executable, "-m", __name__, str(port), str(worker(gateway.pid)), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        assert poller.stdout is not None
        assert poller.stdout.readline() == "asking\n"
        yield held
        said, _ = poller.communicate(timeout=100)
        held.longest, held.count = json.loads(said)
    finally:
        poller.kill()
        poller.communicate()


# the asking process


def _delayed(pid: int) -> dict[str, int]:
    """Nanoseconds that each thread of a process was runnable without a processor."""
    delays = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended
            delays[task.name] = int((task / "schedstat").read_text().split()[1])
    return delays


def _ask(sock: socket.socket, path: str, pids: tuple[int, ...]) -> float:
    before = [_delayed(pid) for pid in pids]
    begun = time.monotonic()
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    said = sock.recv(4096)
    seconds = time.monotonic() - begun
    if not said.startswith(b"HTTP/1.1 200"):
        raise SystemExit(f"{path} said {said[:200]!r}")
    after = [_delayed(pid) for pid in pids]
    delayed = sum(
        ns - earlier.get(task, 0)
        for earlier, later in zip(before, after, strict=True)
        for task, ns in later.items()
    )
    return seconds - delayed / 1e9


def main() -> None:
    import os
    import select

    port, pids, path = int(sys.argv[1]), (int(sys.argv[2]), os.getpid()), sys.argv[3]

    longest, count = 0.0, 0
    with socket.create_connection(("127.0.0.1", port), 100) as sock:
        _ask(sock, path, pids)
        print("asking", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            longest = max(longest, _ask(sock, path, pids))
            count += 1
    print(json.dumps([longest, count]))


if __name__ == "__main__":
    main()

"""Requests /livez of a gateway repeatedly, until its own standard input ends.

    python -m tests.fuzz.livez URL PID

A process of its own, so that the fuzzer's work does not slow it down. Prints one line of JSON:
`asked` (how often), `longest` (seconds of the slowest answer), `held` (most seconds of CPU that the
first thread of process PID, which runs the loop, used between a question and its answer), `long`
([begin, end, seconds] of each time that was over `LIMIT`, by the system's monotonic clock) and
`failed` (questions without a 200).

`held` does not depend on how busy the machine is; `longest` does.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

LIMIT = 0.1  # seconds
PAUSE = 0.01  # seconds between two requests


def _cpu(path: Path) -> float:
    return int(path.read_text().split()[0]) / 1e9


def main(url: str, pid: str) -> None:
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    spent = Path(f"/proc/{pid}/task/{pid}/schedstat")
    asked = failed = 0
    long: list[tuple[float, float, float]] = []
    longest = held = 0.0
    at = urlsplit(url).netloc
    connection = http.client.HTTPConnection(at, timeout=60)
    while not over.is_set():
        try:
            begun, before = time.monotonic(), _cpu(spent)
            connection.request("GET", "/livez")
            answer = connection.getresponse()
            answer.read()
            took, used = time.monotonic() - begun, _cpu(spent) - before
        except (OSError, http.client.HTTPException):
            failed += 1
            connection.close()
        else:
            asked += 1
            failed += answer.status != 200
            longest, held = max(longest, took), max(held, used)
            if used > LIMIT:
                long.append((begun, begun + took, used))
        over.wait(PAUSE)
    connection.close()
    found = {"asked": asked, "failed": failed, "longest": longest, "held": held, "long": long}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

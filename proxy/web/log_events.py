"""The lines that a model's server prints, as server-sent events.

An event has the lines that are new. Its id says how many there were, so that a client that connects
again gets the rest. A stream ends after `LIFE` seconds. It begins with an event `start` if the
client has no lines of this log yet, or those of another one, which it should forget then.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator

from ..hosting.log import ModelLog

PERIOD = 0.25  # seconds between two looks
LIFE = 15.0  # seconds per stream
KNOWN = re.compile(r"([0-9a-f]{16})-([0-9]{1,15})", re.ASCII)


def events(
    log: ModelLog, last_id: str, sleep: Callable[[float], None] = time.sleep
) -> Generator[bytes, None, None]:
    """Yield events. `last_id` is the id of the last event that the client got, "" for none."""
    yield b"retry: 500\n\n"
    known = KNOWN.fullmatch(last_id)
    if known is None or known[1] != log.id:
        count = 0
        yield f"id: {log.id}-0\nevent: start\ndata: {log.id}\n\n".encode()
    else:
        count = int(known[2])
    end = time.monotonic() + LIFE
    while True:
        count, lines = log.after(count)
        if lines:
            data = "".join(f"data: {line}\n" for line in lines)
            yield f"id: {log.id}-{count}\n{data}\n".encode()
        if time.monotonic() + PERIOD > end:
            return
        sleep(PERIOD)

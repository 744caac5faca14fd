"""The last lines that a model's server printed, over all its starts."""

from __future__ import annotations

import secrets
from collections import deque
from itertools import islice

from ..backends.refusals import said
from ..runtime.locks import native_lock

MAX_LINES = 2000
MAX_LINE = 1000  # bytes
SHOWN = 40  # lines of a failed start that a client sees
MAX_SHOWN = 4000  # characters of these


class ModelLog:
    """Keeps the last lines. `begin` marks the start of a process."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)  # differs from that of other logs
        self._lock = native_lock()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._fresh = 0  # lines since `begin`
        self._count = 0  # lines ever

    def begin(self) -> None:
        with self._lock:
            self._fresh = 0

    def add(self, line: bytes) -> None:
        text = line.rstrip(b"\r\n").decode("utf-8", "replace")
        with self._lock:
            self._lines.append("".join(c if c.isprintable() or c == "\t" else " " for c in text))
            self._fresh = min(MAX_LINES, self._fresh + 1)
            self._count += 1

    def text(self) -> str:
        """All lines, for admins."""
        with self._lock:
            return "".join(f"{line}\n" for line in self._lines)

    def after(self, number: int) -> tuple[int, list[str]]:
        """The number of lines so far, and the kept ones after the line of this number; for
        admins."""
        with self._lock:
            new = min(len(self._lines), self._count - number)
            return self._count, list(islice(self._lines, len(self._lines) - new, None))

    def end(self) -> str:
        """The last lines since `begin`, without addresses and folders, for clients."""
        with self._lock:
            lines = list(self._lines)[-min(SHOWN, self._fresh) :] if self._fresh else []
        return "\n".join(filter(None, map(said, lines)))[-MAX_SHOWN:]

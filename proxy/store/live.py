"""Sessions that are open, kept in the memory of one process: where there is no database.

As `SessionStore` in sessions.py, which several processes share. A session's id is a digest: who
reads what is kept learns no cookie of it. Times are seconds since 1970.
"""

from __future__ import annotations

import threading
from typing import Protocol

LIFETIME = 7 * 24 * 3600  # seconds
MOST = 100  # open sessions of an owner; the oldest ends for a new one


class LiveSessions(Protocol):
    def begin(self, session: str, owner: str, now: float) -> None: ...

    def alive(self, session: str, owner: str, now: float) -> bool:
        """Whether it was begun, and neither ended nor is older than LIFETIME."""

    def end(self, session: str) -> None: ...

    def end_all(self, owner: str) -> int:
        """How many there were."""


class MemorySessions:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[str, dict[str, float]] = {}  # by owner, oldest first

    def begin(self, session: str, owner: str, now: float) -> None:
        with self._lock:
            mine = self._begun.setdefault(owner, {})
            mine[session] = now
            while len(mine) > MOST:
                del mine[next(iter(mine))]

    def alive(self, session: str, owner: str, now: float) -> bool:
        with self._lock:
            begun = self._begun.get(owner, {}).get(session)
        return begun is not None and now - begun <= LIFETIME

    def end(self, session: str) -> None:
        with self._lock:
            for mine in self._begun.values():
                mine.pop(session, None)

    def end_all(self, owner: str) -> int:
        with self._lock:
            return len(self._begun.pop(owner, {}))

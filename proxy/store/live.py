"""Open sign-in sessions in the memory of one process, for when there is no database.

Several processes share a `SessionStore` (sessions.py) with the same interface. Session ids are
digests, so that cookies cannot be derived from stored data. Times are seconds since 1970.
"""

from __future__ import annotations

import threading
from typing import Protocol

LIFETIME = 7 * 24 * 3600  # seconds
MOST = 100  # open sessions of an owner; a new one replaces the oldest


class LiveSessions(Protocol):
    def begin(self, session: str, owner: str, now: float) -> None: ...

    def alive(self, session: str, owner: str, now: float) -> bool:
        """Whether the session was started, has not been ended, and is younger than LIFETIME."""

    def end(self, session: str) -> None: ...

    def end_all(self, owner: str) -> int:
        """End all sessions of an owner; return how many there were."""


class MemorySessions:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[str, dict[str, float]] = {}  # by owner, oldest first

    def begin(self, session: str, owner: str, now: float) -> None:
        with self._lock:
            sessions = self._begun.setdefault(owner, {})
            sessions[session] = now
            while len(sessions) > MOST:
                del sessions[next(iter(sessions))]

    def alive(self, session: str, owner: str, now: float) -> bool:
        with self._lock:
            begun = self._begun.get(owner, {}).get(session)
        return begun is not None and now - begun <= LIFETIME

    def end(self, session: str) -> None:
        with self._lock:
            for sessions in self._begun.values():
                sessions.pop(session, None)

    def end_all(self, owner: str) -> int:
        with self._lock:
            return len(self._begun.pop(owner, {}))

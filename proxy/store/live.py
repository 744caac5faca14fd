"""Open sign-in sessions in memory, for when there is no database. Session ids are digests."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from msgspec import Struct

LIFETIME = 7 * 24 * 3600  # seconds
MOST = 100  # open sessions of an owner; a new one replaces the oldest
LONGEST_AGENT = 200  # characters of a User-Agent that are kept


class OpenSession(Struct, frozen=True):
    """A session of the key `owner`, with the browser's User-Agent and address."""

    id: str
    owner: str
    created: float
    agent: str = ""
    peer: str = ""


class MemorySessions:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun: dict[str, dict[str, OpenSession]] = {}  # by owner, oldest first

    def begin(self, session: OpenSession) -> None:
        with self._lock:
            sessions = self._begun.setdefault(session.owner, {})
            sessions[session.id] = session
            while len(sessions) > MOST:
                del sessions[next(iter(sessions))]

    def alive(self, session: str, owner: str, now: float) -> bool:
        """Whether the session was started, has not been ended, and is younger than LIFETIME."""
        with self._lock:
            begun = self._begun.get(owner, {}).get(session)
        return begun is not None and now - begun.created <= LIFETIME

    def listed(self, owner: str | None, now: float, limit: int) -> Sequence[OpenSession]:
        """The last sessions of an owner, or of all, the newest first."""
        with self._lock:
            owners = self._begun if owner is None else (owner,)
            begun = [begun for name in owners for begun in self._begun.get(name, {}).values()]
        alive = [session for session in begun if now - session.created <= LIFETIME]
        return sorted(alive, key=lambda session: session.created, reverse=True)[:limit]

    def end(self, session: str, owner: str | None = None) -> bool:
        """End a session, unless it is of another owner; return whether there was one."""
        with self._lock:
            owners = [*self._begun] if owner is None else [owner]
            ended = [self._begun.get(name, {}).pop(session, None) for name in owners]
        return any(ended)

    def end_all(self, owner: str) -> int:
        with self._lock:
            return len(self._begun.pop(owner, {}))

"""Calls to tools of /mcp that clients can cancel."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..runtime.cancel import Cancel, Reason


class RunningCalls:
    """The calls that run, by key, session and id."""

    def __init__(self) -> None:
        self._cancels: dict[tuple[str, str, str | int], Cancel] = {}
        self._lock = threading.Lock()

    @contextmanager
    def running(self, owner: str, session: str, key: str | int) -> Iterator[Cancel]:
        """Yield a Cancel that `cancel` sets while the call runs."""
        cancel = Cancel()
        place = (owner, session, key)
        with self._lock:
            self._cancels[place] = cancel
        try:
            yield cancel
        finally:
            with self._lock:
                if self._cancels.get(place) is cancel:
                    del self._cancels[place]

    def cancel(self, owner: str, session: str, key: str | int) -> None:
        with self._lock:
            cancel = self._cancels.get((owner, session, key))
        if cancel is not None and session:
            cancel.cancel()

    def end_all(self, reason: Reason) -> None:
        """End all calls that run now."""
        with self._lock:
            cancels = list(self._cancels.values())
        for cancel in cancels:
            cancel.cancel(reason)

    def cancel_all(self, owner: str, session: str) -> None:
        """Cancel all calls of a session."""
        with self._lock:
            cancels = [
                cancel
                for (key, of, _), cancel in self._cancels.items()
                if (key, of) == (owner, session)
            ]
        for cancel in cancels:
            cancel.cancel()

"""Limits how much one backend does at a time, such as its connections, and waits for a place.

A wait ends with its own timeout or the request's cancellation, whichever comes first. `reserve`
places are kept for short requests (health, tokenize), which must not wait behind answers that
stream for minutes.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from ..errors import PoolTimeout
from ..runtime.cancel import Cancel
from ..runtime.locks import native_lock

FOREVER = 1e6  # seconds


class Room:
    """`limit` places; the last `reserve` of them are only for short requests."""

    def __init__(self, limit: int, reserve: int = 0) -> None:
        self._limit = self._free = limit
        self._reserve = reserve
        self._lock = native_lock()
        self._waiting: dict[threading.Event, None] = {}

    def enter(self, seconds: float, cancel: Cancel | None = None, short: bool = False) -> None:
        """Take a place. Raises PoolTimeout after so many seconds, Cancelled."""
        if not self._took(short):
            self._wait(seconds, cancel, short)

    @contextlib.contextmanager
    def place(self, cancel: Cancel) -> Iterator[None]:
        """Take a place, without a timeout, and give it back. Raises Cancelled."""
        self.enter(FOREVER, cancel)
        try:
            yield
        finally:
            self.leave()

    def leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self._free += 1
            waiting = tuple(self._waiting)
        for event in waiting:
            event.set()

    def resize(self, limit: int) -> None:
        """Set the number of places. Those in use stay so."""
        with self._lock:
            self._free += limit - self._limit
            self._limit = limit
            waiting = tuple(self._waiting)
        for event in waiting:
            event.set()

    def _took(self, short: bool) -> bool:
        with self._lock:
            if self._free <= (0 if short else self._reserve):
                return False
            self._free -= 1
            return True

    def _wait(self, seconds: float, cancel: Cancel | None, short: bool) -> None:
        end = time.monotonic() + seconds
        event = threading.Event()
        with self._lock:
            self._waiting[event] = None
        if cancel is not None:
            cancel.add(event.set)
        try:
            while True:
                event.clear()  # before the check, so that no change is missed
                if cancel is not None:
                    cancel.check()
                if self._took(short):
                    return
                left = end - time.monotonic()
                if left <= 0:
                    raise PoolTimeout("all connections to the backend are in use", retry_after=1.0)
                event.wait(left)
        finally:
            with self._lock:
                self._waiting.pop(event, None)
            if cancel is not None:
                cancel.remove(event.set)

"""Limits how many places (threads, streams) one key can take from the others.

A key may hold as many places as are free: a single key gets half of them, a second half of the
rest, and so on. With one key or none, the limit is the total alone.
"""

from __future__ import annotations

from collections import Counter

from ..runtime.locks import native_lock


class FairCap:
    """`most` places for all keys together."""

    def __init__(self, most: int, *, alone: bool = False) -> None:
        """`alone`: all callers have the same key, or none."""
        self._most = most
        self._alone = alone
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._lock = native_lock()

    def take(self, owner: str) -> bool:
        """Take a place; return False if there is none for this owner. Return it with `give`."""
        with self._lock:
            free = self._most - self._taken
            if free <= 0 or not (self._alone or self._held[owner] < free):
                return False
            self._held[owner] += 1
            self._taken += 1
            return True

    @property
    def taken(self) -> int:
        return self._taken

    def give(self, owner: str) -> None:
        with self._lock:
            self._taken -= 1
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]

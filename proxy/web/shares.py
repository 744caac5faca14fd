"""Places that keys share, so that no key can take all of them while another one needs one.

A key may hold as many places as are left free beside those that are taken (the dynamic threshold of
switches' buffers): one key alone gets half of them, a second one half of the rest, and so on. Where
there is one key, or none, there is nobody to share with.
"""

from __future__ import annotations

from collections import Counter

from ..locks import brief


class Shares:
    """`most` places, for all keys together."""

    def __init__(self, most: int, *, alone: bool = False) -> None:
        """`alone`: all callers are one."""
        self._most = most
        self._alone = alone
        self._held: Counter[str] = Counter()
        self._taken = 0
        self._lock = brief()

    def take(self, owner: str) -> bool:
        """A place, to be given back by `give`. False where there is none for this owner."""
        with self._lock:
            free = self._most - self._taken
            if free <= 0 or not (self._alone or self._held[owner] < free):
                return False
            self._held[owner] += 1
            self._taken += 1
            return True

    def give(self, owner: str) -> None:
        with self._lock:
            self._taken -= 1
            self._held[owner] -= 1
            if not self._held[owner]:
                del self._held[owner]

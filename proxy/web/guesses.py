"""Limits invalid API keys by client address.

Each address may send some invalid keys per minute. After that, its keys are refused without a
check, so that a correct guess looks like a wrong one. A key that was valid from that address before
still works. A client that shares its address with an attacker therefore has to wait some seconds,
and only when it uses a key for the first time.

Nothing blocks here: the error says when to retry.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ..errors import TooManyWrongKeys
from ..runtime.locks import native_lock
from .peers import neighbourhood

MOST_ADDRESSES = 4096  # after that, the least recently counted address is forgotten
MOST_SEEN = 16_384  # pairs of address and valid key
MINUTE = 60.0


class Guesses:
    """Allows `most` invalid keys per minute and address (0: no limit). `seen` has the pairs
    (address, key name) of valid keys."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        # count, time of the last one
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self.seen: dict[tuple[str, str], None] = {}
        self._lock = native_lock()

    def count_right(self, peer: str, name: str) -> None:
        """Count a valid key that is not in `seen` yet. Raises TooManyWrongKeys."""
        self.check(peer)
        with self._lock:
            while len(self.seen) >= MOST_SEEN:
                del self.seen[next(iter(self.seen))]
            self.seen[peer, name] = None

    def count_wrong(self, peer: str) -> None:
        """Count an invalid key. Raises TooManyWrongKeys."""
        if not self._most:
            return
        self.check(peer)
        one, now = neighbourhood(peer), self._clock()
        with self._lock:
            self._wrong[one] = self._count(one, now) + 1.0, now
            self._wrong.move_to_end(one)
            if len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def check(self, peer: str) -> None:
        """Raises TooManyWrongKeys if the address has sent too many."""
        if not self._wrong:
            return
        count = self._count(neighbourhood(peer), self._clock())
        if count > self._most - 1:
            wait = (count - self._most + 1) * MINUTE / self._most
            raise TooManyWrongKeys(
                f"too many invalid API keys from your address: retry in {wait:.0f} seconds",
                retry_after=wait,
            )

    def _count(self, one: str, now: float) -> float:
        """Return how many invalid keys still count. The count decreases steadily, from the limit to
        zero in a minute."""
        count, since = self._wrong.get(one, (0.0, now))
        return max(0.0, count - (now - since) * self._most / MINUTE)

"""Wrong keys, counted by the address they come from.

An address may show some wrong keys in a minute. Beyond them its keys are refused unseen, so that a
hit cannot be told from a miss; but a key that was right from there before goes through. So a client
that shares its address with a guesser waits for seconds, and only to use a key for the first time.

Nothing waits here: a refusal says when to come back.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ..errors import TooManyWrongKeys
from ..locks import brief
from .peers import neighbourhood

MOST_ADDRESSES = 4096  # remembered; the one that was wrong longest ago goes first
MOST_SEEN = 16_384  # pairs of address and key that were right
MINUTE = 60.0


class Guesses:
    """`most` wrong keys a minute and address; 0: any number. `seen` are pairs (address, name of a
    key) that were right."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[float, float]] = OrderedDict()  # count, since when
        self.seen: dict[tuple[str, str], None] = {}
        self._lock = brief()

    def right(self, peer: str, name: str) -> None:
        """The key of this name was shown, which is not `seen` yet. Raises TooManyWrongKeys."""
        self._check(peer)
        with self._lock:
            while len(self.seen) >= MOST_SEEN:
                del self.seen[next(iter(self.seen))]
            self.seen[peer, name] = None

    def wrong(self, peer: str) -> None:
        """A key that is none was shown. Raises TooManyWrongKeys."""
        if not self._most:
            return
        self._check(peer)
        one, now = neighbourhood(peer), self._clock()
        with self._lock:
            self._wrong[one] = self._count(one, now) + 1.0, now
            self._wrong.move_to_end(one)
            if len(self._wrong) > MOST_ADDRESSES:
                self._wrong.popitem(last=False)

    def _check(self, peer: str) -> None:
        if not self._wrong:
            return
        count = self._count(neighbourhood(peer), self._clock())
        if count > self._most - 1:
            wait = (count - self._most + 1) * MINUTE / self._most
            raise TooManyWrongKeys(
                f"too many wrong keys came from your address: try again in {wait:.0f} seconds",
                retry_after=wait,
            )

    def _count(self, one: str, now: float) -> float:
        """Wrong keys that still count: they are forgotten evenly, all of them within a minute."""
        count, since = self._wrong.get(one, (0.0, now))
        return max(0.0, count - (now - since) * self._most / MINUTE)

"""Gives models turns on a router with little room: no request waits forever, and no model is
evicted at once.

llama-server evicts a model for an unloaded one as soon as it is idle, if only between two requests
of one client, but a busy one never. Three rules change both, on a router without free room:

1. A request for a model that is not loaded is sent to the router once a loaded model is idle: none
   of its requests has been under way for a moment.
2. When it has waited for a turn, new requests for the loaded models are held back until one is
idle. 3. But no model is held back before its own turn is over. A turn is as long as a load takes,
so that at most half of the time is spent loading.

Pure: the time and the loaded models are parameters. Thread-safe.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection

from ..runtime.locks import native_lock

SHORTEST = 2.0  # seconds of a turn
SETTLE = 0.25  # seconds without a request after which a model is idle


class Turns:
    """Turns on a router that has room for `room` models; 0 for any number."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self._lock = native_lock()
        self._asked: Counter[str] = Counter()  # requests sent to the router
        self._since: dict[str, float] = {}  # since when a model's requests have waited for a token
        self._ended: dict[str, float] = {}  # when a model's last request ended
        self._began: dict[str, float] = {}  # the first token of a model since it was loaded

    def take(self, model: str, present: Collection[str], now: float, turn: float = 0.0) -> bool:
        """Whether a waiting request may be sent now; then it counts as under way until `leave`.
        `present` are the loaded models, `turn` is the length of a turn in seconds."""
        with self._lock:
            # A model that was just loaded may answer before the list shows it.
            loaded = {*present, *(name for name, count in self._asked.items() if count)}
            self._began = {name: since for name, since in self._began.items() if name in loaded}
            self._since.setdefault(model, now)
            if self._held_back(model, present, now, max(SHORTEST, turn)):
                return False
            self._asked[model] += 1
            return True

    def _held_back(self, model: str, present: Collection[str], now: float, turn: float) -> bool:
        # The router was asked for these; its list shows them later.
        coming = [name for name, count in self._asked.items() if count and name not in present]
        if model in coming or not 0 < self.room <= len(present) + len(coming):
            return False
        if model not in present:
            return bool(coming) or not any(self._is_idle(other, now) for other in present)
        if len(present) + len(coming) > self.room and self._is_idle(model, now):
            return True  # the router may evict it for those
        loaded = (*present, *coming)
        starving = any(now - t >= turn for name, t in self._since.items() if name not in loaded)
        return starving and now - self._began.get(model, now) >= turn

    def _is_idle(self, model: str, now: float) -> bool:
        return not self._asked[model] and now - self._ended.get(model, -math.inf) >= SETTLE

    def give_up(self, model: str) -> None:
        """Record that a waiting request is not sent. If others wait, they say so again."""
        with self._lock:
            self._since.pop(model, None)

    def answered(self, model: str, now: float) -> None:
        """Record the first token of a request."""
        with self._lock:
            self._began.setdefault(model, now)
            self._since.pop(model, None)

    def leave(self, model: str, now: float) -> None:
        """Record the end of a request."""
        with self._lock:
            self._asked[model] -= 1
            self._ended[model] = now
            self._since.pop(model, None)

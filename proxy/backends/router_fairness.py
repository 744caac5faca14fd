"""Gives models turns on a router with little room: no request waits forever, and no model is
evicted at once.

llama-server evicts a model for an unloaded one as soon as it is idle, if only between two requests
of one client, but a busy one never. Three rules change both, on a router without free room:

1. A request for a model that is not loaded is sent to the router once a loaded model is idle: none
   of its requests has been under way for a moment.
2. When it has waited for a turn, new requests for one loaded model are held back, the one with the
   fewest under way, until it is idle.
3. But no model is held back before its own turn is over. A turn is as long as a load takes, so that
   at most half of the time is spent loading.

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
        """Whether a waiting request may be sent now, which is asked again and again until it may,
        or gives up. Then it counts as under way until `leave`. `present` are the loaded models,
        `turn` is the length of a turn in seconds."""
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
        loaded = self._loaded_soon(present, now)
        if not 0 < self.room <= len(loaded):
            return False
        if model not in loaded:
            return not any(self._is_idle(other, now) for other in loaded)
        if not any(now - since >= turn for m, since in self._since.items() if m not in loaded):
            return False
        if now - self._began.get(model, now) < turn:
            return False
        return model == min(loaded, key=lambda candidate: (self._asked[candidate], candidate))

    def _loaded_soon(self, present: Collection[str], now: float) -> set[str]:
        """The models that are loaded once the router has those that it was asked for: it evicts the
        idle ones that were used least recently. The list in `present` comes later."""
        coming = {model for model, count in self._asked.items() if count and model not in present}
        idle = sorted(
            (model for model in present if self._is_idle(model, now)),
            key=lambda model: (self._ended.get(model, -math.inf), model),
        )
        lacking = max(0, len(present) + len(coming) - self.room)
        return {*present, *coming} - {*idle[:lacking]}

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

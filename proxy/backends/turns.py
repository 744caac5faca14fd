"""Gives models turns on a router with little room, so that no request waits forever.

llama-server queues requests for unloaded models, first come, first served, and evicts an idle model
for them. A loaded model gets every request immediately, so while its requests overlap it is never
idle, and requests for other models wait forever.

The rule: when a request has waited for its model for a turn, new requests for one loaded model are
held back, the one with the fewest under way, until it is idle and evicted. A turn is as long as the
load of the waiting model took, so that at most half of the time is spent loading.

Pure: the time and the loaded models are parameters. Thread-safe.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from ..runtime.locks import native_lock

SHORTEST = 2.0  # seconds of a turn


class Turns:
    """Turns on a router that has room for `room` models; 0 for any number."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self._lock = native_lock()
        self._asked: Counter[str] = Counter()  # requests sent to the router
        self._silent: Counter[str] = Counter()  # those of them without a first token
        self._since: dict[str, float] = {}  # when a model's oldest silent request was sent

    def take(self, model: str, present: Collection[str], now: float, turn: float = 0.0) -> bool:
        """Whether a request for a model may be sent now; if so, it counts as under way until
        `leave`. `present` are the loaded models, `turn` is the length of a turn in seconds."""
        with self._lock:
            if self._held_back(model, present, now, max(SHORTEST, turn)):
                return False
            self._asked[model] += 1
            self._silent[model] += 1
            self._since.setdefault(model, now)
            return True

    def _held_back(self, model: str, present: Collection[str], now: float, turn: float) -> bool:
        if not 0 < self.room <= len(present) or model not in present:
            return False
        # A model that was loaded when the request was sent may have been evicted meanwhile.
        if not any(now - since >= turn for m, since in self._since.items() if m not in present):
            return False
        return model == min(present, key=lambda candidate: (self._asked[candidate], candidate))

    def answered(self, model: str, now: float) -> None:
        """Record the first token of a request."""
        with self._lock:
            self._heard(model)
            if model in self._since:
                self._since[model] = now

    def leave(self, model: str, answered: bool) -> None:
        """Record the end of a request."""
        with self._lock:
            self._asked[model] -= 1
            if not answered:
                self._heard(model)

    def _heard(self, model: str) -> None:
        self._silent[model] -= 1
        if self._silent[model] <= 0:
            self._since.pop(model, None)

"""Whose requests a router with little room is given: the models take turns.

llama-server queues requests for models that are not loaded, first come, first served, and evicts a
model that is idle for them. One that is loaded gets every request at once, so while these overlap
it is never idle, and who waits for another model waits for ever.

The rule: when a request has waited for its model for a turn, new requests for one loaded model are
held back, the one with the fewest under way, until it is idle and evicted. A turn is as long as the
load of the model that is waited for took, so that at most half of the time goes into loading.

Pure: the time and the models that are loaded are handed in. Calls come from many threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from ..locks import brief

SHORTEST = 2.0  # seconds of a turn


class Turns:
    """Of the requests that go to one router, which has room for `room` models; 0 for any number."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self._lock = brief()
        self._asked: Counter[str] = Counter()  # requests sent to the router
        self._silent: Counter[str] = Counter()  # those of them that nothing has come of yet
        self._since: dict[str, float] = {}  # when a model began to owe an answer

    def take(self, model: str, present: Collection[str], now: float, turn: float = 0.0) -> bool:
        """Whether a request may be sent to a model now; `present` are those that take room, `turn`
        how long a turn is. Once it may, it is under way until `leave`."""
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
        # One that was loaded when it was asked may have been evicted before it heard of it.
        if not any(now - since >= turn for m, since in self._since.items() if m not in present):
            return False
        return model == min(present, key=lambda one: (self._asked[one], one))

    def answered(self, model: str, now: float) -> None:
        """A request begins to be answered."""
        with self._lock:
            self._heard(model)
            if model in self._since:
                self._since[model] = now

    def leave(self, model: str, answered: bool) -> None:
        """A request is over."""
        with self._lock:
            self._asked[model] -= 1
            if not answered:
                self._heard(model)

    def _heard(self, model: str) -> None:
        self._silent[model] -= 1
        if self._silent[model] <= 0:
            self._since.pop(model, None)

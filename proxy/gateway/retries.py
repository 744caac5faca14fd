"""Where a request may go after a fault of a backend. A generation has no side effects, so what the
client has seen nothing of can be asked for again.

    BackendBusy                back into the queue, until the queue timeout
    BackendDown                the backend is marked down: wait for any that is up
    ConnectionLost, AnswerCut  the backend may have died: the same, but not often, because the
                               request itself may be what kills it
    anything else              another backend
"""

from __future__ import annotations

from collections import Counter

import msgspec

from ..errors import AnswerCut, BackendBusy, BackendDown, ConnectionLost, GatewayError
from ..scheduling.state import Want

MOST_LOST = 3  # attempts of one request that may end with a lost connection, over all backends
MOST_DOWN = 3  # attempts that may find one backend down, though a look had found it well


class Retries:
    """The faults that one request has met so far."""

    def __init__(self) -> None:
        self._lost = 0
        self._down: Counter[str] = Counter()

    def after(self, want: Want, name: str, error: GatewayError, now: float) -> Want:
        """The request as it may be placed after this fault of backend `name`. `now` is the
        scheduler's time. Raises the fault when it has met too many."""
        if isinstance(error, BackendBusy):
            return want
        if isinstance(error, ConnectionLost | AnswerCut):
            self._lost += 1
            if self._lost == MOST_LOST:
                raise error
            # It had its turn: the wait begins anew.
            return msgspec.structs.replace(want, since=now)
        if isinstance(error, BackendDown):
            self._down[name] += 1
            if self._down[name] < MOST_DOWN:
                return want
        return msgspec.structs.replace(want, exclude=want.exclude | {name})

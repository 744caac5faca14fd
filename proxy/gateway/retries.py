"""Decides where a request may be placed after a backend's fault.

A generation has no side effects, so it may be repeated while the client has seen nothing of it.

    BackendBusy                back into the queue, until the queue timeout
    BackendDown                the backend is marked down: wait for any that is up
    ConnectionLost, AnswerCut  the backend may have died: the same, but only a few times, because
                               the request itself may be the cause
    anything else              another backend
"""

from __future__ import annotations

import msgspec

from ..errors import AnswerCut, BackendBusy, BackendDown, ConnectionLost, GatewayError
from ..scheduling.state import SlotRequest

MOST_LOST = 3  # attempts of one request that may end with a lost connection, over all backends
MOST_DOWN = 3  # attempts that may find one backend down although a health check found it up


class Retries:
    """Counts the faults of one request."""

    def __init__(self) -> None:
        self._lost = 0
        self._down: dict[str, int] = {}

    def after(self, want: SlotRequest, name: str, error: GatewayError, now: float) -> SlotRequest:
        """The request to place again after this fault of backend `name`. `now` is the scheduler's
        time. Raises the fault after too many of them."""
        if isinstance(error, BackendBusy):
            return want
        if isinstance(error, ConnectionLost | AnswerCut):
            self._lost += 1
            if self._lost == MOST_LOST:
                raise error
            # It had its turn, so its wait begins again.
            return msgspec.structs.replace(want, since=now)
        if isinstance(error, BackendDown):
            self._down[name] = self._down.get(name, 0) + 1
            if self._down[name] < MOST_DOWN:
                return want
        return without(want, name)


def without(want: SlotRequest, name: str) -> SlotRequest:
    """The request, not to be placed on this backend."""
    return msgspec.structs.replace(want, exclude=want.exclude | {name})

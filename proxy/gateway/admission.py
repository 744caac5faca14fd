"""How a request gets its slot: what it asks the scheduler for, its wait, and where it is placed
again after a fault. The same for chats, embeddings, rankings and forwarded requests.

A request that uses idle slots only has no place in the queue, so it looks for an idle slot again
and again, less and less often. It takes from the limits of its caller only when it has one.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from ..backends.pools import Backend
from ..backends.registry import Registry
from ..errors import (
    AnswerCut,
    BackendBusy,
    BackendDown,
    ConnectionLost,
    GatewayError,
    NoBackend,
    NoIdleSlot,
)
from ..runtime.cancel import Cancel
from ..runtime.locks import native_lock
from ..scheduling.lease import Lease
from ..scheduling.schedulers import Scheduler
from ..scheduling.state import SlotRequest

# Decides where a request may be placed after a backend's fault.
#
# A generation has no side effects, so it may be repeated while the client has seen nothing of it.
#
#     BackendBusy                back into the queue, until the queue timeout
#     BackendDown                the backend is marked down: wait for any that is up
#     ConnectionLost, AnswerCut  the backend may have died: the same, but only a few times, because
#                                the request itself may be the cause
#     anything else              another backend
#
# Every retry but those after "busy" and "down", which cost a backend nothing, counts against a
# budget that all requests share. A fault that every request meets would otherwise multiply the
# load.
SHARE = 0.2  # retries for each request
RESERVE = 100  # retries beyond that share, and beyond one for each request under way
RECOVERY = 1.0  # retries a second by which the reserve fills again
JITTER = 0.05  # seconds before a retry, at most; doubled for each further one
MOST_LOST = 3  # attempts of one request that may end with a lost connection, over all backends
MOST_DOWN = 3  # attempts that may find one backend down although a health check found it up


class RetryBudget(Struct):
    """Counts the retries of all requests. A backend that dies may fail each of its requests once,
    so as many retries as there are requests under way are always within the budget. `spent` falls
    by SHARE with each request: a lost update of another thread would change little."""

    spent: float = 0.0
    at: float = 0.0  # when it was looked at last
    lock: Any = field(default_factory=native_lock)

    def spend(self, under_way: int, now: float) -> bool:
        """Take a retry, with so many requests under way. Returns whether there was one left."""
        with self.lock:
            since, self.at = now - self.at, now
            self.spent = max(0.0, self.spent - RECOVERY * max(0.0, since))
            if self.spent >= RESERVE + under_way:
                return False
            self.spent += 1
            return True


class Retries(Struct):
    """Counts the faults of one request."""

    count: int = 0  # but those after "busy"
    lost: int = 0
    down: dict[str, int] = {}

    def after(
        self, request: SlotRequest, name: str, error: GatewayError, now: float
    ) -> SlotRequest:
        """The request to place again after this fault of backend `name`. `now` is the scheduler's
        time. Raises the fault after too many of them."""
        if isinstance(error, BackendBusy):
            return request
        self.count += 1
        if isinstance(error, ConnectionLost | AnswerCut):
            self.lost += 1
            if self.lost == MOST_LOST:
                raise error
            # It had its turn, so its wait begins again.
            return replace(request, since=now)
        if isinstance(error, BackendDown):
            self.down[name] = self.down.get(name, 0) + 1
            if self.down[name] < MOST_DOWN:
                return request
        return without(request, name)


def retry_pause(count: int) -> float:
    """Seconds to wait before a request is tried again for the `count`-th time, so that requests
    that failed together do not come back together."""
    return random.uniform(0, JITTER * 2 ** min(count - 1, MOST_LOST))


def without(request: SlotRequest, name: str) -> SlotRequest:
    return replace(request, exclude=request.exclude | {name})


PATIENCE = 30.0  # seconds that a request looks for its first slot
FIRST_LOOK, LAST_LOOK = 0.05, 2.0  # seconds between two looks

OnSlot = Callable[[], object]
"""Called with each slot of a request. If it raises, the slot is released."""


def nothing() -> None:
    """Does nothing."""


def idle_slots(registry: Registry, scheduler: Scheduler, name: str) -> int | None:
    """The number for the model that this name means, with those under way; None if that is known
    only by asking: there is no such model, or it must be loaded first."""
    try:
        model, _ = registry.resolve(name)
    except GatewayError:
        return None
    return None if registry.unknown(model) else scheduler.idle_slots(model)


def lease_backend(
    registry: Registry,
    scheduler: Scheduler,
    request: SlotRequest,
    cancel: Cancel,
    *,
    is_retry: bool = False,
    begun: bool = False,
) -> tuple[Lease, Backend]:
    """Wait for a slot and borrow its backend; `begun` is for idle ones. Raises the errors of the
    queue."""
    while True:
        if request.idle:
            patience = math.inf if begun else None
            lease = acquire_idle(scheduler, request, cancel, patience)
        else:
            try:
                lease = scheduler.acquire(request, cancel, is_retry=is_retry)
            except NoBackend:
                raise registry.none_up(request.model) from None
        backend = registry.borrow(lease.backend)
        if backend is not None:
            return lease, backend
        lease.release()  # the backend was removed after the grant
        request = without(request, lease.backend)


def acquire_idle(
    scheduler: Scheduler, request: SlotRequest, cancel: Cancel, patience: float | None
) -> Lease:
    """Wait for an idle slot, for at most `patience` seconds (None: PATIENCE), which have no limit
    if parts of the answer are done already. Raises NoIdleSlot, NoBackend, Cancelled."""
    began, pause = time.monotonic(), FIRST_LOOK
    end = began + (PATIENCE if patience is None else patience)
    request = replace(request, since=0.0)  # it is never too late
    while True:
        try:
            lease = scheduler.acquire(request, cancel)
            lease.waited = time.monotonic() - began
            return lease
        except NoIdleSlot:
            left = end - time.monotonic()
            if left <= 0:
                raise
            cancel.wait(min(pause, left))
            cancel.check()
            pause = min(2 * pause, LAST_LOOK)

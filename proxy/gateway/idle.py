"""Requests that use idle slots only: how many a model may have, and their wait for a slot.

Such a request has no place in the queue, so it looks for an idle slot again and again, less and
less often. It takes from the limits of its caller only when it has one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec

from ..backends.registry import Registry
from ..errors import GatewayError, NoIdleSlot
from ..runtime.cancel import Cancel
from ..scheduling.base import Scheduler
from ..scheduling.lease import Lease
from ..scheduling.state import SlotRequest

PATIENCE = 30.0  # seconds that a request looks for its first slot
FIRST_LOOK, LAST_LOOK = 0.05, 2.0  # seconds between two looks

OnSlot = Callable[[], object]
"""Called with each slot that a request gets. Its error gives the slot back."""


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


def acquire_idle(
    scheduler: Scheduler,
    want: SlotRequest,
    cancel: Cancel,
    *,
    begun: bool = False,
    on_slot: OnSlot = nothing,
) -> Lease:
    """Wait for an idle slot: for at most PATIENCE seconds, or without a limit if parts of the
    answer are done already (`begun`). Raises NoIdleSlot, NoBackend, Cancelled, and the errors of
    `on_slot`."""
    began, pause = time.monotonic(), FIRST_LOOK
    end = math.inf if begun else began + PATIENCE
    want = msgspec.structs.replace(want, since=0.0)  # it is never too late
    while True:
        try:
            lease = scheduler.acquire(want, cancel)
            break
        except NoIdleSlot:
            left = end - time.monotonic()
            if left <= 0:
                raise
            cancel.wait(min(pause, left))
            cancel.check()
            pause = min(2 * pause, LAST_LOOK)
    try:
        on_slot()
    except BaseException:
        lease.release()
        raise
    lease.waited = time.monotonic() - began
    return lease

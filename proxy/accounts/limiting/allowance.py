"""The allowance of a request: admits what it takes from the limits of its key, or makes it wait."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import lru_cache
from typing import NamedTuple

from ...errors import LimitsUnavailable, QueueTimeout
from ...runtime.cancel import Cancel
from ..limits import Limited, Quantity
from .limiter import Limiter, Refused, Taken
from .meters import TICKS, Charge, Gauge, until_empty
from .plan import Plan, Size, Used, refusal

LOOK = 0.25  # seconds between two looks at what other requests have given back
NEXT = 0.02  # seconds between two looks of a request whose turn is near
plan_of = lru_cache(maxsize=4096)(Plan)


class State(NamedTuple):
    """What is left of a window: the limit, the rest of it, and seconds until all of it is back."""

    quantity: Quantity
    limit: int
    remaining: int
    reset: float


class LimitService:
    """Makes the allowances of requests. `cached_weight` is what a cached prompt token counts, from
    0 to 1. `fails_open`: requests pass if the limits cannot be checked. `patience`: seconds that
    a request waits for a window at most."""

    def __init__(
        self,
        limiter: Limiter,
        *,
        cached_weight: float = 1.0,
        fails_open: bool = False,
        patience: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limiter = limiter
        self.cached_weight = cached_weight
        self.fails_open = fails_open
        self.patience = patience
        self.clock = clock
        self.lines: dict[str, deque[object]] = {}  # of waiting requests, by key

    def allowance(self, limited: tuple[Limited, ...], key: str) -> Allowance:
        return Allowance(self, plan_of(limited), key)

    def take(self, charges: Sequence[Charge], gauges: Sequence[Gauge]) -> Taken | Refused | None:
        """None if the limits cannot be checked, and requests pass then. Raises
        LimitsUnavailable."""
        try:
            return self.limiter.take(charges, gauges)
        except LimitsUnavailable:
            if self.fails_open:
                return None
            raise

    def close(self) -> None:
        self.limiter.close()


class Allowance:
    """What one request of a client may take, in one or several rounds. `states` are those of its
    windows, for headers."""

    def __init__(self, service: LimitService, plan: Plan, key: str) -> None:
        self.plan = plan
        self.states: Sequence[State] = ()
        self._service = service
        self._key = key
        self._counted = False

    def admit(self, size: Size, cancel: Cancel) -> Generator[None, None, Admission]:
        """Take what a request, or a round of it, may need; yields while it waits for that. Raises
        LimitReached, BadRequest, LimitsUnavailable, QueueTimeout and Cancelled."""
        plan, service = self.plan, self._service
        plan.check_prompt(size.prompt)
        charges = plan.charges(size, counts=not self._counted)
        found = service.take(charges, plan.gauges)
        if isinstance(found, Refused):
            self._note(charges, found)
            if found.by.subject not in plan.waiting or _never(found):
                raise refusal(found.by, found.wait)
            found = yield from self._wait(charges, cancel)
        if found is not None:
            self._note(charges, found)
        self._counted = True
        return Admission(service, plan, found)

    def queue_place(self) -> Admission:
        """Take a place in the queue. Raises LimitReached, LimitsUnavailable."""
        found = self._service.take((), self.plan.queue) if self.plan.queue else None
        if isinstance(found, Refused):
            raise refusal(found.by, None)
        return Admission(self._service, self.plan, found)

    def _wait(
        self, charges: Sequence[Charge], cancel: Cancel
    ) -> Generator[None, None, Taken | None]:
        """Wait until the limits allow the request. Requests of a key keep their order."""
        service, me = self._service, object()
        line = service.lines.setdefault(self._key, deque())
        end = service.clock() + service.patience
        line.append(me)
        place = self.queue_place()
        try:
            while True:
                pause = NEXT
                if line[0] is me:
                    found = service.take(charges, self.plan.gauges)
                    if not isinstance(found, Refused):
                        return found
                    if found.by.subject not in self.plan.waiting or _never(found):
                        raise refusal(found.by, found.wait)
                    pause = found.wait or NEXT
                left = end - service.clock()
                if left <= 0:
                    raise QueueTimeout(
                        "timed out waiting for the limits of this API key", retry_after=LOOK
                    )
                cancel.wait(min(pause, LOOK, left))
                cancel.check()
                yield
        finally:
            place.close()
            line.remove(me)
            if not line:
                service.lines.pop(self._key, None)

    def _note(self, charges: Sequence[Charge], found: Taken | Refused) -> None:
        """Note what is left of each quantity: the window with the least of it counts."""
        least: dict[Quantity, State] = {}
        for place, (charge, used) in enumerate(zip(charges, found.levels, strict=True)):
            meter, quantity = charge.meter, self.plan.quantity(place)
            left = max(0, meter.capacity - used) // TICKS
            if quantity not in least or left < least[quantity].remaining:
                reset = until_empty(meter, used, found.at)
                least[quantity] = State(quantity, meter.capacity // TICKS, left, reset)
        self.states = tuple(least.values())


class Admission:
    """What was taken for a request. Settled once, by `settle` or `close`."""

    def __init__(self, service: LimitService, plan: Plan, taken: Taken | None) -> None:
        self._service = service
        self._plan = plan
        self._taken = taken

    def settle(self, prompt: int, cached: int, completion: int) -> None:
        """Give back what was not used of what was taken."""
        taken, self._taken = self._taken, None
        if taken is not None:
            weighed = prompt - (1.0 - self._service.cached_weight) * cached
            used = Used(weighed, completion)
            units = self._plan.used(taken.charges, taken.amounts, used) if taken.charges else ()
            self._service.limiter.settle(taken, units)

    def close(self) -> None:
        """Give everything back that is not settled."""
        self.settle(0, 0, 0)


def _never(found: Refused) -> bool:
    return isinstance(found.by, Charge) and found.wait is None

"""Which models may be loaded at once, and which gives way to which.

Models that do not fit wait in a line, the oldest first. For the first of them, idle models give
way, those worth least (see `budget`); never a busy one, and never a pinned one. So requests for a
loaded model are answered before another takes its room. That would let the first in line wait
forever under steady traffic: after `swap_wait` seconds, busy models give way too. They take no new
requests then, and end after their last answer; the requests held back load them again, at the end
of the line.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from ..errors import BadRequest
from .budget import Limits, Resident, shortage, victims

SETTLE = 0.2  # seconds without a use after which a model counts as idle
UNUSED = 2.0  # the same for one that was just loaded, whose first request is on its way
LOOK = 0.25  # seconds between two looks at the line
GIB = 1 << 30


class Tenant(Protocol):
    """A model, as far as its room is concerned. Called under the lock of the room."""

    @property
    def name(self) -> str: ...

    @property
    def need(self) -> int:
        """The bytes of memory that it needs when loaded."""

    @property
    def pinned(self) -> bool: ...

    @property
    def wanted(self) -> bool:
        """Whether requests wait for its load."""

    @property
    def leaving(self) -> bool:
        """Whether it ends as soon as no request uses it."""

    def idle(self, now: float) -> float:
        """The seconds since its last use; below 0 while it is in use or not loaded yet."""

    def fresh(self) -> bool:
        """Whether it has completed no request since it was loaded."""

    def worth(self, now: float) -> float:
        """The expected seconds that its end costs."""

    def stop(self) -> None: ...


class Room:
    """`changed` is the lock of the room and of all its tenants; waiting on it is woken by any
    change."""

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
        swap_wait: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.changed = threading.Condition()
        self.limits = limits
        self._swap_wait = swap_wait
        self._clock = clock
        self._line: list[Tenant] = []
        self._loaded: list[Tenant] = []

    def enter(self, tenant: Tenant) -> bool:
        """Wait until there is room for a model, which then has it until `leave`. Returns False if
        no request waits for it any more. Raises BadRequest if it can never fit."""
        with self.changed:
            self._line.append(tenant)
            began = self._clock()
            try:
                while tenant.wanted:
                    if self._line[0] is tenant and self._has_room(tenant, began):
                        self._loaded.append(tenant)
                        return True
                    self.changed.wait(LOOK)
                return False
            finally:
                self._line.remove(tenant)
                self.changed.notify_all()

    def leave(self, tenant: Tenant) -> None:
        with self.changed:
            if tenant in self._loaded:
                self._loaded.remove(tenant)
            self.changed.notify_all()

    def _has_room(self, tenant: Tenant, began: float) -> bool:
        """Whether there is room now. If not, others are asked to give way."""
        now = self._clock()
        self._check(tenant)
        memory, places = shortage(self.limits, tenant.need, self._residents(self._loaded, now))
        if memory <= 0 and places <= 0:
            return True
        going = [one for one in self._loaded if one.leaving]
        memory -= sum(one.need for one in going)
        places -= len(going)
        if memory > 0 or places > 0:
            patient = now - began < self._swap_wait
            names = victims(self._candidates(now, patient), memory, places)
            for one in self._loaded:
                if names is not None and one.name in names:
                    one.stop()
        return False

    def _candidates(self, now: float, patient: bool) -> Sequence[Resident]:
        """The models that may give way; with `patient`, only idle ones."""
        found = [one for one in self._loaded if not (one.pinned or one.leaving)]
        if patient:
            found = [one for one in found if one.idle(now) >= (UNUSED if one.fresh() else SETTLE)]
        return self._residents(found, now)

    def _residents(self, tenants: Sequence[Tenant], now: float) -> Sequence[Resident]:
        return [Resident(one.name, one.need, one.worth(now)) for one in tenants]

    def _check(self, tenant: Tenant) -> None:
        limit = self.limits.memory
        pinned = sum(one.need for one in self._loaded if one.pinned and one is not tenant)
        if limit and tenant.need + pinned > limit:
            rest = f", of which pinned models take {pinned / GIB:.1f}" if pinned else ""
            raise BadRequest(
                f"the model {tenant.name} does not fit: it needs about {tenant.need / GIB:.1f} GiB,"
                f" and models may take {limit / GIB:.1f} GiB{rest} (--memory)",
                param="model",
                code="model_too_large",
            )

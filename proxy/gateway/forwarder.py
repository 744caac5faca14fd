"""Forwards requests that the gateway does not translate, through the same queue as completions."""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from ..backends.pools import Backend
from ..backends.registry import Registry
from ..core.task import CallMaker, Forwarded
from ..errors import UpstreamFault
from ..runtime.cancel import Cancel
from ..scheduling.lease import Lease, Outcome
from ..scheduling.schedulers import Scheduler
from .admission import OnSlot, lease_backend, nothing
from .context import Caller, Info
from .leased_slot import UNUSED

WHOLE, CUT = Outcome(end="whole", erased=True), Outcome(end="cut", erased=True)
FAILED = Outcome(end="failed")


class Forwarder(Struct):
    """Runs on the backends of `registry`, whose places are leased from `scheduler`."""

    registry: Registry
    scheduler: Scheduler
    clock: Callable[[], float] = time.monotonic

    def forward(
        self,
        model: str,
        make: CallMaker,
        cancel: Cancel,
        caller: Caller,
        *,
        info: Info,
        counts: bool = True,
        on_slot: OnSlot = nothing,
        on_release: Callable[[float], None] | None = None,
    ) -> Forwarded:
        """Forward a call to a backend of this pool, and wait for the head of its answer, which must
        be closed. One that `counts` waits for one of the places of the backend; `on_slot` is called
        when it has it, `on_release` when it gives it back, with the seconds that it had it. `info`
        gets where it went, and what that took.

        A call is sent once: it may have effects. Raises NoBackend, the queue's errors, and those of
        the driver."""
        registry = self.registry
        lease: Lease | None = None
        if counts:
            request = caller.slot_request(model, since=time.monotonic())
            lease, backend = lease_backend(registry, self.scheduler, request, cancel)
        else:
            backend = self._first(model, caller)
        began = self.clock()

        def release(outcome: Outcome) -> None:
            if lease is not None:
                if on_release is not None:
                    on_release(self.clock() - began)
                lease.release(outcome)
            registry.give_back(backend)

        info.backend, info.tier = backend.name, backend.tier.name
        outcome = UNUSED
        try:
            if lease is not None:
                info.queue_wait, info.first_place = lease.waited, lease.place
                info.passed = lease.grant.passed
                on_slot()
            outcome = CUT
            try:
                answer = backend.driver.forward(make, cancel)
            finally:
                info.forwarding = self.clock() - began
        except BaseException as error:
            if isinstance(error, UpstreamFault):
                outcome = FAILED
                registry.failed(backend, error)
            release(outcome)
            raise
        answer.closing.append(lambda whole: release(WHOLE if whole else CUT))
        return answer

    def _first(self, model: str, caller: Caller) -> Backend:
        for backend in self.registry.pool(model, caller.may.barred_tiers):
            if backend.up and (borrowed := self.registry.borrow(backend.name)) is not None:
                return borrowed
        raise self.registry.none_up(model)

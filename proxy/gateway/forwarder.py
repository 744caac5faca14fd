"""Forwards requests that the gateway does not translate, through the same queue as completions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec

from ..backends.pools import Backend
from ..backends.registry import Registry
from ..core.task import CallMaker, Forwarded
from ..errors import NoBackend, UpstreamFault
from ..runtime.cancel import Cancel
from ..scheduling.lease import Lease, Outcome
from ..scheduling.schedulers import Scheduler
from ..scheduling.state import SlotRequest
from .context import Caller
from .idle import OnSlot, acquire_idle, nothing, without

OnRelease = Callable[[float], None]
Release = Callable[[Outcome], None]


def ignore(seconds: float) -> None:
    """For requests that count no seconds."""


def _nothing_leased(outcome: Outcome) -> None:
    """The release of a request that has no place."""


WHOLE, CUT, FAILED, UNUSED = (
    Outcome(end="whole", erased=True),
    Outcome(end="cut", erased=True),
    Outcome(end="failed"),
    Outcome(),
)


class Forwarder:
    """Runs on the backends of `registry`, whose places are leased from `scheduler`."""

    def __init__(
        self,
        registry: Registry,
        scheduler: Scheduler,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._scheduler = scheduler
        self._clock = clock

    def forward(
        self,
        model: str,
        make: CallMaker,
        cancel: Cancel,
        caller: Caller,
        *,
        counts: bool = True,
        on_slot: OnSlot = nothing,
        on_release: OnRelease = ignore,
    ) -> Forwarded:
        """Forward a call to a backend of this pool, and wait for the head of its answer, which must
        be closed. One that `counts` waits for one of the places of the backend; `on_slot` is called
        when a caller that uses idle ones only has it, `on_release` when it gives it back, with the
        seconds that it had it.

        A call is sent once: it may have effects. Raises NoBackend, the queue's errors, and those of
        the driver."""
        if not counts:
            name = self._first(model, caller)
            return self._send(name, self._borrowed(name), _nothing_leased, make, cancel, caller)
        want = SlotRequest(
            model=model,
            key=caller.key,
            group=caller.group,
            share=caller.share,
            barred=caller.may.barred_tiers,
            background=True,
            idle=caller.idle,
        )
        want = msgspec.structs.replace(want, since=time.monotonic())
        while True:
            if caller.idle:
                lease = acquire_idle(self._scheduler, want, cancel, on_slot=on_slot)
            else:
                lease = self._scheduler.acquire(want, cancel)
            backend = self._registry.borrow(lease.backend)
            if backend is not None:
                release = self._counted(lease, on_release)
                return self._send(lease.backend, backend, release, make, cancel, caller)
            lease.release(UNUSED)  # it was removed after the grant
            want = without(want, lease.backend)

    def _counted(self, lease: Lease, on_release: OnRelease) -> Release:
        """The release of a lease, which counts its seconds from now."""
        began = self._clock()

        def release(outcome: Outcome) -> None:
            on_release(self._clock() - began)
            lease.release(outcome)

        return release

    def _first(self, model: str, caller: Caller) -> str:
        for backend in self._registry.pool(model, caller.may.barred_tiers):
            if backend.up:
                return backend.name
        raise NoBackend()

    def _borrowed(self, name: str) -> Backend:
        backend = self._registry.borrow(name)
        if backend is None:
            raise NoBackend()
        return backend

    def _send(
        self,
        name: str,
        backend: Backend,
        release: Release,
        make: CallMaker,
        cancel: Cancel,
        caller: Caller,
    ) -> LeasedAnswer:
        outcome = CUT
        try:
            answer = backend.driver.forward(make, cancel, caller.key)
            return LeasedAnswer(self._registry, backend, release, answer)
        except BaseException as error:
            if isinstance(error, UpstreamFault):
                outcome = FAILED
                if not backend.leaving:
                    self._registry.failed(name, error)
            release(outcome)
            self._registry.give_back(backend)
            raise


class LeasedAnswer:
    """A forwarded answer that has its place at the backend until it is closed."""

    def __init__(
        self, registry: Registry, backend: Backend, release: Release, answer: Forwarded
    ) -> None:
        self._registry = registry
        self._backend = backend
        self._release = release
        self._answer = answer
        self._outcome = CUT
        self._over = False
        self.status, self.headers = answer.status, answer.headers

    def __iter__(self) -> Iterator[bytes]:
        yield from self._answer
        self._outcome = WHOLE

    def close(self) -> None:
        if self._over:
            return
        self._over = True
        try:
            self._answer.close()
        finally:
            self._release(self._outcome)
            self._registry.give_back(self._backend)

"""Embeddings and rankings: the backends' other gift, through the same admission.

Today's servers get the inputs in calls of many, side by side, a lease for each. A 2023 server gives
the vector of whatever it evaluated last in a batch: with anything else under way, be it another
embedding or a completion, that is another text's. So it is asked one text at a time, and holding
the leases of all its slots.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from ..backends.driver import Capabilities
from ..backends.registry import Backend, Registry
from ..backends.vectors import Embeds, Input, at_once
from ..cancel import Cancel
from ..core.task import Task
from ..core.vectors import Embedded, Ranked
from ..errors import (
    BackendBusy,
    Cancelled,
    GatewayError,
    NoBackend,
    Unsupported,
    UpstreamFault,
)
from ..scheduling.admission import Admission
from ..scheduling.lease import Lease, Outcome
from ..scheduling.state import Want
from .retries import Retries

T = TypeVar("T")

MOST = 8  # calls of one request that are under way together
TRIES = 20  # at a server that says "busy" though all its slots are ours
LOOK = 0.5  # seconds between two looks at what may have changed meanwhile
WHOLE = Outcome("whole", erased=True)
CUT = Outcome("cut", erased=True)


class Embedder:
    """Of the backends of `registry`, whose slots `scheduler` hands out."""

    def __init__(self, registry: Registry, scheduler: Admission) -> None:
        self.registry = registry
        self._scheduler = scheduler
        self._alone = {name: threading.Lock() for name in registry.backends}

    def embed(self, name: str, inputs: Sequence[Input], cancel: Cancel) -> tuple[str, Embedded]:
        """(model's name, vectors). Raises ModelNotFound, NoBackend, Unsupported, BadRequest, and
        what the queue does."""
        model, name = self.registry.resolve(name)
        backend, caps = self._first(model)
        for ids in inputs:
            if not isinstance(ids, str):
                backend.vocabulary.check_harmless(ids, caps, "input")
        if not caps.queues:
            return name, self._embed_alone(model, backend, caps, inputs, cancel)
        size = at_once(caps)
        parts = [inputs[i : i + size] for i in range(0, len(inputs), size)]
        found: dict[int, Embedded] = {}

        def one(i: int, inner: Cancel) -> None:
            def call(driver: Embeds, caps: Capabilities) -> Embedded:
                return driver.embed(parts[i], caps, inner)

            found[i] = self._leased(model, parts[i][0], call, inner)

        _side_by_side(one, len(parts), cancel)
        whole = [found[i] for i in range(len(parts))]
        vectors = tuple(vector for part in whole for vector in part.vectors)
        return name, Embedded(vectors, sum(part.tokens for part in whole))

    def rerank(
        self, name: str, query: str, documents: Sequence[str], cancel: Cancel
    ) -> tuple[str, Ranked]:
        """(model's name, scores). Raises as `embed` does."""
        model, name = self.registry.resolve(name)
        self._first(model)

        def call(driver: Embeds, caps: Capabilities) -> Ranked:
            return driver.rerank(query, documents, caps, cancel)

        return name, self._leased(model, query, call, cancel)

    def _first(self, model: str) -> tuple[Backend, Capabilities]:
        """A backend that tells how to ask. It may be down, then the queue waits for it; not so an
        old server, whose tokens are counted first."""
        backend = self.registry.pool(model)[0]
        if backend.caps is None or not (backend.up or backend.caps.queues):
            raise NoBackend("no backend of this model is up", retry_after=1.0)
        return backend, backend.caps

    def _embed_alone(
        self,
        model: str,
        backend: Backend,
        caps: Capabilities,
        inputs: Sequence[Input],
        cancel: Cancel,
    ) -> Embedded:
        driver = _embeds(backend)
        texts = [
            one if isinstance(one, str) else backend.driver.detokenize(list(one)) for one in inputs
        ]
        # It would cut a longer text silently.
        limit = backend.n_ctx + 1 if backend.n_ctx else 0
        counts = [backend.counter.count(text, cancel, limit) for text in texts]
        for left in range(TRIES, 0, -1):
            try:
                with self._all_slots(model, backend, cancel):
                    found = [driver.embed((text,), caps, cancel) for text in texts]
                return Embedded(tuple(one.vectors[0] for one in found), sum(counts))
            except BackendBusy:
                if left == 1:
                    raise
        raise AssertionError("the last try raises")

    @contextlib.contextmanager
    def _all_slots(self, model: str, backend: Backend, cancel: Cancel) -> Iterator[None]:
        """The leases of all slots of a backend: nothing else runs there. Only one at a time
        gathers them, so no two wait for each other."""
        want = Want(
            model,
            Task(prompt=""),
            exclude=frozenset(self.registry.backends) - {backend.name},
            aside=True,
        )
        leases: list[Lease] = []
        outcome = CUT
        lock = self._alone[backend.name]
        while not lock.acquire(timeout=LOOK):
            if cancel.cancelled:
                raise Cancelled("the client closed the request")
        try:
            while len(leases) < self._scheduler.slots(backend.name):
                lease = self._next(want, backend, bool(leases), cancel)
                if lease is None:
                    break
                leases.append(lease)
                lease.flows(-1)  # it evaluates nothing that the next ones must wait for
            yield
            outcome = WHOLE
        except UpstreamFault as error:
            outcome = Outcome("busy" if isinstance(error, BackendBusy) else "failed")
            raise
        finally:
            for lease in leases:
                lease.release(outcome)
                outcome = CUT if outcome.end in ("busy", "failed") else outcome  # told once
            lock.release()

    def _next(self, want: Want, backend: Backend, holding: bool, cancel: Cancel) -> Lease | None:
        """One more slot; None when a backend on trial gives no second one to anybody."""
        found = self._scheduler.enter(want)
        if isinstance(found, Lease):
            return found
        while True:
            lease = found.wait(cancel, LOOK)
            if lease is not None:
                return lease
            known = self._scheduler.view("", "").backends
            if holding and any(one.backend == backend.name and one.on_trial for one in known):
                found.leave()
                return None

    def _leased(
        self, model: str, prompt: Input, call: Callable[[Embeds, Capabilities], T], cancel: Cancel
    ) -> T:
        """What a call on some backend gives; on another where one cannot or is gone."""
        want = Want(model, Task(prompt=prompt), aside=True, since=time.monotonic())
        retries = Retries()
        reason: GatewayError | None = None
        while True:
            try:
                lease = self._scheduler.acquire(want, cancel, again=reason is not None)
            except NoBackend:
                if reason is None or isinstance(reason, BackendBusy):
                    raise
                raise reason from None
            backend = self.registry.backends[lease.backend]
            outcome = CUT
            try:
                assert backend.caps is not None, "a backend is up only after its probe"
                result = call(_embeds(backend), backend.caps)
                outcome = WHOLE
                return result
            except BackendBusy as error:
                reason, outcome = error, Outcome("busy")
            except Unsupported as error:
                reason = error
                want = msgspec.structs.replace(want, exclude=want.exclude | {lease.backend})
            except UpstreamFault as error:
                outcome = Outcome("failed")
                self.registry.failed(lease.backend, error)
                want = retries.after(want, lease.backend, error, time.monotonic())
                reason = error
            finally:
                lease.release(outcome)


def _embeds(backend: Backend) -> Embeds:
    if not isinstance(backend.driver, Embeds):
        raise Unsupported("the backend of this model makes no embeddings")
    return backend.driver


def _side_by_side(work: Callable[[int, Cancel], None], count: int, cancel: Cancel) -> None:
    """work(0) … work(count - 1), several at a time. The first error ends all and is raised."""
    if count == 1:
        work(0, cancel)
        return
    inner = Cancel()
    cancel.add(inner.cancel)
    todo = iter(range(count))
    lock = threading.Lock()
    errors: list[BaseException] = []

    def run() -> None:
        while not errors:
            with lock:
                i = next(todo, None)
            if i is None:
                return
            try:
                work(i, inner)
            except BaseException as error:
                errors.append(error)
                inner.cancel()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(MOST, count))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        cancel.remove(inner.cancel)
    if errors:
        raise errors[0]

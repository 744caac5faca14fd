"""Embeddings and rankings: the backends' other gift, through the same admission.

Today's servers get the inputs in calls of many, side by side, a lease for each. A 2023 server gives
the vector of whatever it evaluated last in a batch: with anything else under way, be it another
embedding or a completion, that is another text's. So it is asked one text at a time, with a lease
of the whole backend (`Want.whole_backend`), which is given back after a few texts so that others
have their turn.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
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
    BadRequest,
    CharacterCut,
    GatewayError,
    NoBackend,
    Unsupported,
    UpstreamFault,
)
from ..scheduling.admission import Admission
from ..scheduling.lease import Outcome
from ..scheduling.state import Want
from .retries import Retries

T = TypeVar("T")

MOST = 8  # calls of one request that are under way together
TEXTS = 16  # that are embedded with one lease of a whole backend
SECONDS = 1.0  # after which such a lease is given back before
WHOLE = Outcome("whole", erased=True)
CUT = Outcome("cut", erased=True)


class Embedder:
    """Of the backends of `registry`, whose slots `scheduler` hands out."""

    def __init__(self, registry: Registry, scheduler: Admission) -> None:
        self.registry = registry
        self._scheduler = scheduler

    def embed(self, name: str, inputs: Sequence[Input], cancel: Cancel) -> tuple[str, Embedded]:
        """(model's name, vectors). Raises ModelNotFound, NoBackend, Unsupported, BadRequest, and
        what the queue does."""
        model, name = self.registry.resolve(name)
        backend, caps = self._first(model)
        for ids in inputs:
            if not isinstance(ids, str):
                backend.vocabulary.check_harmless(ids, caps, "input")
        if not caps.queues:
            return name, self._embed_one_by_one(model, backend, inputs, cancel)
        size = at_once(caps)
        parts = [inputs[i : i + size] for i in range(0, len(inputs), size)]
        exclude = self._others(model, queues=True)
        found: dict[int, Embedded] = {}

        def one(i: int, inner: Cancel) -> None:
            def call(driver: Embeds, caps: Capabilities) -> Embedded:
                return driver.embed(parts[i], caps, inner)

            found[i] = self._leased(
                Want(model, Task(prompt=parts[i][0]), exclude, aside=True), call, inner
            )

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

        return name, self._leased(Want(model, Task(prompt=query), aside=True), call, cancel)

    def _first(self, model: str) -> tuple[Backend, Capabilities]:
        """A backend that tells how to ask. It may be down, then the queue waits for it; not so an
        old server, whose tokens are counted first."""
        for backend in self.registry.pool(model)[:1]:
            if backend.caps is not None and (backend.up or backend.caps.queues):
                return backend, backend.caps
        raise NoBackend("no backend of this model is up", retry_after=1.0)

    def _others(self, model: str, *, queues: bool) -> frozenset[str]:
        """The backends of a model that must be asked in the other way."""
        pool = self.registry.pool(model)
        return frozenset(b.name for b in pool if b.caps and b.caps.queues is not queues)

    def _embed_one_by_one(
        self, model: str, backend: Backend, inputs: Sequence[Input], cancel: Cancel
    ) -> Embedded:
        texts = [_text(backend, one, place) for place, one in enumerate(inputs)]
        if "" in texts:  # an old server answers it as a chat, with numbers of an earlier request
            raise BadRequest(
                f"input[{texts.index('')}] has no text: its tokens stand for no characters",
                param="input",
            )
        exclude = self._others(model, queues=False)
        # It would cut a longer text silently.
        pool = [b for b in self.registry.pool(model) if b.name not in exclude and b.n_ctx]
        limit = min((b.n_ctx + 1 for b in pool), default=0)
        counts = [backend.counter.count(text, cancel, limit) for text in texts]
        found: list[Embedded] = []

        def some(driver: Embeds, caps: Capabilities) -> None:
            end = time.monotonic() + SECONDS
            for text in texts[len(found) : len(found) + TEXTS]:
                found.append(driver.embed((text,), caps, cancel))
                if time.monotonic() >= end:
                    return

        while len(found) < len(texts):
            tokens = sum(counts[len(found) : len(found) + TEXTS])
            task = Task(prompt="", max_tokens=max(1, tokens))  # its cost, for the fair queue
            want = Want(model, task, exclude, aside=True, whole_backend=True)
            self._leased(want, some, cancel)
        return Embedded(tuple(one.vectors[0] for one in found), sum(counts))

    def _leased(self, want: Want, call: Callable[[Embeds, Capabilities], T], cancel: Cancel) -> T:
        """What a call on some backend gives; on another where one cannot or is gone. One deadline
        for all of its waiting in the queue."""
        want = msgspec.structs.replace(want, since=time.monotonic())
        retries = Retries()
        reason: GatewayError | None = None
        while True:
            # A whole backend that is busy with what others ask of it must not be tried before
            # everybody else again and again.
            again = reason is not None and not want.whole_backend
            try:
                lease = self._scheduler.acquire(want, cancel, again=again)
            except NoBackend:
                if reason is None or isinstance(reason, BackendBusy):
                    raise
                raise reason from None
            outcome = Outcome()
            backend = self.registry.borrow(lease.backend)
            try:
                if backend is None or backend.caps is None:
                    # It was let go of after the grant.
                    reason = NoBackend("no backend of this model is up", retry_after=1.0)
                    if backend is None:
                        want = _without(want, lease.backend)
                    continue
                driver = _embeds(backend)
                outcome = CUT
                result = call(driver, backend.caps)
                outcome = WHOLE
                return result
            except BackendBusy as error:
                reason, outcome = error, Outcome("busy")
            except Unsupported as error:
                reason = error
                want = _without(want, lease.backend)
            except UpstreamFault as error:
                outcome = Outcome("failed")
                if backend is not None and not backend.leaving:
                    self.registry.failed(lease.backend, error)
                want = retries.after(want, lease.backend, error, time.monotonic())
                reason = error
            finally:
                lease.release(outcome)
                if backend is not None:
                    self.registry.give_back(backend)


def _text(backend: Backend, given: Input, place: int) -> str:
    if isinstance(given, str):
        return given
    try:
        return backend.driver.detokenize(list(given))
    except CharacterCut as error:
        raise BadRequest(f"input[{place}]: {error.message}", param="input") from None


def _without(want: Want, name: str) -> Want:
    return msgspec.structs.replace(want, exclude=want.exclude | {name})


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

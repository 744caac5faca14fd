"""Embeddings, rankings, and requests that are forwarded as they are, through the same queue as
completions.

Newer servers get many inputs per call and several calls in parallel, each with a lease. A request
of one text, such as a search, goes between the calls of a request of many.

A 2023 server returns the vector of the text it evaluated last in a batch: with anything else under
way, an embedding or a completion, that is another text's. So it gets one text at a time, with a
lease of the whole backend (`SlotRequest.whole_backend`), which is released after a few texts so
that other requests get their turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from ..backends.driver import Capabilities, Driver, Input
from ..backends.pools import Backend
from ..backends.registry import Registry
from ..backends.tokens import check_ids
from ..core.task import CallMaker, Embedded, Forwarded, Ranked
from ..errors import (
    BackendBusy,
    BadRequest,
    Cancelled,
    CharacterCut,
    GatewayError,
    MissingRoute,
    NoBackend,
    Unsupported,
    UpstreamFault,
)
from ..runtime.cancel import Cancel
from ..scheduling.lease import Lease, Outcome
from ..scheduling.schedulers import Scheduler
from ..scheduling.state import SlotRequest
from .admission import OnSlot, Retries, lease_backend, nothing, without
from .context import ANYBODY, Caller, Info
from .leased_slot import UNUSED

T = TypeVar("T")

MOST = 8  # calls of one request that run in parallel, at most
TEXTS = 16  # embedded under one lease of a whole backend, at most
# Requests of many texts without a key, such as documents, in the fair queue: a search goes between.
# No API key has this name.
MANY = "\0texts"
SECONDS = 1.0  # after which such a lease is released, even after fewer texts
WHOLE = Outcome(end="whole", erased=True)
CUT = Outcome(end="cut", erased=True)
FAILED = Outcome(end="failed")


class Embedder(Struct, frozen=True):
    """Runs on the backends of `registry`, whose slots are leased from `scheduler`."""

    registry: Registry
    scheduler: Scheduler

    def embed(
        self,
        name: str,
        inputs: Sequence[Input],
        cancel: Cancel,
        caller: Caller = ANYBODY,
        *,
        info: Info | None = None,
        on_slot: OnSlot = nothing,
    ) -> tuple[str, Embedded]:
        """Embed the inputs for a caller; one that uses idle slots only gets one part after the
        other. `info` gets the backend that was asked last; `on_slot` is called for each part.
        Returns the model's name and the vectors. Raises ModelNotFound, NoBackend, Unsupported,
        BadRequest, the queue's errors, and those of `on_slot`."""
        model, name = self.registry.answering(name)
        self.registry.load_unknown(model, cancel)
        backend, caps = self._first(model, caller.may.barred_tiers)
        for ids in inputs:
            if not isinstance(ids, str):
                check_ids(backend.driver, ids, caps, "input", harmless=True)
        leased = partial(self._leased, info=info or Info(), on_slot=on_slot)
        if not caps.queues:
            vectors = self._embed_one_by_one(model, backend, inputs, cancel, caller, leased)
            return name, vectors
        parts = backend.driver.parts(inputs)
        exclude = self._others(model, queues=True)
        results: dict[int, Embedded] = {}

        def embed_part(i: int, inner: Cancel) -> None:
            def call(driver: Driver, caps: Capabilities, own: Cancel) -> Embedded:
                return driver.embed(parts[i], caps, own)

            ids = not isinstance(parts[i][0], str)
            request = caller.slot_request(model, ids=ids, exclude=exclude)
            if len(inputs) > 1 and not caller.key:
                request = replace(request, key=MANY)
            results[i] = leased(request, call, inner, begun=bool(results))

        # There may never be several idle slots at once.
        _side_by_side(embed_part, len(parts), cancel, 1 if caller.idle else MOST)
        whole = [results[i] for i in range(len(parts))]
        every = tuple(vector for part in whole for vector in part.vectors)
        return name, Embedded(every, sum(part.tokens for part in whole))

    def makes(self, name: str) -> bool:
        return name in self.registry.models()

    def rerank(
        self,
        name: str,
        query: str,
        documents: Sequence[str],
        cancel: Cancel,
        caller: Caller = ANYBODY,
        *,
        info: Info | None = None,
        on_slot: OnSlot = nothing,
    ) -> tuple[str, Ranked]:
        """Rank the documents for a caller. Returns the model's name and the scores. Raises like
        `embed`."""
        model, name = self.registry.answering(name)
        self.registry.load_unknown(model, cancel)
        self._first(model, caller.may.barred_tiers)

        def call(driver: Driver, caps: Capabilities, own: Cancel) -> Ranked:
            return driver.rerank(query, documents, caps, own)

        request = caller.slot_request(model)
        return name, self._leased(request, call, cancel, info=info or Info(), on_slot=on_slot)

    def _first(self, model: str, barred: frozenset[str]) -> tuple[Backend, Capabilities]:
        """A backend that shows which way to ask. It may be down, because the queue waits for it;
        an old server must be up, because its tokens are counted first."""
        for backend in self.registry.pool(model, barred)[:1]:
            if backend.caps is not None and (backend.up or backend.caps.queues):
                return backend, backend.caps
        raise self.registry.none_up(model)

    def _others(self, model: str, *, queues: bool) -> frozenset[str]:
        """The backends of a model that need the other way of asking."""
        pool = self.registry.pool(model)
        return frozenset(b.name for b in pool if b.caps and b.caps.queues is not queues)

    def _embed_one_by_one(
        self,
        model: str,
        backend: Backend,
        inputs: Sequence[Input],
        cancel: Cancel,
        caller: Caller,
        leased: Callable[..., None],
    ) -> Embedded:
        texts = [_text(backend, item, place) for place, item in enumerate(inputs)]
        if "" in texts:  # an old server answers it as a chat, with vectors of an earlier request
            raise BadRequest(
                f"input[{texts.index('')}] contains no text: its tokens decode to no characters",
                param="input",
            )
        exclude = self._others(model, queues=False)
        # An old server silently truncates longer texts.
        permitted = self.registry.pool(model, caller.may.barred_tiers)
        pool = [b for b in permitted if b.name not in exclude and b.n_ctx]
        limit = min((b.n_ctx + 1 for b in pool), default=0)
        counts = [backend.counter.count(text, cancel, limit) for text in texts]
        vectors: list[Embedded] = []

        def batch(driver: Driver, caps: Capabilities, own: Cancel) -> None:
            end = time.monotonic() + SECONDS
            for text in texts[len(vectors) : len(vectors) + TEXTS]:
                vectors.append(driver.embed((text,), caps, own))
                if time.monotonic() >= end:
                    return

        while len(vectors) < len(texts):
            tokens = sum(counts[len(vectors) : len(vectors) + TEXTS])
            request = caller.slot_request(
                model,
                max_tokens=max(1, tokens),  # its cost, for the fair queue
                exclude=exclude,
                whole_backend=True,
            )
            leased(request, batch, cancel, begun=bool(vectors))
        return Embedded(tuple(item.vectors[0] for item in vectors), sum(counts))

    def _leased(
        self,
        request: SlotRequest,
        call: Callable[[Driver, Capabilities, Cancel], T],
        cancel: Cancel,
        *,
        info: Info,
        on_slot: OnSlot,
        begun: bool = False,
    ) -> T:
        """Run a call on a backend, and on another one if that fails. All waiting in the queue has
        one deadline. `on_slot` is called with each slot, `begun` is for idle ones (see
        `acquire_idle`); a call in one of these is cancelled when others need it, and repeated
        later."""
        request = replace(request, since=time.monotonic())
        retries = Retries()
        reason: GatewayError | None = None
        while True:
            # A whole backend that is busy with others' requests must not be retried ahead of
            # everybody else again and again.
            is_retry = reason is not None and not request.whole_backend
            try:
                lease, backend = lease_backend(
                    self.registry, self.scheduler, request, cancel, is_retry=is_retry, begun=begun
                )
            except NoBackend:
                if reason is None or isinstance(reason, BackendBusy):
                    raise
                raise reason from None
            outcome = UNUSED
            try:
                if backend.caps is None:
                    reason = NoBackend()
                    continue
                info.leased(lease, backend)
                on_slot()
                outcome = CUT
                with _until_wanted(lease, cancel) as own:
                    result = call(backend.driver, backend.caps, own)
                outcome = WHOLE
                return result
            except Cancelled:
                if cancel.cancelled or not lease.wanted:
                    raise
                begun = True
            except BackendBusy as error:
                reason, outcome = error, Outcome(end="busy")
            except (Unsupported, MissingRoute) as error:
                reason, outcome = error, UNUSED  # the backend may still be good for chats
                request = without(request, lease.backend)
            except UpstreamFault as error:
                outcome = FAILED
                self.registry.failed(backend, error)
                request = retries.after(request, lease.backend, error, time.monotonic())
                reason = error
            finally:
                lease.release(outcome)
                self.registry.give_back(backend)


@contextmanager
def _until_wanted(lease: Lease, cancel: Cancel) -> Iterator[Cancel]:
    """A cancellation that also comes when others need the slot of an idle request."""
    if not lease.request.idle:
        yield cancel
        return
    own = Cancel()
    cancel.add(own.cancel)
    try:
        lease.on_wanted(own.cancel)
        yield own
    finally:
        cancel.remove(own.cancel)


def _text(backend: Backend, item: Input, place: int) -> str:
    if isinstance(item, str):
        return item
    try:
        return backend.driver.detokenize(list(item))
    except CharacterCut as error:
        raise BadRequest(f"input[{place}]: {error.message}", param="input") from None


def _side_by_side(
    work: Callable[[int, Cancel], None], count: int, cancel: Cancel, most: int
) -> None:
    """Run work(0) … work(count - 1), at most `most` in parallel. The first error cancels the rest
    and is raised."""
    if min(count, most) == 1:
        for i in range(count):
            work(i, cancel)
        return
    inner = Cancel()
    stop = cancel.pass_on(inner)
    with ThreadPoolExecutor(min(count, most)) as threads:
        calls = [threads.submit(work, i, inner) for i in range(count)]
        try:
            for call in as_completed(calls):
                call.result()
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            inner.cancel()
            raise
        finally:
            stop()


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

        outcome = UNUSED
        try:
            if lease is None:
                info.backend, info.tier = backend.name, backend.tier.name
            else:
                info.leased(lease, backend)
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

"""A slot under an answer: the lease, what must be done to the slot first, and where the answer
goes on when its backend dies.

`Seat` stands where a backend would: an answer begins its runs on it, one after the other, and sees
an unbroken stream. When a run breaks off after it began, the prompt and the text so far go to a
backend of the same model that is up, another one or the same when it is back, and the stream goes
on from there, without a gap or a repeat.
That needs a prompt of text and an answer that no grammar binds, since a grammar cannot begin in the
middle.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from ..backends.driver import Capabilities, KeepsSlots, LoadsModel, Run
from ..backends.registry import Backend
from ..backends.tokens import TokenCounter
from ..cancel import Cancel
from ..core.events import Batch, Finished, Started, TextDelta
from ..core.task import Task
from ..core.usage import Usage
from ..errors import (
    BackendBusy,
    BackendFailed,
    Cancelled,
    ContextExceeded,
    GatewayError,
    NoBackend,
    PoolTimeout,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ..scheduling.admission import Admission
from ..scheduling.lease import End, Lease, Outcome
from ..scheduling.state import Grant, Want
from ..scheduling.ticket import Ticket
from .fitting import fit
from .info import Info
from .retries import Retries

if TYPE_CHECKING:
    from .answer import Gateway

PLACE_TICK = 1.0  # seconds between two looks of a waiting client at its place
UNUSED = Outcome()


class Seat:
    """One lease after another for one choice. It is a driver too, as far as an answer needs one.
    `backend` and `caps` belong to the lease that was taken last: before `take` there are none."""

    backend: Backend
    caps: Capabilities

    def __init__(
        self, gateway: Gateway, want: Want, cancel: Cancel, info: Info, tell_place: bool
    ) -> None:
        self._gateway = gateway
        self._tell_place = tell_place
        self._cancel = cancel
        self._info = info
        self._want = want
        self._retries = Retries()
        self._lease: Lease | None = None
        self._run: Run | None = None
        self._end: End = "unused"  # what is told of the slot so far …
        self._outcome = UNUSED  # … with what its last whole run told
        self._asking: object = None  # the prompt of the last run
        self._asked: object = None  # the prompt that the slot evaluated last, on this lease

    # as a backend

    @property
    def counter(self) -> TokenCounter:
        return self.backend.counter

    def detokenize(self, tokens: list[int]) -> str:
        return self.backend.driver.detokenize(tokens)

    def stream(self, task: Task) -> Run:
        return _Course(self, task)

    def loading(self) -> str:
        """What to tell a client that waits for the model to be loaded, "" when it is."""
        driver = self.backend.driver
        return driver.loading() if isinstance(driver, LoadsModel) else ""

    # the lease

    def take(self, again: bool = False) -> Ticket | None:
        """Take a slot and make it ready; or a ticket to `wait` with, if none can be had at once.
        Raises NoBackend, QueueFull, QueueTimeout, Cancelled."""
        scheduler: Admission = self._gateway.scheduler
        while True:
            found = scheduler.enter(self._want, again)
            if not isinstance(found, Lease):
                return found
            if self._sit(found):
                return None
            again = True

    def wait(self, ticket: Ticket, begun: bool = False) -> Iterator[Batch]:
        """The same when its turn has come, with empty batches as signs of life: while its place is
        told, while no backend is up, and once the answer has begun. Raises NoBackend,
        QueueTimeout, Cancelled."""
        info, told = self._info, self._tell_place
        tick = min(PLACE_TICK, self._gateway.ping) if told else self._gateway.ping
        try:
            while (lease := ticket.wait(self._cancel, tick)) is None:
                if told:
                    info.place = ticket.place
                if told or begun or ticket.stranded is not None:
                    yield []
        finally:
            ticket.leave()
        info.place = 0
        info.queue_wait = max(info.queue_wait, lease.waited)
        info.first_place = max(info.first_place, lease.place)
        if not self._sit(lease):
            next_ticket = self.take(again=True)
            if next_ticket is not None:
                yield from self.wait(next_ticket, begun)

    def _sit(self, lease: Lease) -> bool:
        """False where the backend was let go of after the grant: then it is given back."""
        registry, name = self._gateway.registry, lease.backend
        backend = registry.borrow(name)
        if backend is None or backend.caps is None:
            lease.release()
            if backend is None:
                self._want = _without(self._want, name)
            else:
                registry.give_back(backend)
            return False
        self._lease = lease
        grant, info = lease.grant, self._info
        info.backend = name
        info.slot = lease.slot.id
        self.backend = backend
        self.caps = backend.caps
        self._end, self._outcome = "unused", UNUSED
        self._asked = None
        if grant.save or grant.restore is not None:
            self._prepare(lease, backend)
        return True

    def begin(self, task: Task) -> Run:
        """A run on the slot that was taken."""
        lease = self._lease
        assert lease is not None, "nothing was taken"
        grant = lease.grant
        if grant.fresh or (self.caps.doubles and self._whole(task, grant)):
            # What the slot holds is another group's, or would be spoilt: evaluate it all.
            sampling = {**task.sampling, "cache_prompt": False}
            task = msgspec.structs.replace(task, sampling=sampling)
        self._asking = task.prompt
        self._end = "cut"
        self._run = run = self.backend.driver.stream(task, lease.pinned, self.caps, self._cancel)
        return run

    def _whole(self, task: Task, grant: Grant) -> bool:
        """Whether the slot holds all of the prompt already: the same question again. A second run
        of an answer goes on behind what the first one wrote."""
        if self._asked is not None:
            return task.prompt == self._asked
        links, reuse = self._want.chain.links, grant.reuse
        return bool(links) and reuse is not None and links[-1] in reuse.chain.links

    def flows(self, run: Run) -> None:
        """The first token of a run came."""
        self._asked = self._asking
        if self._lease is not None:
            self._lease.flows(run.slot)
            if run.slot >= self.caps.slots > 0 and not self.caps.queues:
                self._gateway.registry.miscounted(self._lease.backend)

    def ended(self, finished: Finished) -> None:
        """A run came to its end."""
        if self._lease is not None:
            self._lease.ends()
        told, usage = self._outcome, finished.usage
        if told.prompt:  # not the first run: what it calls its prompt is longer
            prompt, cached, evaluating = told.prompt, told.cached, told.evaluating
        else:
            prompt, cached = usage.prompt, usage.cached
            evaluating = finished.timings.prompt_ms / 1000
        written = usage.prompt + usage.completion - prompt
        self._end = "whole"
        self._outcome = Outcome("whole", finished.slot, prompt, cached, written, evaluating)

    def failed(self, error: GatewayError) -> None:
        """What went wrong, for whom it concerns. Raises it when this request has met too many
        faults to be placed again."""
        if self._lease is None:
            return  # told when the seat was left, and no other could be had
        name, gateway = self._lease.backend, self._gateway
        if isinstance(error, BackendBusy):
            self._end = "busy"
            if not isinstance(error, PoolTimeout) and not self.backend.leaving:  # our own bound
                gateway.registry.miscounted(name)
            return
        if not isinstance(error, (UpstreamFault, UpstreamTimeout)):
            return
        self._end = "failed"
        if not self.backend.leaving:
            gateway.registry.failed(name, error)
        self._want = self._retries.after(self._want, name, error, gateway.clock())

    def may_go_on(self, task: Task) -> bool:
        """Whether a broken answer can be continued, on another backend or on this one when it is
        back."""
        return (
            self._gateway.continues
            and isinstance(task.prompt, str)
            and task.suffix is None
            and not task.native
            and not any(task.sampling.get(name) for name in ("grammar", "json_schema"))
        )

    def went_on(self) -> None:
        """The answer goes on where we sit now."""
        self._info.continued += 1

    def refused(self) -> None:
        """This backend cannot do it: another one may."""
        assert self._lease is not None, "nothing was taken"
        self._want = _without(self._want, self._lease.backend)
        self._end, self._outcome = "unused", UNUSED

    def leave(self) -> None:
        """Give the slot back. Safe to call again."""
        lease, self._lease = self._lease, None
        run, self._run = self._run, None
        if lease is None:
            return
        outcome, end = self._outcome, self._end
        if end != outcome.end:
            outcome = msgspec.structs.replace(outcome, end=end)
        try:
            if run is not None:
                slot = run.slot
                if end == "cut":
                    usage = run.usage()
                    outcome = msgspec.structs.replace(
                        outcome,
                        prompt=usage.prompt,
                        cached=usage.cached,
                        completion=usage.completion,
                    )
                if slot >= 0:
                    self._info.slot = slot
                    if slot != outcome.slot:
                        outcome = msgspec.structs.replace(outcome, slot=slot)
            if self._gateway.scheduler.leaks(lease, outcome):
                self._erase(lease, outcome)
                outcome = msgspec.structs.replace(outcome, erased=True)
        finally:
            lease.release(outcome)
            self._gateway.registry.give_back(self.backend)

    def _prepare(self, lease: Lease, backend: Backend) -> None:
        """Save what the slot holds, and restore what it is to hold. Whatever fails, the answer
        goes on, from less."""
        if not isinstance(backend.driver, KeepsSlots):
            return
        clock = self._gateway.clock
        for step in lease.steps():
            began = clock()
            try:
                tokens, size = backend.driver.slot_action(step.action, lease.slot.id, step.file)
            except Cancelled:
                raise
            except GatewayError:
                lease.step_failed(step)
            else:
                lease.step_done(step, tokens, size, clock() - began)

    def _erase(self, lease: Lease, outcome: Outcome) -> None:
        driver = self.backend.driver
        number = outcome.slot if outcome.slot >= 0 else lease.slot.id
        if isinstance(driver, KeepsSlots):
            # Where it cannot be erased, the scheduler asks for a fresh evaluation there.
            with contextlib.suppress(GatewayError):
                driver.slot_action("erase", number, "")


def _without(want: Want, name: str) -> Want:
    return msgspec.structs.replace(want, exclude=want.exclude | {name})


class _Course:
    """A run that outlives its backend."""

    def __init__(self, seat: Seat, task: Task) -> None:
        self._seat = seat
        self._task = task
        self._text: list[str] = []
        self._before = 0  # tokens that other backends gave
        self._times = 0
        self._over = False
        self._prompt = 0
        self._run = seat.begin(task)

    @property
    def slot(self) -> int:
        return self._run.slot

    def usage(self) -> Usage:
        usage = self._run.usage()
        prompt = self._prompt or usage.prompt
        return Usage(prompt, self._before + usage.completion, min(usage.cached, prompt))

    def close(self) -> None:
        self._run.close()

    def __iter__(self) -> Iterator[Batch]:
        begun = False
        while True:
            flowing = False
            try:
                for batch in self._run:
                    if flowing and len(batch) == 1 and type(batch[0]) is TextDelta:
                        self._text.append(batch[0].text)
                    elif batch:
                        if not flowing:
                            flowing = True
                            self._seat.flows(self._run)
                        batch = self._noted(batch, begun)
                        begun = True
                    yield batch
                return
            except (UpstreamFault, UpstreamTimeout) as error:
                if not begun or not self._seat.may_go_on(self._task):
                    raise
                yield from self._resumed(error)
                if self._over:
                    return

    def _noted(self, batch: Batch, begun: bool) -> Batch:
        """Remember what came before the end, behind which nothing goes on; after a change of
        backends the stream has begun already."""
        if begun and type(batch[0]) is Started:
            batch = batch[1:]
        last = batch[-1] if batch else None
        if type(last) is not Finished:
            self._text += [event.text for event in batch if type(event) is TextDelta]
            return batch
        self._seat.ended(last)
        if self._times:
            usage = msgspec.structs.replace(
                last.usage,
                prompt=self._prompt or max(1, last.usage.prompt - self._before),
                completion=self._before + last.usage.completion,
                continued=self._times,
            )
            batch[-1] = msgspec.structs.replace(last, usage=usage)
        return batch

    def _resumed(self, error: GatewayError) -> Iterator[Batch]:
        """Go on on a backend that is up, be it another one or the same."""
        seat, task = self._seat, self._task
        so_far = self._run.usage()
        self._prompt = self._prompt or so_far.prompt
        self._before += so_far.completion
        seat.failed(error)
        self._run.close()
        seat.leave()
        left = (task.max_tokens or 0) - self._before
        if left < 1:  # only the last word was missing, which says so
            if isinstance(error, BackendFailed):
                raise error  # and that word was an error
            self._over = True
            yield [Finished("length", Usage(self._prompt, self._before))]
            return
        assert isinstance(task.prompt, str), "only text can go on"
        text = task.prompt + "".join(self._text)
        rest = msgspec.structs.replace(task, prompt=text, max_tokens=left)
        while True:
            try:
                ticket = seat.take(again=True)
                if ticket is not None:
                    yield from seat.wait(ticket, begun=True)
                self._run = seat.begin(fit(rest, seat.backend, seat.caps, seat._cancel))
                break
            except NoBackend:
                raise error from None
            except (UpstreamFault, UpstreamTimeout) as fault:
                seat.failed(fault)
                seat.leave()
            except (Unsupported, ContextExceeded):
                seat.refused()
                seat.leave()
        self._times += 1
        seat.went_on()

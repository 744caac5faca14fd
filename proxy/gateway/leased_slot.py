"""A leased slot from its grant to its release: prepares it, starts runs on it, and reports the
outcome to the scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial

import msgspec
from msgspec import Struct

from ..backends.driver import Capabilities, Run
from ..backends.pools import Backend
from ..core.events import Batch, Finished, ToolCallDelta
from ..core.task import Task
from ..errors import BackendBusy, Cancelled, GatewayError, PoolTimeout
from ..runtime.cancel import Cancel
from ..scheduling.lease import End, Lease, Outcome
from .context import GatewayContext
from .pieces import Held, InPieces, comes_in_pieces

UNUSED, CUT = Outcome(), Outcome(end="cut")
SHORT = 256  # characters or tokens of a prompt that is evaluated again rather than in doubt


def described_too(caps: Capabilities, formats: frozenset[str]) -> Capabilities:
    """The capabilities without these formats, which the prompt describes instead."""
    return msgspec.structs.replace(caps, by_prompt=caps.by_prompt | formats)


class LeasedSlot(Struct, eq=False):
    context: GatewayContext
    lease: Lease
    backend: Backend  # borrowed from the registry until the lease is released
    caps: Capabilities
    run: Run | None = None
    end: End = "unused"
    prompt: int = 0  # tokens, like the next two; of the completed runs, or of one that was cut
    cached: int = 0
    written: int = 0
    evaluating: float = 0.0  # seconds
    pause: float = 0.0  # for which a busy server asked to be left alone
    asking: object = None  # the prompt of the last run
    evaluated: object = None  # the prompt last evaluated in the slot under this lease
    calls: bool = False  # the answer calls tools
    uncached: bool = False  # its prompt was all there, and was evaluated nevertheless

    def prepare(self, cancel: Cancel) -> Iterator[None]:
        """Save what the slot holds and restore its new prompt, if the grant says so; yields at
        every tick while its server is loaded for that. If it fails, the prompt is evaluated
        instead. Raises Cancelled."""
        lease, driver, clock = self.lease, self.backend.driver, self.context.clock
        if driver.status in ("unloaded", "loading"):
            try:
                yield from driver.load(cancel)
            except Cancelled:
                raise
            except GatewayError:
                pass  # the run tells why
        for step in lease.steps():
            began, tokens, size = clock(), 0, 0
            try:
                tokens, size = driver.slot_action(step.action, lease.slot.id, step.file)
            except Cancelled:
                raise
            except GatewayError:
                pass  # it moved nothing
            lease.step_done(step, tokens, size, clock() - began)

    def start(self, task: Task, cancel: Cancel) -> Run:
        """Start a run. The previous run must be closed."""
        lease, caps, driver = self.lease, self.caps, self.backend.driver
        held, doubles = lease.grant.reuse, caps.doubles
        spoils = doubles and self._may_hold_all_of(task)
        if spoils and held is not None and not task.max_tokens and lease.request.idle:
            share = lease.request.chain.size / max(1, held.chain.size)
            self.run = Held(round(share * held.prompt))
            return self.run
        if spoils or lease.grant.fresh:
            # The slot holds another group's prompt, or reuse would spoil it: evaluate everything.
            self.uncached = self.uncached or (spoils and self.asking is None)
            sampling = {**task.sampling, "cache_prompt": False}
            task = msgspec.structs.replace(task, sampling=sampling)
        if self.evaluated is not None and self.run is not None and not lease.streaming:
            lease.on_first_token(self.run.slot)  # this run belongs into the same slot
        self.asking = task.prompt
        self.end = "cut"
        if doubles and comes_in_pieces(task, lease):
            begin = partial(driver.stream, caps=caps, cancel=cancel)
            ids = partial(self.backend.counter.ids, task.text, cancel=cancel)
            anew = held is None or task.sampling.get("cache_prompt") is False
            self.run = InPieces(begin, ids, task, lease, cancel, anew=anew)
        else:
            self.run = driver.stream(task, lease.pinned, caps, cancel)
        return self.run

    def _may_hold_all_of(self, task: Task) -> bool:
        """Whether the slot already holds the whole prompt, as for a repeated question. A second run
        of an answer has a longer prompt than the first. What a slot holds is not always known: a
        short prompt without a template may be the beginning of it, and costs little to
        evaluate."""
        if self.evaluated is not None:
            return task.prompt == self.evaluated
        links, reuse = self.lease.request.chain.links, self.lease.grant.reuse
        if reuse is None:
            return not task.request.is_chat and len(task.prompt) < SHORT
        return bool(links) and links[-1] in reuse.chain.links

    def on_first_token(self, run: Run, batch: Batch) -> None:
        """Record the first events of a run. Of one that came whole, its end tells everything."""
        self.evaluated, lease = self.asking, self.lease
        if type(batch[-1]) is not Finished:
            lease.owner.on_first_token(lease, run.slot)

    def note_calls(self, batch: Batch) -> None:
        """Note whether the answer calls tools: its client returns with their results."""
        self.calls = self.calls or any(type(event) is ToolCallDelta for event in batch)

    def on_finished(self, finished: Finished) -> None:
        lease, usage = self.lease, finished.usage
        if isinstance(self.run, Held):  # the slot's content is as before
            return
        lease.owner.on_last_token(lease)
        if self.prompt:  # that of a later run includes text of the answer
            self.written = usage.prompt + usage.completion - self.prompt
        else:
            self.prompt, self.cached = usage.prompt, usage.cached
            self.evaluating = finished.timings.prompt_ms / 1000
            self.written = usage.completion
        self.end = "whole"

    def describe(self, formats: frozenset[str]) -> None:
        if self.backend.caps is not None:
            self.backend.caps = described_too(self.backend.caps, formats)

    def on_fault(self, error: GatewayError) -> None:
        """Record that the backend failed, or had no slot free after all."""
        backend = self.backend
        if isinstance(error, PoolTimeout) and backend.slots:
            self.on_refusal()  # our own bound: the server was not asked, and its slots are known
        elif isinstance(error, BackendBusy):
            self.end, self.pause = "busy", error.retry_after or 0.0
        else:
            self.end = "failed"
            self.context.registry.failed(backend, error)

    def on_refusal(self) -> None:
        """Record that the backend cannot serve this task, so that nothing was sent to it."""
        self.end = "unused"

    def release(self) -> int:
        """Close the run and give the slot back. Returns the slot's number, -1 if the server chose
        it and has not reported it."""
        run, lease, context, end = self.run, self.lease, self.context, self.end
        outcome, slot = UNUSED if end == "unused" else CUT, -1
        try:
            if run is not None:
                run.close()
                slot = run.slot
                if end == "cut":
                    usage = run.usage()
                    self.prompt, self.cached = usage.prompt, usage.cached
                    self.written = usage.completion
            if end != "unused":
                outcome = Outcome(
                    end=end,
                    slot=slot,
                    prompt=self.prompt,
                    cached=self.cached,
                    completion=self.written,
                    evaluating=self.evaluating,
                    calls=self.calls and end == "whole",
                    pause=self.pause,
                )
            if slot < 0 and lease.grant.backend.pins:
                slot = lease.slot.id
            if context.scheduler.leaks(lease, outcome):
                # If this fails, the scheduler requests a fresh evaluation there.
                with contextlib.suppress(GatewayError):
                    number = slot if slot >= 0 else lease.slot.id
                    self.backend.driver.slot_action("erase", number, "")
                outcome = msgspec.structs.replace(outcome, erased=True)
        finally:
            lease.release(outcome)
            context.registry.give_back(self.backend)
        return slot

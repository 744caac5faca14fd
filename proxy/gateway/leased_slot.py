"""A leased slot from its grant to its release: prepares it, starts runs on it, and reports the
outcome to the scheduler."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from ..backends.driver import Capabilities, Run
from ..backends.pools import Backend
from ..core.events import Batch, Finished, ToolCallDelta
from ..core.task import Task
from ..errors import BackendBusy, Cancelled, GatewayError, PoolTimeout
from ..runtime.cancel import Cancel
from ..scheduling.lease import End, Lease, Outcome
from .context import GatewayContext

UNUSED = Outcome()
SHORT = 256  # characters or tokens of a prompt that is evaluated again rather than in doubt


def described_too(caps: Capabilities, formats: frozenset[str]) -> Capabilities:
    """The capabilities without these formats, which the prompt describes instead."""
    return msgspec.structs.replace(caps, by_prompt=caps.by_prompt | formats)


class LeasedSlot:
    """`backend` is borrowed from the registry until the lease is released."""

    def __init__(
        self, context: GatewayContext, lease: Lease, backend: Backend, caps: Capabilities
    ) -> None:
        self.backend = backend
        self.caps = caps
        self._lease = lease
        self._context = context
        self._run: Run | None = None
        self._end: End = "unused"
        self._outcome = UNUSED  # of the completed runs
        self._asking: object = None  # the prompt of the last run
        self._evaluated: object = None  # the prompt last evaluated in the slot under this lease
        self._calls = False  # the answer calls tools

    def prepare(self, cancel: Cancel) -> Iterator[None]:
        """Save what the slot holds and restore its new prompt, if the grant says so; yields at
        every tick while its server is loaded for that. If it fails, the prompt is evaluated
        instead. Raises Cancelled."""
        lease, driver, clock = self._lease, self.backend.driver, self._context.clock
        if driver.status in ("unloaded", "loading"):
            try:
                yield from driver.load(cancel)
            except Cancelled:
                raise
            except GatewayError:
                pass  # the run tells why
        for step in lease.steps():
            began = clock()
            try:
                tokens, size = driver.slot_action(step.action, lease.slot.id, step.file)
            except Cancelled:
                raise
            except GatewayError:
                lease.step_failed(step)
            else:
                lease.step_done(step, tokens, size, clock() - began)

    def start(self, task: Task, cancel: Cancel) -> Run:
        """Start a run. The previous run must be closed."""
        lease = self._lease
        if lease.grant.fresh or (self.caps.doubles and self._may_hold_all_of(task)):
            # The slot holds another group's prompt, or reuse would spoil it: evaluate everything.
            sampling = {**task.sampling, "cache_prompt": False}
            task = msgspec.structs.replace(task, sampling=sampling)
        self._asking = task.prompt
        self._end = "cut"
        self._run = self.backend.driver.stream(task, lease.pinned, self.caps, cancel)
        return self._run

    def _may_hold_all_of(self, task: Task) -> bool:
        """Whether the slot already holds the whole prompt, as for a repeated question. A second run
        of an answer has a longer prompt than the first. What a slot holds is not always known: a
        short prompt without a template may be the beginning of it, and costs little to
        evaluate."""
        if self._evaluated is not None:
            return task.prompt == self._evaluated
        links, reuse = self._lease.want.chain.links, self._lease.grant.reuse
        if reuse is None:
            return not task.request.is_chat and len(task.prompt) < SHORT
        return bool(links) and links[-1] in reuse.chain.links

    def on_first_token(self) -> None:
        assert self._run is not None, "tokens come from a run"
        self._evaluated = self._asking
        self._lease.on_first_token(self._run.slot)

    def note_calls(self, batch: Batch) -> None:
        """Note whether the answer calls tools: its client returns with their results."""
        self._calls = self._calls or any(type(event) is ToolCallDelta for event in batch)

    def on_finished(self, finished: Finished) -> None:
        self._lease.owner.on_last_token(self._lease)
        before, usage = self._outcome, finished.usage
        if before.prompt:  # not the first run: its prompt includes text of the answer
            prompt, cached, evaluating = before.prompt, before.cached, before.evaluating
        else:
            prompt, cached = usage.prompt, usage.cached
            evaluating = finished.timings.prompt_ms / 1000
        written = usage.prompt + usage.completion - prompt
        self._end = "whole"
        self._outcome = Outcome(
            end="whole",
            slot=finished.slot,
            prompt=prompt,
            cached=cached,
            completion=written,
            evaluating=evaluating,
        )

    def describe(self, formats: frozenset[str]) -> None:
        """Record that the backend does not know these formats."""
        if self.backend.caps is not None:
            self.backend.caps = described_too(self.backend.caps, formats)

    def on_fault(self, error: GatewayError) -> None:
        """Record that the backend failed, or had no slot free after all."""
        registry, backend = self._context.registry, self.backend
        if isinstance(error, PoolTimeout) and backend.slots:
            self.on_refusal()  # our own bound: the server was not asked, and its slots are known
        elif isinstance(error, BackendBusy):
            self._end = "busy"
            self._outcome = Outcome(end="busy", pause=error.retry_after or 0.0)
        else:
            self._end = "failed"
            if not backend.leaving:
                registry.failed(backend.name, error)

    def on_refusal(self) -> None:
        """Record that the backend cannot serve this task, so that nothing was sent to it."""
        self._end, self._outcome = "unused", UNUSED

    def release(self) -> int:
        """Close the run and give the slot back. Returns the slot's number, as far as the backend
        has reported it."""
        outcome = self._outcome
        number = self._lease.slot.id
        if outcome.end != self._end:
            outcome = msgspec.structs.replace(outcome, end=self._end)
        try:
            run = self._run
            if run is not None:
                run.close()
                if self._end == "cut":
                    usage = run.usage()
                    outcome = msgspec.structs.replace(
                        outcome,
                        prompt=usage.prompt,
                        cached=usage.cached,
                        completion=usage.completion,
                    )
                if run.slot >= 0:
                    number = run.slot
                    if number != outcome.slot:
                        outcome = msgspec.structs.replace(outcome, slot=number)
            if self._calls and self._end == "whole":
                outcome = msgspec.structs.replace(outcome, calls=True)
            if self._context.scheduler.leaks(self._lease, outcome):
                self._erase(outcome)
                outcome = msgspec.structs.replace(outcome, erased=True)
        finally:
            self._lease.release(outcome)
            self._context.registry.give_back(self.backend)
        return number

    def _erase(self, outcome: Outcome) -> None:
        number = outcome.slot if outcome.slot >= 0 else self._lease.slot.id
        # If this fails, the scheduler requests a fresh evaluation there.
        with contextlib.suppress(GatewayError):
            self.backend.driver.slot_action("erase", number, "")

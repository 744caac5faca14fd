"""A leased slot from its grant to its release: prepares it, starts runs on it, and reports the
outcome to the scheduler.

A server of 2023 evaluates each prompt to its end, whoever waits and even if its client has left. So
the prompt of a request that gives way to others is sent in pieces: its beginning, then longer ones,
each of which continues the last in the same slot. Pieces are token ids, because such a server takes
seconds to find the tokens of a long text, in which it does nothing else.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..backends.driver import Capabilities, LaterRun, Run
from ..backends.pools import Backend
from ..backends.tokens import MOST_OLD
from ..core.events import Batch, Finished, Started, ToolCallDelta
from ..core.task import Task
from ..core.usage import Usage
from ..errors import BackendBusy, Cancelled, GatewayError, PoolTimeout
from ..runtime.cancel import Cancel
from ..scheduling.lease import End, Lease, Outcome
from ..scheduling.prefix import agreement
from .context import GatewayContext

PIECE = 512  # tokens: a batch of the server
ROUGH = 64  # tokens by which a place in the text is wrong, estimated from its characters
FREED = 0.1  # seconds until the server surely takes the next piece into the same slot
WHOLE = ("cache_prompt", "grammar")  # sampling fields of the whole prompt alone


def comes_in_pieces(task: Task, lease: Lease) -> bool:
    """Whether the prompt of a request to a server of 2023 should be sent in pieces."""
    if not lease.request.idle or lease.pinned < 0 or task.breaks or task.backend_templates:
        return False
    return task.suffix is None and 2 * PIECE < len(task.prompt) <= MOST_OLD


class InPieces(LaterRun):
    """A run whose prompt is evaluated piece by piece before the whole is sent. `begin` sends one to
    a slot; `ids` are the tokens of the text. `anew`: nothing in the slot may be
    reused."""

    def __init__(
        self,
        begin: Callable[[Task, int], Run],
        ids: Callable[[], list[int]],
        task: Task,
        lease: Lease,
        cancel: Cancel,
        *,
        anew: bool,
    ) -> None:
        self._begin, self._ids, self._task = begin, ids, task
        self._lease, self._cancel, self._anew = lease, cancel, anew
        self._cached: int | None = None  # tokens before the first piece
        self._is_whole = False  # the run is that of the whole prompt

    def _pieces(self) -> Iterator[tuple[Any, ...]]:
        """The pieces but for the last. The slot must not hold all of one: the server would evaluate
        its last token again and keep both."""
        prompt, held, begin = self._task.prompt, self._lease.grant.reuse, 0
        # Before the first token of a prompt is the one that begins it, as before a text.
        before, ids = ((), prompt) if isinstance(prompt, tuple) else (("",), tuple(self._ids()))
        if held is not None and not self._anew:
            begin, ends = held.tokens, held.chain.ends
            at = bisect_right(ends, agreement(held.chain, self._lease.request.chain))
            if at < len(ends):  # they differ before this place
                begin = min(begin, ends[at] * len(ids) // len(prompt) + ROUGH)
        for end in range(begin + PIECE, len(ids), PIECE):
            yield (*before, *ids[:end])

    def __iter__(self) -> Iterator[Batch]:
        task, anew, milliseconds = self._task, self._anew, 0.0
        sampling = {name: value for name, value in task.sampling.items() if name not in WHOLE}
        for prompt in self._pieces():
            reuse = {"cache_prompt": not anew}
            piece = replace(
                task, prompt=prompt, sampling=sampling | reuse, max_tokens=0, logprobs=None
            )
            self._run = run = self._begin(piece, self._lease.pinned)
            for batch in run:
                if batch and isinstance(last := batch[-1], Finished):
                    milliseconds += last.timings.prompt_ms
                    if self._cached is None:
                        self._cached = last.usage.cached
                yield []
            self._cancel.wait(max(FREED, self._lease.grant.backend.release_delay))
            self._cancel.check()
            if run.slot != self._lease.pinned:  # it was moved, so the rest continues nothing
                break
            anew = False
        if self._run is not None:
            task = replace(task, sampling={**task.sampling, "cache_prompt": not anew})
        self._run = self._begin(task, self._lease.pinned)
        self._is_whole = True
        for batch in self._run:
            if batch and isinstance(last := batch[-1], Finished):
                usage, times = self._counted(last.usage), last.timings
                times = replace(
                    times,
                    cache_n=usage.cached,
                    prompt_n=usage.prompt - usage.cached,
                    prompt_ms=milliseconds + times.prompt_ms,
                )
                batch[-1] = replace(last, usage=usage, timings=times)
            yield batch

    def usage(self) -> Usage:
        """Of a piece, nothing: it is not the prompt."""
        return self._counted(super().usage()) if self._is_whole else Usage()

    def _counted(self, usage: Usage) -> Usage:
        return usage if self._cached is None else replace(usage, cached=self._cached)


class Held(LaterRun):
    """A run without a token whose prompt its slot holds already: nothing is sent."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens  # about

    def __iter__(self) -> Iterator[Batch]:
        tokens = self._tokens
        yield [Started(), Finished(reason="length", usage=Usage(tokens, 0, tokens))]


UNUSED, CUT = Outcome(), Outcome(end="cut")
SHORT = 256  # characters or tokens of a prompt that is evaluated again rather than in doubt


def described_too(caps: Capabilities, formats: frozenset[str]) -> Capabilities:
    """The capabilities without these formats, which the prompt describes instead."""
    return replace(caps, by_prompt=caps.by_prompt | formats)


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
            task = replace(task, sampling=sampling)
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
                outcome = replace(outcome, erased=True)
        finally:
            lease.release(outcome)
            context.registry.give_back(self.backend)
        return slot

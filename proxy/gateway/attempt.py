"""One choice, from the queue to its end, as a state machine.

    waiting ──> prefill ──> streaming <──> switching grammar
       ^           │            ^ │
       └───────────┘            │ v
      fails before any        resuming
      event was given out                        each of them ──> done

The client sees one unbroken stream. Underneath:

- A run that fails before its first event was passed on starts over on the backend that `retries`
  allows. A generation has no side effects.
- A run that fails later resumes on any backend of the model that is up, with the prompt and the
  text so far. That needs a text prompt and a run without a grammar, since a grammar cannot begin in
  the middle.
- A part of the answer that needs a grammar is a run of its own on the same slot; `generation` says
  when.

This module alone decides about retries and about the deadline of each wait, and counts tokens. The
slot is released exactly once, at the latest in the `finally` that closing the generator reaches on
every path, and before the client reads of an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct, field

from ..backends.driver import Run
from ..backends.tokens import BOS
from ..compiling import grammar
from ..core.events import (
    LAST,
    Batch,
    Compacted,
    Failed,
    Finished,
    Order,
    Progress,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
)
from ..core.task import Task
from ..core.usage import Usage
from ..errors import (
    BackendBusy,
    BackendDown,
    BackendFailed,
    ContextExceeded,
    FormatRefused,
    GatewayError,
    NoBackend,
    PoolTimeout,
    Unsupported,
    UpstreamFault,
    UpstreamTimeout,
)
from ..prompting.stages.prompted_output import corrected
from ..referee import EMPTY, FIRST, SEEN, STEP, Referee, budget, mode_of, spent, warning
from ..runtime.cancel import Cancel
from ..scheduling.lease import Lease, Ticket
from ..scheduling.state import SlotRequest
from .adapt import adapt_to_backend, check_prompt_size, limits, warnings
from .admission import SHARE, Retries, acquire_idle, retry_pause, without
from .bounded import BoundedAnswer
from .context import LATER, Caller, Choice, GatewayContext, Info
from .generation import Generation, GrammarSwitch, first_run, later_run
from .leased_slot import LeasedSlot, described_too
from .slot_request import slot_request_of
from .token_counts import TokenCounts

PLACE_TICK = 1.0  # seconds between two updates of a client's place in the queue
SHORT = 1024  # characters or token ids of a prompt that any model holds
BUSY_TRIES = 100
BUSY_WAIT = 0.02  # seconds until an old server has noticed that a stream was closed
SILENT = (Started, Compacted, Progress)  # events before the first that a reader sees


class State(StrEnum):
    WAITING = "waiting"  # for a slot; the client has seen nothing
    PREFILL = "prefill"  # a run has started and has no token yet
    STREAMING = "streaming"
    SWITCHING = "switching grammar"  # another run on the same slot has no token yet
    RESUMING = "resuming"  # the answer broke off; the run that continues it has no token yet
    DONE = "done"


class Attempt(Struct, eq=False, kw_only=True):
    """An iterable of (choice, batch); an empty batch is a tick of silence. An error becomes the
    last event."""

    context: GatewayContext
    task: Task
    model: str
    caller: Caller
    info: Info
    cancel: Cancel
    began: float  # the clock's time at which the request arrived
    number: int = 0  # of the choice
    bounded: BoundedAnswer | None = None  # the answer, if its caller has limits
    compacted: Compacted | None = None  # comes behind Started
    on_end: Callable[[Attempt], None] = lambda _: None  # called once

    state: State = State.WAITING
    slot_seconds: float = 0.0  # for which slots were leased so far
    leased_at: float = 0.0
    leased: LeasedSlot | None = None
    slot_request: SlotRequest = LATER
    retries: Retries | None = None  # once it has failed
    passed: dict[str, str] = {}  # backends that failed or refused it, and how
    described: frozenset[str] = frozenset()  # formats that a backend refused
    reason: GatewayError | None = None  # why it waits again, if it does
    generation: Generation = LATER
    tokens: TokenCounts = field(default_factory=TokenCounts)
    adapted: Task = LATER  # to the backend of the slot
    next_task: Task = LATER  # of the run that starts next, or started last
    run: Run | None = None
    released: Run | None = None  # the run under way when the slot was given back
    # Of the runs without a grammar, in UTF-8: a list of pieces takes many times as much.
    text: bytearray = bytearray()
    look: int = FIRST  # its length at which the referee looks at it next, 0 to stop the run
    referee: Referee | None = None  # since it has looked
    started: bool = False  # the answer has an event
    shown: bool = False  # an event was passed on to the client
    order: Order = field(default_factory=Order)  # of these events
    end: Finished | None = None  # the last of them, if the answer is whole
    busy_tries: int = 0

    def __iter__(self) -> Generator[Choice, None, None]:
        context, info, number, began = self.context, self.info, self.number, self.began
        clock = context.clock
        try:
            try:
                if len(self.task.prompt) > SHORT:
                    pool = context.registry.pool(self.model, self.caller.may.barred_tiers)
                    check_prompt_size(self.task, pool, self.cancel)
                self.slot_request = slot_request_of(context, self.task, self.model, self.caller)
                context.retries.spent -= SHARE
                while self.state is not State.DONE:
                    try:
                        slot = self.leased
                        if slot is None:
                            slot = yield from self._acquire()
                            self._prepare(slot)
                        self.run = run = slot.start(self.next_task, self.cancel)
                        info.uncached = slot.uncached
                        generation, text, flows = self.generation, self.text, False
                        until = 0  # the length of the text up to which more of it just passes
                        batch: Batch = []
                        for batch in run:
                            if flows and len(batch) == 1 and type(event := batch[0]) is TextDelta:
                                text += event.text.encode()
                                if len(text) < until:
                                    info.last_token = clock() - began
                                    yield number, batch
                                    continue
                            elif batch:
                                self._on_batch(slot, run, batch, first=not flows)
                                flows = True
                            out = generation.feed(batch)
                            if out:
                                if self.task.request.tools:
                                    slot.note_calls(out)
                                yield number, self._passed(out)
                            else:
                                if not self.shown:
                                    info.loading = slot.backend.driver.loading()
                                if not batch or generation.holds:
                                    yield number, out
                            if generation.ended or generation.switch is not None:
                                break
                            if len(text) >= self.look and self._repeats(batch):
                                break
                            if generation.text_passes and info.first_token:
                                until = self.look
                        out = []
                        if generation.switch is not None:
                            out = self._switch(generation.switch, batch)
                            slot.note_calls(out)
                        elif generation.retry:
                            self._write_anew()
                        elif not self.look or generation.over_budget:
                            out = self._step_in()
                            yield number, []  # for the notice
                        else:
                            break
                    except GatewayError as error:
                        out = self._on_error(error)
                    if out:
                        yield number, self._passed(out)
            finally:
                self._release()
                self.state = State.DONE
                # Both refer to this attempt, by a traceback and by callbacks.
                self.reason = None
                self.generation = LATER
            self.order.end()
        except GatewayError as error:
            info.outcome = name_of(error)
            # Frames of both tracebacks refer to the request: they would hold it in a cycle.
            error.__context__ = None
            yield number, [Failed(error.with_traceback(None))]
        finally:
            self.on_end(self)

    def _passed(self, batch: Batch) -> Batch:
        """Check and note what the client gets."""
        info, last = self.info, batch[-1]
        info.last_token = self.context.clock() - self.began
        if not self.shown:
            self.shown, info.loading = True, ""
        if self.compacted is not None and type(batch[0]) is Started:
            batch = [batch[0], self.compacted, *batch[1:]]
        self.order.see(batch)
        if not info.first_token and type(last) not in SILENT:
            info.first_token = info.last_token
        if type(last) is Finished:
            self.end = last
            info.outcome = last.reason
            self.context.learn(self.model, self.caller, self.task, self.slot_request.chain)
            if self.bounded is not None:
                # The client may send its next request at once.
                self.bounded.add(self.number, last.usage, self.leased_seconds())
        elif type(last) is Failed:
            info.outcome = name_of(last.error)
        return batch

    def usage(self) -> Usage:
        """Token counts so far. An old backend reports its own counts only at the end."""
        usage = self.tokens.so_far(self.run.usage() if self.run is not None else Usage())
        if not usage.prompt and self.leased is not None:
            usage = msgspec.structs.replace(usage, prompt=self._count_prompt())
        return usage

    def spent(self) -> Usage:
        """Token counts of an attempt that did not end, as far as they are known without asking its
        backend."""
        run = self.released
        return self.tokens.so_far(run.usage() if run is not None else Usage())

    def leased_seconds(self) -> float:
        """Seconds for which slots were leased, including the present one so far."""
        if self.leased is None:
            return self.slot_seconds
        return self.slot_seconds + self.context.clock() - self.leased_at

    # waiting for a slot

    def _acquire(self) -> Generator[Choice, None, LeasedSlot]:
        """Wait for a slot and prepare it. Raises NoBackend, NoIdleSlot, QueueFull, QueueTimeout,
        Cancelled."""
        context, info, is_retry = self.context, self.info, self.reason is not None
        while True:
            request = self.slot_request
            if request.idle:
                patience = math.inf if info.choices else self.caller.patience
                lease = acquire_idle(context.scheduler, request, self.cancel, patience)
                lease.on_wanted(self.cancel.cancel)
            else:
                entry = context.scheduler.enter(request, is_retry)
                lease = entry if isinstance(entry, Lease) else (yield from self._wait(entry))
            if lease.waited:
                info.queue_wait = max(info.queue_wait, lease.waited)
                info.first_place = max(info.first_place, lease.place)
            grant = lease.grant
            name = grant.backend.name
            backend = context.registry.borrow(name)
            if backend is not None and backend.caps is not None:
                break
            # It was removed after the grant.
            lease.release()
            if backend is None:
                self.slot_request = without(request, name)
            else:
                context.registry.give_back(backend)
            is_retry = True
        caps = backend.caps
        if self.described:
            caps = described_too(caps, self.described)
        self.leased = slot = LeasedSlot(context, lease, backend, caps)
        self.leased_at = context.clock()
        if request.idle and self.bounded is not None:
            self.bounded.enter(self.cancel)
            self.task = self.bounded.within(self.task)
        info.backend, info.tier = name, grant.backend.tier.name
        info.slot = lease.slot.id if grant.backend.pins else -1
        info.placement, info.template, info.task = lease.placement, caps.template, self.task
        if grant.passed or self.passed:
            info.passed = tuple({**dict(grant.passed), **self.passed}.items())
        if grant.save or grant.restore is not None:
            with info.timed("restore"):
                for _ in slot.prepare(self.cancel):
                    yield self.number, []
        return slot

    def _wait(self, ticket: Ticket) -> Generator[Choice, None, Lease]:
        """Wait for the lease. Yields ticks while no backend is up, and for a client that sees its
        place in the queue or a part of the answer."""
        info, tells_place, tick = self.info, self.caller.tell_place, self.context.ping
        began, lease = self.context.clock(), None
        if tells_place:
            tick = min(PLACE_TICK, tick)
        ticks = tells_place or self.state is State.RESUMING
        allowance = self.caller.allowance
        queued: AbstractContextManager[None] = nullcontext()
        info.ticket = ticket
        # An answer that has begun continues, however many requests of its key wait.
        if allowance is not None and self.state is not State.RESUMING:
            queued = allowance.queued()
        try:
            with queued:
                while (lease := ticket.wait(self.cancel, tick)) is None:
                    if tells_place:
                        info.place = ticket.place
                    if ticks or ticket.no_backend_since is not None:
                        yield self.number, []
        finally:
            ticket.leave()
            info.ticket = None
            if lease is None:  # it was cancelled or gave up, and still has waited
                info.queue_wait = max(info.queue_wait, self.context.clock() - began)
        info.place = 0
        return lease

    def _release(self) -> None:
        slot, self.leased = self.leased, None
        self.released, self.run = self.run, None
        if slot is not None:
            self.info.slot = slot.release()
            self.slot_seconds += self.context.clock() - self.leased_at

    @property
    def _slot(self) -> LeasedSlot:
        assert self.leased is not None, "only called with a slot"
        return self.leased

    # runs

    def _prepare(self, slot: LeasedSlot) -> None:
        """Adapt the task to the backend: the whole answer, or its missing part. Raises the errors
        of `adapt_to_backend`, and CharacterCut."""
        context, info, task = self.context, self.info, self.task
        resumes = self.state is State.RESUMING
        if resumes:
            task = later_run(task, self.text.decode(), self.tokens.left)
        self.adapted = adapted = adapt_to_backend(
            task, slot.backend, slot.caps, self.cancel, resumes, key=self.caller.key
        )
        self.next_task = first_run(adapted) if adapted.thinks else adapted
        info.kinds = adapted.kinds
        limit = adapted.max_tokens or 0
        if resumes:
            self.tokens.limit = min(self.tokens.limit, self.tokens.written + limit)
            self.generation.caps, self.generation.later = slot.caps, True
            return
        self.tokens = TokenCounts(limit)
        if self.started:
            self.text, self.look, self.started = bytearray(), FIRST, False
        ignored = warnings(task, adapted, slot.caps, self.cancel)
        info.warnings = task.request.warnings + ignored + context.scheduler.notices + info.cut
        info.placed = context.clock() - self.began
        self.state = State.PREFILL
        callbacks = self.usage, self._prompt_text, self._budget
        self.generation = Generation(
            adapted, slot.caps, context.generation, *callbacks, self.cancel
        )

    def _on_batch(self, slot: LeasedSlot, run: Run, batch: Batch, *, first: bool) -> None:
        """Keep the text for a resume, and make several runs look like one."""
        if first:
            slot.on_first_token(run, batch)
            if self.state is State.RESUMING:
                self.tokens.resumed += 1
                self.info.continued += 1
            self.state = State.STREAMING
        start = batch[0]
        if type(start) is Started:
            if self.started:
                del batch[0]
            elif self.task.request.report.prompt and self.task.prompt and not start.prompt:
                batch[0] = msgspec.structs.replace(start, prompt=self._count_prompt())
        self.started = True
        last = batch[-1] if batch else None
        if type(last) is Finished:
            slot.on_finished(last)
            if last.reason == "length" and self.generation.in_thoughts:
                self.info.note(EMPTY)
            tokens = self.tokens
            if tokens.switched or tokens.several or tokens.resumed or tokens.wasted:
                batch[-1] = msgspec.structs.replace(last, usage=tokens.at_end(last.usage))
        text = self.text
        for event in batch:
            if isinstance(event, (TextDelta, ReasoningDelta)):
                text += event.text.encode()
            elif type(event) is ToolCallDelta:
                text += event.arguments.encode()

    def _switch(self, switch: GrammarSwitch, batch: Batch) -> Batch:
        """Continue with a grammar, from the middle of `batch`."""
        tokens, slot = self.tokens, self._slot
        self._close_run()
        tokens.prompt = tokens.prompt or self._count_prompt()
        tokens.written = self._count_kept(switch.fresh, batch) if switch.text else 0
        if tokens.left < 1:
            return self._end_at_limit()
        bound = grammar(switch.bound, limits(slot.caps), self.cancel).text
        sampling = {**self.adapted.sampling, "grammar": bound}
        self._continue(switch.text, sampling)
        tokens.switched = True
        return self.generation.on_switched(tokens.written)

    def _write_anew(self) -> None:
        """Write the answer again, with another seed if the request has one. A model that nothing
        constrains also gets a message that names the fault."""
        self._close_run()
        self.tokens.discard()
        self.text.clear()
        self.look = FIRST
        self.started = False
        sampling = self.adapted.sampling
        seed = sampling.get("seed")
        if seed is not None and seed >= 0:
            sampling = {**sampling, "seed": (seed + 1) % 2**32}
        request = self.adapted.request
        if self.adapted.described:
            request = corrected(request, self.generation.wrong, self.generation.fault)
        self.adapted = self._whole(max_tokens=self.tokens.limit, sampling=sampling, request=request)
        self._run_next(first_run(self.adapted))
        self.generation = self.generation.again()

    def _whole(self, **changes: Any) -> Task:
        """The adapted task from the first token of the answer. If that resumes, `adapted` has a
        longer prompt."""
        prompt, breaks = self.task.prompt, self.task.breaks
        return msgspec.structs.replace(self.adapted, prompt=prompt, breaks=breaks, **changes)

    def _continue(self, text: str, sampling: Mapping[str, Any]) -> None:
        self._run_next(later_run(self._whole(sampling=sampling), text, self.tokens.left))

    def _run_next(self, task: Task) -> None:
        """Start another run on the same slot."""
        self.next_task, self.busy_tries = task, BUSY_TRIES
        self.state = State.SWITCHING

    def _close_run(self) -> None:
        run, self.run = self.run, None
        assert run is not None, "a run is under way"
        self.tokens.close_run(run.usage())
        run.close()

    def _end_at_limit(self) -> Batch:
        self.state = State.DONE
        return self.generation.on_limit(Finished(reason="length", usage=self.usage()))

    # with the referee

    def _repeats(self, batch: Batch) -> bool:
        """Whether the answer repeats itself, so that its run is stopped."""
        if not batch or type(batch[-1]) in LAST:
            return False
        if self.referee is None:
            of_key, of_model = self.caller.may.first("loops", ""), self._slot.backend.own("loops")
            mode = mode_of(self.task.request, of_key, of_model, self.context.loops)
            self.referee = Referee(mode)
        waits = self.task.request.stream and self.generation.place == "text"
        self.look = self.referee.look(self.text, waits=waits)
        return not self.look

    def _step_in(self) -> Batch:
        """Continue or end the answer after a run that the referee stopped, because its text repeats
        itself or its reasoning has spent its budget."""
        generation, referee, text, tokens = self.generation, self.referee, self.text, self.tokens
        task, place = self.next_task, generation.place
        continues = isinstance(self.task.prompt, str) and task.suffix is None
        continues = continues and not task.backend_templates and not self._slot.caps.native
        size, keep, step = len(text), len(text), "close" if continues else "cut"
        if generation.over_budget:
            keep -= generation.beyond
            self.info.note(spent(generation.thinking))
        else:
            assert referee is not None and referee.loop is not None
            step = referee.step(place, continues=continues)
            keep = referee.loop.first_copy(text)
            self.info.note(warning(step, place))
        whole, self.look = text.decode(), size + STEP
        head = text[:keep].decode(errors="ignore")
        if step == "stop" or step == "cut":
            self.state = State.DONE
            if step == "cut":
                return generation.end("length")
            return generation.end("stop", len(whole) - len(head))
        written, sampling = self.usage().completion - tokens.wasted, self.adapted.sampling
        dropped = written * (size - keep) // size
        tokens.written -= dropped
        if not generation.over_budget:  # a repetition counts; what was not read does not
            tokens.wasted += dropped
            tokens.limit -= dropped
        if step == "close":
            end, out = generation.close_thoughts(head if generation.over_budget else whole, head)
        else:
            assert referee is not None
            end = ""
            self.generation, out = generation.mended(len(whole) - len(head))
            penalty = referee.penalty(sampling.get("repeat_penalty"))
            sampling = {**sampling, "repeat_penalty": penalty, "repeat_last_n": SEEN}
        text[:] = (head + end).encode()
        if generation.switch is not None:
            out += self._switch(generation.switch, [])
        else:
            self._close_run()
            tokens.prompt = tokens.prompt or self._count_prompt()
            tokens.written += self._count(end)
            if tokens.left < 1:
                return out + self._end_at_limit()
            self._continue(head + end, sampling)
            tokens.several = True
        return out

    # errors

    def _on_error(self, error: GatewayError) -> Batch:
        """Decide how the choice continues after an error. Raises the error if it ends.

        1. The slot still runs the previous stream: the next run is started again there.
        2. No backend is left: the error that made the choice wait says more.
        3. An error that no other backend can fix, or one fault too many, ends the choice.
        4. A broken answer resumes; one that is already resuming goes back into the queue.
        5. If the client has seen nothing, the choice starts over.
        """
        if self.state is State.SWITCHING and self._is_settling(error):
            return []
        if isinstance(error, NoBackend) and self.leased is None:
            if self.reason is None or isinstance(self.reason, BackendBusy):
                raise self.context.registry.none_up(self.model)
            raise self.reason from None
        is_fault = isinstance(error, (UpstreamFault, UpstreamTimeout))
        if not is_fault and not isinstance(error, (Unsupported, ContextExceeded)):
            raise error
        slot = self._slot
        if isinstance(error, FormatRefused) and not error.formats <= slot.caps.by_prompt:
            self.described |= error.formats
            if error.lacks:
                slot.describe(error.formats)
            # It has refused this form at once, so it is asked again in another.
            slot.on_refusal()
            self.reason, self.state = error, State.WAITING
            self._release()
            return []
        if not isinstance(error, BackendBusy):
            self.passed[slot.backend.name] = _word(error)
        if is_fault:
            slot.on_fault(error)
            self._retry(slot.backend.name, error)
            if self.state is State.STREAMING and self._can_resume():
                return self._resume(error)
        if self.state is not State.RESUMING:
            if self.shown or isinstance(error, UpstreamTimeout):
                raise error
            is_down = isinstance(error, BackendDown)
            self.reason = self.context.registry.none_up(self.model) if is_down else error
            self.state = State.WAITING
        if not is_fault:
            slot.on_refusal()
            self.slot_request = without(self.slot_request, slot.backend.name)
        self._release()
        if is_fault:
            self._pause(error)
        return []

    def _retry(self, name: str, error: GatewayError) -> None:
        """Prepare to place the request again after a fault of this backend. Raises the fault if it
        may not be."""
        context = self.context
        now = context.clock()
        if self.retries is None:
            self.retries = Retries()
        self.slot_request = self.retries.after(self.slot_request, name, error, now)
        if isinstance(error, BackendBusy | BackendDown):
            return
        if not context.retries.spend(context.scheduler.outstanding, now):
            raise error

    def _pause(self, error: GatewayError) -> None:
        """Wait a moment before the next try. Raises Cancelled."""
        if self.retries is not None and not isinstance(error, BackendBusy | BackendDown):
            self.cancel.wait(retry_pause(self.retries.count))
            self.cancel.check()

    def _is_settling(self, error: GatewayError) -> bool:
        """Whether the server has not noticed yet that the previous stream was closed. If so, wait a
        moment."""
        is_busy = isinstance(error, BackendBusy) and not isinstance(error, PoolTimeout)
        if not is_busy or not self.busy_tries:
            return False
        self.busy_tries -= 1
        if self.run is not None:
            self.run.close()
        self.cancel.wait(BUSY_WAIT)
        self.cancel.check()
        return True

    def _can_resume(self) -> bool:
        """Whether another backend can continue the answer. One that a backend rendered itself can
        only be continued behind our prompt if it has no reasoning and no calls."""
        task = self.next_task
        if task.backend_templates:
            task = self.task
            if task.thinks or task.request.tools or self.generation.thinking:
                return False
        return (
            self.context.continues
            and isinstance(task.prompt, str)
            and (task is self.next_task or task.is_unconstrained)
            and task.suffix is None
            and not task.backend_templates
            and not any(task.sampling.get(name) for name in ("grammar", "json_schema"))
        )

    def _resume(self, error: GatewayError) -> Batch:
        """Wait for a backend to continue the answer, with a deadline of its own."""
        self._close_run()
        self._release()
        if self.tokens.left < 1:  # complete but for its end, which is known
            if isinstance(error, BackendFailed):
                raise error  # the end was an error
            return self._end_at_limit()
        self.reason = error
        self.slot_request = msgspec.structs.replace(self.slot_request, since=self.context.clock())
        self.state = State.RESUMING
        self._pause(error)
        return []

    # with the backend's help

    def _budget(self) -> int:
        """What the reasoning may take of the answer."""
        usual = self._slot.backend.own("max_reasoning_tokens") or self.context.reasoning_tokens
        return budget(self.task.request, self.tokens.limit, usual)

    def _prompt_text(self) -> str:
        prompt = self.task.prompt
        if isinstance(prompt, str):
            return prompt
        return self._slot.backend.driver.detokenize(list(prompt))

    def _count_prompt(self) -> int:
        """The number of tokens in the prompt, 0 if they cannot be counted."""
        try:
            return self._slot.backend.counter.count_prompt(self.task, self.cancel)
        except GatewayError:
            return 0

    def _count_kept(self, fresh: str, batch: Batch) -> int:
        """The number of tokens that the next run continues from. The rest of the last batch, after
        `fresh`, is discarded and not counted: on a fast server, one batch may hold the whole rest
        of the answer."""
        written = self.tokens.written
        before = written - sum(e.pieces for e in batch if isinstance(e, TextDelta))
        return min(written, max(0, before) + self._count(fresh, written))

    def _count(self, text: str, instead: int = 0) -> int:
        """The number of tokens in a part of the answer, or `instead` if they cannot be counted."""
        try:
            return self._slot.backend.counter.count(text) - BOS if text else 0
        except GatewayError:
            return instead


def name_of(error: Exception) -> str:
    assert isinstance(error, GatewayError)
    return error.code or error.type


def _word(error: GatewayError) -> str:
    """How a backend failed a request, as in `Info.passed`."""
    if isinstance(error, BackendDown):
        return "down"
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    return "failed" if isinstance(error, UpstreamFault) else "refused"

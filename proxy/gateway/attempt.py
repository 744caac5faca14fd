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
every path.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from functools import partial
from hashlib import sha256

import msgspec

from ..backends.driver import Run
from ..backends.tokens import BOS
from ..compiling import grammar
from ..core.events import Batch, Finished, Started, TextDelta
from ..core.request import CompletionRequest, Message
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
from ..runtime.blocking import run_in_native_thread
from ..runtime.cancel import Cancel
from ..scheduling.lease import Lease, Ticket
from ..scheduling.prefix import chain_of
from ..scheduling.state import SlotRequest
from .adapt import adapt_to_backend, check_prompt_size, limits, warnings
from .admission import SHARE, OnSlot, Retries, acquire_idle, nothing, retry_pause, without
from .context import Caller, GatewayContext, Info
from .generation import Generation, GrammarSwitch, first_run, later_run
from .leased_slot import LeasedSlot, described_too


# Token counts of one choice over all of its runs, each token counted once.
class TokenCounts:
    """`limit` is the maximum length of the answer in tokens. `written` counts the tokens of closed
    runs, `wasted` those of discarded documents. `prompt` and `cached` are those of the first run;
    `prompt` is 0 if it was closed before its backend reported it. `resumed` counts how often the
    answer continued on another run. `switched`: the current run began after a text that was cut
    off."""

    __slots__ = (
        "cached",
        "limit",
        "prompt",
        "resumed",
        "switched",
        "wasted",
        "written",
    )

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.prompt = self.cached = self.written = self.wasted = self.resumed = 0
        self.switched = False

    @property
    def left(self) -> int:
        return self.limit - self.written

    def close_run(self, run: Usage) -> None:
        if not self.prompt:
            self.prompt, self.cached = run.prompt, run.cached
        self.written += run.completion

    def discard(self) -> None:
        """Discard the answer so far, which will be written again."""
        self.wasted += self.written
        self.prompt = self.cached = self.written = 0
        self.switched = False

    def so_far(self, run: Usage) -> Usage:
        """All counts, including those of the current run so far."""
        prompt, cached = (self.prompt, self.cached) if self.prompt else (run.prompt, run.cached)
        completion = self.wasted + self.written + run.completion
        return Usage(prompt, completion, cached, continued=self.resumed)

    def at_end(self, run: Usage) -> Usage:
        """All counts of several runs, including those that the backend reported at the end of the
        last one. The prompt that it reports includes the text of the earlier runs."""
        before = self.written
        if self.switched and self.prompt:  # exact; the count of a text cut off is estimated
            before = max(0, run.prompt - self.prompt)
        prompt = self.prompt or max(1, run.prompt - before)
        cached = self.cached if self.prompt else min(run.cached, prompt)
        completion = self.wasted + before + run.completion
        return Usage(prompt, completion, cached, continued=self.resumed)


_NO_TOKENS = TokenCounts(0)  # of an attempt that has no backend yet; never changed

# What the scheduler compares of a chat whose prompt the backend renders itself.
#
# The text is not the server's prompt, but it begins as another one does exactly where the
# server's prompts begin alike: with the same tools, and the same first messages. So a
# conversation returns to the backend that has its blocks cached, and a new one goes where its
# system message is. A picture or a sound stands there as its digest, since the scheduler keeps
# the text.
_END = "\0"
LARGE = 1 << 20  # characters or token ids of a prompt or picture, from which a thread hashes it
_json = msgspec.json.Encoder().encode


def placement_text(request: CompletionRequest) -> tuple[str, tuple[int, ...]]:
    """The text, and the offsets where its messages end."""
    tools = [(tool.name, tool.description, tool.parameters) for tool in request.tools]
    texts = [_json(tools).decode() if tools else ""]
    size, ends = len(texts[0]), []
    for message in request.messages:
        text = _text(message)
        texts.append(text)
        size += len(text)
        ends.append(size)
    return "".join(texts), tuple(ends)


def _text(message: Message) -> str:
    text = f"{message.role}{_END}{message.content}{_END}"
    for call in message.tool_calls:
        text += f"{call.name}{_END}{call.arguments}{_END}"
    for media in message.media:
        text += f"{_digest(media.url or media.data)}{_END}"
    return text


def _digest(data: str) -> str:
    def digest() -> str:
        return sha256(data.encode("utf-8", "surrogatepass")).hexdigest()

    return digest() if len(data) <= LARGE else run_in_native_thread(digest)


PLACE_TICK = 1.0  # seconds between two updates of a client's place in the queue
BUSY_TRIES = 100
BUSY_WAIT = 0.02  # seconds until an old server has noticed that a stream was closed


class State(StrEnum):
    WAITING = "waiting"  # for a slot; the client has seen nothing
    PREFILL = "prefill"  # a run has started and has no token yet
    STREAMING = "streaming"
    SWITCHING = "switching grammar"  # another run on the same slot has no token yet
    RESUMING = "resuming"  # the answer broke off; the run that continues it has no token yet
    DONE = "done"


class Attempt:
    """An iterable of batches; an empty batch is a tick of silence. Raises errors of
    `proxy.errors`."""

    __slots__ = (
        "_adapted",
        "_began",
        "_busy_tries",
        "_caller",
        "_cancel",
        "_context",
        "_described",
        "_generation",
        "_info",
        "_leased",
        "_leased_at",
        "_model",
        "_next",
        "_on_slot",
        "_passed",
        "_reason",
        "_released",
        "_retries",
        "_run",
        "_shown",
        "_started",
        "_task",
        "_text",
        "_tokens",
        "_want",
        "slot_seconds",
        "state",
    )

    def __init__(
        self,
        context: GatewayContext,
        task: Task,
        model: str,
        *,
        caller: Caller,
        info: Info,
        cancel: Cancel,
        began: float,
        on_slot: OnSlot = nothing,
    ) -> None:
        """`began` is the clock's time at which the request arrived. `on_slot` is called with each
        slot of a request that uses idle slots only."""
        self.state = State.WAITING
        self.slot_seconds = 0.0  # for which slots were leased so far
        self._leased_at = 0.0
        self._context = context
        self._task = task
        self._model = model
        self._caller = caller
        self._info = info
        self._cancel = cancel
        self._began = began
        self._on_slot = on_slot
        self._retries: Retries | None = None  # once it has failed
        self._passed: dict[str, str] = {}  # backends that failed or refused it, and how
        self._described: frozenset[str] = frozenset()  # formats that a backend refused
        self._reason: GatewayError | None = None  # why it waits again, if it does
        self._want: SlotRequest
        self._leased: LeasedSlot | None = None
        self._generation: Generation
        self._tokens = _NO_TOKENS
        self._adapted: Task  # to the backend of the slot
        self._next: Task  # of the run that starts next, or started last
        self._run: Run | None = None
        self._released: Run | None = None  # the run under way when the slot was given back
        # Of the runs without a grammar, in UTF-8: a list of pieces takes many times as much.
        self._text = bytearray()
        self._started = False  # the answer has an event
        self._shown = False  # an event was passed on to the client
        self._busy_tries = 0

    def __iter__(self) -> Generator[Batch, None, None]:
        try:
            pool = self._context.registry.pool(self._model, self._caller.may.barred_tiers)
            check_prompt_size(self._task, pool, self._cancel)
            self._want = _want(self._context, self._task, self._model, self._caller)
            self._context.retries.spent -= SHARE
            while self.state is not State.DONE:
                try:
                    slot = self._leased
                    if slot is None:
                        slot = yield from self._acquire()
                        self._prepare(slot)
                    run = self._start(slot)
                    generation, text, streaming = self._generation, self._text, False
                    batch: Batch = []
                    for batch in run:
                        if streaming and len(batch) == 1 and type(batch[0]) is TextDelta:
                            text += batch[0].text.encode()
                            if generation.text_passes:
                                yield batch
                                continue
                        elif batch:
                            if not streaming:
                                streaming = True
                                self._on_first_token(slot)
                            self._on_batch(slot, batch)
                        out = generation.feed(batch)
                        if out and self._task.request.tools:
                            slot.note_calls(out)
                        if not self._shown:
                            self._shown = bool(out)
                            self._info.loading = "" if out else slot.backend.driver.loading()
                        if out or not batch or generation.holds:
                            yield out
                        if generation.ended or generation.switch is not None:
                            break
                    out = []
                    if generation.switch is not None:
                        out = self._switch(generation.switch, batch)
                        slot.note_calls(out)
                    elif generation.retry:
                        self._write_anew()
                    else:
                        self.state = State.DONE
                except GatewayError as error:
                    out = self._on_error(error)
                if out:
                    yield out
        finally:
            self._release()
            self.state = State.DONE
            # Both refer to this attempt: an error by its traceback, a generation by its callbacks.
            self._reason = None
            if hasattr(self, "_generation"):  # there is none without a slot
                del self._generation

    def usage(self) -> Usage:
        """Token counts so far. An old backend reports its own counts only at the end."""
        usage = self._tokens.so_far(self._run.usage() if self._run is not None else Usage())
        if not usage.prompt and self._leased is not None:
            usage = msgspec.structs.replace(usage, prompt=self._count_prompt())
        return usage

    def spent(self) -> Usage:
        """Token counts of an attempt that did not end, as far as they are known without asking its
        backend."""
        run = self._released
        return self._tokens.so_far(run.usage() if run is not None else Usage())

    def leased_seconds(self) -> float:
        """Seconds for which slots were leased, including the present one so far."""
        if self._leased is None:
            return self.slot_seconds
        return self.slot_seconds + self._context.clock() - self._leased_at

    # waiting for a slot

    def _acquire(self) -> Generator[Batch, None, LeasedSlot]:
        """Wait for a slot and prepare it. Raises NoBackend, NoIdleSlot, QueueFull, QueueTimeout,
        Cancelled."""
        scheduler, info, again = self._context.scheduler, self._info, self._reason is not None
        while True:
            if self._want.idle:
                begun = self._caller.begun or info.choices > 0
                lease = acquire_idle(
                    scheduler, self._want, self._cancel, begun=begun, on_slot=self._on_slot
                )
                lease.on_wanted(self._cancel.cancel)
            else:
                entry = scheduler.enter(self._want, again)
                lease = entry if isinstance(entry, Lease) else (yield from self._wait(entry))
            if lease.waited:
                info.queue_wait = max(info.queue_wait, lease.waited)
                info.first_place = max(info.first_place, lease.place)
            slot = self._take(lease)
            if slot is not None:
                if lease.grant.save or lease.grant.restore is not None:
                    for _ in slot.prepare(self._cancel):
                        yield []
                return slot
            again = True

    def _wait(self, ticket: Ticket) -> Generator[Batch, None, Lease]:
        """Wait for the lease. Yields ticks while no backend is up, and for a client that sees its
        place in the queue or a part of the answer."""
        info, tells_place, tick = self._info, self._caller.tell_place, self._context.ping
        if tells_place:
            tick = min(PLACE_TICK, tick)
        allowance = self._caller.allowance
        queued: AbstractContextManager[None] = nullcontext()
        # An answer that has begun goes on, however many requests of its key wait.
        if allowance is not None and self.state is not State.RESUMING:
            queued = allowance.queued()
        try:
            with queued:
                while (lease := ticket.wait(self._cancel, tick)) is None:
                    if tells_place:
                        info.place = ticket.place
                    if tells_place or self.state is State.RESUMING or ticket.stranded is not None:
                        yield []
        finally:
            ticket.leave()
        info.place = 0
        return lease

    def _take(self, lease: Lease) -> LeasedSlot | None:
        """Borrow the backend of a lease. None if the backend was removed after the grant; the lease
        is released then."""
        context, info, grant = self._context, self._info, lease.grant
        name = grant.backend.name
        backend = context.registry.borrow(name)
        if backend is None:
            lease.release()
            self._want = without(self._want, name)
        elif backend.caps is None:
            lease.release()
            context.registry.give_back(backend)
        else:
            caps = backend.caps
            if self._described:
                caps = described_too(caps, self._described)
            self._leased = slot = LeasedSlot(context, lease, backend, caps)
            self._leased_at = context.clock()
            info.backend, info.slot, info.tier = name, lease.slot.id, grant.backend.tier.name
            if grant.passed or self._passed:
                info.passed = tuple({**dict(grant.passed), **self._passed}.items())
            return slot
        return None

    def _release(self) -> None:
        slot, self._leased = self._leased, None
        self._released, self._run = self._run, None
        if slot is not None:
            self._info.slot = slot.release()
            self.slot_seconds += self._context.clock() - self._leased_at

    @property
    def _slot(self) -> LeasedSlot:
        assert self._leased is not None, "only called with a slot"
        return self._leased

    # runs

    def _prepare(self, slot: LeasedSlot) -> None:
        """Adapt the task to the backend: the whole answer, or its missing part."""
        context, info, task = self._context, self._info, self._task
        resumes = self.state is State.RESUMING
        if resumes:
            task = later_run(task, self._text.decode(), self._tokens.left)
        self._adapted = adapted = adapt_to_backend(
            task, slot.backend, slot.caps, self._cancel, resumes, key=self._caller.key
        )
        self._next = first_run(adapted) if adapted.thinks else adapted
        info.kinds = adapted.kinds
        limit = adapted.max_tokens or 0
        if resumes:
            self._tokens.limit = min(self._tokens.limit, self._tokens.written + limit)
            self._generation.caps, self._generation.later = slot.caps, True
            return
        self._tokens = TokenCounts(limit)
        self._text, self._started = bytearray(), False
        notices = context.scheduler.notices
        ignored = warnings(task, adapted, slot.caps, self._cancel)
        info.warnings = task.request.warnings + ignored + notices
        info.placed = context.clock() - self._began

    def _start(self, slot: LeasedSlot) -> Run:
        self._run = run = slot.start(self._next, self._cancel)
        if self.state is State.WAITING:
            self.state = State.PREFILL
            self._generation = Generation(
                self._adapted,
                slot.caps,
                self._context.generation,
                usage=self.usage,
                prompt_text=self._prompt_text,
                cancel=self._cancel,
            )
        return run

    def _on_first_token(self, slot: LeasedSlot) -> None:
        """Handle the first events of a run."""
        slot.on_first_token()
        if self.state is State.RESUMING:
            self._tokens.resumed += 1
            self._info.continued += 1
        self.state = State.STREAMING

    def _on_batch(self, slot: LeasedSlot, batch: Batch) -> None:
        """Keep the text for a resume, and make several runs look like one."""
        first = batch[0]
        if type(first) is Started:
            if self._started:
                del batch[0]
            elif self._task.request.report.prompt and self._task.prompt and not first.prompt:
                batch[0] = msgspec.structs.replace(first, prompt=self._count_prompt())
        self._started = True
        last = batch[-1] if batch else None
        if type(last) is Finished:
            slot.on_finished(last)
            tokens = self._tokens
            if tokens.switched or tokens.resumed or tokens.wasted:
                batch[-1] = msgspec.structs.replace(last, usage=tokens.at_end(last.usage))
        else:
            for event in batch:
                if type(event) is TextDelta:
                    self._text += event.text.encode()

    def _switch(self, switch: GrammarSwitch, batch: Batch) -> Batch:
        """Continue with a grammar, from the middle of `batch`."""
        tokens, slot = self._tokens, self._slot
        self._close_run()
        tokens.prompt = tokens.prompt or self._count_prompt()
        tokens.written = self._count_kept(switch.fresh, batch) if switch.text else 0
        if tokens.left < 1:
            return self._end_at_limit()
        bound = grammar(switch.bound, limits(slot.caps), self._cancel).text
        sampling = {**self._adapted.sampling, "grammar": bound}
        prompt, breaks = self._task.prompt, self._task.breaks  # a resumed answer's are longer
        task = msgspec.structs.replace(
            self._adapted, prompt=prompt, breaks=breaks, sampling=sampling
        )
        self._next = later_run(task, switch.text, tokens.left)
        tokens.switched, self._busy_tries = True, BUSY_TRIES
        self.state = State.SWITCHING
        return self._generation.on_switched(tokens.written)

    def _write_anew(self) -> None:
        """Write the answer again, with another seed if the request has one. A model that nothing
        constrains also gets a message that names the fault."""
        self._close_run()
        self._tokens.discard()
        self._text.clear()
        self._started, self._busy_tries = False, BUSY_TRIES
        sampling = self._adapted.sampling
        seed = sampling.get("seed")
        if seed is not None and seed >= 0:
            sampling = {**sampling, "seed": (seed + 1) % 2**32}
        request = self._adapted.request
        if self._adapted.described:
            request = corrected(request, self._generation.wrong, self._generation.fault)
        self._adapted = msgspec.structs.replace(
            self._adapted,
            prompt=self._task.prompt,
            breaks=self._task.breaks,
            max_tokens=self._tokens.limit,
            sampling=sampling,
            request=request,
        )
        self._next = first_run(self._adapted)
        self._generation = self._generation.again()
        self.state = State.SWITCHING

    def _close_run(self) -> None:
        run, self._run = self._run, None
        assert run is not None, "a run is under way"
        self._tokens.close_run(run.usage())
        run.close()

    def _end_at_limit(self) -> Batch:
        self.state = State.DONE
        return self._generation.on_limit(Finished(reason="length", usage=self.usage()))

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
        if isinstance(error, NoBackend) and self._leased is None:
            if self._reason is None or isinstance(self._reason, BackendBusy):
                raise error
            raise self._reason from None
        is_fault = isinstance(error, (UpstreamFault, UpstreamTimeout))
        if not is_fault and not isinstance(error, (Unsupported, ContextExceeded)):
            raise error
        slot = self._slot
        if isinstance(error, FormatRefused) and not error.formats <= slot.caps.by_prompt:
            self._described |= error.formats
            if error.lacks:
                slot.describe(error.formats)
            # It has refused this form at once, so it is asked again in another.
            slot.on_refusal()
            self._reason, self.state = error, State.WAITING
            self._release()
            return []
        if not isinstance(error, BackendBusy):
            self._passed[slot.backend.name] = _word(error)
        if is_fault:
            slot.on_fault(error)
            self._retry(slot.backend.name, error)
            if self.state is State.STREAMING and self._can_resume():
                return self._resume(error)
        if self.state is not State.RESUMING:
            if self._shown or isinstance(error, UpstreamTimeout):
                raise error
            self._reason = NoBackend() if isinstance(error, BackendDown) else error
            self.state = State.WAITING
        if not is_fault:
            slot.on_refusal()
            self._want = without(self._want, slot.backend.name)
        self._release()
        if is_fault:
            self._pause(error)
        return []

    def _retry(self, name: str, error: GatewayError) -> None:
        """Prepare to place the request again after a fault of this backend. Raises the fault if it
        may not be."""
        context = self._context
        now = context.clock()
        if self._retries is None:
            self._retries = Retries()
        self._want = self._retries.after(self._want, name, error, now)
        if isinstance(error, BackendBusy | BackendDown):
            return
        if not context.retries.spend(context.scheduler.outstanding, now):
            raise error

    def _pause(self, error: GatewayError) -> None:
        """Wait a moment before the next try. Raises Cancelled."""
        if self._retries is not None and not isinstance(error, BackendBusy | BackendDown):
            self._cancel.wait(retry_pause(self._retries.count))
            self._cancel.check()

    def _is_settling(self, error: GatewayError) -> bool:
        """Whether the server has not noticed yet that the previous stream was closed. If so, wait a
        moment."""
        is_busy = isinstance(error, BackendBusy) and not isinstance(error, PoolTimeout)
        if not is_busy or not self._busy_tries:
            return False
        self._busy_tries -= 1
        if self._run is not None:
            self._run.close()
        self._cancel.wait(BUSY_WAIT)
        self._cancel.check()
        return True

    def _can_resume(self) -> bool:
        """Whether another backend can continue the answer. One that a backend began with its own
        template continues behind our prompt, if its text is all that the model wrote."""
        task = self._next
        if task.backend_templates:
            task = self._task
            if task.thinks or task.request.tools or self._generation.thought:
                return False
        return (
            self._context.continues
            and isinstance(task.prompt, str)
            and (task is self._next or task.is_unconstrained)
            and task.suffix is None
            and not task.backend_templates
            and not any(task.sampling.get(name) for name in ("grammar", "json_schema"))
        )

    def _resume(self, error: GatewayError) -> Batch:
        """Wait for a backend to continue the answer, with a deadline of its own."""
        self._close_run()
        self._release()
        if self._tokens.left < 1:  # complete but for its end, which is known
            if isinstance(error, BackendFailed):
                raise error  # the end was an error
            return self._end_at_limit()
        self._reason = error
        self._want = msgspec.structs.replace(self._want, since=self._context.clock())
        self.state = State.RESUMING
        self._pause(error)
        return []

    # with the backend's help

    def _prompt_text(self) -> str:
        prompt = self._task.prompt
        if isinstance(prompt, str):
            return prompt
        return self._slot.backend.driver.detokenize(list(prompt))

    def _count_prompt(self) -> int:
        """The number of tokens in the prompt, 0 if they cannot be counted."""
        try:
            return self._slot.backend.counter.count_prompt(self._task, self._cancel)
        except GatewayError:
            return 0

    def _count_kept(self, fresh: str, batch: Batch) -> int:
        """The number of tokens that the next run continues from. The rest of the last batch, after
        `fresh`, is discarded and not counted: on a fast server, one batch may hold the whole rest
        of the answer."""
        written = self._tokens.written
        before = written - sum(e.pieces for e in batch if isinstance(e, TextDelta))
        try:
            tokens = self._slot.backend.counter.count(fresh) - BOS if fresh else 0
        except GatewayError:
            return written
        return min(written, max(0, before) + tokens)


def _want(context: GatewayContext, task: Task, model: str, caller: Caller) -> SlotRequest:
    text, boundaries = task.prompt, task.boundaries
    if not text and task.request.is_chat:
        text, boundaries = placement_text(task.request)
    messages = task.request.messages
    is_side_job = caller.background or (
        bool(messages) and messages[-1].content.lstrip().startswith(context.side_jobs)
    )
    salt = f"{model}\0{caller.group}"
    if len(text) <= LARGE:
        chain = chain_of(text, boundaries, salt)
    else:
        chain = run_in_native_thread(partial(chain_of, text, boundaries, salt))
    return SlotRequest(
        model=model,
        ids=not isinstance(task.prompt, str),
        max_tokens=task.max_tokens,
        chain=chain,
        key=caller.key,
        group=caller.group,
        session=task.request.session,
        share=caller.share,
        since=context.clock(),
        barred=caller.may.barred_tiers,
        background=is_side_job,
        idle=caller.idle,
        tools=bool(task.request.tools),
    )


def _word(error: GatewayError) -> str:
    """How a backend failed a request, as in `Info.passed`."""
    if isinstance(error, BackendDown):
        return "down"
    if isinstance(error, UpstreamTimeout):
        return "timeout"
    return "failed" if isinstance(error, UpstreamFault) else "refused"

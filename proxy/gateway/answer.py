"""The running answer to a request, with all its choices.

`Answer` is primed before the status line is sent, so that a full queue is still a 429 and a dead
backend a 503: `prime` waits for the first event, or for the first tick of silence, after which the
stream begins without an event. A later failure is a Failed event.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from functools import partial
from itertools import chain

import msgspec
from msgspec import Struct

from ..core.events import (
    Batch,
    Compacted,
    Failed,
    Finished,
    Order,
    Progress,
    Started,
    TextDelta,
)
from ..core.fold import Fold
from ..core.request import CompletionRequest
from ..core.task import Task
from ..core.usage import Usage
from ..errors import GatewayError
from ..runtime.cancel import Cancel
from ..runtime.locks import native_lock
from .attempt import Attempt
from .bounded import BoundedAnswer
from .context import ANYBODY, LATER, NO_USAGE, Caller, GatewayContext, Info

AT_ONCE = 16  # choices of one request that run in parallel, at most
AHEAD = 64  # batches that the choices may be ahead of a slow client
_SILENT = (Started, Compacted, Progress)  # events before the first that a reader sees
_counting = native_lock()  # held for a few additions

Choice = tuple[int, Batch]
Compact = Callable[
    [CompletionRequest, list[Task], Info],
    Generator[Choice, None, tuple[list[Task], Compacted] | None],
]
"""Makes a prompt fit that is too long: yields ticks, and returns the tasks to answer instead. None
if nothing is to be done."""
Describe = Callable[[CompletionRequest, Info], Generator[Choice, None, CompletionRequest]]
"""Makes texts of images: yields ticks, and returns the request to answer instead."""


class Answer(Struct, eq=False, kw_only=True):
    """The running stream of one request: an iterable of (choice, batch), an empty batch being a
    tick of silence. Close it when done."""

    context: GatewayContext
    request: CompletionRequest
    model: str
    name: str  # of the model in the answer
    tasks: list[Task]
    # Makes them again, once the model's template is known and no image is left to describe.
    make_tasks: Callable[[CompletionRequest], list[Task]]
    loads: bool = False  # the model must be loaded first
    caller: Caller = ANYBODY
    cancel: Cancel
    describe: Describe | None = None  # both are called before anything is placed
    compact: Compact | None = None

    info: Info = LATER
    began: float = 0.0
    first: Choice | None = None
    bounded: BoundedAnswer | None = None
    compacted: Compacted | None = None
    # What is running now, to be closed: the preparation, or the choices.
    running: Generator[Choice, None, None] | None = None
    choices: Iterator[Choice] = LATER

    def __post_init__(self) -> None:
        self.info = Info(model=self.name, warnings=self.request.warnings)
        self.began = self.context.clock()
        if not (self.loads or self.describe or self.compact) and self.caller.allowance is None:
            self.choices = self._every_choice()
        else:
            self.choices = chain.from_iterable(self._stages())

    def prime(self) -> None:
        """Wait for the first event or tick. Raises the error if the answer failed before."""
        self.first = _, batch = next(self.choices)
        if batch and type(last := batch[-1]) is Failed:
            self.close()
            raise last.error

    def __iter__(self) -> Iterator[Choice]:
        first, self.first = self.first, None
        # An iterator at its end lets go of what it iterated over.
        return self.choices if first is None else chain(iter((first,)), self.choices)

    def close(self) -> None:
        """End it, wherever it is; every slot is given back. Safe to call again."""
        if self.running is not None:
            self.running.close()
        if self.bounded is not None:
            self.bounded.close()
        if not self.info.outcome:
            self.info.outcome = "cancelled"

    def _stages(self) -> Iterator[Generator[Choice, None, None]]:
        """What runs one after the other, so that the choices are not nested in what precedes
        them."""
        self.running = preparing = self._prepare()
        yield preparing
        if not self.info.outcome:  # nothing has ended the answer
            yield self._every_choice()

    def _every_choice(self) -> Generator[Choice, None, None]:
        alone = len(self.tasks) * self.request.n == 1
        self.running = choices = self._guarded(0, self.tasks[0]) if alone else self._several()
        return choices

    def _prepare(self) -> Generator[Choice, None, None]:
        """Load the model, describe images, compact a conversation that is too long, and enter the
        limits of the caller. Yields ticks, and the end of an answer that ends here."""
        info = self.info
        try:
            if self.loads:
                registry = self.context.registry
                info.shows_load = any(backend.shows_load for backend in registry.pool(self.model))
                with info.timed("load"):
                    for note in registry.load(self.model, self.cancel):
                        info.loading = note
                        yield 0, []
                info.loading = ""
            if self.describe is not None:
                with info.timed("pictures"):
                    self.request = yield from self.describe(self.request, info)
            if self.loads or self.describe is not None:
                # Those made before only served to refuse invalid requests early.
                self.tasks = self.make_tasks(self.request)
            shortened = None
            if self.compact is not None:
                with info.timed("summary"):
                    shortened = yield from self.compact(self.request, self.tasks, info)
            if shortened:
                self.tasks, self.compacted = shortened
                info.compacted = self.compacted.messages
                wish = self.request.compaction
                if wish is not None and wish.pauses:
                    info.outcome = "stop"
                    yield 0, [Started(), self.compacted, Finished(reason="stop", usage=Usage())]
                    return
            if self.caller.allowance is not None:
                self.bounded = bounded = BoundedAnswer(
                    context=self.context,
                    caller=self.caller,
                    allowance=self.caller.allowance,
                    model=self.model,
                    name=self.info.model,
                    tasks=self.tasks,
                    choices=self.request.n,
                )
                self.tasks = bounded.tasks
                # A request that uses idle slots only often finds none: it enters when it has one.
                if not self.caller.idle:
                    with info.timed("limits"):
                        bounded.enter(self.cancel)
                    self.tasks = [bounded.within(task) for task in self.tasks]
        except GatewayError as error:
            info.outcome = _name_of(error)
            yield 0, [Failed(error)]

    def _enter(self, bounded: BoundedAnswer, attempt: Attempt) -> None:
        bounded.enter(self.cancel)
        attempt.task = bounded.within(attempt.task)

    def _several(self) -> Generator[Choice, None, None]:
        """Run several choices, each in a thread, and interleave their batches as they come. In idle
        slots, one runs after the other: there may never be several at once."""
        n = self.request.n
        ready: queue.Queue[Choice | BaseException | None] = queue.Queue(AHEAD)
        todo = iter(list(enumerate(t for t in self.tasks for _ in range(n))))
        lock = threading.Lock()
        over = threading.Event()

        def work() -> None:
            while not over.is_set():
                with lock:
                    item = next(todo, None)
                if item is None:
                    break
                try:
                    for choice in self._guarded(*item):
                        ready.put(choice)
                        if over.is_set():
                            return
                except BaseException as defect:
                    ready.put(defect)
                    return
            ready.put(None)

        count = 1 if self.caller.idle else min(AT_ONCE, n * len(self.tasks))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            left = count
            while left:
                item = ready.get()
                if item is None:
                    left -= 1
                elif isinstance(item, BaseException):
                    raise item
                else:
                    yield item
        finally:
            over.set()
            if left:
                self.cancel.cancel()
            while any(thread.is_alive() for thread in threads):
                try:
                    ready.get(timeout=0.01)
                except queue.Empty:
                    continue

    def _count(self, number: int, end: Finished, slot_seconds: float) -> None:
        """Add up the counts of the choices. A prompt counts once, with the first choice that is
        made from it, as in the answer."""
        info, usage, times = self.info, end.usage, end.timings
        size = usage.prompt + usage.completion
        with _counting:
            if size > info.longest:
                info.longest = size
            if number and number % self.request.n:
                usage = msgspec.structs.replace(usage, prompt=0, cached=0)
            # Mostly, this is all that the request uses.
            info.usage = usage if info.usage is NO_USAGE else info.usage + usage
            info.choices += 1
            info.evaluating += times.prompt_ms / 1000
            info.writing += times.predicted_ms / 1000
            info.slot_seconds += slot_seconds

    def _guarded(self, number: int, task: Task) -> Generator[Choice, None, None]:
        """Run one choice. An error becomes its last event."""
        info, clock, began = self.info, self.context.clock, self.began
        order = Order()
        attempt = Attempt(
            context=self.context,
            task=task,
            model=self.model,
            caller=self.caller,
            info=info,
            cancel=self.cancel,
            began=began,
        )
        if self.bounded is not None:
            attempt.on_slot = partial(self._enter, self.bounded, attempt)
        batches = iter(attempt)
        end: Finished | None = None
        flows = False  # any delta may follow, and the first was timed
        try:
            for batch in batches:
                if batch:
                    info.last_token = clock() - began
                    # Fast path: nearly all batches are a piece of text within an answer.
                    if not (flows and len(batch) == 1 and type(batch[0]) is TextDelta):
                        # One choice tells it: readers add up what summaries cost.
                        if self.compacted is not None and not number and type(batch[0]) is Started:
                            batch = [batch[0], self.compacted, *batch[1:]]
                        order.see(batch)
                        last = batch[-1]
                        if not info.first_token and type(last) not in _SILENT:
                            info.first_token = info.last_token
                        flows = order.flows and info.first_token > 0
                        if type(last) is Finished:
                            end = last
                            info.outcome = last.reason
                            self.context.learn(self.model, self.caller, task)
                            if self.bounded is not None:
                                # The client may send its next request at once.
                                self.bounded.add(number, last.usage, attempt.leased_seconds())
                        elif type(last) is Failed:
                            info.outcome = _name_of(last.error)
                yield number, batch
            order.end()
        except GatewayError as error:
            info.outcome = _name_of(error)
            # Frames of its traceback refer to the error: they would hold the request in a cycle.
            yield number, [Failed(error.with_traceback(None))]
        finally:
            batches.close()
            if end is None:
                end = Finished(reason="stop", usage=attempt.spent())
                if self.bounded is not None:
                    self.bounded.add(number, end.usage, attempt.slot_seconds)
            self._count(number, end, attempt.slot_seconds)


def written(answer: Answer, info: Info) -> Generator[Choice, None, str]:
    """The text of an answer that another one with this `info` needs first: the cost is added there.
    Yields ticks. Raises the errors of the answer."""
    context, whole = answer.context, Fold()
    ticked = context.clock()
    try:
        for _, batch in answer:
            info.place = answer.info.place
            whole.add(batch)
            now = context.clock()
            if not batch or now - ticked >= context.ping:
                ticked = now
                yield 0, []
    finally:
        answer.close()
        part = answer.info
        info.usage += part.usage
        info.evaluating += part.evaluating
        info.writing += part.writing
        info.slot_seconds += part.slot_seconds
    return whole.result().text.strip()


def _name_of(error: Exception) -> str:
    assert isinstance(error, GatewayError)
    return error.code or error.type

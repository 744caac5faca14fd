"""The running answer to a request, with all its choices.

`Answer` is primed before the status line is sent, so that a full queue is still a 429 and a dead
backend a 503: `prime` waits for the first event, or for the first tick of silence, after which the
stream begins without an event. A later failure is a Failed event.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from ..core.events import Compacted, Failed, Finished, Started
from ..core.fold import Fold
from ..core.request import CompletionRequest
from ..core.task import Task
from ..core.usage import Usage
from ..errors import GatewayError
from ..runtime.cancel import Cancel
from ..runtime.locks import native_lock
from .attempt import Attempt, name_of
from .bounded import BoundedAnswer
from .context import ANYBODY, LATER, NO_USAGE, Caller, Choice, GatewayContext, Info

AT_ONCE = 16  # choices of one request that run in parallel, at most
AHEAD = 64  # batches that the choices may be ahead of a slow client
_counting = native_lock()  # held for a few additions

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
            self.choices = self.running = self._every_choice()
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
            self.running = choices = self._every_choice()
            yield choices

    def _every_choice(self) -> Generator[Choice, None, None]:
        if len(self.tasks) * self.request.n == 1:
            return iter(self._attempt(0, self.tasks[0]))
        return self._several()

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
            info.outcome = name_of(error)
            yield 0, [Failed(error)]

    def _several(self) -> Generator[Choice, None, None]:
        """Run several choices, each in a thread, and interleave their batches as they come. In idle
        slots, one runs after the other: there may never be several at once."""
        n = self.request.n
        ready: queue.Queue[Choice | BaseException | None] = queue.Queue(AHEAD)
        over = threading.Event()

        def work(number: int, task: Task) -> None:
            try:
                for choice in self._attempt(number, task):
                    ready.put(choice)
                    if over.is_set():
                        return
                ready.put(None)
            except BaseException as defect:
                ready.put(defect)

        tasks = [task for task in self.tasks for _ in range(n)]
        pool = ThreadPoolExecutor(1 if self.caller.idle else min(AT_ONCE, len(tasks)))
        running = [pool.submit(work, number, task) for number, task in enumerate(tasks)]
        left = len(tasks)
        try:
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
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(run.done() for run in running):
                with contextlib.suppress(queue.Empty):
                    ready.get(timeout=0.01)

    def _attempt(self, number: int, task: Task) -> Attempt:
        return Attempt(
            context=self.context,
            task=task,
            model=self.model,
            caller=self.caller,
            info=self.info,
            cancel=self.cancel,
            began=self.began,
            number=number,
            bounded=self.bounded,
            # One choice tells it: readers add up what summaries cost.
            compacted=None if number else self.compacted,
            on_end=self._count,
        )

    def _count(self, attempt: Attempt) -> None:
        """Add up the counts of the choices. A prompt counts once, with the first choice that is
        made from it, as in the answer."""
        info, number, end = self.info, attempt.number, attempt.end
        if end is None:
            end = Finished(reason="stop", usage=attempt.spent())
            if self.bounded is not None:
                self.bounded.add(number, end.usage, attempt.slot_seconds)
        usage, times = end.usage, end.timings
        size = usage.prompt + usage.completion
        with _counting:
            if size > info.longest:
                info.longest = size
            if number and number % self.request.n:
                usage = replace(usage, prompt=0, cached=0)
            # Mostly, this is all that the request uses.
            info.usage = usage if info.usage is NO_USAGE else info.usage + usage
            info.choices += 1
            info.evaluating += times.prompt_ms / 1000
            info.writing += times.predicted_ms / 1000
            info.slot_seconds += attempt.slot_seconds


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

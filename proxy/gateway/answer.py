"""A request and its choices.

`Answer` is the running stream. It is primed before any status is sent, so that a full queue is
still a 429 and a dead backend a 503: `prime` waits for the first event, or for the first tick of
silence, after which the stream begins without one. A failure after that is a Failed event.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import Any

import msgspec

from ..backends.driver import Counts, Driver, MakesPrompts
from ..backends.registry import UNNAMED, Backend, Registry
from ..backends.run import TOKEN_TEXT
from ..backends.token_pieces import token_pieces
from ..cancel import Cancel
from ..core.events import Batch, Failed, Finished, Progress, TextDelta
from ..core.invalid import Invalid
from ..core.order import Order
from ..core.request import CompletionRequest
from ..core.task import Task
from ..errors import (
    BadRequest,
    Cancelled,
    ContextExceeded,
    GatewayError,
    NoBackend,
)
from ..prompting.bounds import MAX_SIZE
from ..prompting.prompt import Prompt, Prompter, Unrendered
from ..scheduling.admission import Admission
from ..scheduling.prefix import mask
from . import media
from .caller import ANYBODY, Caller
from .early import EarlyQueue
from .fitting import bindable, read_grammar
from .info import Info
from .placement import placed
from .rendering import rendered
from .way import Manner

AT_ONCE = 16  # choices of one request that are under way together
NAMES_TICK = 0.05  # seconds between two looks for the name of a model
AHEAD = 64  # batches the choices may be ahead of a slow client

Prompters = Callable[[str], Prompter | Unrendered]
Choice = tuple[int, Batch]


class Gateway:
    """`clock` gives monotonic seconds, `now` the time of day for templates; `manner` says how
    answers are made. `continues`: an answer whose backend dies goes on on another. `side_jobs` are
    the texts that the last message of a side job begins with. `hygiene`: stamps at the head of a
    prompt are masked, and tools come in a stable order. `sampling` are sampler fields for requests
    that do not set them. `ping`: seconds after which a stream that waits for a backend gives a sign
    of life, 0 for never. `wait_for_backend`: seconds for which at most `max_queue` requests wait
    for the first backend to tell its model."""

    def __init__(
        self,
        registry: Registry,
        scheduler: Admission,
        prompters: Prompters,
        *,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        manner: Manner,
        continues: bool = True,
        side_jobs: tuple[str, ...] = (),
        hygiene: bool = True,
        sampling: Mapping[str, Any] = MappingProxyType({}),
        ping: float = 15.0,
        wait_for_backend: float = 0.0,
        max_queue: int = 256,
    ) -> None:
        self.registry = registry
        self.scheduler = scheduler
        self._prompters = prompters
        self.clock = clock
        self.now = now
        self.manner = manner
        self.continues = continues
        self.side_jobs = side_jobs
        self._hygiene = hygiene
        self._sampling = sampling
        self.ping = ping or math.inf
        self._wait_for_backend = wait_for_backend
        self.early = EarlyQueue(max_queue)

    def answer(
        self, request: CompletionRequest, cancel: Cancel, caller: Caller = ANYBODY
    ) -> Answer:
        """Begin. Raises Invalid, BadRequest, ModelNotFound, and NoBackend, QueueFull or Cancelled
        where no backend has answered yet; nothing is placed yet."""
        model, name = self.registry.resolve(request.model)
        if model == UNNAMED and self._wait_for_backend:
            self._wait_for_names(model, cancel, caller.key)
            model, name = self.registry.resolve(request.model)
        tasks = self.tasks(request, model, cancel)
        return Answer(self, request, model, name, tasks, cancel, caller)

    def prompt_tokens(self, answer: Answer, cancel: Cancel | None = None) -> list[int]:
        """The ids of an answer's first prompt."""
        task = answer.tasks[0]
        backend = self._any(answer.model)
        if isinstance(backend.driver, MakesPrompts):
            return backend.driver.prompt_ids(task)
        if isinstance(task.prompt, tuple):
            return list(task.prompt)
        return backend.counter.ids(task.prompt, cancel=cancel)

    def count(
        self, request: CompletionRequest, cancel: Cancel | None = None, limit: int = 0
    ) -> int:
        """Tokens of a request's first prompt, as a backend would count them. Raises ContextExceeded
        as soon as there are `limit` or more (0: no limit)."""
        model, _ = self.registry.resolve(request.model)
        self._load(model)
        backend, task = self._any(model), self.tasks(request, model, cancel)[0]
        if isinstance(backend.driver, MakesPrompts):
            return len(backend.driver.prompt_ids(task))
        return backend.counter.count(task.prompt, cancel, limit)

    def fits(self, request: CompletionRequest, room: int, cancel: Cancel | None = None) -> bool:
        """Whether a request's first prompt leaves `room` tokens in the context of its model. What
        is far too long is not rendered. Raises Cancelled, and what `count` does otherwise."""
        if cancel is not None and cancel.cancelled:
            raise Cancelled("the client closed the request")
        model, _ = self.registry.resolve(request.model)
        n_ctx = max((b.n_ctx for b in self.registry.pool(model)), default=0)
        if not n_ctx:
            return True
        most = min(n_ctx * TOKEN_TEXT, MAX_SIZE)
        if sum(message.characters for message in request.messages) > most:
            return False
        try:
            return self.count(request, cancel, max(1, n_ctx - room + 1)) + room <= n_ctx
        except ContextExceeded:
            return False

    def prompt(self, request: CompletionRequest) -> str:
        """The text a chat is sent as."""
        model, _ = self.registry.resolve(request.model)
        self._load(model)
        driver, task = self._any(model).driver, self.tasks(request, model)[0]
        if isinstance(driver, MakesPrompts):
            return driver.detokenize(driver.prompt_ids(task))
        assert isinstance(task.prompt, str), "a chat is rendered to text"
        return task.prompt

    def _ids(
        self, prompt: str | tuple[int | str, ...], model: str, cancel: Cancel | None
    ) -> str | tuple[int, ...]:
        """A row of token ids and texts as token ids, every other prompt as it is. A text at the
        beginning gets what a prompt begins with (BOS), as a prompt of text does."""
        if isinstance(prompt, str):
            return prompt
        if all(type(one) is int for one in prompt):
            return prompt  # type: ignore[return-value]  # mypy does not follow all()
        counter = self._any(model).counter
        ids: list[int] = []
        for place, one in enumerate(prompt):
            if isinstance(one, int):
                ids.append(one)
            else:
                _no_nul(one)
                ids += counter.ids(one, special=not place, cancel=cancel)
        return tuple(ids)

    def tokenize(
        self,
        model: str,
        text: str,
        special: bool = False,
        cancel: Cancel | None = None,
        most: int = 0,
    ) -> list[int]:
        """Token ids of a text, the first `most` at least if that is not 0."""
        return self._any(model).counter.ids(text, special, cancel, most)

    def pieces(
        self, model: str, text: str, special: bool, cancel: Cancel
    ) -> list[tuple[int, bytes]]:
        """The tokens of a text, each with its bytes. Raises Unsupported, BadRequest, Cancelled."""
        backend = self._any(model)
        return token_pieces(backend.driver, backend.counter, text, special, cancel)

    def counters(self) -> dict[str, dict[str, float]]:
        """What the backends that count by themselves have counted, by backend. One that does not
        answer in time is left out."""
        asked = {
            name: backend.driver
            for name, backend in self.registry.backends.items()
            if backend.up and backend.caps is not None and backend.caps.metrics
        }
        if not asked:
            return {}
        with ThreadPoolExecutor(min(len(asked), AT_ONCE)) as pool:
            return dict(zip(asked, pool.map(_counters, asked.values()), strict=True))

    def detokenize(self, model: str, tokens: list[int]) -> str:
        """The text of token ids. Raises BadRequest for an id that is none."""
        backend = self._any(model)
        if backend.caps is not None:
            backend.vocabulary.check_harmless(tokens, backend.caps, "tokens")
        return backend.driver.detokenize(tokens)

    def _load(self, model: str) -> None:
        """A prompt is made by the model's own template, which only the loaded model tells."""
        if self.registry.unknown(model):
            for _ in self.registry.load(model, Cancel()):
                pass

    def _any(self, model: str) -> Backend:
        for backend in self.registry.pool(model)[:1]:
            if backend.up:
                return backend
        raise NoBackend("no backend of this model is up", retry_after=1.0)

    def _wait_for_names(self, model: str, cancel: Cancel, key: str) -> None:
        """A moment after the start no backend may have told its model yet, without which there is
        neither a template nor a place to queue. Raises NoBackend, Cancelled, QueueFull."""
        registry = self.registry
        if registry.is_named(model):
            return
        place = self.early.take(key)
        try:
            registry.look_soon(model)
            end = self.clock() + self._wait_for_backend
            while not registry.is_named(model):
                self.early.check(place)
                if cancel.cancelled:
                    raise Cancelled("the client closed the request")
                if self.clock() >= end:
                    raise NoBackend("no backend has answered yet", retry_after=1.0)
                time.sleep(NAMES_TICK)
        finally:
            self.early.give(place)

    def tasks(
        self, request: CompletionRequest, model: str, cancel: Cancel | None = None
    ) -> list[Task]:
        """One task a prompt, what concerns all choices checked."""
        if self._sampling:
            sampling = {**self._sampling, **request.sampling}
            request = msgspec.structs.replace(request, sampling=sampling)
        kinds = media.check(request.messages, self.manner.max_media)
        grammar = request.sampling.get("grammar")
        if grammar:
            read_grammar(grammar, cancel)
        if request.is_chat:
            if self._hygiene and len(request.tools) > 1:
                tools = tuple(sorted(request.tools, key=lambda tool: tool.name))
                request = msgspec.structs.replace(request, tools=tools)
            prompt = rendered(self._prompters(model), request, self.now())
            if self._hygiene and prompt.boundaries:
                text = mask(prompt.text, prompt.boundaries[0])
                if text is not prompt.text:
                    prompt = msgspec.structs.replace(prompt, text=text)
            tasks = [_task(request, prompt.text, prompt, kinds)]
        else:
            prompts = [self._ids(one, model, cancel) for one in request.prompts]
            tasks = [_task(request, one, Prompt("")) for one in prompts]
        bindable(tasks[0], cancel)
        return tasks


def _counters(driver: Driver) -> dict[str, float]:
    if isinstance(driver, Counts):
        with contextlib.suppress(GatewayError):
            return driver.counters()
    return {}


class Answer:
    """The running stream of one request: an iterable of (choice, batch), a batch of none being a
    tick of silence. It must be closed."""

    def __init__(
        self,
        gateway: Gateway,
        request: CompletionRequest,
        model: str,
        name: str,
        tasks: list[Task],
        cancel: Cancel,
        caller: Caller = ANYBODY,
    ) -> None:
        self.request = request
        self.model = model
        self.tasks = tasks
        self.info = Info(model=name, warnings=request.warnings)
        self._gateway = gateway
        self._cancel = cancel
        self._caller = caller
        self._began = gateway.clock()
        self._first: Choice | None = None
        self._counting = threading.Lock()
        self._counted: set[int] = set()  # prompts
        unknown = gateway.registry.unknown(model)
        self._choices: Iterator[Choice] = self._after_load() if unknown else self._all()

    def prime(self) -> None:
        """Wait until the answer has begun, or a tick has passed. Raises what went wrong."""
        self._first = next(self._choices)
        for event in self._first[1]:
            if isinstance(event, Failed):
                self.close()
                raise event.error

    def __iter__(self) -> Iterator[Choice]:
        first, self._first = self._first, None
        return self._choices if first is None else chain((first,), self._choices)

    def close(self) -> None:
        """End it, wherever it is; every slot is given back. Safe to call again."""
        self._choices.close()  # type: ignore[attr-defined]  # it is a generator
        if not self.info.outcome:
            self.info.outcome = "cancelled"

    def _all(self) -> Iterator[Choice]:
        alone = len(self.tasks) * self.request.n == 1
        return self._guarded(0, self.tasks[0]) if alone else self._several()

    def _after_load(self) -> Iterator[Choice]:
        """The same once the model was loaded and its template is known: the tasks so far were only
        to refuse early what no template makes good."""
        info, gateway = self.info, self._gateway
        try:
            for note in gateway.registry.load(self.model, self._cancel):
                info.loading = note
                yield 0, []
            info.loading = ""
            self.tasks = gateway.tasks(self.request, self.model, self._cancel)
        except (GatewayError, Invalid) as fault:
            error = (
                BadRequest(str(fault), param=fault.param) if isinstance(fault, Invalid) else fault
            )
            info.outcome = error.code or error.type
            yield 0, [Failed(error)]
            return
        yield from self._all()

    def _several(self) -> Iterator[Choice]:
        """Choices run side by side, each in a thread, and are interleaved as they come."""
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

        count = min(AT_ONCE, n * len(self.tasks))
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
                self._cancel.cancel()
            while any(thread.is_alive() for thread in threads):
                try:
                    ready.get(timeout=0.01)
                except queue.Empty:
                    continue

    def _count(self, number: int, end: Finished) -> None:
        """Add up what the choices took; a prompt counts once, as in the answer."""
        info, usage, prompt = self.info, end.usage, number // self.request.n
        with self._counting:
            info.longest = max(info.longest, usage.total)
            if prompt in self._counted:
                usage = msgspec.structs.replace(usage, prompt=0, cached=0)
            self._counted.add(prompt)
            info.usage += usage
            info.evaluating += end.timings.prompt_ms / 1000
            info.writing += end.timings.predicted_ms / 1000

    def _guarded(self, number: int, task: Task) -> Iterator[Choice]:
        """One choice; what goes wrong becomes its last event."""
        info, clock, began = self.info, self._gateway.clock, self._began
        order = Order()
        try:
            for batch in placed(
                self._gateway, task, self.model, began, self._cancel, info, self._caller
            ):
                if batch:
                    info.last_token = clock() - began
                    # Nearly all are a piece of text in the middle of an answer.
                    if not (order.flows and len(batch) == 1 and type(batch[0]) is TextDelta):
                        order.see(batch)
                        last = batch[-1]
                        if not info.first_token and type(last) is not Progress:
                            info.first_token = info.last_token
                        if type(last) is Finished:
                            self._count(number, last)
                            info.outcome = last.reason
                yield number, batch
            order.end()
        except GatewayError as error:
            info.outcome = error.code or error.type
            yield number, [Failed(error)]


def _no_nul(text: str) -> None:
    if "\0" in text:
        raise BadRequest("the prompt holds a NUL character", param="prompt")


def _task(
    request: CompletionRequest,
    prompt: str | tuple[int, ...],
    rendered: Prompt,
    kinds: frozenset[str] = frozenset(),
) -> Task:
    if isinstance(prompt, str):
        _no_nul(prompt)
    return Task(
        prompt=prompt,
        boundaries=rendered.boundaries,
        suffix=request.suffix if request.suffix or "infill" in request.extra else None,
        sampling=request.sampling,
        max_tokens=request.max_tokens,
        stop=rendered.stops,
        cut=request.stop + rendered.turns,
        logprobs=request.logprobs,
        session=request.session,
        tool_form=rendered.tool_form,
        thinks=rendered.thinks,
        native=rendered.native,
        media=kinds,
        foreign=rendered.foreign,
        request=request,
    )

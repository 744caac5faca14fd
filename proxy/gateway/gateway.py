"""The gateway: makes tasks from a request and starts its answer, or counts its tokens."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any, cast, get_args

from msgspec.structs import replace

from ..accounts.rights import Permissions
from ..backends.driver import Driver, SlotAction
from ..backends.pools import UNNAMED, Backend, OnOverflow
from ..backends.run import TOKEN_TEXT
from ..backends.tokens import check_ids
from ..core.cache import BoundedCache
from ..core.late_binding import late_bound
from ..core.request import CompletionRequest
from ..core.task import Task
from ..errors import BadRequest, ContextExceeded, GatewayError, NoBackend, QueueFull, Unsupported
from ..prompting.prompt import Line, Prompter, profile_of
from ..prompting.template.bounds import MAX_SIZE
from ..runtime.cancel import Cancel
from . import compaction, seeing
from .adapt import check_alternatives, check_grammar, validate_constraints
from .answer import AT_ONCE, Answer
from .choosing import Chooser
from .context import ANYBODY, Caller, GatewayContext
from .sent_prompt import MEDIA, check_media, count_sent_prompt, rendered, with_sent_prompt

MOST_WITH_PIECES = 32_768  # characters of a text, at most as many tokens: 30 ms to serialize
NAMES_TICK = 0.05  # seconds between two checks for a model name

Prompters = Callable[[str], Prompter | Task]


class Gateway:
    """`now` returns the time of day for templates. `sampling` holds defaults for sampling fields.
    `wait_for_backend`: seconds that at most `max_queue` requests wait until the first backend has
    reported its model. `on_overflow` says what happens to conversations that do not fit, unless a
    backend or the caller says it. `vision` is the model that describes images for models that do
    not see, "" for none. What the caller `may` do says which backends get its text."""

    def __init__(
        self,
        context: GatewayContext,
        prompters: Prompters,
        *,
        now: Callable[[], datetime],
        sampling: Mapping[str, Any] = MappingProxyType({}),
        wait_for_backend: float = 0.0,
        max_queue: int = 256,
        on_overflow: OnOverflow = "refuse",
        vision: str = "",
    ) -> None:
        self.context = context
        self.registry = context.registry
        self.scheduler = context.scheduler
        self.clock = context.clock
        self.now = now
        self._prompters = prompters
        self._sampling = sampling
        self._wait_for_backend = wait_for_backend
        self._early = threading.BoundedSemaphore(max_queue)
        self._on_overflow = on_overflow
        self.vision = vision
        self.choose = Chooser(context.registry, describes=bool(vision)).choose
        self.pictures: BoundedCache[str] = BoundedCache(seeing.KEPT)  # as texts
        self.summaries: BoundedCache[str] = BoundedCache(compaction.MOST_KEPT)

    def accepts_images(self, model: str) -> bool:
        """Whether images may be sent to this model: one of its backends is known to accept them, or
        they are described. Raises ModelNotFound."""
        registry = self.registry
        pools = [registry.pool(registry.resolve(model)[0])]
        pools += [registry.pool(n) for rule in registry.rules.get(model, ()) for n in rule.models]
        return any(backend.sees for pool in pools for backend in pool) or bool(self.vision)

    def answer(
        self, request: CompletionRequest, cancel: Cancel, caller: Caller = ANYBODY
    ) -> Answer:
        """Start an answer; nothing is placed yet. Raises BadRequest, ModelNotFound, Forbidden, and
        NoBackend, QueueFull or Cancelled if no backend has reported its model."""
        model, name = self.registry.answering(request.model)
        if model == UNNAMED and self._wait_for_backend:
            self._wait_until(self.registry.is_named, model, cancel)
            model, name = self.registry.answering(request.model)
        adapter = self.registry.adapters.get(name)  # that the name means
        if adapter is not None and "lora" not in request.sampling:
            sampling = {**request.sampling, "lora": adapter}
            request = replace(request, sampling=sampling)
        may = caller.may
        if may.rights:
            may.check_model(request.model, name, model)
        if may.barred_tiers:
            may.check_tiers(name, {b.tier.name for b in self.registry.pool(model)})
        tasks = self.tasks(request, model, cancel, may)
        describe = compact = None
        if self.vision and seeing.images(request):
            self._wait_until(self._was_asked, model, cancel)
            describe = partial(seeing.described, self, model, caller, cancel)
        # The client's wish counts first, then the setting of its key, then that of the model.
        overflow = caller.on_overflow or self.registry.on_overflow.get(model, self._on_overflow)
        if (overflow == "compact" or request.compaction is not None) and request.messages:
            compact = partial(compaction.compact, self, model, caller, cancel)
        return Answer(
            context=self.context,
            request=request,
            model=model,
            name=name,
            tasks=tasks,
            make_tasks=partial(self.tasks, model=model, cancel=cancel, may=may),
            loads=self.registry.unknown(model),
            caller=caller,
            cancel=cancel,
            describe=describe,
            compact=compact,
        )

    def prompt_tokens(self, answer: Answer, cancel: Cancel | None = None) -> list[int]:
        backend = self._any(answer.model, answer.caller.may)
        task = with_sent_prompt(answer.tasks[0], backend, cancel)
        ids = backend.driver.prompt_ids(task, cancel)
        return backend.counter.prompt_ids(task, cancel) if ids is None else ids

    def count(
        self, request: CompletionRequest, cancel: Cancel, limit: int = 0, *, may: Permissions
    ) -> int:
        """The number of tokens in a request's first prompt, as a backend counts them. Raises
        ContextExceeded as soon as there are `limit` or more (0: no limit)."""
        task, backend = self._first_task(request, cancel, may)
        return count_sent_prompt(task, backend, cancel, limit)

    def fits(
        self, request: CompletionRequest, room: int, cancel: Cancel, *, may: Permissions
    ) -> bool:
        """Whether a request's first prompt leaves `room` tokens in the model's context. A prompt
        that is far too long is not rendered. Raises Cancelled, and the other errors of `count`."""
        cancel.check()
        model, _ = self.registry.answering(request.model)
        n_ctx = max((b.n_ctx for b in self.registry.pool(model, may.barred_tiers)), default=0)
        if not n_ctx:
            return True
        most = min(n_ctx * TOKEN_TEXT, MAX_SIZE)
        if sum(message.characters for message in request.messages) > most:
            return False
        try:
            limit = max(1, n_ctx - room + 1)
            return self.count(request, cancel, limit, may=may) + room <= n_ctx
        except ContextExceeded:
            return False

    def prompt(self, request: CompletionRequest, *, may: Permissions) -> str:
        task, backend = self._first_task(request, None, may)
        task = with_sent_prompt(task, backend)
        if (ids := backend.driver.prompt_ids(task)) is not None:
            return backend.driver.detokenize(ids)
        return task.text

    def _first_task(
        self, request: CompletionRequest, cancel: Cancel | None, may: Permissions
    ) -> tuple[Task, Backend]:
        """The task of a request's first prompt, and a backend for it. Loads the model if necessary,
        because only a loaded model has a template."""
        model, _ = self.registry.answering(request.model)
        self.registry.load_unknown(model, cancel or Cancel())
        backend = self._any(model, may)
        return self.tasks(request, model, cancel, may)[0], backend

    def _ids(
        self,
        prompt: str | tuple[int | str, ...],
        model: str,
        cancel: Cancel | None,
        may: Permissions,
    ) -> str | tuple[int, ...]:
        """Convert a mixed prompt of token ids and texts to token ids; other prompts pass unchanged.
        A text at the beginning gets the BOS token, as a text prompt does."""
        if isinstance(prompt, str):
            return prompt
        if set(map(type, prompt)) <= {int}:  # a million of them in 15 ms
            return prompt  # type: ignore[return-value]  # mypy does not follow map()
        counter = self._any(model, may).counter
        ids: list[int] = []
        for place, part in enumerate(prompt):
            if isinstance(part, int):
                ids.append(part)
            else:
                _no_nul(part)
                ids += counter.ids(part, special=not place, cancel=cancel)
        return tuple(ids)

    def tokenize(
        self, model: str, text: str, special: bool, cancel: Cancel, *, may: Permissions
    ) -> list[int]:
        return self._any(model, may).counter.ids(text, special, cancel)

    def pieces(
        self, model: str, text: str, special: bool, *, may: Permissions
    ) -> list[tuple[int, bytes]]:
        """The tokens of a text, each with its bytes. Raises Unsupported, BadRequest."""
        if len(text) > MOST_WITH_PIECES:
            raise BadRequest(
                f"the text has {len(text)} characters; with pieces, at most {MOST_WITH_PIECES} can"
                " be tokenized per request: split the text",
                param="content",
            )
        return self._any(model, may).driver.pieces(text, special)

    def counters(self) -> dict[str, dict[str, float]]:
        """Counters of the backends that have their own, by backend. Empty for a backend that does
        not answer in time."""
        drivers = {
            name: backend.driver
            for name, backend in self.registry.backends.items()
            if backend.up and backend.caps is not None and backend.caps.metrics
        }
        if not drivers:
            return {}
        with ThreadPoolExecutor(min(len(drivers), AT_ONCE)) as pool:
            return dict(zip(drivers, pool.map(_counters, drivers.values()), strict=True))

    def slot_action(self, name: str, action: str, slot: int, file: str) -> tuple[int, int]:
        """Save a slot of a backend to a file of its server, restore it from there, or erase it.

        Returns the number of tokens and bytes moved. Raises BadRequest, Unsupported, NoBackend and
        the driver's errors."""
        if action not in get_args(SlotAction):
            raise BadRequest(
                f"action must be one of {', '.join(get_args(SlotAction))}", param="action"
            )
        backend = self.registry.backends.get(name)
        if backend is None or not backend.up or backend.caps is None:
            raise NoBackend("the backend is down")
        if not backend.caps.slot_save:
            raise Unsupported("the backend cannot save slots: start it with --slot-save-path")
        return backend.driver.slot_action(cast(SlotAction, action), slot, file)

    def profile(self, model: str) -> tuple[Line, ...]:
        """What is known of a model's prompts and answers: labels and texts. () before its first
        load, and if its backends render the prompts."""
        pool = self.registry.pool(model)
        if all(b.caps is None or b.caps.provisional for b in pool):
            return ()
        prompter = self._prompters(model)
        if isinstance(prompter, Task):
            return ()
        kinds = dict.fromkeys(kind for b in pool for kind in b.verdict.differing)
        own = (("server's own route", ", ".join(kinds)),) if kinds else ()
        return profile_of(prompter) + own

    def detokenize(self, model: str, tokens: list[int], *, may: Permissions) -> str:
        """The text of token ids. Raises BadRequest for an invalid id."""
        backend = self._any(model, may)
        if backend.caps is not None:
            check_ids(backend.driver, tokens, backend.caps, "tokens", harmless=True)
        return backend.driver.detokenize(tokens)

    def _any(self, model: str, may: Permissions) -> Backend:
        """A backend that `may` be used. Raises NoBackend."""
        for backend in self.registry.pool(model, may.barred_tiers)[:1]:
            if backend.up:
                return backend
        raise self.registry.none_up(model)

    def _was_asked(self, model: str) -> bool:
        """Whether a backend of this model has said what it can, or is loaded to find out."""
        return any(b.caps is not None or b.status for b in self.registry.pool(model))

    def _wait_until(self, known: Callable[[str], bool], model: str, cancel: Cancel) -> None:
        """Wait until it is `known` what a backend of this model reports, which decides how its
        requests are made. Raises NoBackend, Cancelled, QueueFull."""
        registry = self.registry
        if known(model):
            return
        if not self._early.acquire(blocking=False):
            raise QueueFull("too many requests are waiting for the first backend", retry_after=1.0)
        try:
            registry.look_soon(model)
            began = self.clock()
            while not known(model):
                cancel.check()
                waited = self.clock() - began
                if registry.patience(model, waited, self._wait_for_backend) <= 0:
                    raise registry.none_up(model)
                time.sleep(NAMES_TICK)
        finally:
            self._early.release()

    def tasks(
        self, request: CompletionRequest, model: str, cancel: Cancel | None, may: Permissions
    ) -> list[Task]:
        """One task for each prompt, with the checks that concern all choices."""
        if self._sampling:
            sampling = {**self._sampling, **request.sampling}
            request = replace(request, sampling=sampling)
        if request.logprobs:
            check_alternatives(request)
        grammar = request.sampling.get("grammar")
        if grammar:
            check_grammar(grammar, cancel)
        if request.messages:
            if request.tools and request.max_tool_calls is None:
                most = self.context.generation.max_parallel_calls
                request = replace(request, max_tool_calls=most)
            prompter = self._prompters(model)
            late = may.first("late_binding", ()) if may.rights else ()
            if late := late or self.registry.late_binding.get(model):
                request = late_bound(request, late, apart=isinstance(prompter, Prompter))
            task = rendered(prompter, request, self.now())
            _no_nul(task.prompt)
            if any(map(MEDIA, request.messages)):
                kinds = check_media(request.messages, self.context.generation.max_media)
                task = replace(task, media=kinds)
            tasks = [task]
        else:
            prompts = [self._ids(prompt, model, cancel, may) for prompt in request.prompts]
            tasks = [_text_task(request, prompt) for prompt in prompts]
        if not (grammar or request.tools) and request.output.kind == "text":
            return tasks
        if tool_gaps := validate_constraints(tasks[0], cancel).tool_gaps:
            tasks = [replace(task, tool_gaps=tool_gaps) for task in tasks]
        return tasks


def _counters(driver: Driver) -> dict[str, float]:
    with contextlib.suppress(GatewayError):
        return driver.counters()
    return {}


def _no_nul(prompt: str | tuple[int, ...]) -> None:
    if "\0" in prompt:
        raise BadRequest("the prompt contains a NUL character", param="prompt")


def _text_task(request: CompletionRequest, prompt: str | tuple[int, ...]) -> Task:
    if isinstance(prompt, str):
        _no_nul(prompt)
    return Task(
        prompt=prompt,
        suffix=request.suffix if request.suffix or "infill" in request.extra else None,
        sampling=request.sampling,
        max_tokens=request.max_tokens,
        stop_strings=request.stop,
        logprobs=request.logprobs,
        request=request,
    )

"""An answer within the limits of its caller: what it may need is taken before it enters the queue,
and what it did not use is given back with its last event.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from ..accounts.limiting.allowance import Reservation
from ..accounts.limiting.budgets import Used
from ..accounts.limiting.plan import Size
from ..backends.pools import Backend
from ..backends.tokens import most_tokens
from ..core.task import Task
from ..core.usage import Usage
from ..errors import Unsupported, UpstreamFault, UpstreamTimeout
from ..runtime.cancel import Cancel
from ..runtime.locks import native_lock
from .context import Caller, GatewayContext
from .sent_prompt import count_sent_prompt

NOTHING = Usage()
UNKNOWN_CONTEXT = 4096  # tokens, of a backend that does not report its context


class BoundedAnswer:
    """`tasks` are those of the request, with answers no longer than allowed; each is answered
    `choices` times. `name` is the name of the model for its price."""

    def __init__(
        self,
        context: GatewayContext,
        caller: Caller,
        model: str,
        tasks: list[Task],
        choices: int,
        *,
        name: str,
    ) -> None:
        assert caller.allowance is not None, "only made with one"
        self._context = context
        self._allowance = caller.allowance
        self._allowance.for_model(partial(context.registry.names_of, model))
        self._model = model
        self._barred = caller.may.barred_tiers
        self._name = name
        self._choices = choices
        most = self._allowance.plan.largest_answer
        self.tasks = tasks if most is None else [_shortened(task, most) for task in tasks]
        self._left = len(tasks) * choices  # choices that have not ended
        self._used = NOTHING
        self._slot_seconds = 0.0
        self._lock = native_lock()
        self._admission: Reservation | None = None

    def enter(self, cancel: Cancel) -> None:
        """Take what the answer may need. A second call does nothing. Raises the errors of
        `Allowance.admit`."""
        if self._admission is not None:
            return
        size, exact = Size(), None
        if self._allowance.plan.counts_tokens:
            if any(task.backend_templates for task in self.tasks):
                size = self._size(cancel)  # only the backend knows the prompt
            else:
                size, exact = self._size(None), partial(self._size, cancel)
        self._admission = self._allowance.admit(size, self._name, exact)

    def add(self, number: int, usage: Usage, slot_seconds: float) -> None:
        """Add what a choice has used. A prompt counts once for all choices made from it."""
        if number % self._choices:
            usage = msgspec.structs.replace(usage, prompt=0, cached=0)
        with self._lock:
            self._used = usage if self._used is NOTHING else self._used + usage
            self._slot_seconds += slot_seconds
            self._left -= 1
            is_last = not self._left
        if is_last:
            self.close()

    def close(self) -> None:
        """Give back what was not used."""
        admission, self._admission = self._admission, None
        if admission is not None:
            used = self._used
            admission.settle(Used(used.prompt, used.cached, used.completion, self._slot_seconds))

    def _size(self, cancel: Cancel | None) -> Size:
        """What the answer may need. Without `cancel`, an upper bound, for which no backend is
        asked."""
        pool = self._context.registry.pool(self._model, self._barred)
        n_ctx = max((backend.n_ctx for backend in pool), default=0)
        prompts = answers = 0
        known = True
        for task in self.tasks:
            counted = 0 if cancel is None else _prompt_tokens(pool, task, cancel)
            room, most = max(1, (n_ctx or UNKNOWN_CONTEXT) - counted), task.max_tokens
            if most is None:
                most, known = room, False
            elif n_ctx:
                most = min(most, room)  # clients ask for more than the context
            prompts += counted or most_tokens(task)
            answers += most
        return Size(prompts, self._choices * answers, known)


def _prompt_tokens(pool: Sequence[Backend], task: Task, cancel: Cancel) -> int:
    """The tokens of a prompt; an upper bound if no backend of the pool can count them."""
    for backend in pool:
        if not backend.up or backend.caps is None:
            continue
        try:
            return count_sent_prompt(task, backend, cancel)
        except (Unsupported, UpstreamFault, UpstreamTimeout):
            continue
    return most_tokens(task)


def _shortened(task: Task, most: int) -> Task:
    """The task with an answer of at most so many tokens."""
    limit = task.max_tokens
    if limit is not None and limit <= most:
        return task
    request = task.request
    if limit is not None:
        warning = f"max_tokens is {most}, the largest answer that this API key allows"
        request = msgspec.structs.replace(request, warnings=(*request.warnings, warning))
    return msgspec.structs.replace(task, max_tokens=most, request=request)

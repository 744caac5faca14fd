"""An answer within the limits of its caller: what it may need is taken before it enters the queue,
and what it did not use is given back with its last event.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from ..accounts.limiting.allowance import Allowance, Reservation
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


class BoundedAnswer(Struct, eq=False, kw_only=True):
    context: GatewayContext
    caller: Caller
    allowance: Allowance  # of the caller
    model: str
    name: str  # of the model, for its price
    tasks: list[Task]  # of the request; their answers become no longer than allowed
    choices: int  # of each task

    left: int = 0  # choices that have not ended
    used: Usage = NOTHING
    slot_seconds: float = 0.0
    lock: Any = field(default_factory=native_lock)
    reservation: Reservation | None = None

    def __post_init__(self) -> None:
        self.allowance.for_model(partial(self.context.registry.names_of, self.model))
        self.left = len(self.tasks) * self.choices
        most = self.allowance.plan.largest_answer
        if most is not None:
            self.tasks = [shortened(task, most) for task in self.tasks]

    def enter(self, cancel: Cancel) -> None:
        """Take what the answer may need. A second call does nothing. Raises the errors of
        `Allowance.admit`."""
        if self.reservation is not None:
            return
        size, exact = Size(), None
        if self.allowance.plan.counts_tokens:
            if any(task.backend_templates for task in self.tasks):
                size = self._size(cancel)  # only the backend knows the prompt
            else:
                size, exact = self._size(None), partial(self._size, cancel)
        self.reservation = self.allowance.admit(size, self.name, exact)

    def within(self, task: Task) -> Task:
        """The task, whose answer ends where what was taken for it ends."""
        room = None if self.reservation is None else self.reservation.room
        if room is None:
            return task
        most = max(1, room // (len(self.tasks) * self.choices))
        limit = task.max_tokens
        return replace(task, max_tokens=most if limit is None else min(most, limit))

    def add(self, number: int, usage: Usage, slot_seconds: float) -> None:
        """Add what a choice has used. A prompt counts once for all choices made from it."""
        if number % self.choices:
            usage = replace(usage, prompt=0, cached=0)
        with self.lock:
            self.used = usage if self.used is NOTHING else self.used + usage
            self.slot_seconds += slot_seconds
            self.left -= 1
            is_last = not self.left
        if is_last:
            self.close()

    def close(self) -> None:
        reservation, self.reservation = self.reservation, None
        if reservation is not None:
            used = self.used
            reservation.settle(Used(used.prompt, used.cached, used.completion, self.slot_seconds))

    def _size(self, cancel: Cancel | None) -> Size:
        """What the answer may need. Without `cancel`, an upper bound, for which no backend is
        asked."""
        pool = self.context.registry.pool(self.model, self.caller.may.barred_tiers)
        n_ctx = max((backend.n_ctx for backend in pool), default=0)
        prompts = answers = 0
        is_known = True
        for task in self.tasks:
            counted = 0 if cancel is None else _prompt_tokens(pool, task, cancel)
            room, most = max(1, (n_ctx or UNKNOWN_CONTEXT) - counted), task.max_tokens
            if most is None:
                most, is_known = room, False
            elif n_ctx:
                most = min(most, room)  # clients ask for more than the context
            prompts += counted or most_tokens(task)
            answers += most
        return Size(prompts, self.choices * answers, is_known)


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


def shortened(task: Task, most: int) -> Task:
    limit = task.max_tokens
    if limit is not None and limit <= most:
        return task
    request = task.request
    if limit is not None:
        warning = f"max_tokens is {most}, the largest answer that this API key allows"
        request = replace(request, warnings=(*request.warnings, warning))
    return replace(task, max_tokens=most, request=request)

"""What a request comes with and leaves behind, and what all requests of a gateway share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import msgspec
from msgspec import Struct

from ..accounts.limiting.allowance import Allowance
from ..accounts.rights import ALL, Permissions
from ..backends.pools import Backend
from ..backends.registry import Registry
from ..core.events import Batch
from ..core.task import Task
from ..core.usage import Usage
from ..scheduling.lease import Lease, Ticket
from ..scheduling.prefix import Chain, Turn
from ..scheduling.schedulers import Scheduler
from ..scheduling.state import Placement, SlotRequest
from .admission import RetryBudget
from .generation import GenerationSettings


class GatewayContext(Struct, frozen=True, kw_only=True):
    registry: Registry
    scheduler: Scheduler
    clock: Callable[[], float]  # monotonic seconds
    generation: GenerationSettings
    loops: str = "auto"  # what becomes of repetitions, unless the model or the key says it
    reasoning_tokens: int | None = None  # of an answer to a request that does not say
    continues: bool = True  # a broken answer resumes on another backend
    side_jobs: tuple[str, ...] = ()  # how the last message of a side job begins
    ping: float = 15.0  # seconds between signs of life in a stream that waits, inf for none
    retries: RetryBudget = msgspec.field(default_factory=RetryBudget)  # of all requests together
    turns: list[Turn] = []  # the last ones of long conversations
    # Called with each answered prompt, its model, caller and chain (see `prewarm.Heads`).
    learn: Callable[[str, Any, Task, Chain], object] = lambda *_: None


class Caller(Struct, frozen=True, kw_only=True):
    """The caller of a request, as the scheduler and the ledger see it."""

    key: str = ""  # the name of its API key
    user: str = ""  # the id of the key's user,
    team: str = ""  # and of its team
    person: str = ""  # the user, if many people use the key
    group: str = ""  # only requests of the same group share cached prompts
    share: float = 1.0  # the weight of the key's class in the queue
    background: bool = False  # a side job, which avoids evicting others' prompts
    idle: bool = False  # it uses idle slots only, and is cancelled when others need its slot
    patience: float | None = None  # seconds that it waits for one; None: as of `admission`
    tell_place: bool = False  # report the place in the queue in the stream
    may: Permissions = ALL  # which models may be used, and which tiers of routes may not
    allowance: Allowance | None = None  # from the limits of its key, None without limits
    # What happens to conversations that do not fit, refuse or compact; "": as set for the model.
    on_overflow: str = ""

    def slot_request(self, model: str, **fields: Any) -> SlotRequest:
        """The request for a slot of one that does not write text; `fields` as of SlotRequest."""
        return SlotRequest(
            model=model,
            key=self.key,
            person=self.person,
            group=self.group,
            share=self.share,
            barred=self.may.barred_tiers,
            idle=self.idle,
            background=True,
            **fields,
        )


ANYBODY = Caller()
NO_USAGE = Usage()
Choice = tuple[int, Batch]  # the number of a choice, and what it brings
LATER: Any = None  # the default of a field that is set before it is read


class Info(Struct, kw_only=True):
    """Facts about a request for headers, the log and metrics, filled in while it runs. Times are in
    seconds."""

    model: str = ""
    backend: str = ""
    tier: str = ""  # of the backend in a route
    # The backends that were passed over, and why: `down`, `paused`, `busy`, `barred`, or by a fault
    # of this request `failed`, `timeout` or `refused`.
    passed: tuple[tuple[str, str], ...] = ()
    slot: int = -1
    queue_wait: float = 0.0
    first_place: int = 0  # the first position in the queue,
    place: int = 0  # and the present one, 0 for none, for a client that sees it
    ticket: Ticket | None = None  # while it waits
    loading: str = ""  # a notice that the model is being loaded,
    shows_load: bool = False  # which streams of chats show as reasoning
    continued: int = 0  # how often the answer resumed on another backend
    placed: float = 0.0  # since the request began, like the next two
    first_token: float = 0.0
    last_token: float = 0.0
    forwarding: float = 0.0  # for which backends had a request that asks for no text
    choices: int = 0
    evaluating: float = 0.0  # the backend's own time for prompts,
    writing: float = 0.0  # and for tokens
    slot_seconds: float = 0.0  # for which slots were leased, over all choices and runs
    longest: int = 0  # tokens of the longest sequence, prompt and answer
    # Of the answer, with what a summary cost. Of choices that did not end, the tokens so far.
    usage: Usage = NO_USAGE
    outcome: str = ""
    has_effects: bool = False  # tools have run for the answer, which another try would repeat
    kinds: tuple[str, ...] = ()  # of `prompting.profile.verify`: why the backend renders the prompt
    compacted: int = 0  # messages that a summary replaced
    warnings: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()  # those about repetitions and reasoning that the referee ended
    notice: str = ""  # the same in a stream, until it is sent
    # Of the last slot, and the template of its backend, to explain the request.
    placement: Placement | None = None
    template: str = ""
    task: Task | None = None
    uncached: bool = False  # the cached prompt would have been spoiled, so it was not reused
    # What took how many seconds before the prompt was evaluated; the rounds of an answer that runs
    # tools, and these.
    steps: tuple[tuple[str, float] | Info, ...] = ()

    def parts(self) -> list[Info | tuple[str, float]]:
        """The rounds of an answer that runs tools, and what it did between them, or the answer."""
        if not any(isinstance(part, Info) for part in self.steps):
            return [self]
        nested = (part.parts() if isinstance(part, Info) else [part] for part in self.steps)
        return [part for parts in nested for part in parts]

    def rounds(self) -> list[Info]:
        """Those of an answer that runs tools, or the answer itself."""
        return [part for part in self.parts() if isinstance(part, Info)]

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long this step takes: limits, load, summary, restore, search or tools."""
        began = perf_counter()
        try:
            yield
        finally:
            self.steps += ((step, perf_counter() - began),)

    def leased(self, lease: Lease, backend: Backend) -> None:
        """Note which backend has a request that asks for no text, and its first wait for one."""
        if not self.backend:
            self.queue_wait, self.first_place = lease.waited, lease.place
        self.backend, self.tier, self.passed = backend.name, backend.tier.name, lease.grant.passed

    def note(self, text: str) -> None:
        self.notice = text
        if text not in self.cut:
            self.cut += (text,)
            self.warnings += (text,)

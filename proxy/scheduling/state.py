"""What the scheduler knows: plain records, hardly any behaviour.

They are only read and changed under the scheduler's lock; a policy gets them, decides, and keeps
nothing. Times are seconds of the scheduler's clock, counts are tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ..core.task import Task
from .prefix import Chain

Keeps = Literal["nothing", "ram", "files"]
MOST_SLOTS = 4096  # of one backend; a number beyond is an error of the backend


class Conversation(Struct, eq=False, array_like=True):
    """Turns that belong together: `turns` of them so far, the last one at `last`; `waiting` more
    are in the queue. It outlives what slots hold of it, so that a return is known for one.
    `aside`: a side job, which never returns. `file`: the name of its files."""

    turns: int = 0
    last: float = 0.0
    waiting: int = 0
    aside: bool = False
    group: str = ""
    file: str = ""


class Held(Struct, eq=False):
    """A prompt and its answer as some backend keeps them evaluated: in `slot`, in a file of its
    own (`file`, `size` bytes), or else somewhere in its RAM. `prompt` tokens of prompt at the end
    of the chain, `tokens` with the answer. `order` is the place among all that the pool was told
    of."""

    backend: Backend
    chain: Chain
    conversation: Conversation
    prompt: int = 0
    tokens: int = 0
    used: float = 0.0
    slot: Slot | None = None
    file: str = ""
    size: int = 0
    order: int = 0

    def tokens_at(self, depth: int, chain: Chain) -> int:
        """Tokens that a prompt with this chain, agreeing with ours up to its link `depth` (from
        1), finds."""
        end = chain.ends[depth - 1]
        mine = self.chain
        if end >= mine.ends[mine.turn - 1]:
            return self.tokens  # it goes on from the last turn: the answer counts too
        return int(self.prompt * end / max(1, mine.size))


class Slot(Struct, eq=False):
    """One slot of a backend: `id` is the server's number; `used` when it was last taken or let go;
    `ready` when the server has surely let go of it, and not before the first token of all in
    `after`. `flowing` once a token came, `ending` once the last did; `work` are the tokens to
    evaluate before. `held` is what is, or will be, in it."""

    id: int
    busy: bool = False
    used: float = 0.0
    ready: float = 0.0
    flowing: bool = False
    ending: bool = False
    work: int = 0
    after: set[Slot] = set()
    held: Held | None = None


class Backend(Struct, eq=False):
    """One backend as the scheduler sees it.

    `up` None while no probe has come back. `pins`: a request can be sent to a slot of our choice,
    and only what is in the slots is kept; else it chooses itself and `keeps` old prompts in RAM.
    `slots` stand in the order of their numbers, which begin at 0.
    `awaits`: seconds that a request there waits until the model is loaded, 0 when it is.
    `settles` is how long an old server needs to let go of a slot. `ready` is when it may be tried
    again after it said "busy" or failed; `failures` how often it failed in a row.
    `exclusive`: one lease has the whole backend. `reserved`: a request waits to have it, so nobody
    behind it in the queue gets a slot; set only while the queue is served.

    `guessed`: nobody told the number of slots. While `counting`, the server takes slots by itself,
    the one it used longest ago: `seen` are those it took, and when one comes again these are all.
    `more` is when one more may be tried, `patience` the pause after that.

    `rate` is prompt tokens evaluated a second, `measured` so often; `moving` tokens saved or
    restored a second. The rest counts requests, those that found something cached, prompt tokens
    evaluated and cached, files, and requests that the server moved to another slot than asked.
    """

    name: str
    model: str
    slots: list[Slot] = []
    up: bool | None = None
    draining: bool = False
    exclusive: bool = False
    reserved: bool = False
    guessed: bool = False
    counting: bool = False
    seen: set[int] = set()
    weight: float = 1.0
    pins: bool = True
    keeps: Keeps = "nothing"
    settles: float = 0.0
    awaits: float = 0.0
    ready: float = 0.0
    freed: float = 0.0
    failures: int = 0
    more: float = 0.0
    patience: float = 5.0
    in_flight: int = 0
    rate: float = 500.0
    measured: int = 0
    moving: float = 20000.0
    hits: int = 0
    asked: int = 0
    evaluated: int = 0
    cached: int = 0
    saved: int = 0
    restored: int = 0
    moved: int = 0

    @property
    def usable(self) -> bool:
        return self.up is True and not self.draining

    @property
    def lends(self) -> bool:
        """Whether its free slots can be had, one by one."""
        return self.up is True and not self.draining and not self.exclusive

    def has(self, slot: Slot) -> bool:
        """Whether it is one of ours still."""
        return slot.id < len(self.slots) and self.slots[slot.id] is slot


class Want(Struct, frozen=True):
    """What a request asks of the scheduler.

    `key` is who asks, `share` the weight of its class in the queue. `session` names a conversation
    where the client does; `group` is whose cache it may see. `aside` marks a side job. `exclude`
    holds backends that cannot serve it. `since` is the scheduler's time at which its wait began, 0
    for now: the queue timeout counts from there, however often it comes back into the queue.
    `whole_backend`: it needs a backend on which nothing else runs. `views` tells how its worker
    finds each of its backends (up, down, None not known yet) where several workers share the slots;
    None: as the scheduler has it."""

    model: str
    task: Task
    exclude: frozenset[str] = frozenset()
    chain: Chain = Chain()
    key: str = ""
    group: str = ""
    session: str = ""
    share: float = 1.0
    aside: bool = False
    since: float = 0.0
    whole_backend: bool = False
    views: Mapping[str, bool | None] | None = None

    def view(self, backend: Backend) -> bool | None:
        """How the worker that asks finds this backend: up, down, or None where nobody has looked
        yet. Down as well where the worker does not have it."""
        if self.views is None:
            return backend.up
        return self.views.get(backend.name, False)


class Step(Struct, frozen=True):
    """Something to do to a slot: `action` save, restore or erase, with a `file` of the server's."""

    action: Literal["save", "restore", "erase"]
    file: str = ""


class Grant(Struct, frozen=True):
    """A decision: this slot of this backend; `reuse` is what it goes on from, of which `cached`
    tokens are expected to be there. `restore` a file first; `save` what the slot holds first.
    `fresh`: what the slot holds is another group's, and must not be reused. `whole`: the other
    slots of the backend are its as well."""

    backend: Backend
    slot: Slot
    reuse: Held | None = None
    cached: int = 0
    pin: bool = True
    restore: Held | None = None
    save: bool = False
    fresh: bool = False
    whole: bool = False


class Hold(Struct, frozen=True):
    """A decision to wait: better than what is free now, at `until` to be thought over again."""

    until: float

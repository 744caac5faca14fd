"""The scheduler's records: plain data with hardly any behavior.

They are read and changed under the scheduler's lock only; a policy reads them and keeps nothing.
Times are seconds of the scheduler's clock, counts are tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from ..core.adapters import ADAPTED
from ..core.task import NO_TIER, Tier
from .prefix import Chain, agreement

CacheKind = Literal["nothing", "ram", "files"]
ANSWER = 256  # tokens assumed for an answer without a limit
VAIN = 2  # restored files of no use in a row, after which none is saved any more
MOST_SLOTS = 4096  # of one backend; a higher number is the backend's error
SOONEST = 5.0  # seconds between two tries of one more slot, at least


class ConversationRecord(Struct, eq=False, array_like=True, kw_only=True, gc=False):
    """A conversation. It outlives its cached prompts, so that a late return is still recognized."""

    turns: int = 0
    last: float = 0.0  # when its last turn began or ended
    waiting: int = 0  # turns in the queue
    background: bool = False  # a side job, which never returns
    group: str = ""
    file: str = ""  # the name of its saved slots
    tools: bool = False  # its requests offer tools
    calls: bool = False  # its last answer called tools
    open: bool = False  # its client has to return: its answer is under way or has calls
    session: bytes = b""  # the digest of its session's name
    beside: bool = False  # another conversation is the main one of its session
    session_last: float = 0.0  # of the main one: when any of its session was last active


class CachedPrompt(Struct, eq=False, kw_only=True):
    """A prompt and its answer, evaluated and kept by a backend: in a slot, in a file, or otherwise
    in its RAM."""

    backend: BackendRecord
    chain: Chain
    conversation: ConversationRecord
    prompt: int = 0  # tokens at the end of the chain
    tokens: int = 0  # the same with the answer
    used: float = 0.0
    slot: Slot | None = None
    file: str = ""
    size: int = 0  # bytes of the file
    order: int = 0  # its position among all prompts added to the pool


def is_adapted(held: CachedPrompt) -> bool:
    """Whether a prompt was evaluated with adapters that its request chose. No file is made of it: a
    server drops what it has restored when the request comes with its adapters."""
    return ADAPTED in held.conversation.group


class Slot(Struct, eq=False, kw_only=True):
    """One slot of a backend."""

    id: int  # the server's number
    busy: bool = False
    used: float = 0.0  # when it was last taken or freed
    ready: float = 0.0  # when the server has surely freed it,
    after: frozenset[Slot] = frozenset()  # which is not before the first tokens of all these
    streaming: bool = False  # the first token came, at `first`
    first: float = 0.0
    finishing: bool = False  # the last token came
    work: int = 0  # tokens to evaluate before the first token
    limit: int = 0  # the most tokens that the answer may have, 0 for any number
    held: CachedPrompt | None = None  # the prompt that is, or will be, in it
    before: CachedPrompt | None = None  # while busy, the one that was in it


class BackendRecord(Struct, eq=False, kw_only=True):
    """One backend as the scheduler sees it."""

    name: str
    model: str
    pool: Any = None  # the `Pool` of its model; an empty one after the backend was removed
    slots: list[Slot] = []  # in the order of their numbers, from 0
    up: bool | None = None  # None until the first probe
    draining: bool = False
    leaving: bool = False  # about to end: waiting requests get its slots only once it is back
    exclusive: bool = False  # one lease has the whole backend
    grants_slots: bool = False  # it grants its free slots one by one (see `Pool.refresh`)
    # A waiting request needs the whole backend, so requests behind it get no slot; set only while
    # the queue is served.
    reserved: bool = False
    weight: float = 1.0
    pins: bool = True  # requests can be pinned to a slot; otherwise the server chooses the slot
    adapters: bool = False  # requests may choose its LoRA adapters,
    mixes: bool = False  # and do, so its RAM has prompts that are wrong for others
    cache_kind: CacheKind = "nothing"  # where the server keeps old prompts outside its slots
    keeps_files: bool = False  # its files stay valid when it restarts
    tier: Tier = NO_TIER  # its place in a route
    load_delay: float = 0.0  # seconds until the model is loaded
    release_delay: float = 0.0  # seconds that an old server needs to free a slot
    ready: float = 0.0  # when it may be tried again after it was busy or failed
    freed: float = 0.0  # when an answer last ended there
    failures: int = 0  # in a row
    in_flight: int = 0

    # Where the server does not report its number of slots, it is `guessed`. While `counting`, the
    # server chooses slots, the least recently used first; once a number repeats, all are `seen`.
    guessed: bool = False
    counting: bool = False
    seen: set[int] = set()
    more: float = 0.0  # when one more slot may be tried
    patience: float = SOONEST  # the pause after that
    most: int = 0  # the number was a first guess; at most so many are learned (see `outcomes`)
    quick: float = 0.0  # seconds to the first token, for each of the prompt, with half of them free
    late: int = 0  # answers in a row that began later while none was free
    target: int = 0  # the number that remains once enough slots are free, 0 for all

    rate: float = 500.0  # prompt tokens evaluated per second
    measured: int = 0  # times
    pace: float = 20.0  # tokens that one slot generates per second
    paced: int = 0  # times
    restore_rate: float = 20000.0  # tokens saved or restored per second
    evaluating: int = 0  # the `work` of all slots without a first token
    evaluating_since: float = 0.0  # some of it has been done since

    asked: int = 0  # requests
    hits: int = 0  # those that found something cached
    evaluated: int = 0  # prompt tokens
    cached: int = 0  # prompt tokens
    saved: int = 0  # files
    restored: int = 0  # files
    vain: int = 0  # restored files of which the next answer hardly used anything, in a row
    moved: int = 0  # requests that the server moved to another slot than requested
    # Requests that it got instead of a backend of an earlier tier, by the reason.
    instead: dict[str, int] = {}

    @property
    def usable(self) -> bool:
        return self.up is True and not self.draining

    @property
    def files_pay(self) -> bool:
        """Whether restored files are of use, as far as is known: on some servers, not for hybrid
        and recurrent models, and those with a sliding window."""
        return self.vain < VAIN


class BackendFacts(Struct, frozen=True, array_like=True, kw_only=True):
    """A backend as a probe found it. The fields are those of `BackendRecord`."""

    model: str
    slots: int  # 0: the server does not report a number, so it is guessed and then learned
    weight: float = 1.0
    pins: bool = True
    cache_kind: CacheKind = "nothing"
    release_delay: float = 0.0
    keeps_files: bool = False
    tier: Tier = NO_TIER
    most: int = 0  # `slots` is a guess, too, and at most so many are learned
    adapters: bool = False
    mixes: bool = False


class SlotRequest(Struct, frozen=True, array_like=True, kw_only=True, gc=False):
    """A request for a slot."""

    model: str
    ids: bool = False  # its prompt is token ids
    max_tokens: int | None = None  # the most that its answer may have, None for any number
    exclude: frozenset[str] = frozenset()  # backends that cannot serve it
    chain: Chain = Chain()
    key: str = ""  # the API key
    group: str = ""  # whose cache it may use, of which adapters (see `core.adapters`)
    session: str = ""  # the name that the client gives to its conversations
    share: float = 1.0  # the weight in the queue of its key's class
    background: bool = False  # a side job
    # When its wait began, 0 for now: the queue timeout counts from there, however often it is
    # queued again.
    since: float = 0.0
    whole_backend: bool = False  # it needs a backend on which nothing else runs
    tools: bool = False  # it offers tools to the model
    idle: bool = False  # it uses idle slots only (see `idle`)
    barred: frozenset[str] = frozenset()  # the tiers of routes that it may not use
    # Where several workers share the slots, the worker's own view of its backends: up, down, or
    # None if not probed yet. A backend that it does not have is down.
    views: Mapping[str, bool | None] | None = None
    person: str = ""  # one of the many people who use the key

    @property
    def fair_key(self) -> str:
        """Who takes turns in the queue. No key has a space in its name."""
        return f"{self.key} {self.person}" if self.person else self.key


class SlotStep(Struct, frozen=True):
    """A step on a slot before its request: save, restore or erase, with a `file` of the server."""

    action: Literal["save", "restore", "erase"]
    file: str = ""


class Grant(Struct, frozen=True, kw_only=True):
    """A decision: use this slot of this backend."""

    backend: BackendRecord
    slot: Slot
    prompt: int = 0  # tokens of the request's prompt, as estimated
    reuse: CachedPrompt | None = None  # to continue from
    cached: int = 0  # tokens of it that are expected to be there
    pin: bool = True  # request the slot by its number
    restore: CachedPrompt | None = None  # a file to restore first
    save: bool = False  # save what the slot holds first
    fresh: bool = False  # what the slot holds may be another group's, and must not be reused
    whole: bool = False  # the lease has the backend's other slots as well
    # The backends of earlier tiers and why they were passed over (see `tiers.TierChoice`).
    passed: tuple[tuple[str, str], ...] = ()
    cost: float = 0.0  # in seconds, 0 if no other place was compared


class WaitForSlot(Struct, frozen=True):
    """A decision to wait for a better slot than those free now; decide again at `until`. `key` says
    which: a link of the prompt that busy slots hold, or a backend (`fair.backend_key`). None: a
    free slot that the server has not released yet."""

    until: float
    key: bytes | None = None
    cost: float = 0.0  # in seconds


LossCause = Literal["evicted", "restarted", "swapped", "removed", "resized", "moved", "failed"]


class Loss(Struct, frozen=True, kw_only=True, gc=False):
    """What became of a cached prompt that is no longer there. The last fields are about the request
    that took its slot, if one did."""

    why: LossCause
    at: float  # 0 if it is not known
    backend: str
    slot: int = -1
    slots: int = 0  # of the backend at that time
    key: str = ""
    side_job: bool = False


class Placement(Struct, frozen=True, kw_only=True, gc=False):
    """What the scheduler knew when it granted a slot, to explain the request later (see
    `placement`). `kept` is the prompt that is cached of the request's own conversation, if any.
    Positions are characters, or token ids if the prompt is ids."""

    request: SlotRequest
    at: float
    backend: str
    slot: int
    pinned: bool  # to this slot; otherwise the server chooses one, and this is a guess
    prompt: int  # tokens, as estimated
    expected: int  # of them cached
    restores: bool  # a file is restored first
    saves: bool  # what the slot held is saved to a file first,
    keeps: bool  # or kept in the server's RAM
    fresh: bool  # the slot may hold another group's prompt, which must not be reused
    loads: float  # seconds until the model is loaded
    turns: int  # that the conversation had before
    continues: bool  # the request continues where its conversation is cached
    replaced: int  # tokens of another conversation that the slot held
    kept_on: str  # a backend
    kept_busy: bool  # its slot is, and the request `continues` elsewhere
    kept: Chain
    loss: Loss | None  # of the prompt that the request would have continued

    @property
    def kept_turn(self) -> int:
        """The position of its last message boundary."""
        return self.kept.ends[self.kept.turn - 1] if self.kept.links else 0

    @property
    def shared(self) -> int:
        """The position up to which the request agrees with it."""
        kept, chain = self.kept, self.request.chain
        turn = slice(kept.turn - 1, kept.turn)
        same = kept.links[turn] == chain.links[turn]
        return self.kept_turn if same else agreement(chain, kept)

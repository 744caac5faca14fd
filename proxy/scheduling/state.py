"""The scheduler's records: plain data with hardly any behavior.

They are read and changed under the scheduler's lock only; a policy reads them and keeps nothing.
Times are seconds of the scheduler's clock, counts are tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from ..core.task import NO_TIER, Tier
from .prefix import Chain

CacheKind = Literal["nothing", "ram", "files"]
ClientClass = tuple[str, bool]
CHARS_A_TOKEN = 4.0  # until answers tell the number of tokens
SMALL = 256  # tokens of prompt and answer that a small request has at most
ANSWER = 256  # tokens assumed for an answer without a limit
VAIN = 2  # restored files of no use in a row, after which none is saved any more
MOST_SLOTS = 4096  # of one backend; a higher number is the backend's error
SOONEST = 5.0  # seconds between two tries of one more slot, at least
NO_DRAW = 1.0  # of a conversation that no canary gets


class ConversationRecord(Struct, eq=False, array_like=True, kw_only=True):
    """A conversation: `turns` so far, the last one at `last`, and `waiting` more in the queue. It
    outlives its cached prompts, so that a late return is still recognized. `background`: a side
    job, which never returns. `file`: the name of its saved slots.

    `tools`: its requests offer tools. `calls`: its last answer called tools. `open`: its client has
    to return, because its answer is under way or has calls. `session` is the digest of its
    session's name, `beside`: another conversation is the main one there. The main one has
    `session_last`, when any of its session was last active. `draw` decides whether a canary serves
    it (see `tiers`)."""

    turns: int = 0
    last: float = 0.0
    waiting: int = 0
    background: bool = False
    group: str = ""
    file: str = ""
    tools: bool = False
    calls: bool = False
    open: bool = False
    session: bytes = b""
    beside: bool = False
    session_last: float = 0.0
    draw: float = NO_DRAW


class CachedPrompt(Struct, eq=False, kw_only=True):
    """A prompt and its answer, evaluated and kept by a backend: in `slot`, in a file (`file`,
    `size` bytes), or otherwise in its RAM. `prompt` is the number of tokens at the end of the
    chain, `tokens` the number with the answer. `order` is its position among all prompts added
    to the pool."""

    backend: BackendRecord
    chain: Chain
    conversation: ConversationRecord
    prompt: int = 0
    tokens: int = 0
    used: float = 0.0
    slot: Slot | None = None
    file: str = ""
    size: int = 0
    order: int = 0

    def tokens_at(self, depth: int, chain: Chain) -> int:
        """The tokens that another prompt reuses, if its chain agrees with ours up to its link
        `depth` (from 1)."""
        end = chain.ends[depth - 1]
        ours = self.chain
        if end >= ours.ends[ours.turn - 1]:
            return self.tokens  # it continues from the last turn, so the answer is reused too
        return int(self.prompt * end / max(1, ours.size))


class Slot(Struct, eq=False, kw_only=True):
    """One slot of a backend. `id` is the server's number; `used` is when it was last taken or
    freed; `ready` is when the server has surely freed it, which is not before the first tokens of
    all slots in `after`. `streaming`: the first token came, at `first`; `finishing`: the last token
    came; `work` is the number of tokens to evaluate before the first, `limit` the most that the
    answer may have, 0 for any number. `held` is the prompt that is, or will be, in it; while busy,
    `before` is the one that was in it."""

    id: int
    busy: bool = False
    used: float = 0.0
    ready: float = 0.0
    streaming: bool = False
    finishing: bool = False
    first: float = 0.0
    work: int = 0
    limit: int = 0
    after: frozenset[Slot] = frozenset()
    held: CachedPrompt | None = None
    before: CachedPrompt | None = None


class BackendRecord(Struct, eq=False, kw_only=True):
    """One backend as the scheduler sees it.

    `up` is None until the first probe. `pins`: requests can be pinned to a slot, and only the
    prompts in slots are kept; otherwise the server chooses the slot. `cache_kind`: where the server
    keeps old prompts outside its slots. `slots` are in the order of their numbers, from 0.
    `load_delay`: seconds until the model is loaded, 0 if it is. `release_delay`: seconds that an
    old server needs to free a slot. `ready`: when it may be tried again after it was busy or
    failed; `failures`: how often it failed in a row; `freed`: when an answer last ended there.
    `exclusive`: one lease has the whole backend. `reserved`: a waiting request needs the whole
    backend, so requests behind it get no slot; set only while the queue is served.

    `guessed`: the server does not report its number of slots. While `counting`, it chooses slots
    itself, the least recently used first: `seen` are those it chose, and once a number repeats,
    these are all. `more` is when one more slot may be tried, `patience` the pause after that.
    `tried` is when the last one was, 0 once the try is judged; `passed`: it was right.
    `most` is set if the number was a first guess and is learned (see `learned_slots`): `quick` is
    seconds to the first token for each token of the prompt, while half of the slots are free;
    `late` counts answers in a row that began later while none was; `target` is the number that
    remains once enough slots are free, 0 for all.

    `rate` is prompt tokens evaluated per second, measured `measured` times; `pace` is tokens that
    one slot generates per second, measured `paced` times; `restore_rate` is tokens saved or
    restored per second. `evaluating` is the `work` of all slots without a first token; some of it
    has been done since `evaluating_since`. The other fields count requests (`asked`), those
    that found something cached (`hits`), prompt tokens evaluated and cached, files saved and
    restored, and requests that the server moved to another slot than requested.

    `vain` counts restored files of which the next answer hardly used anything, in a row.
    `keeps_files`: its files stay valid when it restarts. `leaving`: it is about to end, so that
    waiting requests get its slots only once it is back. `tier` is its place in a route; `instead`
    counts the requests that it got instead of a backend of an earlier tier, by the reason.
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
    cache_kind: CacheKind = "nothing"
    release_delay: float = 0.0
    load_delay: float = 0.0
    ready: float = 0.0
    freed: float = 0.0
    failures: int = 0
    more: float = 0.0
    patience: float = SOONEST
    tried: float = 0.0
    passed: bool = False
    most: int = 0
    quick: float = 0.0
    late: int = 0
    target: int = 0
    in_flight: int = 0
    rate: float = 500.0
    measured: int = 0
    pace: float = 20.0
    paced: int = 0
    evaluating: int = 0
    evaluating_since: float = 0.0
    restore_rate: float = 20000.0
    hits: int = 0
    asked: int = 0
    evaluated: int = 0
    cached: int = 0
    saved: int = 0
    restored: int = 0
    moved: int = 0
    vain: int = 0
    keeps_files: bool = False
    leaving: bool = False
    tier: Tier = NO_TIER
    instead: dict[str, int] = {}

    @property
    def usable(self) -> bool:
        return self.up is True and not self.draining

    @property
    def grants_slots(self) -> bool:
        """Whether it grants its free slots one by one."""
        return self.up is True and not (self.draining or self.exclusive or self.leaving)

    @property
    def files_pay(self) -> bool:
        """Whether restored files are of use, as far as is known: on some servers, not for hybrid
        and recurrent models, and those with a sliding window."""
        return self.vain < VAIN

    def has(self, slot: Slot) -> bool:
        """Whether the slot still belongs to this backend."""
        return slot.id < len(self.slots) and self.slots[slot.id] is slot


class BackendFacts(Struct, frozen=True, array_like=True, kw_only=True):
    """A backend as a probe found it. `slots` 0: the server does not report a number, so it is
    guessed and then learned. `most`: `slots` is a guess, too, and at most so many are learned.
    `keeps_files`: its saved slots stay valid when it restarts. `tier` is its place in a route."""

    model: str
    slots: int
    weight: float = 1.0
    pins: bool = True
    cache_kind: CacheKind = "nothing"
    release_delay: float = 0.0
    keeps_files: bool = False
    tier: Tier = NO_TIER
    most: int = 0


class SlotRequest(Struct, frozen=True, array_like=True, kw_only=True):
    """A request for a slot.

    `ids`: its prompt is token ids. `max_tokens` is the most that its answer may have, None for any
    number.

    `key` is the API key, `share` its class's weight in the queue. `session` is the name that the
    client gives to its conversations; `group` is whose cache the request may use. `background`
    marks a side job, `tools` a request that offers tools to the model, `idle` one that uses idle
    slots only (see `idle`). `exclude` names backends that cannot serve it, `barred` the tiers of
    routes that it may not use. `since` is the scheduler's time at which its wait began, 0 for now:
    the queue timeout counts from there, however often it is queued again. `whole_backend`: it needs
    a backend on which nothing else runs. `views` is the worker's own view of its backends (up,
    down, None if not probed yet; a backend that it does not have is down) where several workers
    share the slots; None: the scheduler's view."""

    model: str
    ids: bool = False
    max_tokens: int | None = None
    exclude: frozenset[str] = frozenset()
    chain: Chain = Chain()
    key: str = ""
    group: str = ""
    session: str = ""
    share: float = 1.0
    background: bool = False
    since: float = 0.0
    whole_backend: bool = False
    tools: bool = False
    idle: bool = False
    barred: frozenset[str] = frozenset()
    views: Mapping[str, bool | None] | None = None


def client_class(want: SlotRequest) -> ClientClass:
    """The key of a request, and whether the request is small."""
    asked = want.max_tokens or ANSWER
    return want.key, want.background or asked + want.chain.size / CHARS_A_TOKEN <= SMALL


class SlotStep(Struct, frozen=True):
    """A step on a slot before its request: save, restore or erase, with a `file` of the server."""

    action: Literal["save", "restore", "erase"]
    file: str = ""


class Grant(Struct, frozen=True, kw_only=True):
    """A decision: use this slot of this backend. `reuse` is the cached prompt to continue from, of
    which `cached` tokens are expected to be there. `pin`: request the slot by its number.
    `restore`: a file to restore first; `save`: save what the slot holds first. `fresh`: the slot
    may hold another group's prompt, which must not be reused. `whole`: the lease has the backend's
    other slots as well. `passed` names the backends of earlier tiers and why they were passed over
    (see `tiers.Reach`)."""

    backend: BackendRecord
    slot: Slot
    reuse: CachedPrompt | None = None
    cached: int = 0
    pin: bool = True
    restore: CachedPrompt | None = None
    save: bool = False
    fresh: bool = False
    whole: bool = False
    passed: tuple[tuple[str, str], ...] = ()


class WaitForSlot(Struct, frozen=True):
    """A decision to wait for a better slot than those free now; decide again at `until`. `key` says
    which: a link of the prompt that busy slots hold, or a backend (`line.backend_key`). None: a
    free slot that the server has not released yet."""

    until: float
    key: bytes | None = None

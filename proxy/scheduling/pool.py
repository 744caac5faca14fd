"""The slots and cached prompts of one model's backends, and statistics of its conversations.

`Pool` keeps these records consistent: which prompt is cached where, an index from chain links to
cached prompts, the free slots (least recently used first), the conversations and their sessions.
The scheduler's lock protects it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from msgspec import Struct, field

from .fair import WaitingLine
from .history import FIRST, SMOOTH, Returns, Sessions, named
from .prefix import Chain
from .state import (
    ANSWER,
    BackendRecord,
    CachedPrompt,
    ConversationRecord,
    Loss,
    Slot,
    SlotRequest,
)

CHARS_A_TOKEN = 4.0  # until answers tell the number of tokens
REMEMBERED = 2048  # turns of conversations that a pool remembers
LOSSES = 1024  # prompts that are no longer cached and whose loss is remembered
PART = 16  # of a full table, so much is forgotten at once: to find the oldest takes long
KEPT = 512  # prompts that a backend is assumed to keep outside its slots, at most
OVERDUE = 4  # the time so far, divided by this, is the least that an answer still takes
ENOUGH = 8  # tokens of an answer that are enough to measure a pace
FEW = 32  # measurements at which a backend's own rate weighs as much as the mean of all
LOOKED_AT = 12  # places holding a prefix of the prompt that are compared, at most
# Of them, free ones with the same prefix: the least recently used; and busy ones: those leased
# longest ago, which probably come free first.
OF_LINK = (4, 2)
SKIPPED = 32  # holders of a prefix that were compared for a longer one already, at most


# Cached prompts that share a link, in the order in which their slots were freed or taken: the free
# ones, with those outside slots, and those of busy slots.
PrefixHolders = tuple[dict[CachedPrompt, None], dict[CachedPrompt, None]]


class Pool(Struct, eq=False):
    """One model's backends, their slots and cached prompts, and the requests that wait for them."""

    line: WaitingLine = field(default_factory=WaitingLine)
    backends: dict[str, BackendRecord] = {}
    # The least recently used slots come first.
    free: OrderedDict[Slot, BackendRecord] = field(default_factory=OrderedDict)
    returns: Returns = field(default_factory=Returns)
    chars_a_token: float = CHARS_A_TOKEN
    mean_rate: float = 500.0
    measured: int = 0  # rates of which it is the mean, at most FIRST, like the next
    mean_pace: float = 20.0
    paced: int = 0
    answer: float = float(ANSWER)  # mean tokens of an answer
    duration: float = 1.0  # mean seconds of a lease
    guessed: list[BackendRecord] = []  # those with an unknown number of slots
    tiered: bool = False  # its backends are in the tiers of a route
    added: int = 0  # prompts added to the index so far
    index: dict[bytes, PrefixHolders] = {}
    conversations: dict[bytes, ConversationRecord] = {}  # the last one used is the last
    sessions: Sessions = field(default_factory=Sessions)
    kept_outside_slots: dict[str, OrderedDict[CachedPrompt, None]] = {}
    # By the last link of a turn, to explain requests only: decisions do not depend on it.
    losses: dict[bytes, Loss] = {}

    # cached prompts

    def matches(self, chain: Chain) -> Iterator[tuple[CachedPrompt, int]]:
        """Cached prompts that share a prefix with this chain, and the number of links they share;
        longest first. Of many prompts that share the same prefix, only a few are returned."""
        seen: set[CachedPrompt] = set()
        longer: PrefixHolders | None = None
        size, depth = 0, len(chain.links) + 1
        for link in reversed(chain.links):
            depth -= 1
            holders = self.index.get(link)
            if holders is None or (longer and len(holders[0]) + len(holders[1]) == size):
                continue
            for slots, most in zip(holders, OF_LINK, strict=True):
                for held in islice(slots, SKIPPED):
                    if longer and (held in seen or held in longer[0] or held in longer[1]):
                        continue
                    seen.add(held)
                    yield held, depth
                    most -= 1
                    if len(seen) == LOOKED_AT:
                        return
                    if not most:
                        break
            longer, size = holders, len(holders[0]) + len(holders[1])

    def turns_ahead(self, link: bytes) -> float:
        """The number of leases that end before a new request for this link has its turn: requests
        parked for the link come first, and each slot that holds it serves one of them."""
        holders = self.index.get(link)
        return self.line.parked(link) / max(1, len(holders[1]) if holders is not None else 0)

    def expected_loss(self, held: CachedPrompt, now: float) -> float:
        """The tokens that have to be evaluated again, on average, if this prompt is replaced."""
        return self.returns.chance(held.conversation, now) * held.tokens

    def put(self, held: CachedPrompt) -> None:
        """Add a cached prompt. It replaces the prompt that its slot held."""
        self.added = held.order = self.added + 1
        index, links, slot = self.index, held.chain.links, held.slot
        old, busy = (slot.held, slot.busy) if slot is not None else (None, False)
        for link in links:
            holders = index.get(link)
            if holders is None:
                holders = index[link] = {}, {}
            elif old is not None:
                holders[0].pop(old, None)
            holders[busy][held] = None
        if old is not None and old.chain.links != links:
            self._unindex(old, {*old.chain.links}.difference(links))
        if slot is not None:
            slot.held = held
        else:
            prompts = self.kept_outside_slots.setdefault(held.backend.name, OrderedDict())
            prompts[held] = None
            if len(prompts) > KEPT and not held.file:
                self.drop(next(iter(prompts)))

    def slot_freed(self, held: CachedPrompt) -> None:
        self.added = held.order = self.added + 1
        index = self.index
        for free, busy in map(index.__getitem__, held.chain.links):
            free[held] = busy.pop(held, None)

    def _unindex(self, held: CachedPrompt, links: Iterable[bytes]) -> None:
        index = self.index
        for link in links:
            holders = index.get(link)
            if holders is not None:
                for prompts in holders:
                    prompts.pop(held, None)
                if not any(holders):
                    del index[link]

    def restore(self) -> None:
        """Derive the index from the cached prompts, in their original order."""
        held = [slot.held for b in self.backends.values() for slot in b.slots if slot.held]
        held += [prompt for prompts in self.kept_outside_slots.values() for prompt in prompts]
        added = self.added
        for prompt in sorted(held, key=lambda prompt: prompt.order):
            self.added = prompt.order - 1
            self.put(prompt)
        self.added = added
        self.on_changed()

    def drop(self, held: CachedPrompt | None) -> None:
        if held is None:
            return
        self._unindex(held, held.chain.links)
        if held.slot is None:
            self.kept_outside_slots.get(held.backend.name, OrderedDict()).pop(held, None)
        elif held.slot.held is held:  # otherwise it was replaced before
            held.slot.held = None

    def lose(self, held: CachedPrompt | None, loss: Loss) -> None:
        if held is None or not held.chain.links:
            return
        self.losses[held.chain.links[held.chain.turn - 1]] = loss
        _bound(self.losses, LOSSES)

    def find_loss(self, chain: Chain, *, forget: bool = True) -> Loss | None:
        """The loss of the longest prompt that one with this chain would continue: to `forget` if
        the chain takes its place."""
        links = reversed(chain.links) if self.losses else ()
        link = next(filter(self.losses.__contains__, links), b"")
        return self.losses.pop(link, None) if forget else self.losses.get(link)

    def forget(
        self, backend: BackendRecord, *, files: bool = True, loss: Loss | None = None
    ) -> None:
        """Drop everything cached on a backend, because it restarted or changed its model. Without
        `files`, what it has in files stays."""
        for held in [slot.held for slot in backend.slots] + self.kept(backend):
            if held is not None and (held.slot is not None or files or not held.file):
                if loss is not None:
                    self.lose(held, loss)
                self.drop(held)

    def kept(self, backend: BackendRecord) -> list[CachedPrompt]:
        """The prompts that a backend keeps outside its slots, in RAM or in files, oldest first."""
        return list(self.kept_outside_slots.get(backend.name, ()))

    # conversations

    def conversation(self, request: SlotRequest) -> ConversationRecord:
        """The conversation that this request continues, or a new one: that with the longest known
        prefix of its prompt. In a session named by the client, it is one of that session."""
        session = named(request) if request.session else b""
        records = self.conversations
        for link in filter(records.__contains__, reversed(request.chain.links)):
            record = records[link]
            if not session or record.session in (b"", session):
                return record
        if session and not request.chain.links and session in self.sessions.main:
            return self.sessions.main[session]
        return ConversationRecord(group=request.group, background=request.background)

    def record_turn(
        self, request: SlotRequest, conversation: ConversationRecord, now: float
    ) -> None:
        """Count a turn of this conversation, which got a slot."""
        conversation.tools = request.tools
        if conversation.turns and not request.background:
            conversation.background = False  # it was taken for a side job
        if request.session and not request.background:
            self.sessions.turn(named(request), conversation, now)
        if not request.idle:  # the many lines of a batch tell nothing about others
            self.returns.turn(conversation, request.since)
        conversation.last = now
        self.know(request.chain, conversation)

    def know(self, chain: Chain, conversation: ConversationRecord) -> None:
        if not chain.links:
            return
        conversations, name = self.conversations, chain.links[chain.turn - 1]
        conversations.pop(name, None)
        conversations[name] = conversation
        _bound(conversations, REMEMBERED)

    # slots

    def refresh(self, backend: BackendRecord) -> None:
        """Update the free list after a backend's health or slots changed."""
        backend.grants_slots = backend.usable and not (backend.exclusive or backend.leaving)
        slots = {*backend.slots}
        for slot in [s for s, b in self.free.items() if b is backend]:
            if slot.busy or not backend.grants_slots or slot not in slots:
                del self.free[slot]
        for slot in backend.slots if backend.grants_slots else ():
            if slot not in self.free and not slot.busy:
                self.free[slot] = backend
        # New slots of all backends in turn, or a new backend would be filled before the next.
        order = sorted(self.free, key=lambda slot: (slot.used > 0, 0 if slot.used else slot.id))
        self.free = OrderedDict((slot, self.free[slot]) for slot in order)

    def on_changed(self) -> None:
        """Update `guessed` and `tiered` after a change of the backends."""
        self.guessed = [backend for backend in self.backends.values() if backend.guessed]
        self.tiered = any(backend.tier.name for backend in self.backends.values())

    def next_ready(self, now: float) -> float:
        """When the next backend that was busy or failed may be tried again."""
        times = [b.ready for b in self.backends.values() if b.usable and b.ready > now]
        return min(times, default=math.inf)

    def expected_wait(self, waiting: int) -> float:
        """Estimated seconds for one more request, with so many in the queue."""
        slots = sum(len(b.slots) for b in self.backends.values() if b.usable) or 1
        return max(1.0, (waiting + 1) * self.duration / slots)

    def rate(self, backend: BackendRecord) -> float:
        """Prompt tokens per second. Starts with the mean of all backends and approaches the
        backend's own mean as measurements accumulate."""
        measured = backend.measured
        return (FEW * self.mean_rate + measured * backend.rate) / (FEW + measured)

    def record_answer(self, backend: BackendRecord, tokens: int, seconds: float) -> None:
        """Record the length of an answer, and how long it took from its first token on."""
        self.answer += SMOOTH * (tokens - self.answer)
        if tokens < ENOUGH or seconds <= 0:
            return
        pace = (tokens - 1) / seconds
        backend.paced = count = backend.paced + 1
        backend.pace += (pace - backend.pace) / min(count, FIRST)
        self.paced = min(FIRST, self.paced + 1)
        self.mean_pace += (pace - self.mean_pace) / self.paced

    def pace(self, backend: BackendRecord) -> float:
        """Tokens that a slot generates per second, learned like the rate."""
        paced = backend.paced
        return (FEW * self.mean_pace + paced * backend.pace) / (FEW + paced)

    def generation(self, backend: BackendRecord, slot: Slot, now: float) -> float:
        """Expected seconds from now, or from its first token, until a busy slot has its answer.

        How long an answer is already does not tell how long it will be, except where the request
        limits it. But one that has taken much longer than expected shows that the pace is wrong: a
        server may have become slow. So a part of its time so far is the least."""
        left, pace = self.answer, self.pace(backend)
        passed = now - slot.first if slot.streaming else 0.0
        if slot.limit:
            left = min(left, max(1.0, slot.limit - pace * passed))
        return max(left / pace, passed / OVERDUE)

    def backlog(self, backend: BackendRecord, now: float) -> float:
        """Seconds until a backend has evaluated the prompts that it was sent. It evaluates one
        after the other."""
        if not backend.evaluating:
            return 0.0
        passed = now - backend.evaluating_since
        return max(0.0, backend.evaluating / self.rate(backend) - passed)

    def tokens(self, chain: Chain, ids: bool) -> int:
        """The number of tokens in a prompt, estimated for text from earlier answers."""
        size = chain.ends[-1] if chain.ends else 0
        return size if ids else int(size / self.chars_a_token) + 1


def _bound(table: dict[bytes, Any], most: int) -> None:
    for name in [*islice(table, max(1, most // PART))] if len(table) > most else ():
        del table[name]

"""What a model's backends hold, and what has been learned of its conversations.

`Pool` keeps one model's records in step: which prompts are held where, an index from a link of a
chain to them, which slots are free (those let go longest ago first), and how often and how soon
conversations come back. The lock around it is the scheduler's.

The chance of a return. For every number of turns it is counted how many conversations got that far
and how many of these went on; how long returns take is a running mean. One that is silent for a
while is the less likely to come back: with gaps distributed exponentially, Bayes' rule gives the
chance from both.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from hashlib import blake2b

from .prefix import Chain
from .state import Backend, Conversation, Held, Slot, Want

REMEMBERED = 16384  # conversations a pool knows of
NAMED = 16  # bytes of the digest of a session's name
KEPT = 4096  # prompts a backend is thought to keep beside its slots, at most
DEEPEST = 64  # numbers of turns that are counted apart
SMOOTH = 0.1  # weight of the newest observation in a running mean
FEW = 32  # measurements of a backend that say as much as those of all together
LOOKED_AT = 12  # places that hold a beginning of a prompt, and that are considered
CHARS_A_TOKEN = 4.0


class Returns:
    """How likely a conversation comes back."""

    def __init__(self) -> None:
        self.reached = [0.0] * (DEEPEST + 1)
        self.went_on = [0.0] * (DEEPEST + 1)
        self.gap = 60.0  # seconds between the end of a turn and the next, on average
        self.gaps = 0

    def restore(self, reached: list[float], went_on: list[float], gap: float, gaps: int) -> None:
        """As others have counted. Raises ValueError for what cannot be such counts."""
        if not len(reached) == len(went_on) == DEEPEST + 1 or not gap > 0:
            raise ValueError("counts of returns are broken")
        self.reached, self.went_on, self.gap, self.gaps = reached, went_on, gap, gaps

    def turn(self, conversation: Conversation, now: float) -> None:
        """One more turn of this conversation begins."""
        turns = conversation.turns
        if turns:
            self.went_on[min(turns, DEEPEST)] += 1
            self.gaps += 1
            weight = max(SMOOTH, 1 / self.gaps)
            self.gap += weight * (max(1e-3, now - conversation.last) - self.gap)
        conversation.turns = turns = turns + 1
        self.reached[min(turns, DEEPEST)] += 1

    def chance(self, conversation: Conversation, now: float) -> float:
        """That this conversation comes back, after the silence so far."""
        if conversation.aside:
            return 0.0
        if conversation.waiting:
            return 1.0
        turns = min(conversation.turns, DEEPEST)
        likely = (self.went_on[turns] + 4) / (self.reached[turns] + 5)
        silent = likely * math.exp(-max(0.0, now - conversation.last) / self.gap)
        return silent / (silent + 1 - likely)


def _named(want: Want) -> bytes:
    """A session by its digest: a client may call it what it wants, at any length."""
    name = f"{want.group}\0{want.session}"
    return blake2b(name.encode("utf-8", "replace"), digest_size=NAMED).digest()


class Pool:
    """One model's backends and what they hold."""

    def __init__(self) -> None:
        self.backends: dict[str, Backend] = {}
        self.free: OrderedDict[Slot, Backend] = OrderedDict()  # usable ones, oldest first
        self.returns = Returns()
        self.chars_a_token = CHARS_A_TOKEN
        self.mean_rate = 500.0
        self.measured = 0
        self.duration = 1.0  # seconds a lease lasts, on average
        self.puts = 0  # how often something was put into the index
        self._index: dict[bytes, dict[Held, None]] = {}
        self.conversations: OrderedDict[bytes, Conversation] = OrderedDict()
        self.aside: dict[str, OrderedDict[Held, None]] = {}

    # what is held

    def matches(self, chain: Chain) -> Iterator[tuple[Held, int]]:
        """Who holds a beginning of this prompt, and how many links of it; the longest first."""
        seen: set[Held] = set()
        depth = len(chain.links)
        for link in reversed(chain.links):
            for held in self._index.get(link, ()):
                if held not in seen:
                    seen.add(held)
                    yield held, depth
                    if len(seen) == LOOKED_AT:
                        return
            depth -= 1

    def put(self, held: Held) -> None:
        """Something is held from now on; what its slot held before is gone."""
        slot = held.slot
        self._add(held)
        if slot is not None:
            old = slot.held
            if old is not None and old is not held:
                self.drop(old)  # now: what both begin with is not made anew
            slot.held = held
        else:
            kept = self.aside.setdefault(held.backend.name, OrderedDict())
            kept[held] = None
            if len(kept) > KEPT and not held.file:
                self.drop(next(iter(kept)))

    def _add(self, held: Held) -> None:
        self.puts = held.order = self.puts + 1
        index = self._index
        for link in held.chain.links:
            holders = index.get(link)
            if holders is None:
                index[link] = {held: None}
            else:
                holders[held] = None

    def index_all(self, held: Iterable[Held], puts: int) -> None:
        """All that is held, in the order in which it was put."""
        for one in sorted(held, key=lambda one: one.order):
            self.puts = one.order - 1
            self._add(one)
        self.puts = puts

    def drop(self, held: Held | None) -> None:
        """It is held no more."""
        if held is None:
            return
        index = self._index
        for link in held.chain.links:
            holders = index.get(link)
            if holders is not None:
                holders.pop(held, None)
                if not holders:
                    del index[link]
        if held.slot is not None:
            if held.slot.held is held:  # else it was dropped before, and another one is there now
                held.slot.held = None
        else:
            self.aside.get(held.backend.name, OrderedDict()).pop(held, None)

    def forget(self, backend: Backend) -> None:
        """The backend started anew, or another model is behind it: it holds nothing."""
        for slot in backend.slots:
            self.drop(slot.held)
        for held in self.kept(backend):
            self.drop(held)

    def kept(self, backend: Backend) -> list[Held]:
        """What a backend keeps beside its slots, in RAM or in files, the oldest first."""
        return list(self.aside.get(backend.name, ()))

    # conversations

    def conversation(self, want: Want) -> Conversation:
        """The one this request goes on with, or a new one. A session that the client names counts
        most; else the longest prompt seen before that this one begins with."""
        if want.session:
            known = self.conversations.get(_named(want))
            return known or Conversation(group=want.group, aside=want.aside)
        for link in reversed(want.chain.links):
            known = self.conversations.get(link)
            if known is not None:
                return known
        return Conversation(group=want.group, aside=want.aside)

    def began(self, want: Want, conversation: Conversation, now: float) -> None:
        """A turn of the conversation was placed."""
        self.returns.turn(conversation, now)
        conversation.last = now
        if want.session:
            self._name(_named(want), conversation)
        chain = want.chain
        if chain.links:
            self._name(chain.links[chain.turn - 1], conversation)

    def _name(self, name: bytes, conversation: Conversation) -> None:
        known = self.conversations
        known[name] = conversation
        known.move_to_end(name)
        if len(known) > REMEMBERED:
            known.popitem(last=False)

    # slots

    def let_go(self, backend: Backend, slot: Slot) -> None:
        """The slot is free (again), the youngest of all. It was not before."""
        if backend.lends and not slot.busy:
            self.free[slot] = backend

    def refresh(self, backend: Backend) -> None:
        """After a change of its health or its slots: the free list as it should be."""
        for slot in [s for s, b in self.free.items() if b is backend]:
            if slot.busy or not backend.lends or not backend.has(slot):
                del self.free[slot]
        for slot in backend.slots:
            if slot not in self.free:
                self.let_go(backend, slot)

    def next_ready(self, now: float) -> float:
        """When a backend that said "busy" or failed may be tried again."""
        times = [b.ready for b in self.backends.values() if b.usable and b.ready > now]
        return min(times, default=math.inf)

    def expected_wait(self, waiting: int) -> float:
        """Seconds until so many that wait, and one more, have had their slot."""
        width = sum(len(b.slots) for b in self.backends.values() if b.usable) or 1
        return max(1.0, (waiting + 1) * self.duration / width)

    def evaluated(self, backend: Backend, rate: float) -> None:
        """A backend evaluated a prompt at so many tokens a second."""
        backend.measured += 1
        self.measured += 1
        backend.rate += max(SMOOTH, 1 / backend.measured) * (rate - backend.rate)
        self.mean_rate += max(SMOOTH, 1 / self.measured) * (rate - self.mean_rate)

    def rate(self, backend: Backend) -> float:
        """Prompt tokens a second: all backends' at first, its own as its measurements grow."""
        known = backend.measured
        return (FEW * self.mean_rate + known * backend.rate) / (FEW + known)

    def tokens(self, chain: Chain, ids: bool) -> int:
        """How many tokens a prompt has, estimated from those before it."""
        return chain.size if ids else int(chain.size / self.chars_a_token) + 1

    def learned(self, chain: Chain, tokens: int) -> None:
        """A prompt of text had that many tokens."""
        size = chain.size
        if tokens and size:
            self.chars_a_token += SMOOTH * (size / tokens - self.chars_a_token)

"""The records as a caller may see them: no text, and nothing of other groups but that it is there.

Times are seconds ago, counts are tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from .fair import FairQueue
from .knowledge import Pool
from .state import Backend, Held, Slot
from .ticket import Ticket


class SlotView(Struct):
    """`state` busy, free or settling; `conversation` is a digest; `chance` that it comes back."""

    id: int
    state: str
    since: float
    conversation: str | None = None
    group: str | None = None
    tokens: int = 0
    turns: int = 0
    chance: float = 0.0


class BackendView(Struct):
    """`hit_rate` is the part of the requests that found something cached, `cached_rate` the part
    of the prompt tokens; `prompt_per_second` is learned; `kept` counts prompts beside the slots;
    `moved` those that went to another slot than asked."""

    backend: str
    model: str
    up: bool
    draining: bool
    on_trial: bool
    slots_known: bool
    requests: int
    hit_rate: float
    cached_rate: float
    prompt_per_second: float
    kept: int
    saved: int
    restored: int
    moved: int
    slots: list[SlotView]


class TicketView(Struct):
    place: int
    model: str
    waited: float
    mine: bool


class View(Struct, omit_defaults=True):
    """`state`: shared by so many `workers`, or alone, as what is to be shared is out of reach; ""
    where nothing is shared."""

    backends: list[BackendView]
    queue: list[TicketView]
    state: str = ""
    workers: int = 0


def view(pools: Iterable[Pool], queue: FairQueue[Ticket], group: str, key: str, now: float) -> View:
    """What a caller with this key, of this group, may know."""
    return View(
        [_backend(pool, b, group, now) for pool in pools for b in pool.backends.values()],
        [
            TicketView(n, t.want.model, round(now - t.began, 3), t.want.key == key)
            for n, t in enumerate(queue, start=1)
        ],
    )


def _backend(pool: Pool, backend: Backend, group: str, now: float) -> BackendView:
    tokens = backend.evaluated + backend.cached
    return BackendView(
        backend.name,
        backend.model,
        bool(backend.up),
        backend.draining,
        backend.failures > 0,
        not backend.counting,
        backend.asked,
        round(backend.hits / backend.asked, 3) if backend.asked else 0.0,
        round(backend.cached / tokens, 3) if tokens else 0.0,
        round(backend.rate, 1),
        len(pool.kept(backend)),
        backend.saved,
        backend.restored,
        backend.moved,
        [_slot(pool, slot, backend.exclusive, group, now) for slot in backend.slots],
    )


def _slot(pool: Pool, slot: Slot, exclusive: bool, group: str, now: float) -> SlotView:
    settling = slot.ready > now or slot.after
    state = "busy" if slot.busy or exclusive else "settling" if settling else "free"
    shown = SlotView(slot.id, state, round(now - slot.used, 3))
    held: Held | None = slot.held
    if held is not None and held.chain.links and held.conversation.group == group:
        shown.conversation = held.chain.links[held.chain.turn - 1].hex()[:12]
        shown.group = group
        shown.tokens = held.tokens
        shown.turns = held.conversation.turns
        shown.chance = round(pool.returns.chance(held.conversation, now), 3)
    return shown

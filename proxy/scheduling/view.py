"""The scheduler's records as a caller may see them: no text, no details of other groups' prompts.

Times are seconds before now, counts are tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ..core.adapters import ADAPTED
from .fair import FairQueue
from .policy import TRIAL_AFTER
from .pool import Pool
from .state import BackendRecord, CachedPrompt, Slot


class SlotView(Struct, kw_only=True):
    id: int
    state: str  # busy, free or settling
    since: float | None  # seconds since it was taken or freed; None: never
    held: bool = False  # a prompt is in it, of the conversation below if the caller may know
    conversation: str | None = None  # a digest
    group: str | None = None
    tokens: int = 0
    turns: int = 0
    chance: float = 0.0  # the probability of a return


class BackendView(Struct, kw_only=True):
    backend: str
    model: str
    up: bool
    draining: bool
    on_trial: bool
    circuit: str  # closed, open while paused after failures, half-open until a trial succeeded
    tier: str  # in a route, "" for none
    instead: dict[str, int]  # requests it got instead of a backend of an earlier tier, by reason
    slots_known: bool
    slots_learned: bool  # their number was a guess, and is learned from the traffic
    requests: int
    hit_rate: float  # the share of requests that found something cached
    cached_rate: float  # the same of prompt tokens
    prompt_per_second: float  # learned
    kept: int  # prompts outside the slots
    saved: int
    restored: int
    moved: int  # requests that used another slot than requested
    slots: list[SlotView]


class TicketView(Struct):
    place: int
    model: str
    waited: float
    mine: bool


class View(Struct, omit_defaults=True):
    """`state`: "shared" by `workers` workers; "alone" while the shared table is unavailable; ""
    where nothing is shared."""

    backends: list[BackendView]
    queue: list[TicketView]
    state: str = ""
    workers: int = 0


def view(pools: Iterable[Pool], queue: FairQueue, group: str | None, key: str, now: float) -> View:
    """The view of a caller with this key and group; None sees all groups."""
    return View(
        [_backend(pool, b, group, now) for pool in pools for b in pool.backends.values()],
        [
            TicketView(n, t.request.model, round(now - t.began, 3), t.request.key == key)
            for n, t in enumerate(queue, start=1)
        ],
    )


def _backend(pool: Pool, backend: BackendRecord, group: str | None, now: float) -> BackendView:
    tokens = backend.evaluated + backend.cached
    return BackendView(
        backend=backend.name,
        model=backend.model,
        up=bool(backend.up),
        draining=backend.draining,
        on_trial=backend.failures > 0,
        circuit=_circuit(backend, now),
        tier=backend.tier.name,
        instead=dict(backend.instead),
        slots_known=not backend.counting,
        slots_learned=backend.most > 0,
        requests=backend.asked,
        hit_rate=round(backend.hits / backend.asked, 3) if backend.asked else 0.0,
        cached_rate=round(backend.cached / tokens, 3) if tokens else 0.0,
        prompt_per_second=round(backend.rate, 1),
        kept=len(pool.kept(backend)),
        saved=backend.saved,
        restored=backend.restored,
        moved=backend.moved,
        slots=[_slot(pool, slot, backend.exclusive, group, now) for slot in backend.slots],
    )


def _circuit(backend: BackendRecord, now: float) -> str:
    if backend.failures < TRIAL_AFTER:
        return "closed"
    return "open" if backend.ready > now else "half-open"


def _slot(pool: Pool, slot: Slot, exclusive: bool, group: str | None, now: float) -> SlotView:
    settling = slot.ready > now or slot.after
    state = "busy" if slot.busy or exclusive else "settling" if settling else "free"
    since = round(now - slot.used, 3) if slot.used else None
    slot_view = SlotView(id=slot.id, state=state, since=since)
    held: CachedPrompt | None = slot.held
    slot_view.held = held is not None and bool(held.chain.links)
    owner = held.conversation.group.partition(ADAPTED)[0] if held is not None else ""
    if held is not None and slot_view.held and group in (None, owner):
        slot_view.conversation = held.chain.links[held.chain.turn - 1].hex()[:12]
        slot_view.group = owner
        slot_view.tokens = held.tokens
        slot_view.turns = held.conversation.turns
        slot_view.chance = round(pool.returns.chance(held.conversation, now), 3)
    return slot_view

"""What a scheduler would do with a request now, and what each place for it would cost. Nothing is
changed, and no decision depends on it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from msgspec import Struct

from . import policy
from .placement import placement
from .pool import Pool
from .prefix import Chain
from .state import (
    BackendRecord,
    CachedPrompt,
    ConversationRecord,
    Grant,
    Placement,
    Slot,
    SlotRequest,
    WaitForSlot,
)


class Place(Struct, frozen=True, kw_only=True):
    """A slot that was compared with others. Times are in seconds."""

    backend: str
    slot: int
    busy: bool
    cached: int  # tokens of the prompt that are expected to be there
    wait: float  # until it is free, or until the conversation in it has lost its claim
    cost: float  # see `policy`


class Preview(Struct, frozen=True, kw_only=True):
    """`placement` is that of a request that would get its slot at once. Another would have `place`
    in the queue. `wait` is about how long, in seconds."""

    placement: Placement | None
    place: int
    wait: float
    places: tuple[Place, ...]  # the chosen one first, then the cheapest
    passed: tuple[tuple[str, str], ...] = ()


class _OneSlot(Pool, kw_only=True):
    """A pool of which only one slot is compared."""

    slot: Slot
    backend: BackendRecord

    def matches(self, chain: Chain) -> Iterator[tuple[CachedPrompt, int]]:
        return (
            (held, depth)
            for held, depth in super().matches(chain)
            if held.slot is self.slot or (held.slot is None and held.backend is self.backend)
        )


def places(request: SlotRequest, pool: Pool, now: float) -> Iterator[tuple[Slot, Place]]:
    """The slots that the policy compares, each as if there were no other."""
    cached: dict[Slot, int] = {}
    slots: dict[Slot, BackendRecord] = {}
    prompt = pool.tokens(request.chain, request.ids)
    for held, depth in pool.matches(request.chain):
        if (slot := held.slot) is not None and slot not in slots:
            slots[slot] = held.backend
            cached[slot] = min(policy.reused(held, depth, request.chain), prompt - 1)
    slots.update(policy.free_slots(request, pool, now))
    shared = {name: getattr(pool, name) for name in Pool.__struct_fields__ if name != "free"}
    for slot, backend in slots.items():
        free = OrderedDict({slot: backend} if slot in pool.free else {})
        one = _OneSlot(**shared, free=free, slot=slot, backend=backend)
        decision = policy.decide(request, one, now)
        if decision is None:
            continue
        wait, count, cost = 0.0, cached.get(slot, 0), decision.cost
        if isinstance(decision, WaitForSlot):
            wait = max(0.0, decision.until - now)
        else:
            count = decision.cached
            cost = cost or policy.cost_of({}, pool, backend, 0.0, prompt - count, now)
        yield (
            slot,
            Place(
                backend=backend.name,
                slot=slot.id,
                busy=slot.busy,
                cached=count,
                wait=wait,
                cost=cost,
            ),
        )


def preview(
    pool: Pool,
    request: SlotRequest,
    conversation: ConversationRecord,
    decision: Grant | WaitForSlot | None,
    now: float,
    waiting: int,
) -> Preview:
    """The preview of a request about which the policy has decided, with so many in the queue."""
    compared = [*places(request, pool, now)]
    chosen = decision.slot if isinstance(decision, Grant) else None
    compared.sort(key=lambda each: (each[0] is not chosen, each[1].cost))
    all_places = tuple(place for _, place in compared)
    if isinstance(decision, Grant):
        placed = placement(pool, request, decision, conversation, now, forget=False)
        return Preview(placement=placed, place=0, wait=0.0, places=all_places)
    wait = pool.expected_wait(waiting)
    if isinstance(decision, WaitForSlot):
        wait = max(0.0, decision.until - now)
    return Preview(placement=None, place=waiting + 1, wait=wait, places=all_places)

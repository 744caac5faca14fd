"""Where a request was placed, or would be, to explain it. No decision depends on any of this.

`placement` has what a scheduler knew when it granted a slot: plain values, which may outlive the
records. A preview says what it would do with a request now, and what each place for it would cost:
nothing is changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from msgspec import Struct

from . import policy
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


def placement(
    pool: Pool,
    request: SlotRequest,
    grant: Grant,
    conversation: ConversationRecord,
    now: float,
    *,
    forget: bool = True,
) -> Placement:
    """The facts about a grant, before its slot is taken. If it will be, `forget` the loss that it
    makes up for."""
    backend, own, held = grant.backend, grant.reuse, grant.slot.held
    loss, kept_busy = None, False
    continues = own is not None and own.conversation is conversation
    if not continues:
        loss, own = pool.find_loss(request.chain, forget=forget), None
        if conversation.turns:  # only then there can be a prompt of it somewhere
            places = (other for other, _ in pool.matches(request.chain))
            own = next((other for other in places if other.conversation is conversation), None)
        if own is not None and (slot := own.slot) is not None:
            kept_busy = slot.busy or slot.ready > now
    return Placement(
        request=request,
        at=now,
        backend=backend.name,
        slot=grant.slot.id,
        pinned=backend.pins,
        prompt=grant.prompt,
        expected=grant.cached,
        restores=grant.restore is not None,
        saves=grant.save,
        keeps=not backend.pins and backend.cache_kind == "ram" and grant.restore is None,
        fresh=grant.fresh,
        loads=backend.load_delay,
        turns=conversation.turns,
        continues=continues,
        replaced=held.tokens if held is not None and held.conversation is not conversation else 0,
        kept_on=own.backend.name if own is not None else "",
        kept_busy=kept_busy,
        kept=own.chain if own is not None else Chain(),
        loss=loss,
    )


class Place(Struct, frozen=True):
    """A slot that was compared with others: the tokens that are expected to be cached there, the
    time until it is free, or its conversation has lost its claim, and the cost (see `policy`)."""

    backend: str
    slot: int
    busy: bool
    cached_tokens: int
    wait_seconds: float
    cost_seconds: float


class Preview(Struct, frozen=True):
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


def places(
    request: SlotRequest, pool: Pool, now: float, decision: Grant | WaitForSlot | None
) -> tuple[Place, ...]:
    """The slots that the policy compares, the chosen one first, then the cheapest."""
    chosen = decision.slot if isinstance(decision, Grant) else None
    compared = [*_compared(request, pool, now)]
    compared.sort(key=lambda each: (each[0] is not chosen, each[1].cost_seconds))
    return tuple(place for _, place in compared)


def _compared(request: SlotRequest, pool: Pool, now: float) -> Iterator[tuple[Slot, Place]]:
    """Each slot, as if there were no other."""
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
        one_slot = _OneSlot(**shared, free=free, slot=slot, backend=backend)
        decision = policy.decide(request, one_slot, now)
        if decision is None:
            continue
        wait, count, cost = 0.0, cached.get(slot, 0), decision.cost
        if isinstance(decision, WaitForSlot):
            wait = max(0.0, decision.until - now)
        else:
            count = decision.cached
            cost = cost or policy.cost_of({}, pool, backend, 0.0, prompt - count, now)
        yield slot, Place(backend.name, slot.id, slot.busy, count, round(wait, 3), round(cost, 6))

"""What a scheduler knew when it granted a slot, to explain the request later: plain values, which
may outlive the records. No decision depends on them."""

from __future__ import annotations

from .pool import Pool
from .prefix import agreement
from .state import ConversationRecord, Grant, Placement, SlotRequest


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
    loss, turn, shared, kept_on, kept_busy = None, 0, 0, "", False
    continues = own is not None and own.conversation is conversation
    if not continues:
        loss, own = pool.find_loss(request.chain, forget=forget), None
        if conversation.turns:  # only then there can be a prompt of it somewhere
            places = (other for other, _ in pool.matches(request.chain))
            own = next((other for other in places if other.conversation is conversation), None)
    if own is not None:
        kept_on, slot = own.backend.name, own.slot
        kept_busy = slot is not None and (slot.busy or slot.ready > now)
        if own.chain.links:
            last = own.chain.turn - 1
            turn = shared = own.chain.ends[last]
            if own.chain.links[last : last + 1] != request.chain.links[last : last + 1]:
                shared = agreement(request.chain, own.chain)
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
        kept_on=kept_on,
        kept_busy=kept_busy,
        kept_turn=turn,
        shared=shared,
        loss=loss,
    )

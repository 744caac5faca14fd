"""What a scheduler knew when it granted a slot, to explain the request later: plain values, which
may outlive the records. No decision depends on them."""

from __future__ import annotations

from .pool import Pool
from .prefix import Chain
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

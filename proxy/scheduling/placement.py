"""What a scheduler knew when it granted a slot, kept to explain the request later. Pure.

Nothing here takes part in a decision. A placement is plain values, so that it can outlive the
records that it was made from."""

from __future__ import annotations

from .pool import Pool
from .state import CachedPrompt, ConversationRecord, Grant, Loss, Placement, SlotRequest


def placement(
    pool: Pool, request: SlotRequest, grant: Grant, conversation: ConversationRecord, now: float
) -> Placement:
    """The facts about a grant, before its slot is taken."""
    backend, reuse, held = grant.backend, grant.reuse, grant.slot.held
    own, shared, loss = reuse, 0, None
    if reuse is None or reuse.conversation is not conversation:
        loss = pool.find_loss(request.chain)
        own = None
        if conversation.turns:  # only then there can be a prompt of it somewhere
            own, shared = _own(pool, request, conversation)
    elif request.chain.links != reuse.chain.links:
        shared = _shared(request, reuse)
    return Placement(
        request=request,
        at=now,
        backend=backend.name,
        slot=grant.slot.id,
        slots=len(backend.slots),
        prompt=grant.prompt,
        expected=grant.cached,
        restores=grant.restore is not None,
        saves=grant.save,
        fresh=grant.fresh,
        loads=backend.load_delay,
        turns=conversation.turns,
        continues=own is reuse and own is not None,
        before=_name(held) if held is not None and held.conversation is not conversation else b"",
        before_tokens=held.tokens if held is not None else 0,
        kept_on=own.backend.name if own is not None else "",
        kept_busy=own is not None and own.slot is not None and own.slot.busy,
        kept_turn=own.chain.ends[own.chain.turn - 1] if own is not None and own.chain.ends else 0,
        shared=shared,
        loss=loss,
    )


def _own(
    pool: Pool, request: SlotRequest, conversation: ConversationRecord
) -> tuple[CachedPrompt | None, int]:
    """The longest cached prompt of the request's own conversation, and the end of what the two have
    in common."""
    for held, depth in pool.matches(request.chain):
        if held.conversation is conversation:
            return held, request.chain.ends[depth - 1]
    return None, 0


def _shared(request: SlotRequest, held: CachedPrompt) -> int:
    """The end of the last link that a request shares with this prompt."""
    known = {*held.chain.links}
    links = request.chain.links
    for place in range(len(links) - 1, -1, -1):
        if links[place] in known:
            return request.chain.ends[place]
    return 0


def _name(held: CachedPrompt) -> bytes:
    return held.chain.links[held.chain.turn - 1] if held.chain.links else b""


def evicted(replaced: CachedPrompt, by: SlotRequest, slot: int, now: float) -> Loss:
    """The loss of a prompt whose slot was given to this request."""
    chain = by.chain
    return Loss(
        why="evicted",
        at=now,
        backend=replaced.backend.name,
        slot=slot,
        slots=len(replaced.backend.slots),
        key=by.key,
        taker=chain.links[chain.turn - 1] if chain.links else b"",
        side_job=by.background,
    )

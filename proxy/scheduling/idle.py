"""Which slots requests may use that run in idle slots only: lines of batches, prewarming. Pure.

Such a request never waits in the queue. It only takes a free slot whose prompt it continues, or one
whose prompt is hardly worth its evaluation; one of a backend with several is then left to others.
Beside other requests it begins only while they all stream, and if little of its prompt is
evaluated, because a server evaluates prompts in the same steps as it generates tokens.

A new request takes precedence. If it gets a slot, the idle requests that are still evaluated on its
backend are cancelled, and one more if no spare slot is left for the next; if it has to wait, one of
those that occupy slots is.
"""

from __future__ import annotations

from collections.abc import Iterable

from .lease import Lease, Ticket
from .pool import Pool
from .prefix import agreement
from .state import BackendRecord, CachedPrompt, Grant, Slot, SlotRequest

LITTLE = 128  # tokens that an idle request may evaluate beside others, or lose of a prompt
KEPT = 30.0  # seconds after its last use for which a prompt is kept from idle requests, at most
WORTH = 64  # tokens to evaluate again, on average, if the prompt of a spare slot is lost


def room(pool: Pool, now: float) -> int:
    """How many more idle requests the backends of a pool may have, by their free slots alone."""
    return sum(_room(backend, pool, now) for backend in pool.backends.values())


def may_take(
    grant: Grant, request: SlotRequest, pool: Pool, leases: Iterable[Lease], now: float
) -> bool:
    """Whether an idle request may take the slot of this grant. `leases` are those of the others."""
    backend, slot = grant.backend, grant.slot
    spare = _is_spare(slot, backend, pool, now) and _room(backend, pool, now)
    spare = spare or (slot.held is not None and _is_continued(slot.held, request))
    if not spare:
        return False
    if backend.in_flight == sum(lease.grant.backend is backend for lease in leases):
        return True
    tokens = pool.tokens(request.chain, request.ids) - grant.cached
    return tokens <= LITTLE and not backend.evaluating


def _is_continued(held: CachedPrompt, request: SlotRequest) -> bool:
    """Whether little of this prompt is lost, because the request begins with it."""
    share = agreement(held.chain, request.chain) / max(1, held.chain.size)
    return share > 0.5 and held.prompt * (1 - share) <= LITTLE


def in_the_way(
    leases: Iterable[Lease], request: SlotRequest, entry: Lease | Ticket, pool: Pool, now: float
) -> list[Lease]:
    """The leases of idle requests that are in the way of a new request, which got this lease or
    waits with this ticket."""
    same = [lease for lease in leases if lease.request.model == request.model]
    idle = [lease for lease in same if not lease.wanted]
    if isinstance(entry, Lease):
        backend = entry.grant.backend
        here = [lease for lease in idle if lease.grant.backend is backend]
        evaluated = [lease for lease in here if not lease.slot.streaming]
        if evaluated or not here or _spare(backend, pool, now):
            return evaluated
        return [_least_done(here)]
    if request.whole_backend:
        return idle
    if pool.free or not idle or len(same) - len(idle) >= len(pool.line):
        return []
    return [_least_done(idle)]


def _least_done(leases: Iterable[Lease]) -> Lease:
    """The one with the least work to lose."""
    return max(leases, key=lambda lease: (not lease.slot.streaming, lease.slot.used, lease.slot.id))


def _room(backend: BackendRecord, pool: Pool, now: float) -> int:
    return max(0, _spare(backend, pool, now) - (len(backend.slots) > 1))


def _spare(backend: BackendRecord, pool: Pool, now: float) -> int:
    if not backend.grants_slots:
        return 0
    return sum(not slot.busy and _is_spare(slot, backend, pool, now) for slot in backend.slots)


def _is_spare(slot: Slot, backend: BackendRecord, pool: Pool, now: float) -> bool:
    """Whether little is lost with the prompt in a slot. A server that chooses its slots itself
    also chooses what it loses, or keeps old prompts elsewhere. What a background request left is
    mostly of use to the next one only."""
    held = slot.held
    if held is None or held.conversation.background or not backend.pins:
        return True
    if now - slot.used >= KEPT:
        return True
    return pool.expected_loss(held, now) <= WORTH

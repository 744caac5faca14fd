"""Which slots requests may use that run in idle slots only: the lines of batches. Pure.

Such a request never waits in the queue, and never takes the last free slot of a backend with
several. Beside other requests it begins only while they all stream, and if little of its prompt is
evaluated, because a server evaluates prompts in the same steps as it generates tokens.

A new request takes precedence. If it gets a slot, the idle requests that are still evaluated on its
backend are cancelled; if it has to wait, one of those that occupy slots is.
"""

from __future__ import annotations

from collections.abc import Iterable

from .lease import Lease
from .pool import Pool
from .state import BackendRecord, Grant, SlotRequest
from .ticket import Ticket

LITTLE = 128  # tokens that an idle request may evaluate beside other requests


def count(leases: Iterable[Lease], backend: BackendRecord) -> int:
    """How many of these leases are of this backend."""
    return sum(lease.grant.backend is backend for lease in leases)


def room(pool: Pool) -> int:
    """How many more idle requests the backends of a pool may have, by their free slots alone."""
    return sum(_room(backend) for backend in pool.backends.values() if backend.grants_slots)


def may_take(grant: Grant, want: SlotRequest, pool: Pool, idle: int) -> bool:
    """Whether an idle request may take the slot of this grant. `idle` is the number of idle
    requests on its backend."""
    backend = grant.backend
    if not _room(backend):
        return False
    if backend.in_flight == idle:
        return True
    tokens = pool.tokens(want.chain, not isinstance(want.task.prompt, str)) - grant.cached
    return tokens <= LITTLE and not backend.evaluating


def in_the_way(
    leases: Iterable[Lease], want: SlotRequest, entry: Lease | Ticket, pool: Pool
) -> list[Lease]:
    """The leases of idle requests that are in the way of a new request, which got this lease or
    waits with this ticket."""
    idle = [one for one in leases if not one.wanted and one.want.model == want.model]
    if isinstance(entry, Lease):
        backend = entry.grant.backend
        return [one for one in idle if one.grant.backend is backend and not one.slot.streaming]
    if want.whole_backend:
        return idle
    if pool.free or not idle:
        return []
    # The one with the least work to lose.
    return [max(idle, key=lambda one: (not one.slot.streaming, one.slot.used, one.slot.id))]


def _room(backend: BackendRecord) -> int:
    slots = len(backend.slots)
    return max(0, slots - backend.in_flight - (slots > 1))

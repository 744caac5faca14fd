"""Learns how many requests a server answers at once, where only a first guess is known.

Three things take slots away, as they come free: an answer "too many requests" (`outcomes`), a
server that reports a queue of its own (`on_queue`), and answers that begin about when another one
ends instead of when their prompt is evaluated. Each lengthens the pause until one more slot is
tried, which happens only while all are in use and requests wait; each try halves it. So the number
settles, between 1 and `most`, and one that was lowered by mistake grows back ever faster.
"""

from __future__ import annotations

from .history import SMOOTH
from .outcomes import resize, try_later
from .pool import Pool
from .state import BackendRecord, Slot

BASE = 200  # tokens that the rest of a request costs, beside its prompt
LATE = 2  # answers in a row that begin late, after which a slot is taken away
SHARE = 0.5  # of the time of an answer, by which one that waited for another begins later
PART = 8  # of the slots, one is taken away


def on_first_token(
    pool: Pool, backend: BackendRecord, slot: Slot, seconds: float, now: float
) -> None:
    """Record how long an answer took to begin, on a backend whose slots are learned."""
    count, busy = len(backend.slots), backend.in_flight
    quick = seconds / (BASE + slot.work)
    if 2 * busy <= count or busy == 1:
        backend.late = 0
        backend.quick += (SMOOTH if backend.quick else 1.0) * (quick - backend.quick)
        return
    if busy < count or not backend.quick:
        return
    answer = pool.answer / pool.pace(backend)
    if seconds < backend.quick * (BASE + slot.work) + SHARE * answer:
        backend.late = 0
        return
    backend.late += 1
    if backend.late >= LATE:
        _take_away(pool, backend, count - max(1, count // PART), now)


def on_queue(pool: Pool, backend: BackendRecord, running: int, now: float) -> None:
    """Record that a server queues requests while so many are running. One that runs less than half
    of those under way is still admitting them."""
    if backend.target or 2 * running < backend.in_flight:
        return
    if backend.most and 0 < running < len(backend.slots):
        _take_away(pool, backend, running, now)


def on_release(pool: Pool, backend: BackendRecord) -> None:
    """Take away free slots, of those that are to go."""
    if backend.target:
        resize(pool, backend, backend.target)
        if len(backend.slots) <= backend.target:
            backend.target = 0


def _take_away(pool: Pool, backend: BackendRecord, count: int, now: float) -> None:
    backend.target = max(1, count)
    on_release(pool, backend)
    backend.late = 0
    try_later(backend, now)

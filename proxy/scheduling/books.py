"""Keeping the records right by what comes back: the backend is believed.

Functions over the records of one pool, called under the scheduler's lock. A lease may outlive what
was known of its backend: of its slot (another model is behind it now, or it started anew), or of
the backend itself (it was retired; then the pool is an empty one). So what an answer tells is only
learned while its slot is still thought to hold it.
"""

from __future__ import annotations

from .knowledge import SMOOTH, Pool
from .lease import Lease, Outcome
from .state import MOST_SLOTS, Backend, Held, Slot

RETRY = 0.05  # seconds after which a server that said "busy" is asked again
LONGEST = 0.25  # seconds a server is given to let go of a slot, at most
TRUST = 0.98  # how the time shrinks with each request that was not moved
CUT = 5  # times as long takes a server to let go of a slot whose answer was cut
PATIENCE = 600.0  # seconds between two attempts at one slot more, at most
FAILURES = 3  # in a row, after which a backend is left alone for a while
PAUSE = 30.0  # seconds it is left alone, at most
MOVED = 0.3  # weight of the newest save or restore in its rate
ENOUGH = 16  # tokens evaluated that tell something of the rate
ALIKE = 8  # tokens that two prompts of any groups may share: marks of the template


def take(pool: Pool, lease: Lease, now: float) -> None:
    """The slot is the lease's from now on, and so is what will be in it."""
    grant, want = lease.grant, lease.want
    backend, slot = grant.backend, grant.slot
    slot.busy, slot.used = True, now
    slot.flowing = slot.ending = False
    del pool.free[slot]
    backend.in_flight += 1
    if grant.whole:
        backend.exclusive = True
        pool.refresh(backend)
    backend.asked += 1
    pool.began(want, lease.conversation, now)
    tokens = pool.tokens(want.chain, not isinstance(want.task.prompt, str))
    slot.work = max(0, tokens - grant.cached)
    held = Held(backend, want.chain, lease.conversation, tokens, tokens, now, slot)
    lease.held, lease.before = held, slot.held
    if not backend.pins:
        _set_aside(pool, backend, slot)
    pool.put(held)


def _set_aside(pool: Pool, backend: Backend, slot: Slot) -> None:
    """What this slot held is not lost on a server that keeps old prompts."""
    old = slot.held
    pool.drop(old)
    if old is not None and backend.keeps == "ram":
        old.slot = None
        pool.put(old)


def flows(pool: Pool, lease: Lease, number: int, now: float) -> None:
    """The first token of a lease came, from the slot of this number (-1: not told)."""
    backend = lease.grant.backend
    if number >= 0:
        moved(pool, backend, lease, number)
    lease.slot.flowing = True
    if backend.settles:
        _evaluated(backend, lease.slot, now)


def _evaluated(backend: Backend, slot: Slot, now: float) -> None:
    """The prompt in this slot of an old server is evaluated, so its round is over."""
    for other in backend.slots:
        if slot in other.after:
            other.after.discard(slot)
            other.ready = max(other.ready, now + backend.settles)


def moved(pool: Pool, backend: Backend, lease: Lease, number: int) -> None:
    """The server took another slot than asked: the two records change numbers, so that the lease's
    own is the one with the right number. What the asked one held is still there; what the other
    held is gone."""
    slot = lease.slot
    if backend.counting and not lease.grant.pin and not lease.flowing:
        _count(pool, backend, number)
    lease.flowing = True
    if number == slot.id:
        if backend.settles:
            backend.settles *= TRUST
        return
    if lease.grant.pin and backend.settles:
        # It had not yet let go of the slot it was asked for.
        backend.moved += 1
        backend.settles = min(LONGEST, 2 * backend.settles)
    if len(backend.slots) <= number < MOST_SLOTS and backend.guessed:
        resize(pool, backend, number + 1)
    if number >= len(backend.slots):
        return
    other = backend.slots[number]
    slot.id, other.id = other.id, slot.id
    backend.slots[slot.id], backend.slots[other.id] = slot, other
    if backend.pins and not other.busy:
        pool.drop(other.held)
        if lease.before is not None and _is_believed(lease):
            lease.before.slot = other
            pool.put(lease.before)
        lease.before = None


def _count(pool: Pool, backend: Backend, number: int) -> None:
    if number not in backend.seen:
        backend.seen.add(number)
        return
    backend.counting = False
    resize(pool, backend, max(backend.seen) + 1)


def _is_believed(lease: Lease) -> bool:
    """Whether its slot is still thought to hold what the lease put there: it was not forgotten."""
    held = lease.held
    return held is not None and held.slot is not None and held.slot.held is held


def settle(pool: Pool, lease: Lease, outcome: Outcome, now: float) -> None:
    """A lease comes back, and tells what happened."""
    grant = lease.grant
    backend = grant.backend
    slot, number = lease.slot, outcome.slot
    # Where it was asked for, and nothing is learned from that, there is nothing to do.
    if number >= 0 and (number != slot.id or backend.settles or backend.counting):
        moved(pool, backend, lease, number)
    pool.duration += SMOOTH * (now - slot.used - pool.duration)
    slot.busy = slot.ending = False
    slot.used = now
    if backend.settles:
        # An old server lets go at the beginning of its next round, and looks for new requests just
        # before that. A round that evaluates prompts is long, and ends with their first tokens.
        slot.flowing = True
        _evaluated(backend, slot, now)
        slot.ready = now + backend.settles * (1 if outcome.end == "whole" else CUT)
        slot.after = {s for s in backend.slots if s.busy and not s.flowing}
        if grant.whole:
            for other in backend.slots:
                other.ready = max(other.ready, slot.ready)
    lease.conversation.last = now
    backend.in_flight -= 1
    held = lease.held
    assert held is not None
    believed = _is_believed(lease)
    if outcome.end in ("whole", "cut"):
        backend.failures, backend.freed = 0, now
        if believed:
            _learn(pool, lease, held, outcome, now)
    else:
        pool.drop(held)
        if outcome.end == "failed":
            _failed(backend, now)
        elif lease.before is not None and backend.pins and believed:
            pool.put(lease.before)
        if outcome.end == "busy":
            _busy(pool, backend, now)
    if grant.whole:
        backend.exclusive = False
        if outcome.end != "unused":
            pool.forget(backend)  # any of its slots was used
        pool.refresh(backend)
    if pool.backends.get(backend.name) is backend and backend.has(slot):
        pool.let_go(backend, slot)


def _learn(pool: Pool, lease: Lease, held: Held, outcome: Outcome, now: float) -> None:
    """What the counts that were told say of the rates, and of what the slot holds now."""
    grant, prompt = lease.grant, outcome.prompt
    backend, reuse = grant.backend, grant.reuse
    if prompt:
        cached = outcome.cached
        evaluated = prompt - cached
        backend.evaluated += evaluated
        backend.cached += cached
        backend.hits += cached > 0
        if isinstance(lease.want.task.prompt, str):
            pool.learned(held.chain, prompt)
        if evaluated >= ENOUGH and outcome.evaluating > 0:
            pool.evaluated(backend, evaluated / outcome.evaluating)
        if reuse is not None and reuse.slot is None and 2 * cached < grant.cached:
            pool.drop(reuse)  # it was not there any more
    if outcome.erased:
        pool.drop(held)
        return
    held.prompt = prompt = prompt or held.prompt
    held.tokens = prompt + outcome.completion
    held.used = now
    if reuse is not None and not backend.pins and reuse.conversation is held.conversation:
        pool.drop(reuse)  # it has become this


def _failed(backend: Backend, now: float) -> None:
    backend.failures += 1
    if backend.failures >= FAILURES:
        backend.ready = now + min(PAUSE, 2.0 ** (backend.failures - FAILURES))


def _busy(pool: Pool, backend: Backend, now: float) -> None:
    """It has fewer slots than we thought, or has not yet noticed that one was let go. When none
    was let go just now, all others that are under way have one each, and that is all there are:
    one of them that has none either will hear so too."""
    backend.ready = now + RETRY
    settling = any(slot.ready > now and not slot.busy for slot in backend.slots[:-1])
    if backend.guessed and backend.in_flight and not (settling and now - backend.freed < RETRY):
        resize(pool, backend, backend.in_flight)
        backend.patience = min(PATIENCE, 2 * backend.patience)
        backend.more = now + backend.patience


def stretch(pool: Pool, backend: Backend, now: float) -> bool:
    """All slots of a server that cannot tell their number are taken, and somebody waits: try one
    more, now and then."""
    full = backend.in_flight >= len(backend.slots)
    if not (backend.guessed and backend.lends and full and now >= backend.more):
        return False
    backend.more = now + backend.patience
    resize(pool, backend, len(backend.slots) + 1)
    return True


def resize(pool: Pool, backend: Backend, count: int) -> None:
    """Busy slots stay, under another number where theirs is none any more."""
    count = min(count, MOST_SLOTS)
    slots = sorted(backend.slots, key=lambda slot: (not slot.busy, slot.id))
    kept = slots[: max(count, sum(slot.busy for slot in slots))]
    for slot in slots[len(kept) :]:
        pool.drop(slot.held)
    taken = {slot.id for slot in kept if slot.id < count}
    numbers = [i for i in range(max(count, len(kept))) if i not in taken]
    for slot in kept:
        if slot.id >= count:
            slot.id = numbers.pop(0)
    kept += [Slot(i) for i in numbers[: count - len(kept)]]
    backend.slots = sorted(kept, key=lambda slot: slot.id)
    pool.refresh(backend)


def leaks(lease: Lease, outcome: Outcome) -> bool:
    """Whether more of the prompt was cached than can be this group's own: then what the slot holds
    came from somebody else's."""
    reuse = lease.grant.reuse
    if lease.grant.fresh or reuse is None:
        return outcome.cached > ALIKE
    return outcome.cached > 1.1 * reuse.tokens + 4 * ALIKE

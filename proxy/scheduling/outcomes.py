"""Reconciles slot records with what backends report; the backend is right.

These functions work on the records of one pool, under the scheduler's lock. A lease may outlive the
records of its slot (the backend restarted or changed its model) and even the backend itself (it was
removed; the pool is then an empty one). So an answer's report is only used while the lease's slot
is still assumed to hold its prompt.
"""

from __future__ import annotations

from .history import FIRST, SMOOTH
from .lease import MOST_COUNTED, Lease, Outcome
from .pool import Pool
from .state import MOST_SLOTS, SOONEST, BackendRecord, CachedPrompt, Loss, Slot

RETRY = 0.05  # seconds after which a server that said "busy" is asked again
LONGEST = 0.25  # seconds a server gets to free a slot, at most
TRUST = 0.98  # factor by which that time shrinks with each request that was not moved
CUT = 5  # factor of that time for a slot whose answer was cut
PATIENCE = 600.0  # seconds between two tries of one more slot, at most
FAILURES = 3  # in a row, after which a backend is paused
PAUSE = 30.0  # seconds of that pause, at most
LONGEST_PAUSE = 60.0  # seconds for which a busy server is left alone because it asks for that
MOVED = 0.3  # weight of the newest save or restore in its rate
ENOUGH = 16  # evaluated tokens that are enough to measure a rate
BASE = 200  # tokens that the rest of a request costs, beside its prompt
LATE = 2  # answers in a row that begin late, after which a slot is taken away
SHARE = 0.5  # of the time of an answer, by which one that waited for another begins later
PART = 8  # of the slots, one is taken away
ALIKE = 8  # tokens that prompts of any two groups may share: those of the template


def take(pool: Pool, lease: Lease, now: float) -> None:
    """Record that a lease begins: its slot is busy and will hold its prompt."""
    grant, request = lease.grant, lease.request
    backend, slot = grant.backend, grant.slot
    slot.busy, slot.used = True, now
    slot.streaming = False
    del pool.free[slot]
    backend.in_flight += 1
    if grant.whole:
        backend.exclusive = True
        pool.refresh(backend)
    backend.asked += 1
    pool.record_turn(request, lease.conversation, now)
    tokens = grant.prompt
    slot.work = work = tokens - grant.cached
    slot.limit = request.max_tokens or 0
    if not backend.evaluating:
        backend.evaluating_since = now
    backend.evaluating += work
    held = CachedPrompt(
        backend=backend,
        chain=request.chain,
        conversation=lease.conversation,
        prompt=tokens,
        tokens=tokens,
        used=now,
        slot=slot,
    )
    lease.written = held
    lease.replaced = slot.before = old = slot.held
    if old is not None and old.conversation is not lease.conversation:
        placed = lease.placement
        if placed is None or not placed.keeps:
            loss = Loss(
                why="evicted",
                at=now,
                backend=backend.name,
                slot=slot.id,
                slots=len(backend.slots),
                key=request.key,
                side_job=request.background,
            )
            pool.lose(old, loss)
    if not backend.pins:
        _keep_outside_slots(pool, backend, slot, grant.restore is not None)
    pool.put(held)


def _keep_outside_slots(
    pool: Pool, backend: BackendRecord, slot: Slot, restores: bool = False
) -> None:
    """Keep what this slot held on the list of a server that caches old prompts in RAM. A restored
    file takes the place of the old prompt, which is lost."""
    old = slot.held
    pool.drop(old)
    if old is not None and backend.cache_kind == "ram" and not restores:
        old.slot = None
        pool.put(old)


def record_first_token(lease: Lease, number: int, now: float) -> None:
    """Record the first token of a lease, from slot `number` (-1: not reported)."""
    backend, slot = lease.grant.backend, lease.slot
    if backend.most and not slot.streaming:
        _learn_from_first_token(backend.pool, backend, slot, now - slot.used, now)
    if number == slot.id and not (backend.release_delay or backend.counting):
        lease.streaming = True  # nothing else to learn from it
    elif 0 <= number < MOST_SLOTS:
        record_actual_slot(backend.pool, backend, lease, number)
    if not slot.streaming:
        slot.streaming, slot.first = True, now
        backend.evaluating -= slot.work
        backend.evaluating_since = now
    if backend.release_delay:
        _evaluated(backend, slot, now)


def _evaluated(backend: BackendRecord, slot: Slot, now: float) -> None:
    """Record that an old server has evaluated the prompt in this slot, which ends its round."""
    for other in backend.slots:
        if slot in other.after:
            other.after -= {slot}
            other.ready = max(other.ready, now + backend.release_delay)


def record_actual_slot(pool: Pool, backend: BackendRecord, lease: Lease, number: int) -> None:
    """Record that the server used slot `number`. If it is another than requested, the two records
    swap their numbers: the requested slot keeps its old prompt, the used slot loses its own."""
    slot = lease.slot
    if backend.counting and not lease.grant.pin and not lease.streaming:
        if number in backend.seen:
            backend.counting = False
            resize(pool, backend, max(backend.seen) + 1)
        backend.seen.add(number)
    lease.streaming = True
    if number == slot.id:
        if backend.release_delay:
            backend.release_delay *= TRUST
        return
    if lease.grant.pin and backend.release_delay:
        # The server had not freed the requested slot yet.
        backend.moved += 1
        backend.release_delay = min(LONGEST, 2 * backend.release_delay)
    if len(backend.slots) <= number < MOST_SLOTS and backend.guessed:
        resize(pool, backend, number + 1)
    if number >= len(backend.slots):
        return
    other = backend.slots[number]
    slot.before, other.before = (other.before if other.busy else other.held), slot.before
    slot.id, other.id = other.id, slot.id
    backend.slots[slot.id], backend.slots[other.id] = slot, other
    if not backend.pins and not other.busy:
        _keep_outside_slots(pool, backend, other)
    elif not other.busy:
        if other.held is not None and other.held.conversation is not lease.conversation:
            loss = Loss(why="moved", at=slot.used, backend=backend.name, slot=number)
            pool.lose(other.held, loss)
        pool.drop(other.held)
        # Only while the slot is assumed to hold the lease's own prompt.
        if lease.replaced is not None and slot.held is lease.written:
            lease.replaced.slot = other
            pool.put(lease.replaced)
            pool.find_loss(lease.replaced.chain)
        lease.replaced = None


def settle(pool: Pool, lease: Lease, outcome: Outcome, now: float) -> None:
    grant = lease.grant
    backend = grant.backend
    slot, number, end = lease.slot, outcome.slot, outcome.end
    if (number != slot.id or backend.release_delay or backend.counting) and number >= 0:
        record_actual_slot(pool, backend, lease, number)
    pool.duration += SMOOTH * (now - slot.used - pool.duration)
    began = slot.streaming
    if not began:
        if backend.most and end == "whole":
            _learn_from_first_token(pool, backend, slot, now - slot.used, now)
        slot.streaming, slot.first, backend.evaluating_since = True, now, now
        backend.evaluating -= slot.work
    if end == "whole" and outcome.completion:
        pool.record_answer(backend, outcome.completion, now - slot.first)
    slot.busy = slot.finishing = False
    slot.used, slot.before = now, None
    if backend.release_delay:
        _evaluated(backend, slot, now)  # also if the server was not asked: nothing to wait for
        if end != "unused":
            # An old server frees slots at the beginning of a round, just after it looked for new
            # requests. A round that evaluates prompts is long and ends with their first tokens.
            slot.ready = now + backend.release_delay * (1 if end == "whole" else CUT)
            slot.after = frozenset(s for s in backend.slots if s.busy and not s.streaming)
            if grant.whole:
                for other in backend.slots:
                    other.ready = max(other.ready, slot.ready)
    conversation = lease.conversation
    conversation.last = now
    if not lease.request.idle:
        if outcome.calls:
            pool.returns.called(conversation)
        else:
            conversation.calls = conversation.open = False
        if conversation.session and (main := pool.sessions.main.get(conversation.session)):
            main.session_last = now
    backend.in_flight -= 1
    held = lease.written
    assert held is not None
    believed = slot.held is held  # the slot is still assumed to hold its prompt
    if end == "whole" or end == "cut":
        backend.failures, backend.freed = 0, now
        if believed:
            _learn(pool, lease, held, outcome, now)
        if grant.fresh and end == "cut" and not (began or outcome.prompt):
            # The server may not have read it: its slot may still hold another group's prompt.
            pool.drop(held)
    else:
        pool.drop(held)
        loss = lease.placement.loss if lease.placement is not None else None
        if loss is None and end == "failed":
            loss = Loss(why="failed", at=now, backend=backend.name, slot=slot.id)
        if loss is not None:  # the next try asks the same
            pool.lose(held, loss)
        if end == "failed":
            backend.failures += 1
            if backend.failures >= FAILURES:
                backend.ready = now + min(PAUSE, 2 ** (backend.failures - FAILURES))
        elif lease.replaced is not None and backend.pins and believed:
            pool.put(lease.replaced)
            pool.find_loss(lease.replaced.chain)
        if end == "busy":
            _busy(pool, backend, now, outcome.pause)
    if grant.whole:
        backend.exclusive = False
        if end != "unused":
            pool.forget(backend, files=False)  # the server may have used any of its slots
        pool.refresh(backend)
    if slot.held is held:
        pool.slot_freed(held)
    # A slot in use is never taken away; that of a busy answer may be gone by now. The pool of a
    # removed backend is its own, where nothing waits.
    if end != "busy" or slot in backend.slots:
        if backend.grants_slots:
            pool.free[slot] = backend
        if pool.line.by_key:
            links = slot.held.chain.links if slot.held is not None else ()
            pool.line.freed(links, backend.name)


def _learn(pool: Pool, lease: Lease, held: CachedPrompt, outcome: Outcome, now: float) -> None:
    """Learn the rates, and what the slot holds now, from the reported counts."""
    grant, prompt = lease.grant, outcome.prompt
    backend, reuse = grant.backend, grant.reuse
    if prompt:
        held.prompt = prompt
        cached = outcome.cached
        evaluated = prompt - cached
        backend.evaluated += evaluated
        if cached:
            backend.cached += cached
            backend.hits += 1
        ends = held.chain.ends
        if ends and not lease.request.ids:
            pool.chars_a_token += SMOOTH * (ends[-1] / prompt - pool.chars_a_token)
        if evaluated >= ENOUGH and 0 < outcome.evaluating <= MOST_COUNTED:
            rate = evaluated / outcome.evaluating
            backend.measured = count = backend.measured + 1
            backend.rate += (rate - backend.rate) / min(count, FIRST)
            pool.measured = min(FIRST, pool.measured + 1)
            pool.mean_rate += (rate - pool.mean_rate) / pool.measured
        if reuse is not None and reuse.slot is None:
            in_vain = 2 * cached < grant.cached
            # How much another conversation has in common with a file is only estimated.
            own = reuse.conversation is held.conversation
            if grant.restore is not None and own:
                backend.vain = backend.vain + 1 if in_vain else 0
            if in_vain and (own or not reuse.file):
                pool.drop(reuse)  # it was no longer cached
    if outcome.erased:
        pool.drop(held)
        return
    held.tokens = held.prompt + outcome.completion
    held.used = now
    if backend.pins or reuse is None or reuse.file:
        return
    if reuse.conversation is held.conversation:
        pool.drop(reuse)  # it was extended to the new prompt


def _busy(pool: Pool, backend: BackendRecord, now: float, pause: float) -> None:
    """Record a busy answer: the server has fewer slots than assumed, or has not noticed yet that
    one was freed. If no slot was freed just now, each other request under way has one slot, and
    there are no more. If one of these has none either, it gets a busy answer too. `pause` is how
    long the server asked to be left alone."""
    backend.ready = now + max(RETRY, min(pause, LONGEST_PAUSE))
    settling = any(slot.ready > now and not slot.busy for slot in backend.slots[:-1])
    if backend.guessed and backend.in_flight and not (settling and now - backend.freed < RETRY):
        resize(pool, backend, backend.in_flight)
        try_later(backend, now)


# How many requests a server answers at once, where only a first guess is known.
#
# Slots are taken away, as they come free, by an answer "too many requests" (`_busy`), and by those
# that begin about when another one ends instead of when their prompt is evaluated. Each lengthens
# the pause until one more slot is tried, which happens only while all are in use and requests wait;
# each try halves it. So the number settles, between 1 and `most`, and one that was lowered by
# mistake grows back ever faster.


def try_later(backend: BackendRecord, now: float) -> None:
    """Lengthen the pause until one more slot is tried, because there are too many: to twice of what
    it was, where the last try halved it."""
    backend.patience = min(PATIENCE, 4 * backend.patience)
    backend.more = now + backend.patience


def try_one_more_slot(pool: Pool, backend: BackendRecord, now: float) -> bool:
    """Assume one more slot, now and then, if a server with an unknown number of slots is full and
    requests are waiting. Returns whether a slot was added."""
    count = len(backend.slots)
    full = backend.in_flight >= count and (not backend.most or count < backend.most)
    if backend.target:
        return False
    if not (backend.guessed and backend.grants_slots and full and now >= backend.more):
        return False
    backend.patience = max(SOONEST, backend.patience / 2)
    backend.more = now + backend.patience
    resize(pool, backend, count + 1)
    return True


def _learn_from_first_token(
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
        backend.late = 0
        backend.target = max(1, count - max(1, count // PART))
        take_slots_away(pool, backend)
        try_later(backend, now)


def take_slots_away(pool: Pool, backend: BackendRecord) -> None:
    if backend.target:
        resize(pool, backend, backend.target)
        if len(backend.slots) <= backend.target:
            backend.target = 0


def resize(pool: Pool, backend: BackendRecord, count: int) -> None:
    """Set the number of slots. Busy slots are kept, and renumbered if their number is too high."""
    count = min(count, MOST_SLOTS)
    slots = sorted(backend.slots, key=lambda slot: (not slot.busy, slot.id))
    remaining = slots[: max(count, sum(slot.busy for slot in slots))]
    for slot in slots[len(remaining) :]:
        pool.lose(slot.held, Loss(why="resized", at=0.0, backend=backend.name, slots=count))
        pool.drop(slot.held)
    used_ids = {slot.id for slot in remaining if slot.id < count}
    numbers = [i for i in range(max(count, len(remaining))) if i not in used_ids]
    for slot in remaining:
        if slot.id >= count:
            slot.id = numbers.pop(0)
    remaining += [Slot(id=i) for i in numbers[: count - len(remaining)]]
    backend.slots = sorted(remaining, key=lambda slot: slot.id)
    pool.refresh(backend)


def leaks(lease: Lease, outcome: Outcome) -> bool:
    """Whether more of the prompt was cached than can be this group's own, so that another group's
    prompt was used."""
    grant, cached = lease.grant, outcome.cached
    if cached <= ALIKE:
        return False
    if grant.fresh:
        return True
    if grant.backend.pins and grant.restore is None:
        # What its own group left there may be longer than its records say: a prompt that was cut
        # has no count of the server. Of an unknown content nothing can be said.
        before = lease.slot.before
        return before is not None and before.conversation.group != lease.request.group
    own = grant.reuse
    # A prompt that was cut is counted by its characters: the estimate of its tokens may be low.
    return own is None or cached > max(1.1 * own.tokens, own.chain.size) + 4 * ALIKE

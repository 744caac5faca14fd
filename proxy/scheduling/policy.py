"""The placement policy: chooses the slot with the lowest cost. Pure, without a clock or locks.

The cost of a slot is the sum, in seconds, of
1. the wait for it
2. the evaluation of the tokens that are not cached there, and the loading of the model
3. the same again for each request that this evaluation delays
4. the worth of the evicted prompt: its evaluation, times the chance that its conversation returns
5. the restore of a saved prompt from a file

DESIGN.md has the reasons. At most `LOOKED_AT` places that hold a prefix of the prompt are compared,
and as many free slots, so a decision takes as long with many backends as with few.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .fair import backend_key
from .history import USUAL, held_until, named
from .pool import LOOKED_AT, Pool
from .prefix import Chain
from .state import BackendRecord, CachedPrompt, Grant, Slot, SlotRequest, WaitForSlot, is_adapted

# How long a request leaves a free slot to the conversation that is about to return to it: one in a
# tool call, or the main one of the request's own session, which waits for its answer. A request
# waits for another client until the total wait of all who wait there equals the eviction cost, so
# it never does worse than twice the best choice. In a session it waits longer: its agent needs the
# answers of all its conversations, which are ready sooner one after the other than in turns that
# evict each other. Nothing is reserved.
OWN = 120.0  # seconds that a request waits for conversations of its own session, at most
OTHERS = 15.0  # seconds that it waits for others, at most
TOGETHER = 8.0  # factor of a loss in a session: its agent waits for all of them


def seconds_held(
    held: CachedPrompt, pool: Pool, request: SlotRequest, now: float, lost: float
) -> float:
    """Seconds for which a request rather waits than evicts this prompt, whose eviction costs `lost`
    seconds."""
    conversation = held.conversation
    if not conversation.calls or conversation.background:
        return 0.0
    if request.session and conversation.session == named(request):
        if not conversation.beside:
            return max(0.0, request.since + min(TOGETHER * lost, OWN) - now)
        pays, patience = TOGETHER * lost, OWN
    else:
        waiting = 1 + pool.line.parked(backend_key(held.backend.name))
        pays = patience = min(lost / waiting, OTHERS)
    if conversation.last + USUAL - now > pays:
        return 0.0
    return max(0.0, min(held_until(conversation), request.since + patience) - now)


Policy = Callable[[SlotRequest, Pool, float], Grant | WaitForSlot | None]
Terms = tuple[float, float, float, float, float, float]

PASSED_OVER = 128  # free slots that are looked at to find them, at most
OF_EVALUATING = 2  # free slots of a backend that evaluates a prompt, if there are other backends
TRIAL_AFTER = 3  # failures in a row after which a backend gets one request at a time
LOAD = 0.002  # seconds added for a fully loaded backend, to prefer an idle one
SIMILAR = 10  # a busy slot is waited for if it holds more than a tenth of the prompt
WORTH_A_WAIT = 0.005  # seconds that a wait saves at least; saving less is not worth the work
ENDING = 0.001  # seconds from the last token until the lease is released
DISK = 0.02  # weight of a second of saving or restoring: it delays no other answer
PATIENCE = 0.25  # seconds that restoring may take longer for a request than evaluating


def reused(held: CachedPrompt, depth: int, chain: Chain) -> int:
    """The tokens of a cached prompt that one with this chain reuses, if they agree up to its link
    `depth` (from 1)."""
    end, own = chain.ends[depth - 1], held.chain
    if end >= own.ends[own.turn - 1]:
        return held.tokens  # it continues from the last turn, so the answer is reused too
    return int(held.prompt * end / max(1, own.size))


def decide(
    request: SlotRequest, pool: Pool, now: float, *, may_wait: bool = True
) -> Grant | WaitForSlot | None:
    """Choose the place for a request: a free slot, or a wait for a better one. None if there is no
    suitable slot. Without `may_wait`, only slots that are free now are compared."""
    prompt = pool.tokens(request.chain, request.ids)
    least = math.inf
    best: Grant | WaitForSlot | None = None
    outside: dict[str, tuple[CachedPrompt, int]] = {}  # the best prompts outside slots
    terms_of: dict[str, Terms] = {}  # of backends compared before

    for held, depth in pool.matches(request.chain):
        backend, slot = held.backend, held.slot
        if not may_serve(backend, request, now):
            continue
        cached = min(reused(held, depth, request.chain), prompt - 1)
        if slot is not None and slot.busy and not (may_wait and SIMILAR * cached > prompt):
            continue
        if slot is None or not (backend.pins or slot.busy):
            if not held.file or restoring_pays(pool, backend, held.tokens, cached):
                best_outside = outside.get(backend.name)
                if best_outside is None or _is_better(held, cached, *best_outside):
                    outside[backend.name] = held, cached
            continue
        wait, hold = slot_wait(slot, backend, pool, now), 0.0
        continues = depth >= held.chain.turn
        if continues and not wait and 2 * cached > prompt:
            # The next turn of a conversation whose slot is free: no need to compare.
            return Grant(backend=backend, slot=slot, prompt=prompt, reuse=held, cached=cached)
        link = request.chain.links[depth - 1]
        if slot.busy:
            turn = pool.generation(backend, slot, now) + (prompt - cached) / pool.rate(backend)
            wait += pool.turns_ahead(link) * turn  # (1) of those that wait for it already
        cost = cost_of(terms_of, pool, backend, wait, prompt - cached, now)
        if not continues:
            # (4) All of it counts: if its conversation returns, it needs a slot with this prefix.
            # The conversation of a busy slot is not silent yet when the slot is free.
            silent_since = held.conversation.last if slot.busy else now
            lost = pool.expected_loss(held, silent_since) / pool.rate(backend)
            cost += lost
            if may_wait and not slot.busy:
                hold = seconds_held(held, pool, request, now, lost)
                if hold:
                    wait, link = hold, backend_key(backend.name)
                    cost += hold
        if cost < least:
            least = cost
            best = (
                WaitForSlot(now + wait, link if slot.busy or hold else None, cost)
                if wait
                else Grant(
                    backend=backend, slot=slot, prompt=prompt, reuse=held, cached=cached, cost=cost
                )
            )

    for held, cached in outside.values():
        backend = held.backend
        if may_wait and backend.in_flight >= len(backend.slots):
            slots = backend.slots[:LOOKED_AT]
            key = backend_key(backend.name)
            turn = (prompt - cached) / pool.rate(backend) + pool.answer / pool.pace(backend)
            wait = min(slot_wait(slot, backend, pool, now) for slot in slots)
            wait += pool.line.parked(key) / len(backend.slots) * turn
            cost = cost_of(terms_of, pool, backend, wait, prompt - cached, now)
            if cost < least:
                least, best = cost, WaitForSlot(now + wait, key, cost)

    empty: set[str] = set()  # backends with an empty slot that was compared: the others are alike
    for slot, backend in free_slots(request, pool, now):
        wait, old = slot_wait(slot, backend, pool, now), slot.held
        if old is None and not wait:
            if backend.name in empty:
                continue
            empty.add(backend.name)
        reuse, cached = outside.get(backend.name, (None, 0))
        cost = cost_of(terms_of, pool, backend, wait, prompt - cached, now)
        save, hold = False, 0.0
        restore = reuse if reuse is not None and reuse.file else None
        if restore is not None:  # (5)
            cost += DISK * restore.tokens / backend.restore_rate
        if old is not None and (backend.pins or restore is not None):  # (4)
            lost = pool.expected_loss(old, now) / pool.rate(backend)
            if backend.cache_kind == "files" and not request.background:
                moving = 2 * DISK * old.tokens / backend.restore_rate
                save = lost > moving and backend.files_pay and not is_adapted(old)
                lost = min(lost, moving) if save else lost
            cost += lost
            if may_wait:
                hold = seconds_held(old, pool, request, now, lost)
                cost += hold
        if cost < least:
            least = cost
            if wait or hold:
                any_slot = backend_key(backend.name) if hold else None
                best = WaitForSlot(now + (hold or wait), any_slot, cost)
                continue
            best = Grant(
                backend=backend,
                slot=slot,
                prompt=prompt,
                reuse=reuse,
                cached=cached,
                # While a server's slots are being counted, it chooses the slot.
                pin=(backend.pins or restore is not None) and not backend.counting,
                restore=restore,
                save=save,
                cost=cost,
            )
    return best


def free_slots(request: SlotRequest, pool: Pool, now: float) -> list[tuple[Slot, BackendRecord]]:
    """The free slots to compare, least recently used first. Backends that evaluate a prompt are
    passed over, so their slots become the least recently used ones of all. Therefore these come
    last, and only a few of each."""
    chosen: list[tuple[Slot, BackendRecord]] = []
    later: list[tuple[Slot, BackendRecord]] = []
    of_backend: dict[str, int] = {}  # slots in `later`
    serves: dict[str, bool] = {}
    several, passed = len(pool.backends) > 1, 0
    for slot, backend in pool.free.items():
        name = backend.name
        if name in request.exclude:
            continue  # another tier of a route may have any number of free slots
        if passed == PASSED_OVER:
            break
        passed += 1
        if name not in serves:
            serves[name] = may_serve(backend, request, now)
        if not serves[name]:
            continue
        if several and backend.evaluating:
            count = of_backend.get(name, 0)
            if count < OF_EVALUATING:
                of_backend[name] = count + 1
                later.append((slot, backend))
        else:
            chosen.append((slot, backend))
            if len(chosen) == LOOKED_AT:
                return chosen
    return chosen + later[: LOOKED_AT - len(chosen)]


def restoring_pays(pool: Pool, backend: BackendRecord, tokens: int, cached: int) -> bool:
    """Whether to restore a file with so many tokens, of which so many are of use: it costs the
    server less than to evaluate these, and its request not much more time."""
    evaluation, moving = cached / pool.rate(backend), tokens / backend.restore_rate
    return backend.files_pay and DISK * moving < evaluation and moving < evaluation + PATIENCE


def _is_better(held: CachedPrompt, cached: int, other: CachedPrompt, others: int) -> bool:
    """Whether more of the prompt is cached here, or as much without restoring a file."""
    return cached > others or (cached == others and bool(other.file) and not held.file)


def decide_whole_backend(
    request: SlotRequest, pool: Pool, now: float
) -> Grant | WaitForSlot | None:
    """Grant a whole backend with nothing under way. None while every backend has answers under
    way."""
    backend = emptiest(request, pool, now)
    if backend is None or backend.in_flight:
        return None
    wait = max((slot_wait(slot, backend, pool, now) for slot in backend.slots), default=0.0)
    if wait:
        return WaitForSlot(now + wait)
    prompt = pool.tokens(request.chain, request.ids)
    return Grant(backend=backend, slot=backend.slots[0], prompt=prompt, pin=False, whole=True)


def emptiest(request: SlotRequest, pool: Pool, now: float) -> BackendRecord | None:
    """The backend that will be free of other answers first.

    The choice is repeated each time the queue is served, and settles: the least number of answers
    under way only falls, as others get no slot there, and ties go by the order of the backends."""
    suitable = (
        backend
        for backend in pool.backends.values()
        if backend.slots and may_serve(backend, request, now, whole=True)
    )
    return min(suitable, key=lambda backend: backend.in_flight, default=None)


def holds_foreign_cache(grant: Grant, request: SlotRequest, groups: bool) -> bool:
    """Whether the cache that the server would reuse is, or may be, another group's or that of other
    adapters. `groups`: there are several groups of keys."""
    backend = grant.backend
    if backend.mixes and not backend.pins:
        return True  # it finds prompts in its RAM by their tokens, whatever adapters they are of
    if grant.reuse is not None:
        return False  # chains are salted with the group, so it is the group's own
    if not backend.pins:
        return groups
    held = grant.slot.held
    return held is None or held.conversation.group != request.group


def may_serve(
    backend: BackendRecord, request: SlotRequest, now: float, *, whole: bool = False
) -> bool:
    """Whether this request may get a single slot of this backend, or the `whole` of it once nothing
    runs there. After several failures it gets one request at a time, once its pause is over."""
    return (
        (backend.grants_slots or (whole and backend.usable))
        and not backend.reserved
        and (request.views is None or request.views.get(backend.name) is True)
        and backend.ready <= now
        and backend.name not in request.exclude
        and (backend.failures < TRIAL_AFTER or not backend.in_flight)
    )


def cost_of(
    terms_of: dict[str, Terms],
    pool: Pool,
    backend: BackendRecord,
    wait: float,
    tokens: int,
    now: float,
) -> float:
    """Seconds until a slot that is free after `wait` has evaluated so many tokens (1, 2), and for
    which that delays the requests that wait (3)."""
    terms = terms_of.get(backend.name)
    if terms is None:
        terms = terms_of[backend.name] = _terms(pool, backend, now)
    backlog, load, seconds_a_token, waiting, parked, served = terms
    evaluation = backend.load_delay + tokens * seconds_a_token
    delayed = waiting + min(parked, evaluation * served)
    until_free = wait if wait > backlog else backlog
    decision = WORTH_A_WAIT if wait else 0.0
    return until_free + decision + evaluation * (1 + delayed) + LOAD * load


def _terms(pool: Pool, backend: BackendRecord, now: float) -> Terms:
    """Of a backend: the seconds of its evaluations before this one, its load, the seconds that a
    token takes, the requests that wait for any slot, its part of those parked for a busy one, and
    how many of these it serves a second."""
    return (
        pool.backlog(backend, now) / backend.weight,
        backend.in_flight / (len(backend.slots) * backend.weight),
        1 / pool.rate(backend),
        len(pool.line.active),
        pool.line.all_parked / len(pool.backends),
        backend.in_flight * pool.pace(backend) / pool.answer,
    )


def slot_wait(slot: Slot, backend: BackendRecord, pool: Pool, now: float) -> float:
    """Expected seconds until the slot is free."""
    if slot.busy:
        if slot.finishing:
            return ENDING  # the client may send its next turn before the lease is released
        evaluation = 0.0 if slot.streaming else pool.backlog(backend, now)
        return evaluation + pool.generation(backend, slot, now)
    wait = slot.ready - now if slot.ready > now else 0.0
    for other in slot.after:
        if other.held is not None:
            rate = other.held.backend.rate
            wait = max(wait, other.work / rate - (now - other.used), 0.01)
    return wait

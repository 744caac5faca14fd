"""Where a request goes: one cost decides, in seconds, over plain records and without a clock.

    expected wait for the slot, and for the model where it is not loaded
  + evaluation of the tokens that are not cached there (rates are learned for each backend)
  + restoring what was saved in a file
  + the worth of what would be thrown out (its evaluation, times the chance that it comes back)

So a turn waits a moment for its warm slot when that is cheaper than starting cold elsewhere, and
does not when it is not. What would be thrown out costs less where it can be saved, and nothing on
a server that keeps old prompts itself.

At most `LOOKED_AT` places that hold a beginning of the prompt are considered, and as many free
slots, those let go longest ago first: the time of a decision does not grow with the backends.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from .knowledge import LOOKED_AT, Pool
from .state import Backend, Grant, Held, Hold, Slot, Want

Policy = Callable[[Want, Pool, float], Grant | Hold | None]

PASSED_OVER = 64  # free slots of backends that are out of the question, at most
TRIAL_AFTER = 3  # failures in a row after which a backend gets one request at a time
SHARED = 0.5  # how much longer an evaluation takes on a fully loaded backend
LOAD = 0.002  # seconds that a fully loaded backend counts as more than an idle one
FROM_RAM = 0.005  # seconds a server needs to find an old prompt again
LEAVING = 1.5  # times as dear is a cold start elsewhere: what is left behind takes room
ENDING = 0.001  # seconds from the last token until the lease is back
DISK = 0.02  # what a second of saving or restoring counts: it keeps no other answer waiting
SPARE = 4.0  # times as dear is what a side job would throw out


def decide(want: Want, pool: Pool, now: float) -> Grant | Hold | None:
    """The place for this request now; or to wait for a better one than is free; None when there is
    no slot at all."""
    prompt = pool.tokens(want.chain, not isinstance(want.task.prompt, str))
    least = math.inf
    best: Grant | Hold | None = None
    kept: dict[str, tuple[Held, int]] = {}
    leaving = 1.0

    for held, depth in pool.matches(want.chain):
        backend, slot = held.backend, held.slot
        if not may_serve(backend, want, now):
            continue
        cached = min(held.tokens_at(depth, want.chain), prompt - 1)
        goes_on = depth >= held.chain.turn
        if goes_on:
            leaving = LEAVING
        if slot is None or not (backend.pins or slot.busy):
            if backend.name not in kept or kept[backend.name][1] < cached:
                kept[backend.name] = held, cached
            continue
        wait = _wait(slot, pool, now)
        if goes_on and not wait and 2 * cached > prompt:
            return Grant(backend, slot, held, cached)  # it goes on where it was: no question
        cost = _work(pool, backend, prompt - cached)
        if slot.busy:
            cost += wait
        elif not goes_on:
            cost += _worth(held, pool, want, now) * (1 - cached / max(1, held.tokens))
        if cost < least:
            least = cost
            best = Hold(now + wait) if wait else Grant(backend, slot, held, cached)

    for held, cached in kept.values():
        if held.backend.in_flight >= len(held.backend.slots):
            wait = min(_wait(slot, pool, now) for slot in held.backend.slots[:LOOKED_AT])
            cost = wait + _work(pool, held.backend, prompt - cached)
            if cost < least:
                least, best = cost, Hold(now + wait)

    looked = 0
    for passed, (slot, backend) in enumerate(pool.free.items()):
        if passed == PASSED_OVER or looked == LOOKED_AT:
            break
        if not may_serve(backend, want, now):
            continue
        looked += 1
        reuse, cached = kept.get(backend.name, (None, 0))
        wait = _wait(slot, pool, now)
        cost = wait + _work(pool, backend, prompt - cached)
        if reuse is None:
            cost *= leaving
        else:
            cost += FROM_RAM if not reuse.file else DISK * reuse.tokens / backend.moving
        old, save = slot.held, False
        if old is not None and backend.pins:
            lost = _worth(old, pool, want, now)
            if backend.keeps == "files" and not want.aside:
                moving = 2 * DISK * old.tokens / backend.moving
                save = lost > moving
                lost = min(lost, moving)
            cost += lost
        if cost < least:
            least = cost
            if wait:
                best = Hold(now + wait)
                continue
            best = Grant(
                backend,
                slot,
                reuse,
                cached,
                # While the slots of a server are counted, it takes the one it likes.
                backend.pins and not backend.counting,
                reuse if reuse is not None and reuse.file else None,
                save,
            )
    return best


def take_whole(want: Want, pool: Pool, now: float) -> Grant | Hold | None:
    """A backend on which nothing else runs; None while each has an answer under way."""
    backend = emptiest(want, pool, now)
    if backend is None or backend.in_flight:
        return None
    wait = max((_wait(slot, pool, now) for slot in backend.slots), default=0.0)
    if wait:
        return Hold(now + wait)
    return Grant(backend, backend.slots[0], pin=False, whole=True)


def emptiest(want: Want, pool: Pool, now: float) -> Backend | None:
    """The backend that this request will have to itself the soonest.

    Reserving whichever this is at the moment ends: nobody who comes later gets a slot of it, so the
    least number of answers under way only falls, and where two have as many, their order decides.
    """
    fit = (
        one
        for one in pool.backends.values()
        if one.slots and not one.reserved and _may_try(one, want, now)
    )
    return min(fit, key=lambda one: one.in_flight, default=None)


def foreign(grant: Grant, want: Want) -> bool:
    """Whether what the server would reuse there is, or may be, another group's."""
    if grant.reuse is not None:
        return False  # links are salted: it is the group's own
    if not grant.backend.pins:
        return True
    held = grant.slot.held
    return held is None or held.conversation.group != want.group


def may_serve(backend: Backend, want: Want, now: float) -> bool:
    """Whether a slot of this backend may be given to this request."""
    return backend.lends and not backend.reserved and _may_try(backend, want, now)


def _may_try(backend: Backend, want: Want, now: float) -> bool:
    """A backend that failed several times gets one request on trial, once its pause is over."""
    return (
        backend.usable
        and (want.views is None or want.views.get(backend.name) is True)
        and backend.ready <= now
        and backend.name not in want.exclude
        and (backend.failures < TRIAL_AFTER or not backend.in_flight)
    )


def _work(pool: Pool, backend: Backend, tokens: int) -> float:
    """Seconds to evaluate so many tokens; what else runs there takes its part."""
    load = backend.in_flight / (len(backend.slots) * backend.weight)
    return backend.awaits + tokens / pool.rate(backend) * (1 + SHARED * load) + LOAD * load


def _wait(slot: Slot, pool: Pool, now: float) -> float:
    """Seconds until the slot can be had: a lease that is old already may yet last for long."""
    if slot.ending:
        return ENDING  # the client may have the end, and go on, before the lease is back
    if slot.busy:
        since = now - slot.used
        return max(pool.duration - since, since / 2, 0.01)
    wait = max(0.0, slot.ready - now)
    for other in slot.after:
        if other.held is not None:
            rate = other.held.backend.rate
            wait = max(wait, other.work / rate - (now - other.used), 0.01)
    return wait


def _worth(held: Held, pool: Pool, want: Want, now: float) -> float:
    """Seconds that throwing this out costs, on average."""
    chance = pool.returns.chance(held.conversation, now)
    return chance * held.tokens / pool.rate(held.backend) * (SPARE if want.aside else 1.0)

"""Chooses the tiers of a route that a request may use now. Pure, without a clock or locks.

A request may use the first tier of its model. It may use the next one as well if no backend of the
tiers before can serve it (they are down, paused after failures, or failed it), or if it would wait
longer than `overflow_after` seconds for a slot there, including its wait so far. Loading a model
does not count, or a model would never be loaded; requests in idle slots never overflow for a wait.
Among the backends that are open to a request, the policy places it as always.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

from .policy import TRIAL_AFTER, slot_wait
from .pool import Pool
from .state import BackendRecord, SlotRequest

MOST_PASSED = 16  # backends that are named with the reason why they were passed over


class TierChoice(Struct, frozen=True):
    closed: frozenset[str] = frozenset()  # the backends that the request may not use now
    due: float = math.inf  # when the next tier opens, at the latest
    passed: tuple[tuple[int, str, str], ...] = ()  # tier, name and fault of those passed over

    def before(self, backend: BackendRecord) -> tuple[tuple[str, str], ...]:
        """The backends of the tiers before this one, and why they were passed over: `down`,
        `paused`, `failed`, `busy` or `barred`."""
        here = backend.tier.number
        names = [(name, why) for number, name, why in self.passed if number < here]
        return tuple(names[:MOST_PASSED])


EVERYWHERE = TierChoice()


class Tiers(Struct):
    """The tiers of a pool at one moment."""

    pool: Pool
    now: float
    waits: dict[tuple[str, ...], list[float]] = {}

    def reach(self, request: SlotRequest, ahead: int) -> TierChoice:
        """What a request may use that has so many others before it."""
        closed: list[str] = []
        passed: list[tuple[int, str, str]] = []
        tiers: dict[int, list[BackendRecord]] = {}
        for backend in self.pool.backends.values():
            number = backend.tier.number
            if backend.tier.name in request.barred:
                closed.append(backend.name)
                passed.append((number, backend.name, "barred"))
            else:
                tiers.setdefault(number, []).append(backend)
        since, due, is_chosen = request.since or self.now, math.inf, False
        for number in sorted(tiers):
            backends = tiers[number]
            if is_chosen:
                closed += [backend.name for backend in backends]
                continue
            able = []
            for backend in backends:
                if fault := self._fault(backend, request):
                    passed.append((number, backend.name, fault))
                else:
                    able.append(backend)
            if not able:
                continue
            limit = math.inf if request.idle else able[0].tier.overflow_after
            if since + limit >= self.now + self._expected_wait(able, ahead):
                is_chosen, due = True, since + limit
            else:
                passed += [(number, backend.name, "busy") for backend in able]
        return TierChoice(frozenset(closed), due, tuple(passed))

    def _fault(self, backend: BackendRecord, request: SlotRequest) -> str:
        """Why a backend cannot serve a request, however long it waits; "" if it can."""
        if backend.name in request.exclude:
            return "failed"
        seen = backend.up if request.views is None else request.views.get(backend.name, False)
        if backend.draining or backend.up is False or seen is False:
            return "down"
        if backend.failures >= TRIAL_AFTER and (backend.ready > self.now or backend.in_flight):
            return "paused"
        return ""

    def _expected_wait(self, backends: Sequence[BackendRecord], ahead: int) -> float:
        """Seconds until one of these backends has a slot for a request with so many before it."""
        if sum(len(b.slots) - b.in_flight for b in backends if b.grants_slots) > ahead:
            return 0.0
        key = tuple(backend.name for backend in backends)
        waits = self.waits.get(key)
        if waits is None:
            pool, now = self.pool, self.now
            waits = sorted(slot_wait(slot, b, pool, now) for b in backends for slot in b.slots)
            self.waits[key] = waits
        if not waits:
            return 0.0
        rounds, turn = divmod(ahead, len(waits))
        return waits[turn] + rounds * self.pool.duration

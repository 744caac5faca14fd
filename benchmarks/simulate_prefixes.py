"""Simulates the scheduler under shared system prompts: ``python -m benchmarks.simulate_prefixes``.

Requests share system prompts and come by a Poisson process, in bursts, or as agents whose prompts
grow from turn to turn. A backend evaluates one prompt after the other at a fixed rate, except the
parts in its slots, and each slot generates at a fixed rate. The scheduler and its queue are the
product's own, with a clock that jumps from event to event; only the policy differs. It prints the
seconds to the first token, p50 and p99 over all seeds, and the product's as a multiple of the best
of the others: of each percentile's own best policy. Brackets hold the bounds of that multiple in
80 % of the cases if other seeds had been drawn (a bootstrap over the seeds).

``--seeds 12`` takes minutes; ``--only "CPU, 1 × 2"`` selects lines by a part of their name.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proxy.scheduling.lease import Lease, Outcome, Ticket
from proxy.scheduling.policy import Policy, decide, may_serve
from proxy.scheduling.pool import Pool
from proxy.scheduling.prefix import Chain
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.state import (
    BackendFacts,
    BackendRecord,
    Grant,
    Slot,
    SlotRequest,
    WaitForSlot,
)

CHARS = 4  # of a token
RATES = {"GPU": (2000.0, 40.0), "CPU": (80.0, 10.0)}  # tokens a second: evaluated, and of a slot
SIZES = ((1, 2), (1, 4), (1, 8), (2, 4))  # backends and slots of each
SYSTEM = 2000  # tokens
GROUPS = 3  # system prompts; the first is used by half of all conversations
QUESTION, ANSWER = (60, 0.8), (120, 0.7)  # tokens: median and sigma of lognormal distributions
REQUESTS, BURST = 300, 4
AGENTS, AGENT_SYSTEM, TURNS, THINK = 30, 4000, 12, (2.0, 0.6)
RESULT, CALL = (300, 0.8), (80, 0.7)  # tokens of a tool's result, and of the agent's next call
LOADS = ("Poisson", "bursts", "agents")
SEEDS = 12
RESAMPLED = 200  # times that seeds are drawn again to see how far a ratio depends on them


@dataclass
class Request:
    """`ends` are the tokens up to each link. A next turn repeats the first `turn` links, 0 for
    all."""

    links: tuple[bytes, ...]
    ends: tuple[int, ...]
    answer: int
    came: float = 0.0
    turn: int = 0


class Simulation:
    def __init__(
        self, policy: Policy, backends: int, slots: int, rates: tuple[float, float]
    ) -> None:
        self.now = 0.0
        self.evaluated, self.generated = rates
        self.firsts: list[float] = []
        self.prompt_tokens = self.cached = 0  # of all requests, and those found cached
        self.scheduler = LocalScheduler(
            lambda: self.now, policy=policy, max_queue=10**9, queue_timeout=1e9
        )
        self._settled: list[Ticket] = []
        self.scheduler.on_settled = self._settled.append
        self._waiting: dict[Ticket, tuple[Request, Callable[[], None]]] = {}
        self._held: dict[tuple[str, int], Request] = {}
        self._evaluating: dict[str, float] = {}  # until when, by backend
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        for number in range(backends):
            self.scheduler.update(f"b{number}", BackendFacts(model="m", slots=slots), up=True)
            self._evaluating[f"b{number}"] = 0.0

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._serial), what))

    def run(self) -> None:
        while self._events:
            self.now, _, what = heapq.heappop(self._events)
            what()

    def ask(self, request: Request, answered: Callable[[], None] = lambda: None) -> None:
        request.came = self.now
        ends = tuple(CHARS * end for end in request.ends)
        chain = Chain(request.links, ends, request.turn or len(request.links))
        entry = self.scheduler.enter(SlotRequest(model="m", max_tokens=None, chain=chain))
        if isinstance(entry, Lease):
            self._begin(entry, request, answered)
            return
        self._waiting[entry] = request, answered
        self._begin_settled()
        self._look_later(entry)

    def _look_later(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            at = max(min(ticket.until, self.now + 1.0), self.now + 0.001)
            self.at(at, functools.partial(self._look, ticket))

    def _look(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            self.scheduler.look(ticket, self.now)
            self._begin_settled()
            self._look_later(ticket)

    def _begin_settled(self) -> None:
        while self._settled:
            ticket = self._settled.pop()
            if ticket in self._waiting and ticket.lease is not None:
                self._begin(ticket.lease, *self._waiting.pop(ticket))

    def _begin(self, lease: Lease, request: Request, answered: Callable[[], None]) -> None:
        place = lease.backend, lease.slot.id
        held = self._held.get(place)
        cached = 0
        for number, link in enumerate(request.links):
            if held is None or number >= len(held.links) or held.links[number] != link:
                break
            cached = request.ends[number]
        work = request.ends[-1] - min(cached, request.ends[-1] - 1)
        first = max(self.now, self._evaluating[lease.backend]) + work / self.evaluated
        self._evaluating[lease.backend] = first
        self._held[place] = request
        self.prompt_tokens += request.ends[-1]
        self.cached += request.ends[-1] - work
        self.firsts.append(first - request.came)
        outcome = Outcome(
            end="whole",
            slot=lease.slot.id,
            prompt=request.ends[-1],
            cached=request.ends[-1] - work,
            completion=request.answer,
            evaluating=work / self.evaluated,
        )

        def on_first_token() -> None:
            lease.on_first_token(lease.slot.id)
            self._begin_settled()

        def end() -> None:
            lease.release(outcome)
            self._begin_settled()
            answered()

        self.at(first, on_first_token)
        self.at(first + request.answer / self.generated, end)


# -- the loads -------------------------------------------------------------------------------------


def _length(draw: random.Random, law: tuple[float, float]) -> int:
    return max(1, int(draw.lognormvariate(math.log(law[0]), law[1])))


def questions(simulation: Simulation, seed: int, rate: float, burst: int) -> None:
    """Conversations of one question, `burst` of them at the same moment."""
    draw, at = random.Random(seed), 0.0
    for number in range(REQUESTS):
        if number % burst == 0:
            at += draw.expovariate(rate / burst)
        group = min(int(draw.paretovariate(1.0)) - 1, GROUPS - 1)
        ends = SYSTEM, SYSTEM + _length(draw, QUESTION)
        links = b"system %d" % group, b"question %d" % number
        request = Request(links, ends, _length(draw, ANSWER))
        simulation.at(at, functools.partial(simulation.ask, request))


def agents(simulation: Simulation, seed: int, rate: float) -> None:
    """Agents whose prompt grows by a tool's result in each turn."""
    draw, at = random.Random(seed), 0.0
    for number in range(AGENTS):
        at += draw.expovariate(rate)
        mine = random.Random(f"{seed}/{number}")
        turns = 1 + int(mine.expovariate(1 / TURNS))
        first = Request((b"system %d" % mine.randrange(GROUPS),), (AGENT_SYSTEM,), 0)
        simulation.at(at, functools.partial(_turn, simulation, mine, number, first, turns))


def _turn(
    simulation: Simulation, draw: random.Random, number: int, before: Request, left: int
) -> None:
    end = before.ends[-1] + before.answer + _length(draw, RESULT)
    link = b"agent %d, %d turns left" % (number, left)
    request = Request((*before.links, link), (*before.ends, end), _length(draw, CALL))

    def answered() -> None:
        if left > 1:
            at = simulation.now + draw.lognormvariate(math.log(THINK[0]), THINK[1])
            is_retry = functools.partial(_turn, simulation, draw, number, request, left - 1)
            simulation.at(at, is_retry)

    simulation.ask(request, answered)


# -- the policies ----------------------------------------------------------------------------------


def _free(slot_request: SlotRequest, pool: Pool, now: float) -> list[tuple[Slot, BackendRecord]]:
    return [pair for pair in pool.free.items() if may_serve(pair[1], slot_request, now)]


def coldest(slot_request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
    """The least recently used free slot."""
    free = _free(slot_request, pool, now)
    return Grant(backend=free[0][1], slot=free[0][0]) if free else None


def least_loaded(slot_request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
    free = _free(slot_request, pool, now)
    if not free:
        return None
    slot, backend = min(free, key=lambda pair: pair[1].in_flight)
    return Grant(backend=backend, slot=slot)


def warmest(slot_request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
    """The slot that holds the longest prefix, also if it is busy."""
    busy = b""
    for held, depth in pool.matches(slot_request.chain):
        if held.slot in pool.free and held.slot is not None:
            return Grant(backend=held.backend, slot=held.slot, reuse=held)
        busy = busy or slot_request.chain.links[depth - 1]
    return WaitForSlot(now + 1.0, busy) if busy else coldest(slot_request, pool, now)


def cache_aware(slot_request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
    """sglang's router: the backend with the longest prefix if that is over half of the prompt,
    otherwise the least loaded one, as if loads differ by more than 32."""
    free = _free(slot_request, pool, now)
    if not free:
        return None
    loads = [backend.in_flight for backend in pool.backends.values()]
    target = min((backend for _, backend in free), key=lambda backend: backend.in_flight)
    if max(loads) - min(loads) <= 32:
        held, depth = next(iter(pool.matches(slot_request.chain)), (None, 0))
        if held is not None and 2 * slot_request.chain.ends[depth - 1] > slot_request.chain.size:
            target = held.backend
    own = [slot for slot, backend in free if backend is target]
    for held, _ in pool.matches(slot_request.chain):
        if held.slot is not None and held.slot in own:
            return Grant(backend=target, slot=held.slot, reuse=held)
    return Grant(backend=target, slot=own[0]) if own else None


POLICIES: dict[str, Policy] = {
    "coldest": coldest,
    "warmest": warmest,
    "least loaded": least_loaded,
    "cache-aware": cache_aware,
    "slotproxy": decide,
}


Firsts = list[list[float]]  # seconds to the first token, by seed


def firsts(policy: Policy, size: tuple[int, int], kind: str, load: str, seeds: int) -> Firsts:
    """The seconds to the first token of each request, for each seed."""
    backends, slots = size
    evaluated, generated = RATES[kind]
    # A share of the backends' capacity if every system prompt is cached.
    answers = backends * slots / (QUESTION[0] * 1.4 / evaluated + ANSWER[0] * 1.28 / generated)
    rate = min(answers, backends * evaluated / 500)
    steps = min(backends * slots * generated / (CALL[0] * 1.28), backends * evaluated / 900)
    by_seed = []
    for seed in range(1, seeds + 1):
        simulation = Simulation(policy, backends, slots, RATES[kind])
        if load == "agents":
            agents(simulation, seed, 0.25 * steps / TURNS)
        else:
            burst = BURST if load == "bursts" else 1
            questions(simulation, seed, (0.45 if burst == 1 else 0.4) * rate, burst)
        simulation.run()
        by_seed.append(simulation.firsts)
    return by_seed


def percentiles(by_seed: Firsts) -> tuple[float, float]:
    """p50 and p99."""
    cuts = statistics.quantiles(itertools.chain.from_iterable(by_seed), n=100)
    return cuts[49], cuts[98]


def compare(ours: Firsts, others: Iterable[Firsts]) -> list[tuple[float, float, float]]:
    """For p50 and p99: ours as a multiple of the best of the others, and the bounds between which
    it lies in 80 % of the cases if the seeds are drawn again."""
    comparisons = []
    draw = random.Random(1)
    others = list(others)
    for which in (0, 1):
        best = min(others, key=lambda other: percentiles(other)[which])
        ratios = []
        for _ in range(RESAMPLED):
            seeds = draw.choices(range(len(ours)), k=len(ours))
            of_ours, of_best = ([side[seed] for seed in seeds] for side in (ours, best))
            ratios.append(percentiles(of_ours)[which] / percentiles(of_best)[which])
        tenths = statistics.quantiles(ratios, n=10)
        ratio = percentiles(ours)[which] / percentiles(best)[which]
        comparisons.append((ratio, tenths[0], tenths[-1]))
    return comparisons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--only", default="", help="only lines whose name contains this")
    args = parser.parse_args()
    worse = 0
    print(f"| | {' | '.join(POLICIES)} | of the best: p50, p99 |")
    print("|---" * (len(POLICIES) + 2) + "|")
    for kind, size, load in itertools.product(RATES, SIZES, LOADS):
        name = f"{kind}, {size[0]} × {size[1]}, {load}"
        if args.only not in name:
            continue
        by_policy = {
            key: firsts(policy, size, kind, load, args.seeds) for key, policy in POLICIES.items()
        }
        cells = [f"{p50:.2f}, {p99:.1f}" for p50, p99 in map(percentiles, by_policy.values())]
        ratios = compare(by_policy.pop("slotproxy"), by_policy.values())
        cells.append(", ".join(f"{r:.2f} [{low:.2f}–{high:.2f}]" for r, low, high in ratios))
        worse += any(ratio > 1.05 for ratio, _, _ in ratios)
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"More than 5 % worse than the best of the others: {worse} lines")


if __name__ == "__main__":
    main()

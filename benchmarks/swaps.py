"""Replays requests for more models than have room, under slotproxy's rules and under llama-swap's.

``python -m benchmarks.swaps`` prints loads and waits. Nothing runs: time is simulated, and a load
or an answer takes its seconds. slotproxy's rules are the code itself
(`proxy.hosting.memory_budget`).

llama-swap's rules are those of its sources and documentation of September 2026
(internal/router/scheduler/fifo.go, docs/kb/guides/routing): by default one model at a time; with
`matrix`, sets of models that the operator allows, of which the one is chosen whose lost models took
the least time to load. Requests for a ready model are served at once, whoever waits; others wait
in one queue, in their order. A model that answers is never ended, and nothing bounds the wait for
it. Its binary was not run. "in order" is the queue without collation, as before May 2026.
"""

from __future__ import annotations

import heapq
import math
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, islice
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from proxy.hosting.budget import Limits, Resident, Uses
from proxy.hosting.memory_budget import Asked, Debts, Loaded, Waiter, step

SETTLE = 0.2  # as in proxy.hosting.room
LOOK = 0.25


class Request(Struct, frozen=True):
    """`at` seconds, a request of a key for a model, whose answer takes `seconds`."""

    at: float
    model: str
    seconds: float
    key: str = ""


class Model(Struct):
    """A model in the simulation. `ready` is when it is loaded, inf if it is not loading."""

    name: str
    load: float
    ready: float = float("inf")
    running: int = 0
    used: float = 0.0
    leaving: bool = False

    def is_ready(self, now: float) -> bool:
        return self.ready <= now

    @property
    def has_room(self) -> bool:
        return self.ready < float("inf")


class World:
    """The state that rules look at, and what they may do. Answers of a model do not slow each other
    down, up to `slots` of them."""

    def __init__(self, loads: dict[str, float], room: int, slots: int) -> None:
        self.models = {name: Model(name, load) for name, load in loads.items()}
        self.room = room
        self.slots = slots
        self.now = 0.0
        self.queue: list[Request] = []
        self.waits: list[tuple[Request, float]] = []
        self.loads = 0
        self.events: list[tuple[float, int, str, Any]] = []
        self._count = 0

    def at(self, when: float, what: str, value: Any = None) -> None:
        self._count += 1
        heapq.heappush(self.events, (when, self._count, what, value))

    def load(self, model: Model) -> None:
        self.loads += 1
        model.ready = self.now + model.load
        model.used = model.ready
        self.at(model.ready, "look")

    def end(self, model: Model) -> None:
        model.ready, model.leaving = float("inf"), False

    def serve(self, request: Request) -> None:
        self.queue.remove(request)
        self.waits.append((request, self.now - request.at))
        model = self.models[request.model]
        model.running += 1
        self.at(self.now + request.seconds, "over", model)

    def serve_ready(self, *, in_order: bool = False) -> None:
        for request in list(self.queue):
            model = self.models[request.model]
            if model.is_ready(self.now) and not model.leaving and model.running < self.slots:
                self.serve(request)
            elif in_order:
                return


Rules = Callable[[World], None]


def run(
    requests: Sequence[Request],
    loads: dict[str, float],
    room: int,
    rules: Rules,
    slots: int = 4,
    at_once: int = 0,
) -> World:
    """With `at_once`, clients of that number send the requests one after the other, each as soon as
    an answer is over, whatever their times."""
    world = World(loads, room, slots)
    coming = iter(requests if at_once else ())
    for request in islice(coming, at_once) if at_once else requests:
        world.at(request.at, "asks", request)
    while world.events and len(world.waits) < len(requests):
        world.now, _, what, value = heapq.heappop(world.events)
        if what == "asks":
            world.queue.append(value)
        elif what == "over":
            value.running -= 1
            value.used = world.now
            if (following := next(coming, None)) is not None:
                world.at(world.now, "asks", replace(following, at=world.now))
        rules(world)
        if world.queue and not any(what == "look" for _, _, what, _ in world.events):
            world.at(world.now + LOOK, "look")
    return world


def slotproxy(swap_wait: float) -> Rules:
    debts = Debts()
    uses: dict[str, Uses] = {}

    def rules(world: World) -> None:
        for model in world.models.values():
            if model.leaving and not model.running:
                world.end(model)
        for request in world.queue:
            uses.setdefault(request.model, Uses())
        before = len(world.waits)
        world.serve_ready()
        for request, _ in world.waits[before:]:
            uses[request.model].add(world.now)
        while True:
            asked = [
                Asked(m.name, (1,), m.load, tuple(Waiter(r.key, r.at) for r in waiting))
                for m in world.models.values()
                if not m.has_room and (waiting := [r for r in world.queue if r.model == m.name])
            ]
            loaded = [_loaded(world, m, uses) for m in world.models.values() if m.has_room]
            line = debts.line(asked)
            done = step(Limits(world.room), line, loaded, world.now, swap_wait)
            for name in done.ends:
                model = world.models[name]
                model.leaving = True
                if not model.running:
                    world.end(model)
            if done.enters:
                debts.charge(next(one for one in line if one.name == done.enters), world.now)
                world.load(world.models[done.enters])
            elif not any(not world.models[name].has_room for name in done.ends):
                return

    return rules


def _loaded(world: World, model: Model, uses: dict[str, Uses]) -> Loaded:
    known = uses.get(model.name)
    worth = known.worth(model.load, world.now) if known else 0.0
    waits = any(one.model == model.name for one in world.queue)
    idle = model.is_ready(world.now) and not model.running and not waits
    settled = idle and world.now - model.used >= SETTLE
    since = model.ready if model.is_ready(world.now) else math.inf
    resident = Resident(model.name, (1,), worth)
    return Loaded(resident, since, model.load, idle=settled, leaving=model.leaving)


def llama_swap(sets: Iterable[frozenset[str]], *, in_order: bool = False) -> Rules:
    """`sets` are the models that may be loaded together, as of its `matrix`."""
    allowed = list(sets)

    def rules(world: World) -> None:
        world.serve_ready(in_order=in_order)
        for request in list(world.queue):
            target = world.models[request.model]
            if target.has_room:
                if in_order:
                    return
                continue  # it loads, or is busy in all slots
            running = [m for m in world.models.values() if m.has_room]
            lost = [
                [m for m in running if m.name not in one] for one in allowed if target.name in one
            ]
            evicted = min(lost, key=lambda models: sum(m.load for m in models))
            if any(m.running or not m.is_ready(world.now) for m in evicted):
                if in_order:
                    return
                continue
            for model in evicted:
                world.end(model)
            world.load(target)

    return rules


def all_knowing(names: Sequence[str], room: int) -> int:
    """The fewest loads for requests that are answered in this order: of the loaded models, the one
    ends that is asked for last (Belady)."""
    loaded: set[str] = set()
    loads = 0
    for place, name in enumerate(names):
        if name in loaded:
            continue
        loads += 1
        if len(loaded) >= room:
            rest = names[place:]
            loaded.remove(
                max(loaded, key=lambda one: rest.index(one) if one in rest else len(rest))
            )
        loaded.add(name)
    return loads


def random_requests(count: int, pause: float, seed: int = 1) -> list[Request]:
    """Of three keys for three models, at random, `pause` seconds apart on average."""
    draw, now, made = random.Random(seed), 0.0, []
    for _ in range(count):
        now += draw.expovariate(1 / pause)
        key = draw.choice(("ann", "bob", "eve"))
        made.append(Request(now, draw.choice("abc"), draw.uniform(1, 5), key))
    return made


def at_random(count: int, seed: int) -> list[str]:
    """The models of the requests in tests/integration/test_model_turns.py."""
    chooses = random.Random(seed)
    return [chooses.choice("abc") for _ in range(count)]


def tested(count: int) -> list[Request]:
    """Those requests, with answers as short as the made-up weights give."""
    draw = random.Random(1)
    return [Request(0.0, name, draw.uniform(0.02, 0.1)) for name in at_random(count, seed=7)]


def crowd(count: int, seed: int = 1) -> list[Request]:
    """An agent asks one model all the time, four requests at once; others ask for others."""
    draw = random.Random(seed)
    made = [Request(0.8 * i, "a", draw.uniform(2, 4), "agent") for i in range(count)]
    made += [Request(10.0 * i + 3, "bc"[i % 2], 3.0, "ann") for i in range(count // 12)]
    return sorted(made, key=lambda one: one.at)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def table(
    title: str,
    requests: Sequence[Request],
    loads: dict[str, float],
    *,
    swap_waits: Sequence[float] = (10.0, 30.0),
    at_once: int = 0,
) -> str:
    pairs = [frozenset(pair) for pair in combinations(loads, 2)]
    single = [frozenset(name) for name in loads]
    compared: list[tuple[str, Rules]] = [
        *((f"slotproxy, `--swap-wait {wait:g}`", slotproxy(wait)) for wait in swap_waits),
        ("llama-swap, `matrix` of all pairs", llama_swap(pairs)),
        ("llama-swap, as it comes (one model)", llama_swap(single)),
        ("one model, in order", llama_swap(single, in_order=True)),
    ]
    least = all_knowing([one.model for one in requests], 2)
    lines = [
        f"{title} An all-knowing order of room for two, without overtaking: {least} loads.",
        "",
        "| Rules | loads | wait p50 | p99 | longest |",
        "|---|---|---|---|---|",
    ]
    for name, rules in compared:
        world = run(requests, loads, 2, rules, 2 if at_once else 4, at_once)
        waits = [wait for _, wait in world.waits]
        numbers = (quantile(waits, 0.5), quantile(waits, 0.99), max(waits))
        cells = " | ".join(f"{number:.1f} s" for number in numbers)
        lines.append(f"| {name} | {world.loads} | {cells} |")
    return "\n".join(lines)


def report() -> str:
    loads = {"a": 8.0, "b": 5.0, "c": 12.0}
    busy, calm = random_requests(200, 1.0), random_requests(200, 10.0)
    parts = [
        table("200 requests at random over three models, one a second.", busy, loads),
        table("200 requests at random over three models, one in ten seconds.", calm, loads),
        table("An agent asks for one model all the time, others for two.", crowd(400), loads),
        table(
            "200 requests at random over three models, six at a time, as in the test on real"
            " servers: a load takes 0.2 seconds.",
            tested(200),
            dict.fromkeys("abc", 0.2),
            swap_waits=(2.0,),
            at_once=6,
        ),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.stdout.write(report())

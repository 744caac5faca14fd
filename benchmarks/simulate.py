"""Simulates the real scheduler with modelled backends: the value of cache-aware placement.

Conversations arrive by a Poisson process; their turns, lengths and think times are drawn from the
distributions below. A backend evaluates the part of a prompt that its slot does not hold at a fixed
rate, then generates at a fixed rate. Slots hold their last prompt, and nothing else is cached. The
scheduler, its queue and its policy are the product's own, with a clock that jumps from event to
event. The other policies are one line each, behind the same scheduler.

``python -m benchmarks.simulate [--backends N] [--conversations N]`` prints a table; ``--decisions``
measures how the time of a decision grows with the number of slots; ``--study`` does both at several
sizes and writes simulation.json; ``--plot`` (with matplotlib) draws it as plots/simulation.*.
"""

from __future__ import annotations

import argparse
import functools
import heapq
import itertools
import json
import math
import random
import statistics
import time
import zlib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from proxy.runtime.cancel import Cancel
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

SLOTS = 4
RATE = 400.0  # prompt tokens per second of a slot
PACE = 25.0  # generated tokens per second of a slot
SYSTEM = (600, 0.8)  # tokens of a system prompt: median and sigma of a lognormal distribution
QUESTION = (60, 1.0)
ANSWER = (120, 0.7)
THINK = (25.0, 1.0)  # seconds between an answer and the next question
GO_ON = 0.75  # probability that a conversation has another turn
LOAD = 0.7  # share of the backends' time that the work would take if all prompts were cold
KEYS = 20  # the first key has half of all conversations
CHARS = 4
SIZES = (1, 4, 16)  # backends of a study
HERE = Path(__file__).parent


class Talk:
    """A conversation, and the request of its next turn."""

    def __init__(self, number: int, draw: random.Random) -> None:
        self.number = number
        self.draw = draw
        self.key = "greedy" if draw.random() < 0.5 else f"key{draw.randrange(KEYS)}"
        self.turns = 0
        self.tokens = _length(draw, SYSTEM)
        self.links: list[bytes] = []
        self.ends: list[int] = []
        self.once = 0

    def request(self) -> SlotRequest:
        self.turns += 1
        self.tokens += _length(self.draw, QUESTION)
        self.once = self.tokens
        self.links.append(b"%d/%d" % (self.number, self.turns))
        self.ends.append(CHARS * self.tokens)
        chain = Chain(tuple(self.links), tuple(self.ends), len(self.links))
        return SlotRequest(model="m", max_tokens=256, chain=chain, key=self.key)


def _length(draw: random.Random, law: tuple[float, float]) -> int:
    return max(1, int(draw.lognormvariate(math.log(law[0]), law[1])))


class Simulation:
    def __init__(self, policy: Policy, backends: int, conversations: int, seed: int) -> None:
        self.now = 0.0
        self.seed = seed
        self.scheduler = LocalScheduler(
            lambda: self.now, policy=policy, max_queue=10**9, queue_timeout=1e9
        )
        for number in range(backends):
            self.scheduler.update(f"b{number}", BackendFacts(model="m", slots=SLOTS), up=True)
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.serial = itertools.count()
        self.truth: dict[tuple[str, int], tuple[int, int]] = {}  # slot -> conversation, tokens
        self.waiting: list[tuple[Ticket, Talk, float]] = []
        self.evaluated = self.once = 0
        self.firsts: list[float] = []
        self.waits: dict[str, list[float]] = defaultdict(list)
        turns = 1 / (1 - GO_ON)
        # The mean service time of a turn with a cold prompt, from the means of the distributions.
        mean = [median * math.exp(sigma**2 / 2) for median, sigma in (SYSTEM, QUESTION, ANSWER)]
        prompt = mean[0] + turns * mean[1] + (turns - 1) * mean[2]
        cost = turns * (prompt / RATE + mean[2] / PACE)
        self.rate = LOAD * backends * SLOTS / cost
        self.arrivals = random.Random(seed)
        self.left = iter(range(conversations))
        self.arrive()

    def arrive(self) -> None:
        """Start the next conversation, and schedule the one after it."""
        for number in self.left:
            # Each conversation has its own generator, so that all policies get the same
            # conversations.
            talk = Talk(number, random.Random(f"{self.seed}/{number}"))
            after = self.arrivals.expovariate(self.rate)
            self.at(self.now + after, functools.partial(self.come, talk))
            return

    def come(self, talk: Talk) -> None:
        self.ask(talk)
        self.arrive()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, next(self.serial), what))

    def run(self) -> None:
        while self.events:
            self.now, _, what = heapq.heappop(self.events)
            what()
            if self.waiting:
                self.look()

    def ask(self, talk: Talk) -> None:
        entry = self.scheduler.enter(talk.request())
        if isinstance(entry, Lease):
            self.begin(entry, talk, self.now)
        else:
            self.waiting.append((entry, talk, self.now))
            self.at(self.now + 1.0, lambda: None)  # requests that hold out for a slot look again

    def look(self) -> None:
        left = []
        for ticket, talk, came in self.waiting:
            lease = ticket.wait(Cancel(), 0.0) if ticket.lease or ticket.until <= self.now else None
            if lease is None:
                left.append((ticket, talk, came))
            else:
                self.begin(lease, talk, came)
        if left and not self.events:
            self.at(self.now + 1.0, lambda: None)
        self.waiting = left

    def begin(self, lease: Lease, talk: Talk, came: float) -> None:
        name = lease.backend, lease.slot.id
        held, tokens = self.truth.get(name, (-1, 0))
        cached = min(tokens, talk.tokens - 1) if held == talk.number else 0
        work = talk.tokens - cached
        answer = _length(talk.draw, ANSWER)
        self.evaluated += work
        self.firsts.append(self.now - came + work / RATE)
        self.waits[talk.key].append(self.now - came)
        prompt = talk.tokens
        talk.tokens += answer
        self.truth[name] = talk.number, talk.tokens
        outcome = Outcome(
            end="whole",
            slot=lease.slot.id,
            prompt=prompt,
            cached=cached,
            completion=answer,
            evaluating=work / RATE,
        )
        self.at(self.now + work / RATE, lambda: lease.on_first_token(lease.slot.id))
        self.at(self.now + work / RATE + answer / PACE, lambda: self.end(lease, outcome, talk))

    def end(self, lease: Lease, outcome: Outcome, talk: Talk) -> None:
        lease.release(outcome)
        if talk.draw.random() < GO_ON:
            think = talk.draw.lognormvariate(math.log(THINK[0]), THINK[1])
            self.at(self.now + think, functools.partial(self.ask, talk))
        else:
            self.once += talk.once

    def figures(self) -> dict[str, Any]:
        cut = statistics.quantiles(self.firsts, n=100)
        greedy = self.waits.pop("greedy", [0.0])
        modest = [wait for waits in self.waits.values() for wait in waits] or [0.0]
        return {
            "multiple": round(self.evaluated / max(1, self.once), 3),
            "ttft_p50": round(cut[49], 3),
            "ttft_p90": round(cut[89], 3),
            "ttft_p99": round(cut[98], 3),
            "wait_greedy": round(statistics.mean(greedy), 4),
            "wait_modest": round(statistics.mean(modest), 4),
        }


# -- the others ------------------------------------------------------------------------------------


def _usable(request: SlotRequest, pool: Pool, now: float) -> list[tuple[Slot, BackendRecord]]:
    return [(slot, b) for slot, b in pool.free.items() if may_serve(b, request, now)]


def _grant(
    free: list[tuple[Slot, BackendRecord]], backend: BackendRecord | None = None
) -> Grant | None:
    """Grant the backend's least recently released slot, as servers do by themselves."""
    for slot, record in free:
        if backend is None or record is backend:
            return Grant(backend=record, slot=slot)
    return None


def others(seed: int) -> dict[str, Policy]:
    draw, turn = random.Random(seed), itertools.count()

    def by_random(request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
        free = _usable(request, pool, now)
        return _grant(free, draw.choice(free)[1]) if free else None

    def round_robin(request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
        free = _usable(request, pool, now)
        if not free:
            return None
        names = sorted({backend.name for _, backend in free})
        return _grant(free, pool.backends[names[next(turn) % len(names)]])

    def least_busy(request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
        free = _usable(request, pool, now)
        return _grant(free, min((b for _, b in free), key=lambda b: b.in_flight)) if free else None

    def sticky_hash(request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
        names = sorted(pool.backends)
        place = zlib.crc32(request.chain.links[0]) % len(names)
        return _grant(_usable(request, pool, now), pool.backends[names[place]]) or WaitForSlot(
            now + 1
        )

    def longest_prefix(request: SlotRequest, pool: Pool, now: float) -> Grant | WaitForSlot | None:
        for held, _ in pool.matches(request.chain):
            if held.slot is not None and held.slot in pool.free:
                return Grant(backend=held.backend, slot=held.slot, reuse=held)
        return _grant(_usable(request, pool, now))

    return {
        "random": by_random,
        "round-robin": round_robin,
        "least-busy": least_busy,
        "sticky-hash": sticky_hash,
        "longest-prefix": longest_prefix,
        "slotproxy": decide,
    }


# -- how long a decision takes ---------------------------------------------------------------------


def decisions(slots: int, tries: int = 2000) -> dict[str, float]:
    """Return the CPU microseconds of a decision with so many slots, all holding a prompt: for a
    turn whose conversation is held, and for a new one."""
    draw = random.Random(slots)
    now = 0.0
    scheduler = LocalScheduler(lambda: now)
    for number in range(max(1, slots // SLOTS)):
        facts = BackendFacts(model="m", slots=min(SLOTS, slots))
        scheduler.update(f"b{number}", facts, up=True)
    talks = [Talk(number, draw) for number in range(slots)]
    for talk in talks:
        for _ in range(3):
            request = talk.request()
        now += 1
        lease = scheduler.acquire(request, Cancel())
        lease.release(
            Outcome(
                end="whole",
                slot=lease.slot.id,
                prompt=talk.tokens,
                cached=0,
                completion=100,
                evaluating=1.0,
            )
        )
    pool = scheduler.pools["m"]
    fresh = [Talk(slots + number, draw).request() for number in range(50)]
    known = [draw.choice(talks).request() for _ in range(50)]
    figures = {"slots": float(slots)}
    for name, wants in (("warm", known), ("cold", fresh)):
        times = []
        for _ in range(tries // len(wants)):
            began = time.process_time_ns()
            for request in wants:
                decide(request, pool, now)
            times.append((time.process_time_ns() - began) / len(wants) / 1000)
        figures[name + "_us"] = round(statistics.median(times), 1)
    request, times = known[0], []
    for _ in range(tries):
        began = time.process_time_ns()
        scheduler.acquire(request, Cancel()).release()
        times.append((time.process_time_ns() - began) / 1000)
    figures["acquire_release_us"] = round(statistics.median(times), 1)
    return figures


def study(path: Path, seed: int) -> None:
    """Run every policy at several sizes, with two thousand turns per backend, and measure
    decisions; write the result to a file."""
    results: dict[str, Any] = {"load": LOAD, "slots_a_backend": SLOTS, "runs": [], "decisions": []}
    for backends in SIZES:
        for name, policy in others(seed).items():
            simulation = Simulation(policy, backends, 500 * backends, seed)
            simulation.run()
            row = {"policy": name, "backends": backends, **simulation.figures()}
            results["runs"].append(row)
            print(json.dumps(row), flush=True)
    results["decisions"] = [decisions(slots) for slots in (4, 16, 64, 256, 1000, 4000)]
    path.write_text(json.dumps(results, indent=1) + "\n")


def plot(results: dict[str, Any], stem: Path) -> None:
    """Draw the study as PNG and SVG; needs only matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"font.size": 9, "svg.hashsalt": "slotproxy", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 6.4))
    runs, largest = results["runs"], max(row["backends"] for row in results["runs"])
    names = list(dict.fromkeys(row["policy"] for row in runs))
    colors = {name: f"{0.35 + 0.09 * number:.2f}" for number, name in enumerate(names)}
    colors[names[-1]] = "#1f6f8b"
    for name in names:
        rows = [row for row in runs if row["policy"] == name]
        sizes = [row["backends"] for row in rows]
        look: dict[str, Any] = {"color": colors[name], "marker": "o", "markersize": 3}
        axes[0][0].plot(sizes, [row["multiple"] for row in rows], label=name, **look)
        row = rows[-1]
        quantiles = [row["ttft_p50"], row["ttft_p90"], row["ttft_p99"]]
        axes[0][1].plot(["p50", "p90", "p99"], quantiles, label=name, **look)
    axes[0][0].set_xscale("log", base=2)
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].set_xlabel("backends of four slots")
    axes[0][0].set_title("prompt tokens evaluated, of each conversation's once", fontsize=9)
    axes[0][0].legend(fontsize=7)
    axes[0][1].set_title(f"seconds to the first token, {largest} backends", fontsize=9)
    first = min(row["backends"] for row in runs)
    fair = [row for row in runs if row["backends"] == first]
    for number, (column, who) in enumerate(
        (("wait_greedy", "the key with half of all"), ("wait_modest", "the others"))
    ):
        places = [place + 0.4 * number for place in range(len(fair))]
        shade = ("#b8c4c9", "#1f6f8b")[number]
        axes[1][0].bar(places, [row[column] for row in fair], 0.4, label=who, color=shade)
    axes[1][0].set_xticks(range(len(fair)), [row["policy"] for row in fair], rotation=20)
    axes[1][0].tick_params(axis="x", labelsize=7)
    axes[1][0].set_title(f"mean wait in seconds, {first} backend", fontsize=9)
    axes[1][0].set_ylim(top=1.3 * max(row["wait_greedy"] for row in fair))
    axes[1][0].legend(fontsize=7)
    rows = results["decisions"]
    for column, label in (("warm_us", "a turn that is held"), ("cold_us", "a new conversation")):
        times = [row[column] for row in rows]
        axes[1][1].plot([row["slots"] for row in rows], times, label=label, marker="o")
    axes[1][1].axhline(50, color="#c0392b", linewidth=0.8, linestyle="--")
    axes[1][1].set_xscale("log")
    axes[1][1].set_ylim(0, 65)
    axes[1][1].set_xlabel("slots")
    axes[1][1].set_title("microseconds of CPU of one decision", fontsize=9)
    axes[1][1].legend(fontsize=7)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(stem.with_suffix(".png"), dpi=110)
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="The scheduler against modelled backends.")
    parser.add_argument("--backends", type=int, default=8)
    parser.add_argument("--conversations", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="only policies whose name contains this")
    parser.add_argument("--decisions", action="store_true")
    parser.add_argument("--study", action="store_true", help="all policies at several sizes")
    parser.add_argument("--plot", action="store_true", help="draw the last study")
    args = parser.parse_args()
    results = HERE / "simulation.json"
    if args.study:
        study(results, args.seed)
    elif args.plot:
        plot(json.loads(results.read_text()), HERE / "plots" / "simulation")
    elif args.decisions:
        for slots in (4, 16, 64, 256, 1000, 4000):
            print(json.dumps(decisions(slots)), flush=True)
    else:
        for name, policy in others(args.seed).items():
            if args.only in name:
                began = time.process_time()
                simulation = Simulation(policy, args.backends, args.conversations, args.seed)
                simulation.run()
                row = {"policy": name, **simulation.figures()}
                row["seconds"] = round(time.process_time() - began, 1)
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""Measures what shared prompts cost: ``python -m benchmarks.prompts [--scale 0.5]``.

Agents and users share system prompts, so many requests prefer the same slots. The figure is the CPU
of the gateway a request, with complete answers of 16 tokens, for 8 to 4 096 slots of a backend and
32 to 1 000 requests at a time. Requests with a shared prompt are compared with different prompts of
the same length in the same round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .gateways import KEY, Kind, Running, slotproxy
from .load import Plan
from .measure import cpu, pinned
from .scenarios import Load
from .stub_process import Stub

SLOTS = (8, 64, 512, 4096)
AT_ONCE = (32, 256, 1000)
ROUNDS = 2
SECONDS = 1.0  # of a workload in a round, at least
CONNECTED = 250  # connections made in a second of measuring, so that they cost little of it
VARIANTS = 2000
LONG = "Answer as the handbook of the harbour says, in short and polite sentences. " * 110
QUESTION = "How long is the way from here to there, and who has walked it before me?"


@dataclass(frozen=True)
class Workload:
    """`#` in the texts is another number in each of `variants` requests."""

    name: str
    system: str
    content: str
    variants: int = VARIANTS


DIFFERENT = Workload("different", "# You are a helpful assistant.", QUESTION)
SAME = Workload("the same", "You are a helpful assistant.", QUESTION, 1)
LONG_DIFFERENT = Workload("2 000 tokens, different", f"# {LONG}", f"# {QUESTION}", 400)
LONG_SHARED = Workload("2 000 tokens, shared system prompt", LONG, f"# {QUESTION}", 400)
WORKLOADS = (DIFFERENT, SAME, LONG_DIFFERENT, LONG_SHARED)
COMPARED = {SAME.name: DIFFERENT.name, LONG_SHARED.name: LONG_DIFFERENT.name}


@dataclass(frozen=True)
class Row:
    """CPU in microseconds a request, by workload; `lost` requests were not answered."""

    slots: int
    at_once: int
    cost: dict[str, float]
    ratio: dict[str, float]
    lost: int


def measure(
    folder: Path,
    *,
    slots: Sequence[int] = SLOTS,
    at_once: Sequence[int] = AT_ONCE,
    rounds: int = ROUNDS,
    scale: float = 1.0,
) -> list[Row]:
    """Measure each number of slots with a stub and a gateway of its own."""
    cores = sorted(os.sched_getaffinity(0))
    with pinned(cores[-1]):
        load = Load()
    rows = []
    try:
        for count in slots:
            with pinned(cores[1 % len(cores)]):
                stub = Stub(folder, slots=count)
            gateway = Running(Kind("slotproxy", "", _command), stub.upstream, folder)
            try:
                with pinned(cores[0]):
                    gateway.start()
                rows += [_row(load, gateway, count, many, rounds, scale) for many in at_once]
            finally:
                gateway.child.stop(seconds=5)
                stub.process.kill()
    finally:
        load.close()
    return rows


def _command(upstream: str, port: int, folder: Path) -> list[str | Path]:
    return [*slotproxy(upstream, port, folder), "--max-queue", str(2 * AT_ONCE[-1])]


def _row(load: Load, gateway: Running, slots: int, at_once: int, rounds: int, scale: float) -> Row:
    costs: dict[str, list[float]] = {one.name: [] for one in WORKLOADS}
    lost = 0
    for turn in range(rounds + 1):
        for one in WORKLOADS:
            spent, failed = _cost(load, gateway, one, at_once, scale)
            lost += failed
            if turn:  # the first round is warm-up
                costs[one.name].append(spent)
    ratio = {
        name: statistics.median(a / b for a, b in zip(costs[name], costs[like], strict=True))
        for name, like in COMPARED.items()
    }
    cost = {name: statistics.median(some) for name, some in costs.items()}
    return Row(slots, at_once, cost, ratio, lost)


def _cost(
    load: Load, gateway: Running, workload: Workload, at_once: int, scale: float
) -> tuple[float, int]:
    """Microseconds of CPU a request, and the number of lost requests."""
    before = cpu(gateway.child.pid)
    outcome = load.run(
        Plan(
            gateway.url,
            tokens=16,
            stream=False,
            at_once=at_once,
            seconds=max(SECONDS, at_once / CONNECTED) * scale,
            system=workload.system,
            content=workload.content,
            variants=workload.variants,
            key=KEY,
        )
    )
    return 1e6 * (cpu(gateway.child.pid) - before) / max(1, outcome.complete), outcome.failed


def check(folder: Path) -> int:
    """Return 0 if every answer arrived."""
    rows = measure(folder, slots=(8,), at_once=(32,), rounds=1, scale=0.1)
    return 1 if sum(row.lost for row in rows) else 0


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    head = " | ".join(
        f"{one.name} (times)" if one.name in COMPARED else one.name for one in WORKLOADS
    )
    lines = [f"| slots | at once | {head} |", "|---" * (len(WORKLOADS) + 2) + "|"]
    for row in rows:
        cells = [
            f"{row.cost[one.name]:.0f}"
            + (f" ({row.ratio[one.name]:.2f})" if one.name in COMPARED else "")
            for one in WORKLOADS
        ]
        lines.append(f"| {row.slots} | {row.at_once} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prompts")
    parser.add_argument("--scale", type=float, default=1.0, help="relative length; 1 is the full")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        rows = measure(Path(name), scale=args.scale)
    print(table(rows))
    lost = sum(row.lost for row in rows)
    if lost:
        print(f"{lost} requests were lost", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures the cost of shared prompts: ``python -m benchmarks.prompts [--scale 0.5]``.

Agents and users share system prompts, so many requests prefer the same slots. The figure is the CPU
of the gateway a request, with complete answers of 16 tokens, for 8 to 4 096 slots of a backend and
32 to 1 000 requests at a time. Requests with a shared prompt are compared with different prompts of
the same length in the same round. A row takes some ten seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .gateways import KEY, Kind, Running, slotproxy
from .load import Plan
from .measure import cpu, pinned
from .scenarios import Load
from .stub_process import Stub

SLOTS = (8, 64, 512, 4096)
AT_ONCE = (32, 256, 1000)
ROUNDS = 3
SECONDS = 0.6  # of a workload in a round, until the last request is sent
WARM = 0.3  # the length of the first round, which is not counted
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
OVERVIEW = (DIFFERENT, SAME, LONG_SHARED)
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
) -> Iterator[Row]:
    """Measure each number of slots with a stub and a gateway of its own. Rows come as they are
    measured."""
    cores = sorted(os.sched_getaffinity(0))
    with pinned(cores[-1]):
        load = Load()
    try:
        for count in slots:
            with pinned(cores[1 % len(cores)]):
                stub = Stub(folder, slots=count)
            gateway = Running(Kind("slotproxy", "", _command), stub.upstream, folder)
            try:
                with pinned(cores[0]):
                    gateway.start()
                for many in at_once:
                    yield _row(load, gateway, count, many, rounds, scale)
            finally:
                gateway.child.stop(seconds=5)
                stub.process.kill()
    finally:
        load.close()


def _command(upstream: str, port: int, folder: Path) -> list[str | Path]:
    return [*slotproxy(upstream, port, folder), "--max-queue", str(2 * AT_ONCE[-1])]


def _row(load: Load, gateway: Running, slots: int, at_once: int, rounds: int, scale: float) -> Row:
    costs: dict[str, list[float]] = {workload.name: [] for workload in WORKLOADS}
    lost = 0
    for turn in range(rounds + 1):
        for workload in WORKLOADS:
            seconds = SECONDS * scale * (1 if turn else WARM)
            spent, failed = _cost(load, gateway, workload, at_once, seconds)
            lost += failed
            if turn:
                costs[workload.name].append(spent)
    ratio = {
        name: statistics.median(a / b for a, b in zip(costs[name], costs[like], strict=True))
        for name, like in COMPARED.items()
    }
    cost = {name: statistics.median(some) for name, some in costs.items()}
    return Row(slots, at_once, cost, ratio, lost)


def _cost(
    load: Load, gateway: Running, workload: Workload, at_once: int, seconds: float
) -> tuple[float, int]:
    """Microseconds of CPU a request, and the number of lost requests."""
    before = cpu(gateway.child.pid)
    outcome = load.run(
        Plan(
            gateway.url,
            tokens=16,
            stream=False,
            at_once=at_once,
            seconds=seconds,
            system=workload.system,
            content=workload.content,
            variants=workload.variants,
            key=KEY,
            keep=True,
        )
    )
    return 1e6 * (cpu(gateway.child.pid) - before) / max(1, outcome.complete), outcome.failed


def check(folder: Path) -> int:
    """Return 0 if every answer arrived."""
    rows = list(measure(folder, slots=(8,), at_once=(32,), rounds=1, scale=0.1))
    return 1 if sum(row.lost for row in rows) else 0


HEAD = (
    "| slots | at once | "
    + " | ".join(f"{w.name} (times)" if w.name in COMPARED else w.name for w in WORKLOADS)
    + " |\n"
    + "|---" * (len(WORKLOADS) + 2)
    + "|"
)


def line(row: Row) -> str:
    """Return a row as Markdown."""
    cells = [
        f"{row.cost[workload.name]:.0f}"
        + (f" ({row.ratio[workload.name]:.2f})" if workload.name in COMPARED else "")
        for workload in WORKLOADS
    ]
    return f"| {row.slots} | {row.at_once} | {' | '.join(cells)} |"


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    return "\n".join([HEAD, *map(line, rows)]) + "\n"


def overview(rows: Sequence[Row]) -> str:
    """Return the fewest requests at once as Markdown: a line per workload, with the multiple of the
    first line in brackets, and a column per number of slots."""
    least = min(row.at_once for row in rows)
    few = [row for row in rows if row.at_once == least]
    lines = [f"| {least} at once | {' | '.join(f'{row.slots} slots' for row in few)} |"]
    lines.append("|---" * (len(few) + 1) + "|")
    for workload in OVERVIEW:
        cells = [f"{row.cost[workload.name]:.0f}{_beside(row, workload)}" for row in few]
        lines.append(f"| {workload.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _beside(row: Row, workload: Workload) -> str:
    first = OVERVIEW[0]
    return "" if workload is first else f" ({row.cost[workload.name] / row.cost[first.name]:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prompts")
    parser.add_argument("--scale", type=float, default=1.0, help="relative length; 1 is the full")
    parser.add_argument("--slots", type=_numbers, default=SLOTS, help="such as 8,64")
    parser.add_argument("--at-once", type=_numbers, default=AT_ONCE, help="such as 32,1000")
    args = parser.parse_args()
    rows = []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        how = {"slots": args.slots, "at_once": args.at_once}
        for row in measure(Path(name), **how, scale=args.scale):
            print(line(row), flush=True)
            rows.append(row)
    print(f"\n{overview(rows)}")
    lost = sum(row.lost for row in rows)
    if lost:
        print(f"{lost} requests were lost", file=sys.stderr)
    return 1 if lost else 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


if __name__ == "__main__":
    sys.exit(main())

"""Measures slotproxy and other gateways, side by side.

    python -m benchmarks            everything, a quarter of an hour; writes docs/performance.md
    python -m benchmarks --quick    ours, nginx and the naive one, two minutes; prints only
    python -m benchmarks --check    ours for some seconds; fails when an answer is lost

The gateway runs on the machine's first core, the stub and the load generator on the next. Each part
is measured in three rounds of slices in which the gateways take turns, since the speed of a machine
varies. The table shows medians of the figures, and of each turn's ratio to nginx.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from tools.processes import Died

from . import prompts, report
from .calm import Calm
from .gateways import BEFORE_2023, KINDS, Kind, Missing, Running, slotproxy
from .measure import pinned
from .scenarios import CROWD_PACE, Bench, Load
from .stub_process import Stub

HERE = Path(__file__).parent
QUICK = ("slotproxy", "nginx", "naive")
SLICES = 5  # slices of a part that needs no minimum duration
CONTEXT = 1 << 17  # tokens of a slot, enough for long prompts
OLD_SLOTS = 8  # of the stub as a server of 2023
CROWD_SLOTS = 2500  # of each of two stubs
ADDED = ("alone", "long")  # parts in which latency is compared with the stub alone
Measured = dict[str, dict[str, dict[str, float]]]  # gateway to part to figure


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def begin(kinds: Sequence[Kind], upstream: str, folder: Path) -> list[Running]:
    """Start the available gateways, one after the other."""
    running = []
    for kind in kinds:
        say(f"starting {kind.name}")
        try:
            gateway = Running(kind, upstream, folder)
            gateway.start()
        except (Missing, Died) as error:
            say(f"{kind.name} is skipped: {error}")
            continue
        running.append(gateway)
    return running


def measure(
    bench: Bench,
    stub: Stub,
    running: Sequence[Running],
    before_2023: Sequence[Running],
    repeats: int,
    calm: Calm,
) -> Measured:
    """Measure all parts of the gateways; of those before a server of 2023, long prompts alone."""
    parts: list[tuple[str, int, Callable[[Any], dict[str, float]]]] = [
        ("whole", SLICES, bench.whole),
        ("fast", SLICES, bench.fast),
        ("paced", 1, bench.paced),
        ("alone", SLICES, bench.alone),
        ("longer", SLICES, bench.longer),
        ("slow", 1, bench.slow),
        ("long", 1, bench.long),
    ]
    samples: dict[str, dict[str, list[dict[str, float]]]] = {}
    for gateway in running:
        samples[gateway.kind.name] = {"start": [{"seconds": gateway.started}]}
        samples[gateway.kind.name]["idle"] = [bench.idle(gateway)]
        bench.warm(gateway)
    samples |= {gateway.kind.name: {} for gateway in before_2023}
    samples["direct"] = {}
    for turn in range(repeats):
        say(f"round {turn + 1} of {repeats}")
        for name, slices, part in parts:
            for _ in range(slices):
                by_gateway = {"direct": part(stub)} if name in ADDED else {}
                for gateway in (*running, *(before_2023 if name == "long" else ())):
                    calm.look()
                    by_gateway[gateway.kind.name] = part(gateway)
                _compare(by_gateway)
                for kind, figures in by_gateway.items():
                    samples[kind].setdefault(name, []).append(figures)
                    say(f"  {kind:14} {name:6} {report.brief(figures)}")
    say("1 000 streams")
    for gateway in running:
        figures = bench.many(gateway)
        samples[gateway.kind.name]["many"] = [figures]
        say(f"  {gateway.kind.name:14} many   {report.brief(figures)}")
    return {
        name: {part: _medians(figures) for part, figures in parts_of.items()}
        for name, parts_of in samples.items()
    }


def crowd(folder: Path, load: Load, scale: float) -> dict[str, float]:
    """Measure slotproxy with 5 000 streams from two stubs, in a process of its own."""
    cores = sorted(os.sched_getaffinity(0))
    with pinned(cores[1 % len(cores)]):
        stubs = [Stub(folder, CROWD_SLOTS + number) for number in range(2)]
    second = ["--llama-api", stubs[1].upstream]
    kind = Kind("crowd", "", lambda *how: [*slotproxy(*how), *second])
    running: list[Running] = []
    try:
        with pinned(cores[0]):
            running = begin([kind], stubs[0].upstream, folder)
        for stub in stubs:
            Bench(load, stub.upstream).pace(CROWD_PACE)
        figures = Bench(load, stub.upstream, scale).crowd(running[0])
    finally:
        for gateway in running:
            gateway.child.stop(seconds=5)
        for stub in stubs:
            stub.process.kill()
    say(f"  {'slotproxy':14} crowd  {report.brief(figures)}")
    return {name: round(value, 3) for name, value in figures.items()}


def _compare(by_gateway: dict[str, dict[str, float]]) -> None:
    """Add each gateway's CPU as a multiple of nginx's, and its delay compared with the stub alone,
    in the same turn."""
    nginx, direct = by_gateway.get("nginx", {}), by_gateway.get("direct", {})
    for figures in by_gateway.values():
        for name in ("us_a_request", "us_a_token"):
            if nginx.get(name):  # a short slice may take less than a tick of the clock of /proc
                figures["times"] = figures[name] / nginx[name]
        for name in [*direct]:
            if name.endswith("_ms"):
                figures[f"{name}_added"] = figures[name] - direct[name]


def _medians(figures: list[dict[str, float]]) -> dict[str, float]:
    return {
        key: round(statistics.median(sample[key] for sample in figures if key in sample), 3)
        for key in dict.fromkeys(key for sample in figures for key in sample)
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="two minutes: " + ", ".join(QUICK))
    parser.add_argument("--check", action="store_true", help="a smoke test without figures")
    parser.add_argument("--only", help="names of gateways, separated by commas")
    parser.add_argument(
        "--scale", type=float, help="relative length of every part; 1 takes half an hour"
    )
    parser.add_argument("--repeats", type=int)
    args = parser.parse_args()
    names = args.only.split(",") if args.only else QUICK if args.quick else [k.name for k in KINDS]
    if args.check:
        names, args.repeats = ["slotproxy"], 1
    scale = args.scale or (0.05 if args.check else 0.25 if args.quick else 0.5)
    cores = sorted(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as name:
        folder = Path(name)
        with pinned(cores[1 % len(cores)]):
            stub = Stub(folder, context=CONTEXT)
            old = Stub(folder, OLD_SLOTS, "2023", CONTEXT)
        with pinned(cores[2] if len(cores) > 2 else cores[-1]):
            load = Load()
        running: list[Running] = []
        before_2023: list[Running] = []
        try:
            with pinned(cores[0]):
                running = begin([k for k in KINDS if k.name in names], stub.upstream, folder)
                if "slotproxy" in names:
                    before_2023 = begin([BEFORE_2023], old.upstream, folder)
            bench = Bench(load, stub.upstream, scale)
            calm = Calm(cores[0])
            repeats = args.repeats or (1 if args.quick else 3)
            measured = measure(bench, stub, running, before_2023, repeats, calm)
            if "slotproxy" in names:
                measured["slotproxy"]["crowd"] = crowd(folder, load, scale)
        finally:
            load.close()
            for gateway in (*running, *before_2023):
                gateway.child.stop(seconds=5)
            for server in (stub, old):
                server.process.kill()
        if args.check:
            return _check(measured) or prompts.check(folder)
        whole = not (args.quick or args.only)
        rows = []
        for row in prompts.measure(folder, scale=scale) if whole else ():
            say(prompts.line(row))
            rows.append(row)
    results = {
        "date": date.today().isoformat(),
        "machine": f"{_processor()}, Python {platform.python_version()}",
        "scale": scale,
        "repeats": repeats,
        "calm": round(calm.share),
        "labels": {k.name: k.label for k in (*KINDS, BEFORE_2023)},
        "versions": [k.version() for k in KINDS if k.name in measured and k.version()],
        "measured": measured,
        "prompts": [dataclasses.asdict(row) for row in rows],
    }
    print(report.table(results))
    print(report.loads(results))
    if whole:
        shared = f"{prompts.overview(rows)}\n{prompts.table(rows)}"
        print(shared)
        (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        report.publish(results, shared)
    return 0


def _check(measured: Measured) -> int:
    """Return 0 if every answer arrived complete."""
    lost = [
        f"{gateway}'s {name}"
        for gateway, parts in measured.items()
        for name, figures in parts.items()
        if figures.get("complete", 100) < 100
    ]
    say(f"answers were lost in: {', '.join(lost)}" if lost else "every answer arrived")
    whole = "crowd" in measured.get("slotproxy", {}) and "long" in measured.get(
        BEFORE_2023.name, {}
    )
    return 1 if lost or not whole else 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return " ".join(line.partition(":")[2].split())
    return platform.machine()


if __name__ == "__main__":
    sys.exit(main())

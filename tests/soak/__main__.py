"""Soaks a real gateway in mixed traffic and trouble, and tells what was lost and what is left.

    python -m tests.soak --seconds 3600 [--seed 1] [--rate 8] [--report docs/soak.md]

Prints the report as Markdown; `--report` writes it as a page. Ends with 1 if a target was missed.
Everything runs on loopback and below --keep, a new temporary folder by default.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from . import report
from .run import RATE, soak


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__,
                                     formatter_class=argparse.RawTextHelpFormatter)  # fmt: skip
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long it asks")
    parser.add_argument("--seed", type=int, default=1, help="makes requests and troubles")
    parser.add_argument("--rate", type=float, default=RATE, help="requests a second")
    parser.add_argument("--gateways", type=int, default=1, help="more than one: before stubs alone")
    parser.add_argument("--stubs", type=int, default=2, help="stand-ins for model servers")
    parser.add_argument("--report", type=Path, help="write the report to this page")
    parser.add_argument("--keep", type=Path, help="folder for logs and data")
    args = parser.parse_args(argv)
    folder = args.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    done = soak(folder, args.seconds, args.seed, args.rate, args.gateways, args.stubs)
    text = report.outcome(done)
    print(text)
    for lost in done.lost:
        number = lost.question.number
        (folder / f"lost-{number}.body").write_bytes(lost.question.body)
    samples = folder / "samples.json"
    samples.write_text(json.dumps([sample._asdict() for sample in done.samples]))
    if args.report:
        before = args.report.read_text() if args.report.exists() else ""
        args.report.write_text(report.page(before, done))
    failed = report.failures(done)
    for line in failed:
        print(line, file=sys.stderr)
    print(f"logs, samples and lost bodies are in {folder}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

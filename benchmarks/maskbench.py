"""Runs MaskBench on the grammars made from JSON schemas: python -m benchmarks.maskbench FOLDER

FOLDER holds MaskBench's files, such as `maskbench/data` of a checkout of
https://github.com/guidance-ai/jsonschemabench. Each file has a schema, and instances that are
valid or not. The schema is compiled as for a request, within the same budget of work, and the
instances, written as MaskBench writes them, are matched with the grammar.

A file passes if the grammar alone decides every instance rightly. A keyword that no grammar
expresses is refused. With --at-end, a second figure says how many files pass if the answer is also
validated at its end, as it is for a request whose schema is not strict.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

from proxy.compiling import WHOLE
from proxy.errors import InvalidParameter
from proxy.gbnf import (
    NEW,
    OLD,
    Grammar,
    GrammarLimits,
    SchemaError,
    UnsupportedSchema,
    matches,
    schema_to_grammar,
)
from proxy.gbnf.gbnf import parse
from proxy.gbnf.work_budget import TooMuchWork, limited
from proxy.prompting.validation import OutputValidator

SECONDS = 8.0
"""Processor time for a file, at most."""

LIMITS = {limits.name: limits for limits in (OLD, NEW)}
PASSED, REFUSED = "passed", "refused"
OUTCOMES = (PASSED, REFUSED, "good refused", "bad accepted", "crashed", "over time")


@dataclass(frozen=True)
class Verdict:
    """The outcome of one file. `why` is the refused keyword, the instance's number or the
    exception; `at_end` says whether a refused file passes with validation at the end."""

    name: str
    outcome: str
    why: str = ""
    milliseconds: float = 0.0
    at_end: bool = False


class _OverTime(Exception):
    pass


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raises _OverTime after that much processor time."""

    def ring(*_: object) -> None:
        raise _OverTime

    before = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def judge(
    file: Path, limits: GrammarLimits, at_end: bool = False, seconds: float = SECONDS
) -> Verdict:
    """The verdict on one file, also with validation at the end if `at_end`."""
    gc.collect()  # as the child that compiles does after an answer
    case = json.loads(file.read_text("utf-8"))
    verdict = partial(Verdict, file.stem)
    # Not process_time: while the alarm is set, that clock advances by ticks of some milliseconds.
    begun = time.thread_time()
    try:
        with _alarm(seconds):
            try:
                with limited(WHOLE):
                    text = schema_to_grammar(case["schema"], limits, closed=False)
            except (UnsupportedSchema, SchemaError, TooMuchWork) as error:
                why = getattr(error, "keyword", type(error).__name__)
                return verdict(REFUSED, why, at_end=at_end and _passes_at_end(case, limits))
            milliseconds = 1000 * (time.thread_time() - begun)
            fault, at = _first_fault(text, limits, case["tests"])
            return verdict(fault or PASSED, at, milliseconds)
    except _OverTime:
        return verdict("over time")
    except Exception as error:
        return verdict("crashed", repr(error)[:200])


def _first_fault(text: str, limits: GrammarLimits, tests: Sequence[Any]) -> tuple[str, str]:
    """The first instance that the grammar decides wrongly; accepting a bad one is worse."""
    grammar, _ = parse(text, limits)
    fault = ("", "")
    for at, test in enumerate(tests):
        if test["valid"] and fault[0]:
            continue
        if _accepts(grammar, test["data"]) != test["valid"]:
            fault = ("good refused" if test["valid"] else "bad accepted", str(at))
            if not test["valid"]:
                break
    return fault


def _accepts(grammar: Grammar, instance: Any) -> bool:
    return matches(grammar, json.dumps(instance, ensure_ascii=False))


def _passes_at_end(case: Any, limits: GrammarLimits) -> bool:
    """Whether a lenient grammar and a validation of the whole answer decide all instances."""
    try:
        with limited(WHOLE):
            try:
                text = schema_to_grammar(case["schema"], limits, strict=False, closed=False)
            except UnsupportedSchema:
                text = schema_to_grammar(True, limits)
        validator = OutputValidator(case["schema"])
    except (SchemaError, TooMuchWork, InvalidParameter):
        return False
    grammar, _ = parse(text, limits)
    return all(
        (_accepts(grammar, test["data"]) and not validator.fault(json.dumps(test["data"])))
        == test["valid"]
        for test in case["tests"]
    )


def summary(verdicts: Iterable[Verdict]) -> str:
    """The counts of all outcomes, and of the refused keywords."""
    verdicts = list(verdicts)
    counts = Counter(verdict.outcome for verdict in verdicts)
    times = sorted(verdict.milliseconds for verdict in verdicts if verdict.milliseconds) or [0.0]
    keywords = Counter(verdict.why for verdict in verdicts if verdict.outcome == REFUSED)
    line = f"{len(verdicts)} files: " + ", ".join(f"{counts[name]} {name}" for name in OUTCOMES)
    if at_end := sum(verdict.at_end for verdict in verdicts if verdict.outcome == REFUSED):
        line += f"; {counts[PASSED] + at_end} pass with validation at the end"
    line += f"; compiled in p50 {times[len(times) // 2]:.1f} ms"
    line += f", p99 {times[len(times) * 99 // 100]:.1f} ms, at most {times[-1]:.0f} ms"
    refused = ", ".join(f"{word} {count}" for word, count in keywords.most_common())
    return f"{line}\nrefused by keyword: {refused or 'none'}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.maskbench", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limits", choices=LIMITS, default="new", help="the servers' generation")
    parser.add_argument("--sample", type=int, default=0, help="only that many files; 0: all")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verdicts", type=Path, help="also write each file's verdict there")
    parser.add_argument("--at-end", action="store_true", help="also validate refused files")
    args = parser.parse_args(arguments)
    files = sorted(args.folder.glob("*.json"))
    if not files:
        sys.exit(f"{args.folder} has no .json files; give the folder maskbench/data of a checkout")
    if 0 < args.sample < len(files):
        files = random.Random(0).sample(files, args.sample)
    ask = partial(judge, limits=LIMITS[args.limits], at_end=args.at_end)
    with Pool(args.processes, initializer=gc.disable) as pool:
        verdicts = list(pool.imap_unordered(ask, files, chunksize=8))
    print(summary(verdicts))
    if args.verdicts:
        lines = (json.dumps(asdict(verdict)) for verdict in sorted(verdicts, key=lambda v: v.name))
        args.verdicts.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""Tells a soak as Markdown, and judges it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from . import questions
from .gauges import Idle, growth
from .run import Soak
from .trouble import LATE

WARM = 600.0  # seconds after which memory must be flat
FLAT = 0.03  # allowed growth of memory from then on
DOUBLED = "answers on a slot of another, without a reason"
MANY = 400  # requests from which a soak of several gateways has enough samples to judge
SHORT = 2 * WARM  # seconds; memory of a shorter soak is told, and not judged
ENDS = ("whole", "refused", "broken off", "left", "killed", "lost")
PAGE = """\
# Soak

`make soak` runs mixed traffic for an hour (`SOAK=600` ten minutes) against a real gateway, before
real model servers that die and come back, and tells what was lost and what is left over.

- The gateway has two workers that share a Redis, or one if there is no Redis.
- Two servers have tiny made-up weights (llama.cpp of 2023 and of 2026), two are stubs whose tokens
  are stamps, so that a missing or doubled token is seen.
- Two more models are on a gateway of their own behind it, which has memory for one and swaps them.
- Requests: seven APIs, streamed and whole, long shared prompts, conversations, tools, JSON schemas,
  uploads, clients that hang up or read slowly, malformed bodies, wrong keys, pages. Those of one
  key are captured.
- Troubles: `kill -9` of backends, of all backends of a model and of Redis, backends that hang,
  SIGHUP with backends removed and added, with an invalid file and with a changed key file, Redis
  away for half a minute, a worker that is stopped for seconds (SIGSTOP), past several snapshots of
  the shared state, a database that is locked for seconds, and a gateway that gets SIGTERM and is
  started again. That comes in the last tenth, so that memory before it is of one age.
- A request is **lost** unless it ends in time in a complete answer that the strict reader of its
  API accepts, with all its tokens, its tool call or JSON as the schema says, or in a
  well-formed error of its API. A 500 is lost, and so is a 4xx to a valid request, but for a 429.
  Only a connection without a byte of an answer is opened again, and only while the gateway stops.
- Each answer that began has exactly one row in the ledger, and a line in the log with its tokens.
  One of the two keys has limits: at the end, its budget has the tokens of the ledger.

Requests follow from the seed. `python -m tests.soak --help` lists the options.

## Memory

What a gateway remembers is bounded, and fills with requests: the last 512 of them, what slots
held, the last hour's counts, the prompts of conversations. `python -m benchmarks.memory` asks one
worker many different requests: it has 66.8 MB after 2 400, 69.3 after 5 000 and 72.3 after 14 000.
A worker of the soak gets 2 400 requests in the first ten minutes, and 14 000 in an hour, so its
memory still grows. Little of that is tables that fill (0.4 MB), the rest holes that requests leave
in the heap. Once a minute, a worker collects cycles and returns whole pages: then it has 65.0 MB
after 2 400 requests and 67.7 after 14 000.

"""
SOAK = "## The last run\n"
CHAOS = "## Several gateways\n"
OF_SEVERAL = """\
`make chaos` asks four gateways on one Redis, before 16 stubs of two slots, for ten minutes
(`CHAOS=120`: two). Each has a network of its own to Redis and to the backends, which can be cut.
Troubles overlap: `kill -9`, SIGSTOP and cuts of up to two minutes, clocks that jump by up to an
hour, Redis that comes back empty, an upgrade of one gateway after the other. Clients take the next
gateway if one is away and has sent no byte. An answer under way ends with a gateway that is killed.

The stubs notice a second answer on a slot. That needs a reason: a gateway that was stopped or cut
off from Redis for longer than its lease, or from that backend, or Redis that was away, until
20 seconds later. Then leases end before their answers, and the server keeps the answers apart.

"""


def page(before: str, soak: Soak) -> str:
    """The page with the outcome of this run instead of an earlier one of its kind."""
    alone, mark, several = before.partition(CHAOS)
    part = outcome(soak)
    if soak.gateways > 1:
        return f"{alone.rstrip()}\n\n{CHAOS}\n{OF_SEVERAL}{part}"
    return f"{PAGE}{SOAK}\n{part}\n{mark}{several}".rstrip() + "\n"


class Target(NamedTuple):
    """A line of the report. `met` is None where nothing is required."""

    name: str
    wanted: str
    measured: str
    met: bool | None


def targets(soak: Soak) -> list[Target]:
    """The requirements on a soak, each with its measured value."""
    lost = sum(count for (_, end), count in soak.ends.items() if end == "lost")
    warm = WARM if soak.seconds >= SHORT else soak.seconds / 3
    several = soak.gateways > 1
    late = soak.seconds if several else LATE * soak.seconds
    grew = growth(soak.samples, warm, late)
    before, after, quiet = soak.before, soak.after, soak.quiet
    left = "no answer" if quiet is None else " / ".join(map(str, quiet))
    judged = soak.seconds >= SHORT
    is_long = not several or soak.requests >= MANY
    first_half = [sample for sample in soak.samples if sample.at <= soak.seconds / 2]
    uncharged, killed = str(soak.uncharged), "not judged: `kill -9` loses half a second"
    charged = (killed, uncharged, None) if several else ("0", uncharged, soak.uncharged == 0)
    explained, doubled = soak.doubled
    doubles = Target(DOUBLED, "0", f"{len(doubled)} (with a reason {explained})",
                     not doubled if is_long else None)  # fmt: skip
    return [
        Target("requests lost without an error", "0", str(lost), lost == 0),
        Target("slots busy / requests in flight / queued / places under limits at the end",
               "0 / 0 / 0 / 0", left, quiet == Idle(0, 0, 0, 0)),
        Target("tokens in the ledger that the budget of their key lacks", *charged),
        *([doubles] if several else []),
        Target(f"growth of memory between minutes {warm / 60:.3g} and {late / 60:.3g}",
               f"≤ {FLAT:.0%}" if judged else "", f"{grew:+.1%}", grew <= FLAT if judged else None),
        _still_idle("descriptors", [sample.descriptors for sample in first_half],
                    after.descriptors, is_long),
        _still_idle("threads", [sample.threads for sample in first_half], after.threads, is_long),
        Target("temporary files at the end", f"{before.temporary}", str(after.temporary),
               after.temporary <= before.temporary),
        Target("database, before and at the end", "", f"{_mb(before.database)}, "
               f"{_mb(after.database)}", None),
        Target("workers that died, tracebacks in the log, blocked loops", "0",
               str(len(soak.findings)), not soak.findings),
    ]  # fmt: skip


def _still_idle(name: str, values: Sequence[int], idle: int, is_long: bool) -> Target:
    """Whether an idle gateway has no more of these than it had while it was asked."""
    most = max(values, default=0)
    wanted = f"≤ {most}, the most in the first half"
    return Target(
        f"{name} of all workers at the end", wanted, str(idle), idle <= most if is_long else None
    )


def outcome(soak: Soak) -> str:
    """The part of the page that a run makes."""
    ends = [end for end in ENDS if any(key[1] == end for key in soak.ends) or end == "lost"]
    shares = questions.CHAOS if soak.gateways > 1 else questions.SHARES
    kinds = [[kind, *(str(soak.ends[kind, end]) for end in ends)] for kind in shares]
    total = [str(sum(soak.ends[kind, end] for kind in shares)) for end in ends]
    parts = [
        f"{soak.seconds / 60:.3g} minutes, seed {soak.seed}, {_workers(soak)},"
        f" {os.cpu_count()} cores: {soak.requests} requests, of"
        f" {soak.limit:g} seconds at most, the longest {soak.longest:.1f} s.",
        _table(["", "Target", "Found", ""],
               [[*target[:3], _MET[target.met]] for target in targets(soak)]),
        "How requests ended. *Refused*: an error instead of an answer; *broken off*: an error event"
        " within a stream; *left*: the client hung up; *killed*: the gateway was, within"
        " its answer.",
        _table(["Request", *(end.capitalize() for end in ends)],
               [*kinds, ["**all**", *total]]),
    ]  # fmt: skip
    if soak.reasons:
        errors = [[why, str(count)] for why, count in soak.reasons.most_common(20)]
        parts.append(_table(["Errors", "Times"], errors))
    if soak.troubles:
        parts.append(_table(["Trouble", "Times"], [[a, str(b)] for a, b in soak.troubles.items()]))
    return "\n\n".join(parts) + "\n"


_MET = {True: "✓", False: "✗", None: ""}


def failures(soak: Soak) -> list[str]:
    """The requirements that were not met, with details; [] if the soak passed."""
    unmet = [target for target in targets(soak) if target.met is False]
    missed = [f"{target.name}: {target.measured}, wanted {target.wanted}" for target in unmet]
    missed += soak.doubled[1] if any(target.name == DOUBLED for target in unmet) else []
    lost = [f"lost {loss.question.number} ({loss.question.kind}) at {loss.at:.1f} s: {loss.why}\n"
            f"  {loss.question.method} {loss.question.path} {loss.question.body[:300]!r}"
            for loss in soak.lost]  # fmt: skip
    return [*missed, *lost, *soak.findings]


def _workers(soak: Soak) -> str:
    if soak.gateways > 1:
        return f"{soak.gateways} gateways with Redis"
    return "one worker without Redis" if soak.workers == 1 else f"{soak.workers} workers with Redis"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)

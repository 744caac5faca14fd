"""Drives a soak: asks at a rate, makes trouble, watches, and waits for quiet."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import random
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from . import gauges
from .client import LIMIT, Begun, Client
from .gauges import Idle, Sample
from .questions import CHAOS, SHARES, Asker, Question
from .scene import KEYS, Member, Scene
from .trouble import Break, Trouble
from .verdict import Verdict

CLIENTS = 48  # requests at once
RATE = 8.0  # requests a second
SAMPLES = 240  # of one soak, at most
QUIET = 45.0  # seconds until everything is idle again
UNSTORED = 10.0  # seconds of rows of the ledger that `kill -9` may lose, on a busy machine
KEPT = 20  # lost requests whose bodies are kept


class Lost(NamedTuple):
    question: Question
    why: str
    at: float  # seconds since the start


class Soak(NamedTuple):
    """The outcome. `limit`: seconds that a request may take. `ends`: how many requests of a kind
    ended how; `reasons`: of refusals and answers broken off. `quiet` is None if the gateway did not
    answer. `before` and `after` are idle gateways. `uncharged`: tokens that are in the ledger and
    not in the budget of their key. `doubled`: slots that had two answers at once, with a reason and
    without."""

    seconds: float
    limit: float
    seed: int
    gateways: int
    workers: int
    ends: Counter[tuple[str, str]]
    reasons: Counter[str]
    lost: list[Lost]
    troubles: Counter[str]
    samples: list[Sample]
    before: Sample
    after: Sample
    quiet: Idle | None
    uncharged: int
    doubled: tuple[int, list[str]]
    findings: list[str]
    longest: float

    @property
    def requests(self) -> int:
        return sum(self.ends.values())


class Tally:
    """Counts verdicts of many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self.ends: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[str] = Counter()
        self.lost: deque[Lost] = deque(maxlen=KEPT)
        self.begun: list[Begun] = []
        self.longest = 0.0

    def count(self, question: Question, verdict: Verdict, seconds: float) -> None:
        with self._lock:
            self.ends[question.kind, verdict.end] += 1
            self.longest = max(self.longest, seconds)
            if verdict.end in ("refused", "broken off"):
                self.reasons[f"{verdict.end}: {verdict.why[:80]}"] += 1
            if verdict.end == "lost":
                self.lost.append(Lost(question, verdict.why, time.monotonic() - self._begun))


def soak(
    folder: Path, seconds: float, seed: int, rate: float = RATE, gateways: int = 1, stubs: int = 2
) -> Soak:
    """Soaks gateways for so long; all files are below `folder`."""
    with Scene(folder, gateways, stubs) as scene:
        before = gauges.sample(scene, 0.0)
        watch = gauges.Watch(scene, max(2.0, seconds / SAMPLES))
        trouble = Trouble(scene, seed, seconds)
        tally = Tally()
        begun = time.monotonic()
        watch.start()
        trouble.start()
        try:
            _ask(scene, tally, seconds, seed, rate)
        finally:
            trouble.stop()
            watch.stop()
        duration = time.monotonic() - begun
        quiet = _quiet(scene)
        uncharged = gauges.uncharged(scene)
        after = gauges.sample(scene, duration)
        findings = [*watch.findings, *([trouble.failure] if trouble.failure else [])]
        workers = sum(len(member.workers) for member in scene.members)
        for member in scene.members:
            if code := member.stop():
                findings.append(f"{member.name} ended with {code}")
        findings += uncounted(folder, scene.members, tally.begun)
        return Soak(
            duration, LIMIT, seed, gateways, workers, tally.ends, tally.reasons, [*tally.lost],
            trouble.counts, watch.samples, before, after, quiet, uncharged,
            doubles(scene, trouble.breaks), findings, tally.longest,
        )  # fmt: skip


def _ask(scene: Scene, tally: Tally, seconds: float, seed: int, rate: float) -> None:
    """Asks at random times; if all clients are busy, the next waits for one."""
    several = len(scene.members) > 1
    asker = Asker(seed, tuple(KEYS.values()), CHAOS if several else SHARES)
    numbers: queue.Queue[int | None] = queue.Queue(maxsize=1)

    def work() -> None:
        client = Client(scene.members)
        while (number := numbers.get()) is not None:
            question = asker.question(number)
            begun = time.monotonic()
            try:
                verdict = client.ask(question)
            except Exception as error:
                client.close()
                verdict = Verdict("lost", f"the client broke: {type(error).__name__}: {error}")
            tally.count(question, verdict, time.monotonic() - begun)
        tally.begun += client.begun
        client.close()

    count = CLIENTS * (1 + several)
    clients = [threading.Thread(target=work, name=f"client-{n}") for n in range(count)]
    for client in clients:
        client.start()
    rng = random.Random(f"{seed}/times")
    begun = due = time.monotonic()
    try:
        for number in itertools.count():
            time.sleep(max(0.0, due - time.monotonic()))
            numbers.put(number)
            # After a jam, the requests that were due meanwhile are not sent at once.
            due = max(due, time.monotonic() - 1.0) + rng.expovariate(rate)
            if due >= begun + seconds:
                break
    finally:
        for _ in clients:
            numbers.put(None)
        for client in clients:
            client.join()


def uncounted(folder: Path, members: Sequence[Member], begun: list[Begun]) -> list[str]:
    """The faults of the ledger and the logs, in which each answer that began is once,
    and which agree on requests and tokens. Answers cut by a kill may be missing."""
    with contextlib.closing(sqlite3.connect(folder / "data" / "slotproxy.db")) as db:
        rows = db.execute("select request, prompt, completion from ledger_row").fetchall()
    logged, answered = [], []
    for member in members:
        lines = [json.loads(line) for line in member.log.splitlines() if line.startswith('{"id"')]
        killed = [at for _, at in member.kills]
        for line in lines:
            row = line["id"], line["prompt_tokens"], line["completion_tokens"]
            logged.append(row)
            ended = datetime.fromisoformat(line["time"]).timestamp()
            if line["backend"] and not _near(ended, killed):
                answered.append(row)
    ids = [id for id, member, ended in begun if not _near(ended, [at for at, _ in member.kills])]
    counted = Counter(rows)
    once = Counter(id for id, *_ in rows)
    wrong = {
        "answers that are not in the ledger": [id for id in ids if not once[id]],
        "requests that are in the ledger twice": [id for id in once if once[id] > 1],
        "answers in the log that are not in the ledger": [*(Counter(answered) - counted)],
        "rows of the ledger that are not in the log": [*(counted - Counter(logged))],
    }
    return [f"{len(some)} {what}, for example {some[0]}" for what, some in wrong.items() if some]


def _near(moment: float, killed: list[float]) -> bool:
    return any(abs(moment - at) < UNSTORED for at in killed)


def doubles(scene: Scene, breaks: list[Break]) -> tuple[int, list[str]]:
    """How many slots had two answers at once where leases may have ended, and where not."""
    explained, other = 0, []
    for name, backend in scene.backends.items():
        for line in backend.log.splitlines():
            if line.startswith("doubled "):
                _, slot, first, second, at = line.split()
                hosts = ("", first, second)
                near = [outage for outage in breaks if outage.begun <= float(at) <= outage.ended]
                if any(outage.host in hosts and outage.backend in ("", name) for outage in near):
                    explained += 1
                else:
                    other.append(f"slot {slot} of {name}: leases of {first} and {second} at {at}")
    return explained, other


def _quiet(scene: Scene) -> Idle | None:
    """The state once everything is idle, or after QUIET seconds."""
    end = time.monotonic() + QUIET
    idle: Idle | None = None
    while time.monotonic() < end:
        try:
            idle = gauges.idle(scene)
        except ValueError:
            idle = None
        if idle == Idle(0, 0, 0):
            break
        time.sleep(0.2)
    time.sleep(1.0)  # connections that clients closed are noticed
    return idle

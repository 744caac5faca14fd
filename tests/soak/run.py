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
from pathlib import Path
from typing import NamedTuple

from . import gauges
from .client import LIMIT, Client
from .gauges import Idle, Sample
from .questions import Asker, Question
from .scene import KEYS, Scene
from .trouble import EVERY, Trouble
from .verdict import Verdict

CLIENTS = 48  # requests at once
RATE = 8.0  # requests a second
SAMPLES = 240  # of one soak, at most
QUIET = 45.0  # seconds until everything is idle again
KEPT = 20  # lost requests whose bodies are kept


class Lost(NamedTuple):
    question: Question
    why: str
    at: float  # seconds since the start


class Soak(NamedTuple):
    """The outcome. `limit`: seconds that a request may take. `ends`: how many requests of a kind
    ended how; `reasons`: of refusals and answers broken off. `quiet` is None if the gateway did not
    answer. `before` and `after` are idle gateways, `cpu` seconds of the gateway. `uncharged`:
    tokens that are in the ledger and not in the budget of their key."""

    seconds: float
    limit: float
    seed: int
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
    findings: list[str]
    longest: float
    cpu: float

    @property
    def asked(self) -> int:
        return sum(self.ends.values())


class Tally:
    """Counts verdicts of many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = time.monotonic()
        self.ends: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[str] = Counter()
        self.lost: deque[Lost] = deque(maxlen=KEPT)
        self.ids: list[str] = []
        self.longest = 0.0

    def count(self, question: Question, verdict: Verdict, seconds: float) -> None:
        with self._lock:
            self.ends[question.kind, verdict.end] += 1
            self.longest = max(self.longest, seconds)
            if verdict.end in ("refused", "broken off"):
                self.reasons[f"{verdict.end}: {verdict.why[:80]}"] += 1
            if verdict.end == "lost":
                self.lost.append(Lost(question, verdict.why, time.monotonic() - self._begun))


def soak(folder: Path, seconds: float, seed: int, rate: float = RATE) -> Soak:
    """Soaks a gateway for so long; all files are below `folder`."""
    with Scene(folder) as scene:
        before = gauges.sample(scene, 0.0)
        watch = gauges.Watch(scene, max(2.0, seconds / SAMPLES))
        trouble = Trouble(scene, seed, min(EVERY, seconds / 8))
        tally = Tally()
        begun = time.monotonic()
        watch.start()
        trouble.start()
        try:
            _ask(scene, tally, seconds, seed, rate)
        finally:
            trouble.stop()
            watch.stop()
        took = time.monotonic() - begun
        quiet = _quiet(scene)
        after = gauges.sample(scene, took)
        uncharged = gauges.uncharged(scene)
        findings = [*watch.findings, *([trouble.failure] if trouble.failure else [])]
        workers = len(scene.workers)
        cpu = sum(map(gauges.cpu, [scene.gateway.pid, *scene.workers]))
        code = scene.gateway.stop()
        if code:
            findings.append(f"the gateway ended with {code}")
        findings += uncounted(folder, tally.ids)
        return Soak(
            took, LIMIT, seed, workers, tally.ends, tally.reasons, [*tally.lost], trouble.counts,
            watch.samples, before, after, quiet, uncharged, findings, tally.longest, cpu,
        )  # fmt: skip


def _ask(scene: Scene, tally: Tally, seconds: float, seed: int, rate: float) -> None:
    """Asks at random times; if all clients are busy, the next waits for one."""
    asker = Asker(seed, tuple(KEYS.values()))
    numbers: queue.Queue[int | None] = queue.Queue(maxsize=1)
    at = scene.gateway.url.removeprefix("http://")

    def work() -> None:
        client = Client(at, scene.away)
        while (number := numbers.get()) is not None:
            question = asker.question(number)
            begun = time.monotonic()
            try:
                verdict = client.ask(question)
            except Exception as error:
                client.close()
                verdict = Verdict("lost", f"the client broke: {type(error).__name__}: {error}")
            tally.count(question, verdict, time.monotonic() - begun)
        tally.ids += client.ids
        client.close()

    clients = [threading.Thread(target=work, name=f"client-{n}") for n in range(CLIENTS)]
    for client in clients:
        client.start()
    rng = random.Random(f"{seed}/times")
    begun = due = time.monotonic()
    try:
        for number in itertools.count():
            time.sleep(max(0.0, due - time.monotonic()))
            numbers.put(number)
            # After a jam, what was due meanwhile is not asked at once.
            due = max(due, time.monotonic() - 1.0) + rng.expovariate(rate)
            if due >= begun + seconds:
                break
    finally:
        for _ in clients:
            numbers.put(None)
        for client in clients:
            client.join()


def uncounted(folder: Path, ids: list[str]) -> list[str]:
    """What is wrong with the ledger and the log, in which each answer that began is once, and
    which agree on requests and tokens."""
    with contextlib.closing(sqlite3.connect(folder / "data" / "slotproxy.db")) as db:
        rows = db.execute("select request, prompt, completion from ledger_row").fetchall()
    text = (folder / "gateway.log").read_text(encoding="utf-8", errors="replace")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"id"')]
    logged = [(line["id"], line["prompt_tokens"], line["completion_tokens"]) for line in lines]
    answered = [row for row, line in zip(logged, lines, strict=True) if line["backend"]]
    counted = Counter(rows)
    once = Counter(id for id, *_ in rows)
    wrong = {
        "answers that are not in the ledger": [id for id in ids if not once[id]],
        "requests that are in the ledger twice": [id for id in once if once[id] > 1],
        "answers in the log that are not in the ledger": [*(Counter(answered) - counted)],
        "rows of the ledger that are not in the log": [*(counted - Counter(logged))],
    }
    return [f"{len(some)} {what}, for example {some[0]}" for what, some in wrong.items() if some]


def _quiet(scene: Scene) -> Idle | None:
    """What is left once everything is idle, or after QUIET seconds."""
    end = time.monotonic() + QUIET
    found: Idle | None = None
    while time.monotonic() < end:
        try:
            found = gauges.idle(scene)
        except ValueError:
            found = None
        if found == Idle(0, 0, 0):
            break
        time.sleep(0.2)
    time.sleep(1.0)  # connections that clients closed are noticed
    return found

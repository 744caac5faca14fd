"""Measures several gateways and workers that share one Redis, compared with a single one.

    python -m benchmarks.several [--part work|fairness|speed] [--program valkey-server]

work      the affinity benchmark's conversations on four servers of 2023 with two slots each,
          through one gateway and through two that take turns: prompt tokens evaluated
fairness  two keys, one with three times as many clients, on four stubs with two slots each: the
          share of answers of the key with fewer clients, who always want more; half is fair
speed     answers a second and CPU of an answer with 1, 2 and 4 workers, before one stub

Prints a line of JSON for each. Needs redis-server or valkey-server. CPU is that of the gateway's
processes, so it is valid on a busy machine; answers a second are those of this machine, whose cores
stub and load generator share with the workers.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tools import made_up_model, servers
from tools.processes import Child, Gateway, ModelServer, ask, free_port

from . import affinity
from .load import Plan
from .measure import cpu
from .scenarios import Load
from .stub_process import Stub

SERVERS = 4
SLOTS = 2  # of each of them
SEEDS = (1, 2, 3)
KEYS = {"sk-many-0123456789": 24, "sk-few-0123456789": 8}  # to clients
ROUNDS = 3
SECONDS = 8.0  # of a measurement of fairness or speed
TOKENS = 16
AT_ONCE = 64


class Scene:
    """Processes of one measurement, which end with it."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack, program: str) -> None:
        self.folder = folder
        self._stack = stack
        self._program = program
        self._serial = itertools.count(1)

    def redis(self) -> str:
        binary = shutil.which(self._program) if self._program else None
        binary = binary or shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            raise SystemExit("redis-server is not installed")
        port = free_port()
        words = f"--bind 127.0.0.1 --port {port} --dir {self.folder} --appendonly no".split()
        one = Child([binary, *words, "--save", ""], self.folder / "redis.log")
        self._stack.callback(one.kill)
        one.launch()
        while "Ready to accept connections" not in one.log:
            time.sleep(0.02)
        return f"redis://127.0.0.1:{port}/0"

    def model_servers(self) -> list[str]:
        binary = servers.find("llama-2023")
        if binary is None:
            raise SystemExit("not built: python -m tools.servers build llama-2023")
        found = []
        for number in range(SERVERS):
            one = ModelServer(
                "llama-2023",
                binary,
                made_up_model.cached(),
                self.folder / f"server-{number}.log",
                slots=SLOTS,
                ctx=2048 * SLOTS,
            )
            self._stack.callback(one.kill)
            one.start()
            found.append(one.url)
        return found

    def stubs(self, count: int, slots: int, pace: int) -> list[str]:
        found = []
        for number in range(count):
            folder = self.folder / f"stub-{number}"
            folder.mkdir()
            one = Stub(folder, slots)
            self._stack.callback(one.process.kill)
            ask(f"{one.upstream}/pace/{pace}")
            found.append(one.upstream)
        return found

    def gateway(self, urls: list[str], *flags: str, workers: int = 1) -> Gateway:
        """A gateway before all of them."""
        number = next(self._serial)
        given = ["--llama-api", ",".join(urls), "--data", str(self.folder / f"data-{number}")]
        given += ["--workers", str(workers), "--log-level", "warning", *flags]
        one = Gateway(given, self.folder / f"gateway-{number}.log")
        self._stack.callback(one.stop)
        one.start()
        return one


@contextlib.contextmanager
def scene(program: str) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        yield Scene(folder, stack, program)


def _gateways(here: Scene, count: int, urls: list[str], *flags: str) -> list[Gateway]:
    """One alone, or several that share a Redis and know all of the servers."""
    more = ["--state", here.redis()] if count > 1 else []
    found = [here.gateway(urls, *more, *flags) for _ in range(count)]
    key = next((flag for flag in flags if flag.startswith("sk-")), "")
    for one in found:
        _wait_for(one, key, [SLOTS] * len(urls), count)
    return found


def _wait_for(gateway: Gateway, key: str, wanted: list[int], workers: int) -> None:
    end = time.monotonic() + 90
    while not _sees(gateway.url, key, wanted, workers):
        if time.monotonic() > end:
            raise SystemExit("the gateways did not start")
        time.sleep(0.1)


def _sees(url: str, key: str, wanted: list[int], workers: int) -> bool:
    """Whether a gateway knows so many slots of each backend, and so many workers."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    try:
        connection.request("GET", "/v1/slots", headers={"Authorization": f"Bearer {key}"})
        told = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    slots = [len(one["slots"]) for one in told["backends"]]
    return slots == wanted and (workers == 1 or told.get("workers") == workers)


# -- prompt work


def evaluated(count: int, work: str, seed: int, program: str) -> tuple[int, int]:
    """Prompt tokens evaluated through so many gateways in turn, and requests lost."""
    with scene(program) as here:
        found = _gateways(here, count, here.model_servers(), *affinity.FLAGS)
        asks = itertools.cycle([affinity.through_gateway(one.url) for one in found])
        result = affinity.run(work, lambda messages: next(asks)(messages), seed)
        return result.evaluated, len(result.lost)


def work(program: str) -> Iterator[dict[str, Any]]:
    for name in affinity.WORKS:
        sums = {1: 0, 2: 0}
        lost = 0
        for seed in SEEDS:
            for count in sums:
                found, missing = evaluated(count, name, seed, program)
                sums[count] += found
                lost += missing
        yield {
            "part": "work",
            "conversations": name,
            "evaluated_by_one": sums[1],
            "evaluated_by_two": sums[2],
            "ratio": round(sums[2] / sums[1], 3),
            "lost": lost,
        }


# -- fairness


def share(count: int, program: str) -> float:
    """The share of answers of the key with fewer clients, through so many gateways."""
    with scene(program) as here:
        flags = [word for key in KEYS for word in ("--api-key", key)]
        found = _gateways(here, count, here.stubs(SERVERS, SLOTS, 100), *flags)
        over = threading.Event()
        answers: Counter[str] = Counter()
        lock = threading.Lock()

        def client(key: str, number: int) -> None:
            at = urlsplit(found[number % count].url).netloc
            connection = http.client.HTTPConnection(at, timeout=60)
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            for turn in itertools.count():
                said = [{"role": "user", "content": f"{key} {number} {turn} and so on"}]
                body = json.dumps({"messages": said, "max_tokens": TOKENS, "model": "stub"})
                connection.request("POST", "/v1/chat/completions", body, headers)
                answer = connection.getresponse()
                answer.read()
                if over.is_set():
                    break
                if answer.status != 200:
                    raise SystemExit(f"a request failed: {answer.status}")
                with lock:
                    answers[key] += 1
            connection.close()

        clients = [
            threading.Thread(target=client, args=(key, number))
            for key, many in KEYS.items()
            for number in range(many)
        ]
        for one in clients:
            one.start()
        time.sleep(SECONDS / 4)  # until the queue is full
        with lock:
            answers.clear()
        time.sleep(SECONDS)
        over.set()
        for one in clients:
            one.join()
        few = min(KEYS, key=KEYS.__getitem__)
        return answers[few] / answers.total()


def fairness(program: str) -> Iterator[dict[str, Any]]:
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(ROUNDS):
        for count, shares in found.items():
            shares.append(share(count, program))
    one, two = (statistics.median(shares) for shares in found.values())
    yield {"part": "fairness", "share_by_one": round(one, 3), "share_by_two": round(two, 3)}


# -- speed


def speed(program: str) -> Iterator[dict[str, Any]]:
    """Workers take turns, so that a change of the machine's speed meets all of them."""
    kinds = ((1, False), (1, True), (2, True), (4, True))
    rates: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
    costs: dict[tuple[int, bool], list[float]] = {kind: [] for kind in kinds}
    load = Load()
    with scene(program) as here:
        (url,) = here.stubs(1, 1024, 0)
        state = here.redis()
        running = {}
        for workers, shared in kinds:
            flags = ["--state", state, "--state-name", f"w{workers}"] if shared else []
            running[workers, shared] = here.gateway([url], *flags, workers=workers)
            _wait_for(running[workers, shared], "", [1024], workers)
        for turn in range(ROUNDS + 1):
            for kind, gateway in running.items():
                plan = Plan(
                    url=f"{gateway.url}/v1/chat/completions",
                    tokens=TOKENS,
                    stream=False,
                    at_once=AT_ONCE,
                    seconds=SECONDS / 2,
                    content="# How long is the way from here to there?",
                    variants=400,
                )
                before = cpu(gateway.pid)
                outcome = load.run(plan)
                if outcome.failed:
                    raise SystemExit(f"{outcome.failed} answers were lost by {kind}\n{gateway.log}")
                if turn:  # the first is warm-up
                    rates[kind].append(outcome.complete / outcome.seconds)
                    costs[kind].append((cpu(gateway.pid) - before) / outcome.complete)
    load.close()
    for kind in kinds:
        workers, shared = kind
        yield {
            "part": "speed",
            "workers": workers,
            "shared": shared,
            "answers_a_second": round(statistics.median(rates[kind])),
            "us_of_cpu_an_answer": round(1e6 * statistics.median(costs[kind])),
        }


PARTS = {"work": work, "fairness": fairness, "speed": speed}


def main() -> None:
    parser = argparse.ArgumentParser(description="One gateway, and several on one Redis.")
    parser.add_argument("--part", choices=PARTS, help="only this")
    parser.add_argument("--program", default="", help="redis-server or valkey-server")
    args = parser.parse_args()
    for name, part in PARTS.items():
        if args.part in (None, name):
            for row in part(args.program):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""What a gateway occupies: memory, descriptors, threads, files, database, slots. Reads /proc."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from proxy.accounts.limiting.shared import LEASE
from tests.fuzz.subject import BAD
from tools.processes import ask

from .questions import STUB
from .scene import LIMITED, Scene

SHOWN = 2000  # characters of a log


class Sample(NamedTuple):
    """`at`: seconds since the start. Memory, descriptors and threads are of all workers together;
    sizes are in bytes. `temporary`: files in the gateway's temporary folder."""

    at: float
    memory: int
    descriptors: int
    threads: int
    temporary: int
    database: int


class Idle(NamedTuple):
    """What is left when nothing is asked. `reserved`: places of keys under their limits, 0 without
    Redis."""

    busy: int
    in_flight: int
    queued: int
    reserved: int = 0


def memory(pid: int) -> int:
    """Bytes that only this process would free. Raises OSError."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(kb) << 10 for kb in re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.M))


def sample(scene: Scene, at: float) -> Sample:
    """Raises OSError if a worker has ended."""
    pids = scene.workers
    return Sample(
        at,
        sum(memory(pid) for pid in pids),
        sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids),
        sum(len(os.listdir(f"/proc/{pid}/task")) for pid in pids),
        sum(len(files) for _, _, files in os.walk(scene.folder / "tmp")),
        _size(scene.folder / "data"),
    )


def _size(folder: Path) -> int:
    found = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found += os.stat(os.path.join(at, name)).st_size
    return found


def idle(scene: Scene) -> Idle:
    """Raises ValueError if the gateway does not answer."""
    busy = in_flight = queued = 0
    for member in scene.members:
        slots = scene.get("/v1/slots", member=member)
        states = [slot["state"] for backend in slots["backends"] for slot in backend["slots"]]
        busy += states.count("busy")
        backends = scene.get("/v1/backends", member=member)["data"]
        in_flight += sum(one["in_flight"] for one in backends)
        queued += len(slots["queue"])
    return Idle(busy, in_flight, queued, _reserved(scene))


def _reserved(scene: Scene) -> int:
    """Requests that limits count as running. A lease of a dead worker has ended after ten seconds,
    but stays until the next request."""
    if scene.redis is None:
        return 0
    from redis import Redis

    with Redis.from_url(scene.redis.url) as redis:
        sets = redis.scan_iter("slotproxy:*:limits2:*", _type="zset")
        counts: list[int] = [redis.zcount(name, 1e6 * time.time(), "+inf") for name in sets]
    return sum(counts)


def uncharged(scene: Scene) -> int:
    """Tokens that the ledger has, and the budget of the limited key has not; negative for those
    that were charged twice. One more request gives back what dead workers reserved. Raises
    ValueError."""
    if len(scene.members) > 1:
        time.sleep(LEASE + 1.0)  # the gateways take dead workers for dead
        body = {"model": STUB, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
        headers = {"Authorization": f"Bearer {scene.keys[LIMITED]}"}
        ask(f"http://{scene.members[0].at}/v1/chat/completions", body, headers=headers)
        time.sleep(2.0)  # the ledger is written twice a second
    usage = scene.get("/pages/api/usage", LIMITED)
    (budget,) = (one for one in usage["limits"] if one["is_budget"])
    total = usage["total"]
    counted: int = total["prompt_tokens"] + total["completion_tokens"]
    charged: int = round(budget["used"])
    return counted - charged


def growth(samples: list[Sample], warm: float, late: float) -> float:
    """Growth of memory from the first fifth between these seconds to the last, as a share."""
    found = [one.memory for one in samples if warm <= one.at < late]
    part = max(1, len(found) // 5)
    if len(found) < 2:
        return 0.0
    return median(found[-part:]) / median(found[:part]) - 1


class Watch(threading.Thread):
    """Samples every `every` seconds until `stop`, and reads the gateways' logs. `findings` are
    lines that must not be in them, and workers that died."""

    def __init__(self, scene: Scene, every: float) -> None:
        super().__init__(name="watch")
        self._scene = scene
        self._every = every
        self._begun = time.monotonic()
        self._stopped = threading.Event()
        self._workers, self._starts = scene.workers, scene.starts
        self.samples: list[Sample] = []
        self.findings: list[str] = []
        self._seen: set[str] = set()

    def run(self) -> None:
        files = [member.log_file for member in self._scene.members if member.log_file]
        with contextlib.ExitStack() as opened:
            logs = [opened.enter_context(file.open(errors="replace")) for file in files]
            while True:
                over = self._stopped.wait(self._every)
                self._look("".join(log.read() for log in logs))
                if over:
                    return

    def _look(self, new: str) -> None:
        for found in BAD.finditer(new):
            line = new[new.rfind("\n", 0, found.start()) + 1 : found.end() + SHOWN]
            self._find(re.sub("[0-9]+", "N", line[:150]), line)
        starts = self._scene.starts
        try:
            workers = self._scene.workers
            new_sample = sample(self._scene, time.monotonic() - self._begun)
        except OSError as error:
            if not self._scene.is_down and starts == self._scene.starts:
                self._find("a worker is gone", str(error))
            return
        if self._scene.is_down or starts != self._scene.starts:
            return
        if workers != self._workers and starts == self._starts:
            self._find("a worker died", f"{self._workers} became {workers}")
        self._workers, self._starts = workers, starts
        self.samples.append(new_sample)

    def _find(self, name: str, more: str) -> None:
        if name not in self._seen:
            self._seen.add(name)
            self.findings.append(more)

    def stop(self) -> None:
        self._stopped.set()
        self.join()

"""Measures the cost of a shared slot table: ``python -m benchmarks.shared``; needs redis-server.

Prints one line of JSON: the microseconds of CPU that every worker spends on each request of any
worker (its arrival, first token and end, as read from the log), compared with a single
process; the size of a snapshot and the milliseconds to write and read one; and the milliseconds
from a request to its slot through a real Redis, compared with a bare PING.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import subprocess
import tempfile
import time

from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.scheduler import LocalScheduler
from proxy.scheduling.shared import RedisLog, SharedScheduler, ops, snapshot
from proxy.scheduling.shared.replica import Replica, SharedRules
from proxy.scheduling.state import BackendFacts, SlotRequest
from tools.processes import free_port

SLOTS = 4
RULES = SharedRules("benchmark")


def _want(number: int) -> SlotRequest:
    text = f"conversation {number} " * 40
    return SlotRequest(model="m", max_tokens=64, chain=chain_of(text, (len(text),)))


def in_the_log(slots: int, conversations: int) -> dict[str, float]:
    replica, plain = Replica(RULES), LocalScheduler(time.monotonic)
    for number in range(slots // SLOTS):
        facts = BackendFacts(model="m", slots=SLOTS)
        replica.apply(1000.0, "A", [ops.BackendFound(f"b{number}", True, facts)])
        plain.update(f"b{number}", facts, up=True)
    draw = random.Random(1)
    shared, alone = [], []
    for number in range(conversations):
        request = _want(draw.randrange(conversations))
        came = ops.encode([ops.enqueue(number, request, False)])
        outcome = Outcome(end="whole", slot=-1, prompt=150, cached=0, completion=60, evaluating=0.1)
        ended = [
            ops.encode([one]) for one in (ops.FirstToken(number, -1), ops.Release(number, outcome))
        ]
        now = 1000.0 + number / 100
        began = time.process_time_ns()
        for written in (came, *ended):
            replica.apply(now, "A", ops.decode(written))
        shared.append(time.process_time_ns() - began)
        began = time.process_time_ns()
        lease = plain.enter(request)
        assert isinstance(lease, Lease)
        lease.on_first_token(-1)
        lease.owner.on_last_token(lease)
        lease.release(outcome)
        alone.append(time.process_time_ns() - began)
    began = time.process_time_ns()
    data = snapshot.dump(replica)
    written_in = time.process_time_ns() - began
    began = time.process_time_ns()
    snapshot.load(data, RULES)
    read_in = time.process_time_ns() - began
    return {
        "slots": slots,
        "conversations": conversations,
        "us_a_request": round(statistics.median(shared) / 1e3, 1),
        "us_a_request_in_one_process": round(statistics.median(alone) / 1e3, 1),
        "snapshot_kb": round(len(data) / 1e3),
        "snapshot_write_ms": round(written_in / 1e6, 1),
        "snapshot_read_ms": round(read_in / 1e6, 1),
    }


def through_redis(tries: int = 1000) -> dict[str, float]:
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        raise SystemExit("redis-server is not installed")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        words = f"--bind 127.0.0.1 --port {port} --dir {folder}".split()
        server = subprocess.Popen([binary, *words, "--save", ""], stdout=subprocess.DEVNULL)
        try:
            return _through(f"redis://127.0.0.1:{port}/0", tries)
        finally:
            server.kill()
            server.wait()


def _through(url: str, tries: int) -> dict[str, float]:
    import redis

    one, two = (
        SharedScheduler(RedisLog(url, "b"), time.monotonic, version="benchmark") for _ in "ab"
    )
    if not (one.ready(10.0) and two.ready(10.0)):
        raise SystemExit("Redis is not responding")
    for worker in (one, two):
        worker.update("b", BackendFacts(model="m", slots=SLOTS), up=True)
    pings, asked = [], []
    client = redis.Redis.from_url(url)
    for number in range(tries):
        began = time.perf_counter()
        client.ping()
        pings.append(time.perf_counter() - began)
        began = time.perf_counter()
        lease = (one, two)[number % 2].acquire(_want(number), Cancel())
        asked.append(time.perf_counter() - began)
        lease.release(
            Outcome(
                end="whole", slot=lease.slot.id, prompt=150, cached=0, completion=60, evaluating=0.1
            )
        )
    for worker in (one, two):
        worker.close()
    client.close()
    return {
        "ping_p50_ms": _ms(pings, 50),
        "slot_p50_ms": _ms(asked, 50),
        "slot_p99_ms": _ms(asked, 99),
    }


def _ms(values: list[float], part: int) -> float:
    return round(1000 * statistics.quantiles(values, n=100)[part - 1], 2)


if __name__ == "__main__":
    print(json.dumps(in_the_log(64, 2000)))
    print(json.dumps(in_the_log(1000, 20000)))
    print(json.dumps(through_redis()))

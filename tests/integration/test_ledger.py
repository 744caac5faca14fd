"""The ledger of a real gateway whose workers are killed: its sums are those of the clients."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from sqlalchemy import select

from benchmarks.stub_process import Stub
from proxy.store.database import Database
from proxy.store.ledger import Ledger
from proxy.store.tables import LEDGER_WRITER
from tests import thorough
from tests.fakes import wait_until
from tools.processes import Gateway

from .child_processes import descendants
from .conftest import StartGateway

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(not os.path.isdir("/proc/net"), reason="reads Linux's /proc"),
]

CLIENTS = 8
CAUGHT_UP = 4  # batches after which a writer stores what has just come in
LAST = 1.0  # seconds before a kill whose requests may be lost, as the documentation says
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
STREAMED = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
# Each with the path, and whether the client leaves after the first piece of the answer.
REQUESTS: list[tuple[str, dict[str, Any], bool]] = [
    ("/v1/chat/completions", CHAT, False),
    ("/v1/chat/completions", STREAMED, False),
    ("/v1/chat/completions", {**CHAT, "n": 2}, False),
    ("/v1/chat/completions", {**STREAMED, "n": 2}, False),
    ("/v1/chat/completions", {**STREAMED, "tools": [TOOL]}, False),
    ("/v1/chat/completions", {**STREAMED, "max_tokens": 2000}, True),
    ("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 4}, False),
    ("/v1/responses", {"input": "Hi", "max_output_tokens": 4, "store": False}, False),
    ("/v1/messages", CHAT, False),
    ("/api/chat", {**CHAT, "model": "stub", "stream": False}, False),
]


class Counts(NamedTuple):
    prompt: int
    completion: int


class Received(NamedTuple):
    """The usage that a client received, None if it left. `begun` and `at` are when it asked and had
    read the answer, in seconds since 1970."""

    counts: Counts | None
    begun: float
    at: float


class Clients:
    """Send requests until they are stopped: a worker that starts late needs some to write. Requests
    whose gateway is killed are sent again, with another id."""

    def __init__(self, url: str) -> None:
        self.received: dict[str, Received] = {}
        self._place = urlsplit(url).netloc
        self._numbers = itertools.count()
        self._over = threading.Event()

    def run(self) -> None:
        with closing(http.client.HTTPConnection(self._place, timeout=60)) as connection:
            self._send(connection)

    def _send(self, connection: http.client.HTTPConnection) -> None:
        while not self._over.is_set():
            number = next(self._numbers)
            path, body, leaves = REQUESTS[number % len(REQUESTS)]
            name = f"r{number}"
            begun = time.time()
            try:
                counts = _counts(connection, path, body, name, leaves)
            except (OSError, http.client.HTTPException, ValueError):
                connection.close()
                time.sleep(0.01)  # its gateway was killed
                continue
            if leaves:
                connection.close()
            self.received[name] = Received(counts, begun, time.time())

    def have(self, count: int) -> bool:
        return len(self.received) >= count

    def stop(self) -> None:
        self._over.set()


def _counts(
    connection: http.client.HTTPConnection,
    path: str,
    body: Mapping[str, Any],
    name: str,
    leaves: bool,
) -> Counts | None:
    headers = {"Content-Type": "application/json", "X-Request-ID": name}
    connection.request("POST", path, json.dumps(body).encode(), headers)
    with connection.getresponse() as answer:
        assert answer.status == 200, answer.read()
        text = answer.read(1) if leaves else answer.read()
    if leaves:
        return None
    if body.get("stream"):
        lines = [line for line in text.split(b"\n") if line.startswith(b"data: {")]
        reply = json.loads(lines[-1].removeprefix(b"data: "))
    else:
        reply = json.loads(text)
    if path == "/api/chat":
        return Counts(reply["prompt_eval_count"], reply["eval_count"])
    usage = reply["usage"]
    if "prompt_tokens" in usage:
        return Counts(usage["prompt_tokens"], usage["completion_tokens"])
    cached = usage.get("cache_read_input_tokens", 0)
    return Counts(usage["input_tokens"] + cached, usage["output_tokens"])


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    made = Stub(tmp_path_factory.mktemp("stub"), slots=64)
    yield made
    made.process.kill()


def _kill_workers(gateway: Gateway) -> tuple[float, float]:
    """Kill all workers at once; gunicorn starts others. Returns the time (since 1970) before, and
    when they are gone."""
    workers = descendants(gateway.pid)
    before = time.time()
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set(descendants(gateway.pid)).isdisjoint(workers))
    return before, time.time()


def _all_write(gateway: Gateway, workers: int, database: str) -> bool:
    """Whether all workers have opened the database, which takes a while after they start, and have
    stored what had come in until then."""
    opened = Database(database)
    try:
        later = select(LEDGER_WRITER.c.writer).where(LEDGER_WRITER.c.batch >= CAUGHT_UP)
        names = [row.writer for row in opened.rows(later)]
    finally:
        opened.close()
    writing = {int(name.split(":")[1]) for name in names} & set(descendants(gateway.pid))
    return len(writing) == workers


def _check(
    gateway: Gateway, database: str, count: int, *, kills: int, workers: int
) -> tuple[int, int]:
    """Send at least `count` requests while workers are killed, and compare what clients received
    with the ledger. Returns how many were compared, and how many were lost with a worker."""
    clients = Clients(gateway.url)
    killed: list[tuple[float, float]] = []
    with ThreadPoolExecutor(CLIENTS) as pool:
        work = [pool.submit(clients.run) for _ in range(CLIENTS)]
        try:
            for number in range(1, kills + 1):
                enough = count * number // (kills + 1)
                wait_until(partial(clients.have, enough), 60)
                wait_until(partial(_all_write, gateway, workers, database), 60)
                killed.append(_kill_workers(gateway))
            wait_until(partial(clients.have, count), 60)
        finally:
            clients.stop()
    for done in work:
        done.result()
    assert gateway.stop() == 0
    opened = Database(database)
    try:
        ledger = Ledger(opened)
        rows = {row.request: row for row in ledger.rows(0, 1 << 60)}
        (hours,) = ledger.groups(0, 1 << 60)
    finally:
        opened.close()
    for name in ("prompt", "cached", "completion", "reasoning"):
        assert getattr(hours.sums, name) == sum(getattr(row, name) for row in rows.values())
    assert hours.sums.requests == len(rows)
    lost = 0
    for name, received in clients.received.items():
        row = rows.get(name)
        if row is None:
            # A client may read an answer after its worker has ended.
            near = [begin - LAST <= received.at and received.begun <= end for begin, end in killed]
            assert any(near), (name, received, killed)
            lost += 1
            continue
        if received.counts is None:
            assert row.outcome in ("cancelled", "ok"), row  # the answer may have been written
            continue
        assert (row.prompt, row.completion, row.outcome) == (*received.counts, "ok"), received
    return len(clients.received), lost


def test_sums_equal_what_clients_received_when_workers_are_killed(
    stub: Stub, gateway: StartGateway, tmp_path: Path
) -> None:
    running = gateway("--llama-api", stub.upstream, "--data", str(tmp_path / "data"))
    count = 2000 if thorough.FEW else 5000
    compared, lost = _check(
        running, f"sqlite:///{tmp_path}/data/slotproxy.db", count, kills=4, workers=1
    )
    assert compared >= count
    assert lost < count / 2

"""Several workers, and several gateways, that share their slots in a real Redis."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease, Outcome
from proxy.scheduling.prefix import chain_of
from proxy.scheduling.shared import LogError, RedisLog, SharedScheduler, follower
from proxy.scheduling.shared.log import LogEntry, Position
from proxy.scheduling.shared.ops import FORMAT
from proxy.scheduling.state import BackendFacts, SlotRequest
from tests.fakes import wait_until
from tests.redis_servers import RedisServer
from tests.unit.scheduling.fakes import ended
from tools.processes import Gateway, ModelServer, ask

from .asking import fetch
from .child_processes import children
from .conftest import StartGateway

NEVER = Cancel()


def _flags(
    redis_server: RedisServer, backend: ModelServer, tmp_path: Path, *more: str
) -> list[str]:
    flags = ["--llama-api", backend.url, "--state", redis_server.url, "--data", str(tmp_path)]
    return [*flags, "--chat-template", "legacy", *more]


def _slots(url: str) -> dict[str, Any]:
    view: dict[str, Any] = json.loads(ask(f"{url}/v1/slots")[1] or b"{}")
    return view


def _states(url: str) -> list[str]:
    return [slot["state"] for backend in _slots(url)["backends"] for slot in backend["slots"]]


def _turns(url: str) -> list[int]:
    """The turns of each conversation that a slot holds."""
    held = [slot["turns"] for backend in _slots(url)["backends"] for slot in backend["slots"]]
    return [turns for turns in held if turns]


class Stream:
    """A streamed chat on its own connection, whose socket identifies the worker."""

    def __init__(
        self, url: str, text: str, tokens: int, connection: http.client.HTTPConnection | None = None
    ) -> None:
        self.connection = connection or _connected(url)
        body = {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": tokens,
            "stream": True,
            "ignore_eos": True,
        }
        self.connection.request(
            "POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"}
        )

    def whole(self) -> bytes:
        """b"" where it was cut off."""
        try:
            return self.connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return b""
        finally:
            self.connection.close()


def _connected(url: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.connect()
    return connection


def _holder(connection: http.client.HTTPConnection, pids: list[int]) -> int:
    """The pid of the worker that accepted this connection; 0: none yet."""
    port = connection.sock.getsockname()[1]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ends = [connection.port, port]
    # The kernel gives out its table in pieces: a line may come twice, or not at all.
    links = {
        f"socket:[{line[9]}]"
        for line in lines
        if [int(end.split(":")[1], 16) for end in line[1:3]] == ends
    }
    for pid in pids:
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{number}") in links:
                    return pid
            except FileNotFoundError:
                pass
    return 0


def _one_of_each(url: str, pids: list[int]) -> dict[int, http.client.HTTPConnection]:
    """A connection to each of the workers; the kernel chooses who takes one."""
    connections: dict[int, http.client.HTTPConnection] = {}
    for _ in range(100):
        connection = _connected(url)
        wait_until(lambda connection=connection: _holder(connection, pids) != 0)  # type: ignore[misc]
        if connections.setdefault(_holder(connection, pids), connection) is not connection:
            connection.close()
        if len(connections) == len(pids):
            return connections
    raise AssertionError("one worker takes them all")


def _chat(url: str, text: str, tokens: int = 8, **more: Any) -> tuple[int, dict[str, str], Any]:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, **more}
    return fetch(url, "/v1/chat/completions", body)


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/net"), reason="reads Linux's /proc")


@pytest.mark.slow
def test_gateways_lease_no_slot_twice_and_share_conversations(
    redis_server: RedisServer, old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> None:
    flags = _flags(redis_server, old_server, tmp_path, "--slots", "2")
    here, there = gateway(*flags), gateway(*flags)
    wait_until(lambda: _slots(here.url).get("workers") == 2 == _slots(there.url).get("workers"))
    # So long that it is worth the 17 ms in which a server of 2023 frees the slot.
    text = "The quick brown fox jumps over the lazy dog, and so on. " * 45
    _, _, first = _chat(here.url, text)
    # Published at once, but not before the answer: until then, it would go to the other slot.
    wait_until(lambda: _turns(there.url) == [1] and "busy" not in _states(there.url))
    _, _, again = _chat(there.url, text)
    assert first["usage"]["prompt_tokens"] == again["usage"]["prompt_tokens"]
    wait_until(lambda: _turns(there.url) == [2])  # of one conversation, on two gateways

    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: _chat((here, there)[n % 2].url, f"{n} is a number"), range(24))
        )
    assert [status for status, _, _ in answers] == [200] * 24
    wait_until(lambda: _slots(here.url)["backends"][0]["requests"] >= 26)
    (backend,) = _slots(here.url)["backends"]
    # Leases. A server that has not noticed the end of an answer is busy, and asked again; with
    # slots leased twice, that would be every second request, again and again.
    assert 26 <= backend["requests"] < 38
    assert backend["moved"] <= 2
    wait_until(lambda: _states(here.url).count("busy") == 0)


def _response(gateway: Gateway, **body: Any) -> dict[str, Any]:
    status, _, made = fetch(gateway.url, "/v1/responses", {"model": "any", **body})
    assert status == 200, made
    return dict(made)


def _stored(gateway: Gateway, key: str) -> dict[str, Any]:
    status, _, stored = fetch(gateway.url, f"/v1/responses/{key}")
    assert status == 200, stored
    return dict(stored)


@pytest.mark.slow
def test_gateways_share_stored_responses(
    redis_server: RedisServer, old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> None:
    flags = _flags(redis_server, old_server, tmp_path, "--slots", "2")
    with ThreadPoolExecutor(2) as pool:
        here, there = pool.map(lambda _: gateway(*flags), range(2))

    first = _response(here, input="The quick brown fox", max_output_tokens=8)
    assert _stored(there, first["id"]) == first
    then = _response(there, input="And?", max_output_tokens=8, previous_response_id=first["id"])
    assert then["usage"]["input_tokens"] > first["usage"]["total_tokens"]

    old_server.send(signal.SIGSTOP)
    try:
        begun = _response(here, input="A long one", background=True)
        assert _stored(there, begun["id"])["status"] in ("queued", "in_progress")
        cancelled = f"{there.url}/v1/responses/{begun['id']}/cancel"
        assert json.loads(ask(cancelled, {})[1])["status"] == "cancelled"
    finally:
        old_server.send(signal.SIGCONT)
    # The gateway that makes it notices, and gives its slot back.
    wait_until(lambda: _states(here.url).count("busy") == 0)
    assert _stored(here, begun["id"])["status"] == "cancelled"


@pytest.mark.slow
@needs_proc
def test_slots_of_killed_worker_are_freed_and_other_streams_continue(
    redis_server: RedisServer, old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> None:
    flags = _flags(redis_server, old_server, tmp_path, "--workers", "2", "--slots", "2")
    running = gateway(*flags, "--health-interval", "600")
    wait_until(lambda: _slots(running.url).get("workers") == 2)
    pids = children(running.pid)
    assert len(pids) == 2
    (_, alive), (killed, lost) = _one_of_each(running.url, pids).items()
    old_server.send(signal.SIGSTOP)  # otherwise it would finish too early
    try:
        stream, probe = Stream(running.url, "a", 1500, alive), Stream(running.url, "b", 1500, lost)
        wait_until(lambda: _states(running.url) == ["busy", "busy"])
        os.kill(killed, signal.SIGKILL)
        at = time.monotonic()
        assert b"[DONE]" not in probe.whole()
        # The other worker has read of it in a moment. Only its holder can release it, until the
        # other considers it dead, after six seconds.
        if (left := 4 - (time.monotonic() - at)) > 1:  # else the machine is too busy to tell
            wait_until(lambda: _states(running.url) == ["busy", "busy"], left)
        wait_until(lambda: _states(running.url).count("busy") == 1, 60)
        assert time.monotonic() - at > 3
    finally:
        old_server.send(signal.SIGCONT)
    whole = stream.whole()
    assert b'"finish_reason":"length"' in whole
    assert b"[DONE]" in whole
    wait_until(lambda: _chat(running.url, "third")[0] == 200)
    wait_until(lambda: _slots(running.url).get("workers") == 2)
    wait_until(lambda: _states(running.url).count("busy") == 0)


def test_joining_worker_loads_the_snapshot_and_deleted_log_restarts(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    monkeypatch.setattr(follower, "EVERY", 20)
    workers: list[SharedScheduler] = []

    def join() -> SharedScheduler:
        log = RedisLog(redis_server.url, "late")
        worker = SharedScheduler(log, time.monotonic, version="test")
        workers.append(worker)
        assert worker.ready(60.0)
        worker.update("b", BackendFacts(model="m", slots=2), up=True)
        return worker

    def known(worker: SharedScheduler) -> list[Any]:
        (backend,) = worker.view("", "").backends
        slots = [(slot.conversation, slot.tokens, slot.turns) for slot in backend.slots]
        return [backend.requests, *slots]

    client = redis.Redis(port=redis_server.port)
    try:
        here = join()
        for number in range(200):
            text = f"conversation {number % 5} " * 40
            lease = here.acquire(
                SlotRequest(model="m", max_tokens=16, chain=chain_of(text, (len(text),))), Cancel()
            )
            lease.release(ended(lease.slot.id, 200, completion=16))
        wait_until(lambda: client.exists(f"slotproxy:{{late}}:snapshot:{FORMAT}") == 1)
        there = join()
        wait_until(lambda: there.view("", "").workers == 2)
        assert known(there)[0] == 200
        wait_until(lambda: known(here) == known(there))  # each reads the last release for itself

        client.delete(f"slotproxy:{{late}}:log:{FORMAT}", f"slotproxy:{{late}}:snapshot:{FORMAT}")
        wait_until(lambda: "alone" in [w.view("", "").state for w in workers])
        wait_until(lambda: [w.view("", "").workers for w in workers] == [2, 2])
        assert here.outstanding == 0
    finally:
        for worker in workers:
            worker.close()
        client.close()


def test_slow_worker_replaces_no_newer_snapshot(redis_server: RedisServer) -> None:
    import redis

    log = RedisLog(redis_server.url, "kept")
    _, begin = log.begin()
    written = [log.append("a", b"\x90") for _ in range(400)]
    entries: list[LogEntry] = []
    while len(entries) < 400:
        entries += log.read(entries[-1].position if entries else begin)
    assert [entry.position for entry in entries] == written
    old, new = written[99], written[299]
    log.keep(100, old, b"of 100")
    log.keep(300, new, b"of 300")  # trims what is before the one of 100
    log.keep(100, old, b"of 100, by a worker that was slow")
    assert log.begin() == (b"of 300", new)
    assert log.exchange("a", b"\x90", old)[0].position == written[100]
    with redis.Redis(port=redis_server.port) as client:
        name, oldest = f"slotproxy:{{kept}}:log:{FORMAT}", "{}-{}".format(*new)
        client.xtrim(name, minid=oldest, approximate=False)
    with pytest.raises(LogError, match="missed entries"):
        log.exchange("a", b"\x90", old)
    with pytest.raises(LogError, match="missed entries"):
        log.read(old)
    log.close()


def test_worker_that_missed_the_end_of_a_lease_gets_its_slot(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The only slot is released, and used again and again, while a worker cannot read the log."""
    monkeypatch.setattr(follower, "EVERY", 16)
    reads = threading.Event()
    reads.set()

    class Slow(RedisLog):
        def read(self, position: Position) -> Sequence[LogEntry]:
            entries = super().read(position)
            reads.wait()  # behind it, so that a read that begins late shows nothing new either
            return entries

        def exchange(self, member: str, ops: bytes, position: Position) -> Sequence[LogEntry]:
            entries = super().exchange(member, ops, position)
            reads.wait()
            return entries

    def join(log: RedisLog) -> SharedScheduler:
        worker = SharedScheduler(log, time.monotonic, version="test", queue_timeout=60.0)
        assert worker.ready(60.0)
        worker.update("b", BackendFacts(model="m", slots=1), up=True)
        return worker

    def lease(worker: SharedScheduler) -> Lease:
        return worker.acquire(SlotRequest(model="m", max_tokens=16, chain=chain_of("a", ())), NEVER)

    fast, slow = join(RedisLog(redis_server.url, "gap")), join(Slow(redis_server.url, "gap"))
    try:
        held = lease(fast)
        wait_until(lambda: [b.slots[0].state for b in slow.view("", "").backends] == ["busy"])
        reads.clear()
        time.sleep(1.0)  # the read under way returns
        held.release(Outcome(end="whole"))
        for _ in range(600):
            lease(fast).release(Outcome(end="whole"))
        reads.set()
        lease(slow).release(Outcome(end="whole"))
        wait_until(lambda: "missed entries of the log" in caplog.text)
    finally:
        reads.set()
        for worker in (fast, slow):
            worker.close()

"""Gateways that lose the Redis they share: it hangs, restarts with its data, or the network is cut
between one of them and it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import redis_servers
from tests.redis_servers import RedisServer
from tools.processes import Gateway, ModelServer, ask

from .child_processes import until
from .conftest import StartGateway
from .test_state import Stream, _chat, _slots, _states

pytest.importorskip("redis", reason="the extra redis is not installed")

pytestmark = pytest.mark.slow


class Network:
    """A network namespace with a link to this one for each of two gateways, which can be cut.
    `hosts` are its addresses at the ends of the links."""

    def __init__(self) -> None:
        self.name = f"slotproxy-{os.getpid()}"
        # 198.18.0.0/15 is for tests of networks; each process has its own eight addresses there.
        base = (os.getpid() % 8192) * 8
        self._ours = [f"198.18.{base >> 8}.{(base & 255) + n}" for n in (1, 5)]
        self.hosts = [f"198.18.{base >> 8}.{(base & 255) + n}" for n in (2, 6)]
        self._links = [f"sp{os.getpid()}-{n}" for n in "ab"]

    def make(self) -> None:
        """Raises RuntimeError with the reason where that is not permitted."""
        _ip("netns", "add", self.name)
        for link, ours, host in zip(self._links, self._ours, self.hosts, strict=True):
            inner = f"{link}-in"[-15:]
            _ip(*f"link add {link} type veth peer name {inner} netns {self.name}".split())
            _ip(*f"addr add {ours}/30 dev {link}".split())
            _ip(*f"-n {self.name} addr add {host}/30 dev {inner}".split())
            _ip(*f"-n {self.name} link set {inner} up".split())
            self.mend(self._links.index(link))

    def cut(self, number: int) -> None:
        """Drop everything on a link, without a word to either side."""
        _ip("link", "set", self._links[number], "down")

    def mend(self, number: int) -> None:
        _ip("link", "set", self._links[number], "up")

    def end(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], capture_output=True, timeout=20)
        for link in self._links:
            subprocess.run(["ip", "link", "del", link], capture_output=True, timeout=20)


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=20)
    except FileNotFoundError:
        raise RuntimeError("ip is not installed (Debian: apt-get install iproute2)") from None
    if done.returncode:
        raise RuntimeError(f"ip {words[0]}: {done.stderr.strip()}")


@pytest.fixture
def network() -> Iterator[Network]:
    made = Network()
    try:
        try:
            made.make()
        except RuntimeError as why:
            pytest.skip(f"no network namespaces here: {why}")
        yield made
    finally:
        made.end()


@pytest.fixture
def start_two(
    old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> Callable[..., list[Gateway]]:
    """Factory: two gateways on these Redis addresses, before one server with two slots."""

    def start(*states: str) -> list[Gateway]:
        flags = ["--llama-api", old_server.url, "--chat-template", "legacy", "--slots", "2"]
        flags += ["--health-interval", "600", "--data", str(tmp_path)]
        found = [gateway(*flags, "--state", state) for state in states]
        until(lambda: _workers_known(found) == [2, 2])
        return found

    return start


def _workers_known(gateways: list[Gateway]) -> list[Any]:
    return [_slots(one.url).get("workers") for one in gateways]


def _notices(one: Gateway) -> bool:
    return b"notices" in ask(f"{one.url}/health")[1]


class Traffic(threading.Thread):
    """Chats on both gateways in turn until `stop`; `statuses` of their answers."""

    def __init__(self, gateways: list[Gateway]) -> None:
        super().__init__()
        self._gateways = gateways
        self._stopped = threading.Event()
        self.statuses: list[int] = []

    def run(self) -> None:
        while not self._stopped.is_set():
            one = self._gateways[len(self.statuses) % 2]
            self.statuses.append(_chat(one.url, f"number {len(self.statuses)}", 4)[0])

    def __enter__(self) -> Traffic:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()


def test_gateway_cut_off_from_redis_serves_alone_and_the_other_goes_on(
    network: Network,
    old_server: ModelServer,
    start_two: Callable[..., list[Gateway]],
    tmp_path: Path,
) -> None:
    server = RedisServer(redis_servers.first(), tmp_path, inside=network.name)
    try:
        server.start()
        both = start_two(*(f"redis://{host}:{server.port}/0" for host in network.hosts))
        cut, other = both
        with ThreadPoolExecutor(1) as pool:
            old_server.send(signal.SIGSTOP)  # the stream is under way when the network is cut
            try:
                stream = Stream(cut.url, "before", 200)
                until(lambda: _states(other.url).count("busy") == 1)
                whole = pool.submit(stream.whole)
                network.cut(0)
                until(lambda: _slots(cut.url)["state"] == "alone")
                # What cannot be heard of is dead to the other, and its slot is free.
                until(lambda: _slots(other.url)["workers"] == 1)
                until(lambda: _states(other.url).count("busy") == 0)
            finally:
                old_server.send(signal.SIGCONT)
            assert b"[DONE]" in whole.result()
        assert not _notices(other)
        with Traffic(both) as traffic:
            until(lambda: len(traffic.statuses) >= 20)
            network.mend(0)
            until(lambda: _workers_known(both) == [2, 2])
            seen = len(traffic.statuses)
            until(lambda: len(traffic.statuses) >= seen + 20)
        assert {*traffic.statuses} == {200}
        for one in both:
            until(lambda one=one: _states(one.url) == ["free", "free"])  # type: ignore[misc]
            assert not _notices(one)
    finally:
        server.kill()


def test_requests_are_answered_while_redis_hangs(
    redis_server: RedisServer, start_two: Callable[..., list[Gateway]]
) -> None:
    both = start_two(redis_server.url, redis_server.url)
    with Traffic(both) as traffic:
        redis_server.send(signal.SIGSTOP)
        try:
            until(lambda: all(_slots(one.url).get("state") == "alone" for one in both))
            seen = len(traffic.statuses)
            until(lambda: len(traffic.statuses) >= seen + 20)
        finally:
            redis_server.send(signal.SIGCONT)
        until(lambda: _workers_known(both) == [2, 2])
    assert {*traffic.statuses} == {200}
    for one in both:
        until(lambda one=one: _states(one.url) == ["free", "free"])  # type: ignore[misc]
        assert not _notices(one)


def test_redis_that_restarts_with_its_data_leaks_no_slot(
    old_server: ModelServer, start_two: Callable[..., list[Gateway]], tmp_path: Path
) -> None:
    """Its log still has the earlier leases; releases of the meantime are written again."""
    server = RedisServer(redis_servers.first(), tmp_path, keeps=True)
    try:
        server.start()
        both = start_two(server.url, server.url)
        old_server.send(signal.SIGSTOP)
        try:
            streams = [Stream(one.url, "before", 40) for one in both]
            until(lambda: _states(both[0].url) == ["busy", "busy"])
            server.kill()
        finally:
            old_server.send(signal.SIGCONT)
        assert all(b"[DONE]" in stream.whole() for stream in streams)
        server.start()
        until(lambda: _workers_known(both) == [2, 2])
        for one in both:
            until(lambda one=one: _states(one.url) == ["free", "free"])  # type: ignore[misc]
            assert _chat(one.url, "after")[0] == 200
    finally:
        server.kill()

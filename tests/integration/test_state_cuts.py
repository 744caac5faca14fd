"""Gateways that lose the Redis they share: it hangs, or restarts with its data."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import redis_servers
from tests.fakes import wait_until
from tests.redis_servers import RedisServer
from tools.processes import Gateway, ModelServer, ask

from .conftest import StartGateway
from .test_state import Stream, _chat, _slots, _states

pytestmark = pytest.mark.slow


@pytest.fixture
def start_two(
    old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> Callable[..., list[Gateway]]:
    """Factory: two gateways on these Redis addresses, before one server with two slots."""

    def start(*states: str) -> list[Gateway]:
        flags = ["--llama-api", old_server.url, "--chat-template", "legacy", "--slots", "2"]
        flags += ["--health-interval", "600", "--data", str(tmp_path)]
        gateways = [gateway(*flags, "--state", state) for state in states]
        wait_until(lambda: _workers_known(gateways) == [2, 2])
        return gateways

    return start


def _workers_known(gateways: list[Gateway]) -> list[Any]:
    return [_slots(gateway.url).get("workers") for gateway in gateways]


def _notices(gateway: Gateway) -> bool:
    return b"notices" in ask(f"{gateway.url}/health")[1]


class Traffic(threading.Thread):
    """Chats on both gateways in turn until `stop`; `statuses` of their answers."""

    def __init__(self, gateways: list[Gateway]) -> None:
        super().__init__()
        self._gateways = gateways
        self._stopped = threading.Event()
        self.statuses: list[int] = []

    def run(self) -> None:
        while not self._stopped.is_set():
            gateway = self._gateways[len(self.statuses) % 2]
            self.statuses.append(_chat(gateway.url, f"number {len(self.statuses)}", 4)[0])

    def __enter__(self) -> Traffic:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self.join()


def test_requests_are_answered_while_redis_hangs(
    redis_server: RedisServer, start_two: Callable[..., list[Gateway]]
) -> None:
    both = start_two(redis_server.url, redis_server.url)
    with Traffic(both) as traffic:
        redis_server.send(signal.SIGSTOP)
        try:
            wait_until(lambda: all(_slots(gateway.url).get("state") == "alone" for gateway in both))
            seen = len(traffic.statuses)
            wait_until(lambda: len(traffic.statuses) >= seen + 20)
        finally:
            redis_server.send(signal.SIGCONT)
        wait_until(lambda: _workers_known(both) == [2, 2])
    assert {*traffic.statuses} == {200}
    for gateway in both:
        wait_until(lambda gateway=gateway: _states(gateway.url) == ["free", "free"])  # type: ignore[misc]
        assert not _notices(gateway)


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
            streams = [Stream(gateway.url, "before", 40) for gateway in both]
            wait_until(lambda: _states(both[0].url) == ["busy", "busy"])
            server.kill()
        finally:
            old_server.send(signal.SIGCONT)
        assert all(b"[DONE]" in stream.whole() for stream in streams)
        server.start()
        wait_until(lambda: _workers_known(both) == [2, 2])
        for gateway in both:
            wait_until(lambda gateway=gateway: _states(gateway.url) == ["free", "free"])  # type: ignore[misc]
            assert _chat(gateway.url, "after")[0] == 200
    finally:
        server.kill()

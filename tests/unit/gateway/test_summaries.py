"""Summaries are kept within bounds, and shared by workers on one Redis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.core.conversation import LEAD
from proxy.gateway import (
    Caller,
    Gateway,
    shared_summaries,
)
from proxy.gateway.shared_summaries import SharedSummaries, Summaries
from tests.fakes import ScriptedDriver, ScriptsInTurn, say
from tests.redis_servers import RedisServer, first
from tests.unit.gateway.test_compaction import answer, asked, compacted, prompts, turns


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(first(), tmp_path_factory.mktemp("redis"))
    started.start()
    yield started
    started.kill()


def test_summaries_in_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_summaries, "MOST_KEPT", 2)
    kept = Summaries()
    for key in (b"a", b"b", b"c"):
        kept.put("", key, str(key))
        kept.last("", [b"a"])
    assert [kept.last("", [key]) for key in (b"a", b"b", b"c")] == [
        (0, str(b"a")),
        None,
        (0, str(b"c")),
    ]


def test_workers_share_summaries(server: RedisServer) -> None:
    one, other = (SharedSummaries(server.url, "shared") for _ in range(2))
    one.put("g", b"a", "A")
    assert other.last("g", [b"a", b"b"]) == (0, "A")
    assert other.last("another group", [b"a", b"b"]) is None
    assert SharedSummaries(server.url, "another name").last("g", [b"a"]) is None
    one.put("g", b"b", "B")
    assert other.last("g", [b"a", b"b"]) == (1, "B"), "it is longer than the one it knows"


def test_first_summary_counts_for_all(server: RedisServer) -> None:
    one, other = (SharedSummaries(server.url, "race") for _ in range(2))
    assert one.put("g", b"a", "first") == "first"
    assert other.put("g", b"a", "second") == "first"
    assert other.last("g", [b"a"]) == (0, "first")


def test_summaries_in_redis_expire_and_name_no_group(server: RedisServer) -> None:
    import redis

    SharedSummaries(server.url, "expiring").put("the-group", b"a", "text")
    with redis.Redis.from_url(server.url) as client:
        names = list(client.scan_iter("slotproxy:{expiring}:*"))
        assert len(names) == 1 and all(b"the-group" not in name for name in names)
        assert all(0 < client.ttl(name) <= shared_summaries.LIFETIME for name in names)


def test_worker_goes_on_alone_without_redis(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = RedisServer(first(), tmp_path)
    server.start()
    one = SharedSummaries(server.url, "away")
    one.put("g", b"a", "A")
    server.kill()
    assert one.put("g", b"b", "B") == "B"
    assert one.last("g", [b"a", b"b", b"c"]) == (1, "B")
    assert one.last("g", [b"a"]) == (0, "A")
    assert caplog.text.count("Redis keeps no summaries") == 1


def test_second_worker_asks_with_the_same_summary(
    server: RedisServer, serve: Callable[..., Gateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    drivers = ScriptsInTurn(say("They said x.")), ScriptedDriver(say("Hello"))
    found = []
    for driver in drivers:
        gateway = serve(driver, on_overflow="compact")
        shared = SharedSummaries(server.url, "workers")
        monkeypatch.setattr(gateway, "summaries", shared)
        events, _ = answer(gateway, asked(turns(8)), Caller(group="g"))
        found.append(compacted(events).summary)
    assert found == ["They said x."] * 2
    assert len(drivers[0].tasks) == 2 and len(drivers[1].tasks) == 1, "written once"
    assert prompts(drivers[0])[-1] == prompts(drivers[1])[-1] and LEAD in prompts(drivers[1])[0]

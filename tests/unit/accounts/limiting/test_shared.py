"""The thread that settles with Redis. What Redis does is tested in tests/integration."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.accounts.limiting import shared
from proxy.accounts.limiting.limiter import ANY, TICKS, Charge, Gauge, Taken, window
from proxy.accounts.limiting.shared import SharedLimiter
from proxy.errors import LimitsUnavailable
from tests.fakes import wait_until

GAUGES = [Gauge("key k", "parallel", ANY)]
CHARGES = [Charge("key k", window("tokens/minute", 10, 60), TICKS, TICKS)]


class Redis:
    """Answers scripts with one charge and one gauge; the first settlements fail."""

    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.settled = self.trips = 0

    def take(self, keys: Any, args: Any) -> list[bytes]:
        return [b"0", b"1000000", b"0", b"%d" % TICKS, b"id|tokens/minute=60000"]

    def settle(self, keys: Any, args: Any) -> list[int]:
        if self.faults:
            raise self.faults.pop(0)
        self.settled += len(args)
        self.trips += 1
        return []


@pytest.fixture
def limiter(monkeypatch: pytest.MonkeyPatch) -> SharedLimiter:
    monkeypatch.setattr(shared, "AGAIN", 0.01)
    return SharedLimiter("redis://127.0.0.1:9/0", "test")


def _on(limiter: SharedLimiter, redis: Redis) -> None:
    script: Any = limiter
    script._take, script._settle = redis.take, redis.settle


def _taken(limiter: SharedLimiter) -> Taken:
    taken = limiter.take(CHARGES, GAUGES)
    assert isinstance(taken, Taken)
    return taken


def test_thread_survives_what_nobody_foresaw(
    limiter: SharedLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.runtime.keep_alive.PAUSE", 0.01)
    redis = Redis(ZeroDivisionError())
    _on(limiter, redis)
    for _ in range(2):
        limiter.settle(_taken(limiter), [0])

    def settled() -> bool:
        limiter._work.set()
        return redis.settled == 2

    wait_until(settled)
    limiter.close()


def test_settlement_that_failed_is_sent_again_unless_redis_may_have_done_it(
    limiter: SharedLimiter,
) -> None:
    redis = Redis(ConnectionError(), limiter._timeout())
    _on(limiter, redis)
    limiter.settle(_taken(limiter), [0])
    wait_until(lambda: not redis.faults and not limiter._waiting)
    assert redis.settled == 0
    limiter.close()


def test_close_settles_everything(limiter: SharedLimiter) -> None:
    redis = Redis()
    _on(limiter, redis)
    taken = [_taken(limiter) for _ in range(20)]
    for lease in taken:
        limiter.settle(lease, [0])
    limiter.close()
    assert redis.settled == 20


def test_settlements_that_wait_are_bounded(
    limiter: SharedLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "MOST_WAITING", 3)
    redis = Redis()
    _on(limiter, redis)
    limiter._start = lambda: None  # type: ignore[method-assign]
    for _ in range(9):
        limiter.settle(_taken(limiter), [0])
    assert len(limiter._waiting) == 3


def test_redis_that_is_away_is_not_asked_by_every_request(
    limiter: SharedLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def away(keys: Any, args: Any) -> Any:
        calls.append(keys)
        raise ConnectionError

    script: Any = limiter
    script._take = away
    monkeypatch.setattr(shared, "AGAIN", 60.0)
    for _ in range(5):
        with pytest.raises(LimitsUnavailable):
            limiter.take(CHARGES, GAUGES)
    assert len(calls) == 1
    limiter.close()

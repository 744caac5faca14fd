"""Limits of keys on real gateways: several workers that share a Redis, killed workers, no Redis."""

from __future__ import annotations

import math
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from msgspec.structs import replace
from redis import Redis

from proxy.accounts.limiting import shared
from proxy.accounts.limiting.limiter import (
    ANY,
    TICKS,
    Charge,
    Gauge,
    LocalLimiter,
    Meter,
    Refused,
    Taken,
    window,
)
from proxy.accounts.limiting.shared import SharedLimiter
from proxy.errors import LimitsUnavailable
from tests.fakes import wait_until
from tests.redis_servers import RedisServer
from tools.processes import Gateway, ModelServer

from .conftest import StartGateway

CLIENTS = 64
ADMIN = {"Authorization": "Bearer sk-ops"}


@pytest.fixture
def limiter(redis_server: RedisServer) -> Iterator[SharedLimiter]:
    opened = SharedLimiter(redis_server.url, "test")
    yield opened
    opened.close()


def test_redis_decides_as_a_process_does(redis_server: RedisServer) -> None:
    """The same requests, at the times that Redis tells."""
    draw, now = Random(7), [0]
    budget = Meter("money/month", 5000, 0, epoch=3, ends=2 * 10**15)
    local = LocalLimiter(lambda: now[0], lambda charge: 1000)
    limiter = SharedLimiter(redis_server.url, "test", lambda charge: 1000)
    meters = [
        window("requests/minute", 10_000, 60),
        window("tokens/minute", 90_000, 60),
        window("tokens/month", 10**11, 2_592_000),
        budget,
    ]
    gauges = [Gauge("team t", "parallel", 6), Gauge("key k", "parallel", ANY)]
    running: list[tuple[Taken, Taken]] = []
    seen: Counter[bool] = Counter()
    for _ in range(600):
        if running and draw.random() < 0.45:
            there, here = running.pop(draw.randrange(len(running)))
            used = [
                draw.randrange(0, amount // draw.choice((1, 9)) + 1) for amount in there.amounts
            ]
            limiter.settle(there, used)
            local.settle(here, used)
            continue
        charges = []
        for meter in meters:
            unit = TICKS if meter.rate else 1
            share = draw.choice((4, 30, 90, 900))
            need = draw.randrange(0, meter.capacity // unit // share) * unit
            wish = need + draw.randrange(0, 5) * unit
            wish += draw.choice((0, 0, meter.capacity))
            charges.append(Charge("key k", meter, need, wish, least=draw.choice((0, need + 3))))
        decision = limiter.take(charges, gauges)
        now[0] = decision.at
        expected = local.take(charges, gauges)
        seen[isinstance(decision, Taken)] += 1
        if isinstance(decision, Refused):
            assert decision == expected
        else:
            assert replace(decision, lease="") == expected
            assert isinstance(expected, Taken)
            running.append((decision, expected))
    assert min(seen.values()) > 50, seen
    limiter.close()


def test_leases_of_a_dead_worker_are_given_back(
    redis_server: RedisServer, limiter: SharedLimiter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "LEASE", 3)  # the first refusal comes within it
    dead = SharedLimiter(redis_server.url, "test")
    dead._renew_leases = lambda: None  # type: ignore[method-assign]
    charges = [Charge("key k", window("tokens/month", 100, 2_592_000), 90 * TICKS, 90 * TICKS)]
    gauges = [Gauge("key k", "parallel", 1)]
    held = dead.take(charges, gauges)
    assert isinstance(held, Taken)
    refused = limiter.take(charges, gauges)
    assert isinstance(refused, Refused)
    assert refused.by == gauges[0]
    decisions: list[Taken | Refused] = []

    def taken() -> bool:
        decisions[:] = [limiter.take(charges, gauges)]
        return isinstance(decisions[0], Taken)

    wait_until(taken, 60)
    # It was not dead after all: its use is charged in full.
    dead.settle(held, [10 * TICKS])
    dead.close()
    assert isinstance(decisions[0], Taken)
    limiter.settle(decisions[0], [0])
    rest = limiter.take(charges, gauges)
    assert isinstance(rest, Taken)
    assert rest.levels == [100 * TICKS]


def test_answer_that_ended_while_redis_was_away_is_charged_once(redis_server: RedisServer) -> None:
    """Redis came back empty, so the level is read from the ledger, which has the answer."""
    in_ledger = [0]
    budget = Meter("tokens/total", 1000, 0, epoch=3)
    charges, gauges = [Charge("key k", budget, 50, 50)], [Gauge("key k", "parallel", ANY)]
    limiter, other = (
        SharedLimiter(redis_server.url, "test", lambda charge: in_ledger[0]) for _ in range(2)
    )

    def take() -> Taken | Refused | None:
        with suppress(LimitsUnavailable):
            return other.take(charges, gauges)
        return None

    ended, running = (limiter.take(charges, gauges) for _ in range(2))
    assert isinstance(ended, Taken) and isinstance(running, Taken)
    redis_server.kill()
    limiter._down = math.inf  # it learns late that Redis is back
    limiter.settle(ended, [10])
    in_ledger[0] = 10
    time.sleep(1.1)  # a row that is younger may not be written yet
    redis_server.start()
    wait_until(lambda: isinstance(take(), Taken))
    limiter._down = 0.0
    limiter.settle(running, [7])
    limiter.close()
    last = other.take(charges, gauges)
    assert isinstance(last, Taken) and last.levels == [10 + 7 + 50 + 50]
    other.close()


def test_leases_of_long_requests_are_renewed(
    limiter: SharedLimiter, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "LEASE", 4)
    monkeypatch.setattr(shared, "RENEWAL", 0.1)
    gauges = [Gauge("key k", "parallel", 1)]
    held = limiter.take((), gauges)
    assert isinstance(held, Taken)
    other = SharedLimiter(redis_server.url, "test")
    end = time.monotonic() + 5.5
    while time.monotonic() < end:
        assert isinstance(other.take((), gauges), Refused)
        time.sleep(0.1)
    limiter.settle(held, ())
    wait_until(lambda: isinstance(other.take((), gauges), Taken), 60)
    other.close()


def test_limit_of_one_model_lasts_while_the_key_uses_another(
    redis_server: RedisServer, limiter: SharedLimiter
) -> None:
    minute = Charge("key k", window("requests/minute", 60, 60), TICKS, TICKS)
    month = Charge("key k", window("requests/month/big*", 1, 2_592_000), TICKS, TICKS)
    assert isinstance(limiter.take([minute, month], []), Taken)
    assert isinstance(limiter.take([minute, month], []), Refused), "the month's request is used"
    assert isinstance(limiter.take([minute], []), Taken)
    with Redis.from_url(redis_server.url) as redis:  # three minutes pass
        for key in redis.scan_iter():
            redis.pexpire(key, redis.pttl(key) - 180_000)
    assert isinstance(limiter.take([minute], []), Taken)
    assert isinstance(limiter.take([minute, month], []), Refused)


# whole gateways


def _start(
    gateway: StartGateway, tmp_path: Path, server: ModelServer, redis: RedisServer, *more: str
) -> Gateway:
    (tmp_path / "keys").write_text("ops sk-ops\n", encoding="utf-8")
    flags = ["--llama-api", server.url, "--api-key-file", str(tmp_path / "keys")]
    flags += ["--admins", "ops", "--data", str(tmp_path / "data"), "--state", redis.url]
    return gateway(*flags, "--chat-template", "legacy", *more)


def _make(gateway: Gateway, **body: Any) -> str:
    answer = httpx.post(f"{gateway.url}/key/generate", json=body, headers=ADMIN, timeout=60)
    assert answer.status_code == 200, answer.text
    key: str = answer.json()["key"]
    return key


def _chat(gateway: Gateway, key: str, tokens: int = 1, **more: Any) -> httpx.Response:
    """On a connection of its own, so on any worker."""
    return httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json={
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": tokens,
            "ignore_eos": True,
            **more,
        },
        headers={"Authorization": f"Bearer {key}"},
        timeout=100,
    )


def _spent(gateway: Gateway, key: str) -> tuple[int, int, Any]:
    """All that a key may use is used by many clients at once. Returns the tokens and the number of
    the answers, and the error of the last one."""
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda _: _chat(gateway, key, 8), range(2 * CLIENTS)))
    assert {answer.status_code for answer in answers} == {200, 429}
    while answers[-1].status_code == 200 or len(answers) == 2 * CLIENTS:
        answers.append(_chat(gateway, key, 8))
    usages = [answer.json()["usage"] for answer in answers if answer.status_code == 200]
    used = sum(usage["total_tokens"] for usage in usages)
    return used, len(usages), answers[-1].json()["error"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_limits_hold_exactly_under_64_clients_on_two_workers(
    gateway: StartGateway, tmp_path: Path, old_server: ModelServer, redis_server: RedisServer
) -> None:
    flags = ("--workers", "2", "--health-interval", "600")  # as the server is stopped for a while
    running = _start(gateway, tmp_path, old_server, redis_server, *flags)
    requests, tokens = 100, 1200
    counted = _make(running, limits={"requests": {"month": requests}})
    metered = _make(running, limits={"tokens": {"month": tokens}})
    few = _make(running, max_parallel_requests=3)
    with ThreadPoolExecutor(CLIENTS) as pool:
        codes = Counter(pool.map(lambda _: _chat(running, counted).status_code, range(2 * CLIENTS)))
    assert codes == {200: requests, 429: 2 * CLIENTS - requests}
    used, answered, refusal = _spent(running, metered)
    needed = used // max(1, answered) + 8
    assert tokens - 2 * needed < used <= tokens  # nothing of it got lost
    assert refusal["code"] == "rate_limit_exceeded"

    def count(number: int) -> int:
        said = [{"role": "user", "content": f"Hello {number}"}]
        return _chat(running, few, 20, messages=said, ignore_eos=False, stream=True).status_code

    with ThreadPoolExecutor(CLIENTS) as pool:
        old_server.send(signal.SIGSTOP)  # none ends, and makes way for another
        try:
            futures = [pool.submit(count, number) for number in range(CLIENTS)]
            wait_until(lambda: _under_way(running) == 3)
            time.sleep(1)  # without a limit, all requests would be under way by now
            assert _under_way(running) == 3
        finally:
            old_server.send(signal.SIGCONT)
    assert Counter(each.result() for each in futures) == {200: 3, 429: CLIENTS - 3}


def _under_way(gateway: Gateway) -> int:
    """The requests that have a slot, or wait for one."""
    view = httpx.get(f"{gateway.url}/v1/slots", headers=ADMIN, timeout=60).json()
    states = [slot["state"] for backend in view["backends"] for slot in backend["slots"]]
    return states.count("busy") + len(view["queue"])


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_keys_with_limits_are_refused_while_redis_is_away(
    gateway: StartGateway, tmp_path: Path, old_server: ModelServer, redis_server: RedisServer
) -> None:
    running = _start(gateway, tmp_path, old_server, redis_server)
    key, free = _make(running, rpm_limit=1000), _make(running)
    assert _chat(running, key).status_code == 200
    redis_server.kill()
    assert _chat(running, free).status_code == 200
    answer = _chat(running, key)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "limits_unavailable"
    assert "Redis is unavailable" in answer.json()["error"]["message"]
    redis_server.start()
    wait_until(lambda: _chat(running, key).status_code == 200)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_budget_is_shared_by_workers_and_known_after_redis_lost_it(
    gateway: StartGateway, tmp_path: Path, old_server: ModelServer, redis_server: RedisServer
) -> None:
    running = _start(gateway, tmp_path, old_server, redis_server, "--workers", "2")
    budget = {"unit": "tokens", "max_budget": 900, "budget_duration": "365d"}
    key = _make(running, budget_limits=[budget])
    used, *_ = _spent(running, key)
    assert 900 - 60 < used <= 900

    def stored() -> int:
        headers = {"Authorization": f"Bearer {key}"}
        usage = httpx.get(f"{running.url}/v1/usage", headers=headers, timeout=60).json()
        total = usage["total"]
        return int(total["prompt_tokens"] + total["completion_tokens"])

    wait_until(lambda: stored() == used, 60)
    redis_server.kill()
    redis_server.start()  # it kept nothing
    wait_until(lambda: _chat(running, key).status_code != 503)
    refused = _chat(running, key, 60)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "budget_exceeded")
    assert f"{used} are spent" in refused.json()["error"]["message"]

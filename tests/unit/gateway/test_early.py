"""Requests that arrive before the first backend has reported its model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.core.request import CompletionRequest
from proxy.errors import QueueFull
from proxy.gateway import Caller, Gateway
from proxy.gateway.context import EarlyQueue
from proxy.runtime.cancel import Cancel
from tests.fakes import ScriptedDriver, make_app, say, services_of, wait_until

REQUEST = CompletionRequest(prompts=("Say it",), max_tokens=8)


def test_early_places_are_bounded_and_released() -> None:
    queue = EarlyQueue(2)
    places = [queue.take(""), queue.take("")]
    with pytest.raises(QueueFull, match="too many requests"):
        queue.take("")
    queue.give(places[0])
    queue.give(queue.take(""))
    queue.check(places[1])


def test_one_key_cannot_take_all_early_places() -> None:
    queue = EarlyQueue(2)
    first, second = queue.take("greedy"), queue.take("greedy")
    queue.check(queue.take("modest"))
    queue.check(first)
    with pytest.raises(QueueFull, match="in favor of another key"):
        queue.check(second)
    queue.give(second)
    for key in ("greedy", "modest"):
        with pytest.raises(QueueFull, match="too many requests"):
            queue.take(key)


def test_one_key_cannot_fill_wait_for_first_backend() -> None:
    driver = ScriptedDriver(say("Hello"))
    driver.up = False
    app = make_app(driver, wait_for_backend=20.0, max_queue=2, health_interval=3600.0)
    gateway = services_of(app).gateway

    def ask(key: str) -> None:
        answer = gateway.answer(REQUEST, Cancel(), Caller(key=key))
        for _ in answer:
            pass
        answer.close()

    with ThreadPoolExecutor(4) as pool:
        greedy = [pool.submit(ask, "greedy") for _ in range(2)]
        wait_until(lambda: waiting(gateway) == 2)
        modest = pool.submit(ask, "modest")
        wait_until(lambda: any(one.done() for one in greedy))
        driver.up = True
        modest.result(60)
        failed = [one for one in greedy if one.exception(20)]
        assert len(failed) == 1
        with pytest.raises(QueueFull, match="in favor of another key"):
            failed[0].result()
    gateway.registry.close()


def waiting(gateway: Gateway) -> int:
    return len(gateway.early._places)

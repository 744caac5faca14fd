"""Requests that arrive before the first backend has reported its model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from proxy.core.request import CompletionRequest
from proxy.errors import QueueFull
from proxy.gateway import Caller
from proxy.runtime.cancel import Cancel
from tests.fakes import ScriptedDriver, make_app, say, services_of, wait_until

REQUEST = CompletionRequest(prompts=("Say it",), max_tokens=8)


def test_wait_for_first_backend_is_bounded() -> None:
    driver = ScriptedDriver(say("Hello"))
    driver.up = False
    app = make_app(driver, wait_for_backend=20.0, max_queue=2, health_interval=3600.0)
    gateway = services_of(app).gateway

    def ask() -> None:
        answer = gateway.answer(REQUEST, Cancel(), Caller())
        for _ in answer:
            pass
        answer.close()

    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask) for _ in range(2)]
        wait_until(lambda: gateway._early._value == 0)
        with pytest.raises(QueueFull, match="too many requests"):
            ask()
        driver.up = True
        for request in waiting:
            request.result(60)
    ask()
    gateway.registry.close()

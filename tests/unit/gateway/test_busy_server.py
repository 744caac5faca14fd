"""A server with OpenAI's API that refuses requests because it has too many: vLLM with its admission
flags. The refusal teaches the number of its slots, and the request waits for its turn."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from proxy.backends.openai.driver import OpenAIServer
from tests.fakes import make_app, services_of, wait_until
from tests.openai_server import Feed, OpenAIServerFake

BODY = {"messages": [{"role": "user", "content": "Hi"}]}
FULL = {"message": "Request queue full.", "type": "ServiceUnavailableError"}


@pytest.mark.parametrize("status", [429, 503])
def test_a_full_queue_teaches_the_number_of_slots(status: int) -> None:
    feed = Feed()
    refusal = (status, {"error": {**FULL, "code": status}})
    with OpenAIServerFake(feed, refusal, "Hello", owner="vllm") as server:
        server.pause = 1
        driver: Any = OpenAIServer(server.url)
        app = make_app(driver)
        scheduler = services_of(app).gateway.scheduler

        def slots() -> int:
            return len(scheduler.view(None, "").backends[0].slots)

        def ask() -> Any:
            return app.test_client().post("/v1/chat/completions", json=BODY)

        with ThreadPoolExecutor(2) as clients:
            assert slots() == 64, "the first guess"
            first = clients.submit(ask)
            wait_until(lambda: len(server.bodies) == 1)
            second = clients.submit(ask)
            wait_until(lambda: slots() == 1)
            feed.say(content="First")
            feed.end()
            answers = [future.result(60) for future in (first, second)]
        assert [answer.status_code for answer in answers] == [200, 200]
        texts = [answer.json["choices"][0]["message"]["content"] for answer in answers]
        assert texts == ["First", "Hello"]
        _, refused, again = server.times
        assert again - refused >= server.pause, "its Retry-After is kept"
        driver.close()

"""The WebSocket of /v1/responses through a real server."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest

from tests.fakes import wait_until
from tests.ws import connected
from tools.processes import Gateway, ModelServer

ASK = {"type": "response.create", "input": "Hi", "store": False, "max_output_tokens": 8}


@pytest.fixture
def running(old_server: ModelServer, gateway: Callable[..., Gateway]) -> Gateway:
    return gateway("--llama-api", old_server.url)


def test_responses_are_continued_and_pipelined(running: Gateway) -> None:
    with connected(running.url) as client:
        assert client.head.startswith(b"HTTP/1.1 101")
        client.say(ASK)
        first = list(client.answer())
        assert first[-1]["response"]["usage"]["output_tokens"] == 8
        more = ASK | {"previous_response_id": first[-1]["response"]["id"]}
        client.say(more)
        client.say(ASK)
        for _ in range(2):
            assert list(client.answer())[-1]["type"] == "response.incomplete"
        client.say(more)  # another one was made meanwhile
        (error,) = client.answer()
        assert error["error"]["code"] == "previous_response_not_found"


def test_close_cancels_the_answer(running: Gateway) -> None:
    with connected(running.url) as client:
        client.say(ASK | {"max_output_tokens": 4000})
        assert json.loads(client.text())["type"] == "response.created"
    with connected(running.url) as client:
        for _ in range(2):  # on both slots
            client.say(ASK)
            list(client.answer())
    # Noticed by the reader, or by the write that failed.
    ends = ('"outcome":"client_closed_request"', '"outcome":"cancelled"')
    wait_until(lambda: any(end in running.log for end in ends))


def test_stop_does_not_wait_for_an_idle_connection(
    old_server: ModelServer, gateway: Callable[..., Gateway]
) -> None:
    stopped = gateway("--llama-api", old_server.url)
    with connected(stopped.url) as client:
        client.say(ASK)
        list(client.answer())
        stopped.send(signal.SIGTERM)
        assert client.closed() == 1001
    assert stopped.stop(seconds=25.0) == 0  # its grace is longer

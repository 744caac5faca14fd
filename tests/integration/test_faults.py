"""Backends that crash, hang or restart, as a client sees it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.clients import openai
from tests.fakes import key_file, wait_until
from tests.integration.asking import openai_client, opened
from tests.integration.generations import OLD
from tools.processes import Gateway, ModelServer, ask

LONG = {"messages": [{"role": "user", "content": "Go on"}], "max_tokens": 6000}


@pytest.fixture(params=OLD)
def server(
    request: pytest.FixtureRequest, start_server: Callable[..., ModelServer]
) -> Iterator[ModelServer]:
    """One that the test may kill."""
    server = start_server(request.param, slots=2)
    yield server
    server.kill()


ClientOf = Callable[[Gateway], "openai.OpenAI"]


@pytest.fixture
def client_of() -> Iterator[ClientOf]:
    with contextlib.ExitStack() as stack:

        def make(gateway: Gateway) -> openai.OpenAI:
            return stack.enter_context(openai_client(gateway))

        yield make


def test_server_kill_during_a_stream_is_an_error_event_and_recovers(
    server: ModelServer, gateway: Callable[..., Gateway], client_of: ClientOf
) -> None:
    proxy = gateway(
        "--llama-api", server.url, "--slots", "2", "--health-interval", "0.5",
        "--wait-for-backend", "0",
    )  # fmt: skip
    stream = client_of(proxy).chat.completions.create(model="any", stream=True, **LONG)
    next(iter(stream))
    server.kill()
    with pytest.raises(openai.APIError) as caught:
        list(stream)
    assert caught.value.body is not None
    assert "127.0.0.1" not in str(caught.value)
    wait_until(lambda: ask(f"{proxy.url}/readyz")[0] == 503)
    with pytest.raises(openai.InternalServerError) as refused:
        client_of(proxy).chat.completions.create(model="any", **LONG)
    assert refused.value.status_code == 503
    assert refused.value.response.headers["retry-after"]
    server.start()
    wait_until(lambda: ask(f"{proxy.url}/readyz")[0] == 200)
    answer = client_of(proxy).chat.completions.create(
        model="any", messages=LONG["messages"], max_tokens=2
    )
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("count", [4, 50])
def test_requests_beyond_the_slots_are_all_answered(
    any_old_server: ModelServer, gateway: Callable[..., Gateway], client_of: ClientOf, count: int
) -> None:
    """Also when the slot count of the old server is not configured."""
    proxy = gateway("--llama-api", any_old_server.url)
    client = client_of(proxy)

    def finish_reason(i: int) -> str:
        answer = client.chat.completions.create(
            model="any", messages=[{"role": "user", "content": f"Number {i}"}], max_tokens=4
        )
        return str(answer.choices[0].finish_reason)

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        assert set(pool.map(finish_reason, range(count))) == {"length"}


@contextlib.contextmanager
def stopped_in_a_stream(client: openai.OpenAI, server: ModelServer) -> Iterator[None]:
    """The server is stopped in an answer to this client, which therefore does not end before what
    is done here; at the end, the client leaves."""
    stream = client.chat.completions.create(model="any", stream=True, **LONG)
    next(iter(stream))
    server.send(signal.SIGSTOP)
    try:
        yield
    finally:
        stream.close()
        server.send(signal.SIGCONT)


def test_one_key_cannot_fill_the_queue(
    any_old_server: ModelServer, gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """One key has the only slot and the whole queue; another one is still served."""
    keys = key_file(tmp_path, "greedy secret-of-greedy\nmodest secret-of-modest\n")
    proxy = gateway(
        "--llama-api", any_old_server.url, "--slots", "1", "--max-queue", "4",
        "--api-key-file", keys,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        greedy, modest = (
            stack.enter_context(openai_client(proxy, key))
            for key in ("secret-of-greedy", "secret-of-modest")
        )

        def finish_reason(client: openai.OpenAI, number: int) -> str | None:
            said = [{"role": "user", "content": f"Number {number}"}]
            answer = client.chat.completions.create(model="any", messages=said, max_tokens=4)
            return answer.choices[0].finish_reason

        def waiting() -> int:
            return len(greedy.get("/slots", cast_to=httpx.Response).json()["queue"])

        holds = stack.enter_context(contextlib.ExitStack())
        holds.enter_context(stopped_in_a_stream(greedy, any_old_server))
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(8))
        theirs = []
        for number in range(4):
            theirs.append(pool.submit(finish_reason, greedy, number))
            wait_until(lambda: waiting() > number)  # noqa: B023
        with pytest.raises(
            openai.RateLimitError, match="the queue is full: 4 requests are already waiting"
        ):
            finish_reason(greedy, 5)
        mine = pool.submit(finish_reason, modest, 6)
        with pytest.raises(openai.RateLimitError, match="in favor of another key") as caught:
            theirs[3].result(60)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        assert caught.value.code == "queue_full"
        holds.close()
        assert mine.result(60) == "length"
        assert [wait.result(60) for wait in theirs[:3]] == ["length"] * 3


def test_silent_stream_gets_heartbeats(
    server: ModelServer, gateway: Callable[..., Gateway], client_of: ClientOf
) -> None:
    proxy = gateway("--llama-api", server.url, "--slots", "2", fixed={"PING": 0.2})
    server.send(signal.SIGSTOP)
    body = {**LONG, "max_tokens": 3, "stream": True}
    try:
        with opened(proxy.url, "/v1/chat/completions", body) as answer:
            assert answer.status == 200
            assert answer.readline() == b":\n"
            server.send(signal.SIGCONT)
            rest = answer.read()
    finally:
        server.send(signal.SIGCONT)
    assert rest.endswith(b"data: [DONE]\n\n")

"""Backends that are busy with other clients, or crash and restart."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.fakes import wait_until
from tests.integration.asking import in_flight, opened
from tools.processes import Gateway, ModelServer, ask

StartGateway = Callable[..., Gateway]
REQUESTS = 32


def question(number: int, max_tokens: int = 4) -> dict[str, object]:
    messages = [{"role": "user", "content": f"Number {number}"}]
    return {"messages": messages, "max_tokens": max_tokens}


def chat(gateway: Gateway, number: int, **fields: object) -> tuple[int, bytes]:
    return ask(f"{gateway.url}/v1/chat/completions", question(number) | fields, seconds=90)


@pytest.fixture(params=["llama-2023", "powerinfer"])
def server(
    request: pytest.FixtureRequest, start_server: Callable[..., ModelServer]
) -> Iterator[ModelServer]:
    """A server that the test may kill, of those that answer "busy" when their slots are taken."""
    model_server: ModelServer = start_server(request.param, slots=2)
    yield model_server
    model_server.kill()


@contextlib.contextmanager
def occupied(server: ModelServer, slots: int) -> Iterator[None]:
    """Another client streams endlessly from every slot of the server."""
    with contextlib.ExitStack() as stack:
        for _ in range(slots):
            body = {"prompt": "Go on", "n_predict": -1, "stream": True, "ignore_eos": True}
            answer = stack.enter_context(opened(server.url, "/completion", body))
            assert answer.read(1)
        yield


def test_server_busy_with_another_client_is_503_after_queue_timeout(
    server: ModelServer, gateway: StartGateway
) -> None:
    proxy = gateway("--llama-api", server.url, "--slots", "2", "--queue-timeout", "1")
    with occupied(server, 2):
        for fields in ({}, {"stream": True}):
            began = time.monotonic()
            status, body = chat(proxy, 1, **fields)
            assert 0.9 < time.monotonic() - began < 20.0
            assert status == 503
            assert json.loads(body)["error"]["code"] == "queue_timeout"
    # A busy server may notice later than after the second that a request waits for it.
    wait_until(lambda: chat(proxy, 2)[0] == 200)


def test_server_restart_loses_no_request(server: ModelServer, gateway: StartGateway) -> None:
    """It is killed, as many requests as a busy minute brings arrive, and 3 s later its supervisor
    has it back."""
    proxy = gateway("--llama-api", server.url, "--slots", "2", "--health-interval", "60")
    assert chat(proxy, 0)[0] == 200
    server.kill()
    with concurrent.futures.ThreadPoolExecutor(REQUESTS) as clients:
        waits = [clients.submit(chat, proxy, n, stream=n % 2 == 1) for n in range(REQUESTS)]
        time.sleep(3)
        assert not any(wait.done() for wait in waits)
        server.start()
        answers = [wait.result() for wait in waits]
    assert [status for status, _ in answers] == [200] * REQUESTS
    assert all(b"data: [DONE]" in body for _, body in answers[1::2])
    assert b"error" not in b"".join(body for _, body in answers)


def test_stream_resumes_after_server_restart(server: ModelServer, gateway: StartGateway) -> None:
    proxy = gateway(
        "--llama-api", server.url, "--slots", "2", "--health-interval", "60", fixed={"PING": 0.2}
    )  # fmt: skip
    # So many that it is under way when the server is killed: it writes 2 000 in a second.
    body = question(1, 1900) | {"stream": True, "stream_options": {"include_usage": True}}
    with opened(proxy.url, "/v1/chat/completions", body) as answer:
        seen = b""
        while seen.count(b"data: ") < 5:
            seen += answer.readline()
        server.kill()
        while not seen.endswith(b"\n:\n"):  # a heartbeat while it waits
            line = answer.readline()
            assert line, "the answer ended before the server was killed"
            seen += line
        server.start()
        seen += answer.read()
    assert b"error" not in seen
    assert seen.endswith(b"data: [DONE]\n\n")
    last = json.loads(seen.split(b"data: ")[-2])
    assert last["usage"]["completion_tokens"] == 1900


def test_health_and_tokenize_work_while_all_connections_stream(
    start_server: Callable[..., ModelServer], gateway: StartGateway
) -> None:
    """An old server has eight threads: more streams wait in the queue, and `/tokenize` waits until
    one ends."""
    server = start_server("llama-2023", slots=8, ctx=4096)
    flags = ("--slots", "8", "--health-interval", "0.2", "--wait-for-backend", "60")
    proxy = gateway("--llama-api", server.url, *flags)
    with concurrent.futures.ThreadPoolExecutor(9) as clients:
        for _ in range(5):  # on a busy machine, the streams may be over before the request
            wait_until(lambda: chat(proxy, 0)[0] == 200)
            waits = [clients.submit(chat, proxy, n, max_tokens=300) for n in range(9)]
            wait_until(lambda: in_flight(proxy.url) >= 6 or all(wait.done() for wait in waits))  # noqa: B023
            status, body = ask(f"{proxy.url}/tokenize", {"content": "Hello"}, seconds=60)
            beside = not all(wait.done() for wait in waits)
            assert [wait.result()[0] for wait in waits] == [200] * 9
            if beside:
                break
    assert beside
    assert "is down" not in proxy.log
    assert status == 200 and json.loads(body)["tokens"]

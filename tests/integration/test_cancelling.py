"""A disconnected client frees its slot, in every state of its request.

The backend has one slot, so that the next request is answered only if the slot is free again; what
is abandoned would go on for thousands of tokens.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fakes import wait_until
from tests.integration.asking import in_flight
from tests.integration.child_processes import descendants
from tests.integration.generations import OLD
from tools.processes import Gateway, ModelServer, ask

LONG = {"messages": [{"role": "user", "content": "Go on"}], "max_tokens": 1900}
SHORT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
POOL = 64 + 8  # a threaded server fills its pool once, and keeps it


@pytest.fixture(scope="module", params=OLD)
def one_slot(
    request: pytest.FixtureRequest, start_server: Callable[..., ModelServer]
) -> ModelServer:
    return start_server(request.param, slots=1, ctx=2048)


@pytest.fixture(scope="module", params=["gunicorn", "waitress"])
def served(
    request: pytest.FixtureRequest,
    one_slot: ModelServer,
    module_gateway: Callable[..., Gateway],
) -> Gateway:
    how = ("--server", request.param)
    return module_gateway("--llama-api", one_slot.url, "--slots", "1", "--metrics", *how)


@contextlib.contextmanager
def sent(served: Gateway, body: object, apart: bool = False) -> Iterator[socket.socket]:
    """A request on its own socket, which is closed at the end. Many clients send head and body
    `apart`; this one sends the body once it is requested."""
    parts = urlsplit(served.url)
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), 60) as sock:
        head += "Expect: 100-continue\r\n" if apart else ""
        head += "Content-Type: application/json\r\n\r\n"
        if apart:
            sock.sendall(head.encode())
            assert sock.recv(4096).startswith(b"HTTP/1.1 100 ")
            sock.sendall(data)
        else:
            sock.sendall(head.encode() + data)
        yield sock


def begun(sock: socket.socket) -> None:
    """Reads up to the first event."""
    seen = b""
    while b"data: " not in seen:
        part = sock.recv(4096)
        assert part, "the stream ended before it began"
        seen += part


def waiting(served: Gateway) -> float:
    text = ask(f"{served.url}/metrics")[1].decode()
    return sum(map(float, re.findall(r"^vllm:num_requests_waiting{.*} (\S+)", text, re.M)))


def left(served: Gateway) -> int:
    """How many requests ended because their clients left, by the log."""
    return len(re.findall(r'"outcome":"(?:cancelled|client_closed_request)"', served.log))


def logged(served: Gateway) -> int:
    """How many chats have ended, by the log."""
    return served.log.count('"path":"/v1/chat/completions"')


@contextlib.contextmanager
def slot_freed(served: Gateway, clients: int = 1) -> Iterator[None]:
    """So many clients leave in this block, and the slot becomes free: because of that, and not
    because an answer has come to its end."""
    before = left(served)
    yield
    wait_until(lambda: in_flight(served.url) == 0)
    wait_until(lambda: left(served) == before + clients)


def answered(served: Gateway) -> bool:
    return ask(f"{served.url}/v1/chat/completions", SHORT, seconds=60.0)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_slot_is_free_within_a_second_of_a_disconnect(served: Gateway, stream: bool) -> None:
    """Another client has its answer long before the answer would have ended. The quickest of five
    counts, because other work of the machine may hold one up."""
    before = logged(served)
    began = time.monotonic()
    assert ask(f"{served.url}/v1/chat/completions", LONG, seconds=100.0)[0] == 200
    whole = time.monotonic() - began

    def seconds() -> float:
        with sent(served, {**LONG, "stream": stream}) as sock:
            if stream:
                begun(sock)
            else:
                wait_until(lambda: in_flight(served.url) == 1)
        left = time.monotonic()
        assert answered(served)
        return time.monotonic() - left

    assert min(seconds() for _ in range(5)) < whole / 2
    # A line is written after the slot is free, and must not be counted in the next test.
    wait_until(lambda: logged(served) == before + 11)


def test_disconnect_while_queued_leaves_the_queue(served: Gateway, one_slot: ModelServer) -> None:
    with slot_freed(served, clients=2), sent(served, {**LONG, "stream": True}) as first:
        begun(first)
        one_slot.send(signal.SIGSTOP)  # or a fast machine ends the first answer meanwhile
        try:
            with sent(served, LONG):
                wait_until(lambda: waiting(served) == 1)
            wait_until(lambda: waiting(served) == 0)
            assert in_flight(served.url) == 1
        finally:
            one_slot.send(signal.SIGCONT)


def test_disconnect_before_the_first_token_frees_the_slot(
    served: Gateway, one_slot: ModelServer
) -> None:
    """The server is stopped before its first token, and continues later."""
    one_slot.send(signal.SIGSTOP)
    try:
        with slot_freed(served), sent(served, {**LONG, "stream": True}):
            wait_until(lambda: in_flight(served.url) == 1)
    finally:
        one_slot.send(signal.SIGCONT)
    assert answered(served)


def test_two_hundred_random_disconnects_leave_nothing_behind(served: Gateway) -> None:
    assert answered(served)
    wait_until(lambda: in_flight(served.url) == 0 and waiting(served) == 0)
    threads, sockets = _threads(served.pid), _sockets(served.pid)
    dice = random.Random(7)
    plan = [(dice.random() * 0.3, dice.random() < 0.5) for _ in range(200)]

    def leave(patience: float, stream: bool) -> None:
        with contextlib.suppress(OSError), sent(served, {**LONG, "stream": stream}) as sock:
            sock.settimeout(max(patience, 0.001))
            with contextlib.suppress(TimeoutError):
                while sock.recv(4096):
                    pass

    with ThreadPoolExecutor(20) as clients:
        list(clients.map(leave, *zip(*plan, strict=True)))
    wait_until(lambda: in_flight(served.url) == 0 and waiting(served) == 0)
    assert answered(served)
    wait_until(lambda: _sockets(served.pid) <= sockets + 2)
    allowed = POOL if "gevent" not in served.log else threads + 2
    wait_until(lambda: _threads(served.pid) <= allowed)


def _threads(pid: int) -> int:
    return sum(len(os.listdir(f"/proc/{process}/task")) for process in (pid, *descendants(pid)))


def _sockets(pid: int) -> int:
    count = 0
    for process in (pid, *descendants(pid)):
        for fd in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                count += os.readlink(fd).startswith("socket:")
    return count

"""Three models, on two old servers and one of 2026, with room for two."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tools import made_up_model as made_up
from tools.processes import Gateway

from .conftest import StartGateway
from .generations import SECOND_OLD
from .test_hosted_models import LEGACY, chat, pids, table

SERVERS = {"a": "llama-2023", "b": "llama-2026", "c": SECOND_OLD}
AT_ONCE = 6  # requests
ONE_BY_ONE = 56  # loads of `at_random(200, 7)` one after the other, least recently used out first

pytestmark = pytest.mark.slow


@pytest.fixture
def three(serve: StartGateway, tmp_path: Path) -> Gateway:
    tables = []
    for seed, (name, server) in enumerate(SERVERS.items()):
        file = made_up.write(tmp_path / f"{name}.gguf", seed=seed)
        tables.append(table(name, file, tmp_path, server=server, memory="60MiB"))
    return serve("\n".join(tables), "--memory", "128MiB", "--swap-wait", "2", *LEGACY)


def at_random(count: int, seed: int) -> list[str]:
    chooses = random.Random(seed)
    return [chooses.choice("abc") for _ in range(count)]


def answers(gateway: Gateway, names: Sequence[str]) -> list[httpx.Response]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda name: chat(gateway, name, max_tokens=8), names))


def lost(responses: Sequence[httpx.Response], names: Sequence[str]) -> list[str]:
    return [
        answer.text
        for answer, name in zip(responses, names, strict=True)
        if answer.status_code != 200 or answer.json()["model"] != name
    ]


def test_two_hundred_random_requests_lose_none_in_few_loads(three: Gateway) -> None:
    names = at_random(200, seed=7)
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.05):
            most = max(most, len(pids(three)))

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.monotonic()
    try:
        responses = answers(three, names)
    finally:
        over.set()
        watching.join()
    seconds = time.monotonic() - began
    loads = three.log.count(": loaded after")
    print(f"{loads} loads in {seconds:.0f} s")
    assert lost(responses, names) == []
    assert most <= 2
    # Requests that overlap are answered together. On a busy machine, more of them have waited for
    # --swap-wait, so there are more loads than the 42 of one who knows all requests.
    assert 3 <= loads < ONE_BY_ONE


def test_killed_servers_lose_no_request(three: Gateway) -> None:
    """One of each kind, once it is loaded."""
    names = at_random(60, seed=3)
    over, left = threading.Event(), set("abc")

    def kill() -> None:
        while left and not over.wait(0.2):
            servers = {Path(file).stem: pid for file, pid in pids(three).items()}
            ready = {model["model"] for model in running(three) if model["state"] == "ready"}
            for name in sorted(left & ready & servers.keys()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(servers[name], signal.SIGKILL)
                    left.remove(name)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        responses = answers(three, names)
    finally:
        over.set()
        killing.join()
    assert lost(responses, names) == []
    assert not left


def running(gateway: Gateway) -> list[dict[str, Any]]:
    running: list[dict[str, Any]] = httpx.get(f"{gateway.url}/running").json()["running"]
    return running

"""Routes in front of real servers: the order of tiers, and backends that die in turn."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes import wait_until
from tests.integration.asking import chat
from tests.integration.child_processes import command, descendants
from tests.integration.generations import SECOND_OLD
from tools import made_up_chatglm
from tools.processes import Gateway, LlamaCppPythonServer, ModelServer, held_port

pytestmark = pytest.mark.slow

MODEL = "house"
STREAMS = 50
PATIENCE = 120.0  # seconds for each step, however busy the machine is


def config(backends: dict[str, dict[str, Any]], tiers: list[list[str]], after: float) -> str:
    """A settings file with these backends in a route; the tiers are `tier-1` …"""
    lines = []
    for name, fields in backends.items():
        lines += ["[[backend]]", f"name = {json.dumps(name)}"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items()] + [""]
    lines += ["[[route]]", f'model = "{MODEL}"', f"overflow_after = {after}"]
    for number, names in enumerate(tiers, start=1):
        lines += ["", "[[route.tiers]]", f'name = "tier-{number}"']
        lines += [f"backends = {json.dumps(names)}"]
    return "\n".join([*lines, ""])


def ask(url: str, text: str) -> dict[str, str]:
    """The headers of an answer."""
    return chat(url, text, model=MODEL, max_tokens=8, ignore_eos=True)[1]


def up(url: str) -> set[str]:
    data = requests.get(f"{url}/v1/backends", timeout=60).json()["data"]
    return {backend["id"] for backend in data if backend["state"] == "up"}


class Engine:
    """The process in which the gateway runs a ChatGLM model; it starts another one itself."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def kill(self) -> None:
        pids = descendants(self._gateway.pid)
        (engine,) = [pid for pid in pids if "chatglm.engine" in command(pid)]
        os.kill(engine, signal.SIGKILL)

    def start(self) -> None:
        """The gateway does."""


Killed = ModelServer | LlamaCppPythonServer | Gateway | Engine


class House:
    """A gateway, its route, and the processes behind its backends."""

    def __init__(self, gateway: Gateway, behind: Mapping[str, Killed]) -> None:
        self.gateway = gateway
        self.url = gateway.url
        self.behind = behind


@pytest.fixture
def house(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    start_llama_cpp_python: Callable[[Path], LlamaCppPythonServer],
    gateway: Callable[..., Gateway],
    made_up_model: Path,
    tmp_path: Path,
) -> Iterator[House]:
    """Three generations of servers and a second slotproxy, in three tiers; with the parameter
    "every kind" also a ChatGLM model and llama-cpp-python's server."""
    every = getattr(request, "param", "") == "every kind"
    if every:
        pytest.importorskip("chatglm_cpp", reason="not installed: python -m tools.chatglm install")
    old, other = start_server("llama-2023"), start_server(SECOND_OLD)
    new, far = start_server("llama-2026"), start_server("llama-2023")
    # It is restarted on its port.
    second = Gateway(("--llama-api", far.url, "--slots", "2"), tmp_path / "second.log", held_port())
    behind: dict[str, Killed] = {"old": old, "other": other, "new": new, "second": second}
    backends: dict[str, dict[str, Any]] = {
        "old": {"url": old.url, "slots": 2},
        "other": {"url": other.url, "slots": 2},
        "new": {"url": new.url},
        "second": {"url": f"{second.url}/v1", "kind": "openai", "slots": 2},
    }
    tiers = [["old", "other"], ["new"], ["second"]]
    if every:
        python = behind["python"] = start_llama_cpp_python(made_up_model)
        backends["python"] = {"url": f"{python.url}/v1", "kind": "openai"}
        babbler = made_up_chatglm.write(tmp_path / "babbler.bin", ())
        backends["chatglm"] = {"file": str(babbler)}
        tiers = [["old", "other", "chatglm"], ["new", "python"], ["second"]]
    file = tmp_path / "routes.toml"
    file.write_text(config(backends, tiers, 0.5))
    flags = ("--config", str(file), "--chat-template", "chatml", "--health-interval", "0.5")
    try:
        second.start()
        ours = gateway(*flags)
        wait_until(lambda: len(up(ours.url)) == len(backends))
        if every:
            behind["chatglm"] = Engine(ours)
        yield House(ours, behind)
    finally:
        second.kill()


def test_the_first_tier_answers_and_the_next_one_when_it_is_down(house: House) -> None:
    headers = ask(house.url, "hello")
    assert headers["x-slotproxy-backend"] in ("old", "other")
    assert "x-slotproxy-fallback" not in headers
    (model,) = requests.get(f"{house.url}/v1/models", timeout=60).json()["data"]
    assert model["id"] == MODEL
    for name in ("old", "other"):
        house.behind[name].kill()
    headers = ask(house.url, "who is there?")
    assert headers["x-slotproxy-backend"] == "new"
    fallback = headers["x-slotproxy-fallback"]
    assert {part.split()[0] for part in fallback.split(", ")} == {"old", "other"}
    wait_until(lambda: f'"fallback":"{fallback}"' in house.gateway.log)
    line = next(text for text in house.gateway.log.splitlines()[::-1] if '"fallback"' in text)
    assert (json.loads(line)["tier"], json.loads(line)["fallback"]) == ("tier-2", fallback)
    house.behind["new"].kill()
    assert ask(house.url, "and now?")["x-slotproxy-backend"] == "second"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("house", ["every kind"], indirect=True)
def test_killing_each_backend_in_turn_under_fifty_streams_loses_no_request(house: House) -> None:
    over = threading.Event()
    used: Counter[str] = Counter()
    faults: list[str] = []

    def stream(number: int) -> int:
        count = 0
        with requests.Session() as session:
            while not over.is_set():
                messages = [{"role": "user", "content": f"stream {number}, question {count}"}]
                body = {"model": MODEL, "messages": messages, "max_tokens": 24, "stream": True}
                url = f"{house.url}/v1/chat/completions"
                with session.post(url, json=body, stream=True, timeout=300) as answer:
                    lines = [line for line in answer.iter_lines() if line]
                    used[answer.headers.get("x-slotproxy-backend", "")] += 1
                if answer.status_code != 200 or lines[-1:] != [b"data: [DONE]"]:
                    faults.append(f"{answer.status_code} {lines[-1:]}")
                count += 1
        return count

    def answered_at_least(count: int) -> bool:
        return used.total() >= count

    def is_up(name: str) -> bool:
        return name in up(house.url)

    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(stream, number) for number in range(STREAMS)]
        try:
            for name, child in house.behind.items():
                busy = used.total() + STREAMS
                wait_until(partial(answered_at_least, busy), PATIENCE)
                child.kill()
                killed = used.total() + STREAMS
                wait_until(partial(answered_at_least, killed), PATIENCE)
                child.start()
                wait_until(partial(is_up, name), PATIENCE)
        finally:
            over.set()
        answered = sum(future.result() for future in streams)
    assert faults == []
    assert set(used) == set(house.behind), "every backend has answered"
    assert answered == used.total()

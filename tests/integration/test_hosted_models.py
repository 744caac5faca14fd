"""Models that a real gateway starts itself, on real servers with made-up weights."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import thorough
from tests.fakes import gone, wait_until
from tools import made_up_model as made_up
from tools import servers
from tools.processes import Gateway

from .conftest import StartGateway

LEGACY = ("--chat-template", "legacy")


def table(
    name: str, model: Path, folder: Path, *words: str, server: str = "llama-2023", **keys: Any
) -> str:
    """A [[model]] table. The server runs in `folder`, where that of 2023 writes its llama.log."""
    binary = servers.find(server)
    if binary is None or (thorough.FEW and server != "llama-2023"):
        pytest.skip(f"{server} is not built, or make test-all runs it")
    command = [str(binary), "--host", "127.0.0.1", "--port", "${PORT}", "-m", str(model)]
    command += ["-np", "2", "-c", "4096", "-t", "1", "-cb", *words]
    keys = {"name": name, "command": command, "folder": str(folder), **keys}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(["[[model]]", *lines, ""])


def pids(gateway: Gateway) -> dict[str, int]:
    """The model servers that the gateway has started: pid by model file."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if b"-np" in words and ancestor(int(folder.name), gateway.pid):
                found[words[words.index(b"-m") + 1].decode()] = int(folder.name)
    return found


def ancestor(pid: int, wanted: int) -> bool:
    while pid > 1:
        if pid == wanted:
            return True
        pid = int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])
    return False


def chat(gateway: Gateway, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json={**body, **more}, timeout=60.0)


def status(gateway: Gateway, model: str) -> str:
    listed = httpx.get(f"{gateway.url}/v1/models").json()["data"]
    return str(next(one for one in listed if one["id"] == model)["status"]["value"])


@pytest.fixture
def started(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path
) -> Iterator[tuple[Gateway, int]]:
    """A gateway with the model `m` loaded, and the pid of its server."""
    file = tmp_path / "slotproxy.toml"
    file.write_text(table("m", made_up_model, tmp_path, stop_timeout=1))
    one = gateway("--config", str(file), *LEGACY)
    assert status(one, "m") == "unloaded"
    assert chat(one, "m").status_code == 200
    (pid,) = pids(one).values()
    yield one, pid


@pytest.mark.parametrize("server", ["llama-2023", "llama-2026", "powerinfer"])
def test_first_request_starts_the_server_and_the_ttl_ends_it(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path, server: str
) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(table("m", made_up_model, tmp_path, server=server, aliases=["other"], ttl=0.5))
    one = gateway("--config", str(file), *LEGACY)
    assert pids(one) == {}
    with httpx.stream(
        "POST",
        f"{one.url}/v1/chat/completions",
        json={
            "model": "other",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 8,
            "stream": True,
        },
        timeout=60.0,
    ) as answer:
        lines = list(answer.iter_lines())
    assert lines[-2] == "data: [DONE]"
    found = httpx.get(f"{one.url}/v1/backends").json()["data"][0]["found"]
    assert (found["slots"], found["provisional"]) == (2, False)
    wait_until(lambda: pids(one) == {}, 20)
    assert status(one, "m") == "unloaded"
    assert chat(one, "m").status_code == 200  # and starts again
    assert chat(one, "m").status_code == 200


@pytest.mark.slow
def test_waiting_stream_shows_that_the_model_loads(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    slow = table("m", made_up_model, tmp_path)
    words = json.loads(
        next(x for x in slow.splitlines() if x.startswith("command")).split(" = ")[1]
    )
    late = ["sh", "-c", 'sleep 1; exec "$@"', "sh", *words]
    file = tmp_path / "slotproxy.toml"
    file.write_text(slow.replace(json.dumps(words), json.dumps(late)))
    one = gateway("--config", str(file), *LEGACY, "--sse-ping-interval", "0.2")
    text = chat(one, "m", stream=True).text
    assert text.startswith(": loading m\n\n")
    assert text.rstrip().endswith("data: [DONE]")


def test_broken_model_tells_why(gateway: StartGateway, tmp_path: Path) -> None:
    weights = tmp_path / "broken.gguf"
    weights.write_bytes(b"GGUF not really")
    keys = tmp_path / "keys"
    keys.write_text("alice key-of-alice\nadmin key-of-admin\n")
    keys.chmod(0o600)
    file = tmp_path / "slotproxy.toml"
    file.write_text(table("m", weights, tmp_path))
    one = gateway("--config", str(file), "--api-key-file", str(keys), "--admins", "admin")
    alice, admin = ({"Authorization": f"Bearer key-of-{name}"} for name in ("alice", "admin"))
    body = {"model": "m", "prompt": "Hello"}
    answer = httpx.post(f"{one.url}/v1/completions", json=body, headers=alice, timeout=30.0)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (502, "model_load_failed")
    assert "its server ended with exit code 1\nIts last lines:\n" in error["message"]
    assert "failed to load model" in error["message"]
    assert str(tmp_path) not in error["message"]
    assert "127.0.0.1" not in error["message"]
    assert httpx.get(f"{one.url}/logs/m", headers=alice).status_code == 403
    assert httpx.get(f"{one.url}/logs/no", headers=admin).status_code == 404
    assert str(weights) in httpx.get(f"{one.url}/logs/m", headers=admin).text


def test_answer_continues_when_its_server_is_killed(started: tuple[Gateway, int]) -> None:
    one, pid = started
    lines: list[str] = []

    def read() -> None:
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_tokens": 1500,
            "stream": True,
        }
        url = f"{one.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=60.0) as answer:
            lines.extend(answer.iter_lines())

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: any(s["is_processing"] for s in httpx.get(f"{one.url}/slots").json()))
    time.sleep(0.1)  # some tokens
    os.kill(pid, signal.SIGKILL)
    thread.join(60)
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length", chunks[-1]
    assert list(pids(one).values()) != [pid]


def test_no_server_outlives_a_killed_gateway(started: tuple[Gateway, int]) -> None:
    one, pid = started
    children = Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split()
    for child in (*map(int, children), one.pid):  # the worker, then its master
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: gone(pid))


@pytest.mark.slow
def test_no_server_outlives_a_stopped_gateway(started: tuple[Gateway, int]) -> None:
    one, pid = started
    one.stop()
    assert gone(pid)


@pytest.mark.slow
def test_reload_changes_and_removes_models(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "slotproxy.toml"
    both = table("a", made_up_model, tmp_path), table("b", made_up_model, tmp_path)
    file.write_text("".join(both))
    one = gateway("--config", str(file), *LEGACY)
    assert chat(one, "a").status_code == 200
    (pid,) = pids(one).values()
    file.write_text(table("b", made_up_model, tmp_path, slots=1))
    one.send(signal.SIGHUP)
    wait_until(lambda: gone(pid))
    listed = httpx.get(f"{one.url}/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == ["b"]
    assert chat(one, "b").status_code == 200
    assert httpx.get(f"{one.url}/v1/backends").json()["data"][0]["slots"] == 1


@pytest.mark.slow
def test_embeddings_load_their_model_first(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(table("m", made_up_model, tmp_path, "--embedding"))
    one = gateway("--config", str(file))
    answer = httpx.post(
        f"{one.url}/v1/embeddings", json={"model": "m", "input": ["a", "b"]}, timeout=60.0
    )
    assert [len(item["embedding"]) for item in answer.json()["data"]] == [64, 64]


def lose_none(one: Gateway) -> None:
    """Requests at random over the models a, b and c, of which two have room."""
    chooses = random.Random(7)
    wanted = [chooses.choice("abc") for _ in range(20)]
    most_seen = 0
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(chat, one, name, max_tokens=4) for name in wanted]
        while not all(answer.done() for answer in answers):
            most_seen = max(most_seen, len(pids(one)))
            time.sleep(0.02)
    lost = [answer.result().text for answer in answers if answer.result().status_code != 200]
    assert lost == []
    assert [answer.result().json()["model"] for answer in answers] == wanted
    assert most_seen <= 2
    assert 3 <= one.log.count(": loaded after") <= 20  # never more loads than requests


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    for seed, name in enumerate(("a", "b", "c")):
        made_up.write(made / f"{name}.gguf", seed=seed)
    return made


def test_random_requests_over_more_models_than_have_memory_lose_none(
    gateway: StartGateway, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "slotproxy.toml"
    tables = [table(name, folder / f"{name}.gguf", tmp_path, memory="60MiB") for name in "abc"]
    file.write_text("\n".join(tables))
    lose_none(gateway("--config", str(file), "--memory", "128MiB", "--swap-wait", "0.5", *LEGACY))


@pytest.mark.slow
def test_random_requests_over_a_folder_with_room_for_two_lose_none(
    gateway: StartGateway, folder: Path, tmp_path: Path
) -> None:
    server = f"env -C {tmp_path} {servers.find('llama-2023')} -np 2 -c 2048 -t 1 -cb"
    flags = ("--models-max", "2", "--swap-wait", "0.5", *LEGACY)
    lose_none(gateway("--models-dir", str(folder), "--llama-server", server, *flags))


@pytest.mark.slow
def test_model_that_can_never_fit_is_a_clear_400(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "slotproxy.toml"
    file.write_text(table("big", made_up_model, tmp_path, memory="3GiB"))
    one = gateway("--config", str(file), "--memory", "2GiB")
    answer = chat(one, "big")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "model_too_large")
    assert "it needs about 3.0 GiB, and models may take 2.0 GiB (--memory)" in error["message"]
    assert pids(one) == {}

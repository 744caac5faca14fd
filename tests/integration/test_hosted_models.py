"""Models that a real gateway starts itself, on real servers with made-up weights."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import thorough
from tests.documents import png
from tests.fakes import gone, wait_until
from tools import made_up_mmproj, servers
from tools.processes import Gateway

from .asking import lines
from .child_processes import children, command, descendants
from .conftest import StartGateway

LEGACY = ("--chat-template", "legacy")
HELLO = [{"role": "user", "content": "Hello"}]


def table(
    name: str, model: Path, folder: Path, *words: str, server: str = "llama-2023", **keys: Any
) -> str:
    """A [[model]] table. The server runs in `folder`, where that of 2023 writes its llama.log."""
    binary = servers.find(server)
    if thorough.FEW and server != "llama-2023":
        pytest.skip("make test-all runs it")
    if binary is None:
        pytest.skip(servers.absent(server))
    command = [str(binary), "--host", "127.0.0.1", "--port", "${PORT}", "-m", str(model)]
    command += ["-np", "2", "-c", "4096", "-t", "1", "-cb", *words]
    keys = {"name": name, "command": command, "folder": str(folder), **keys}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    return "\n".join(["[[model]]", *lines, ""])


def pids(gateway: Gateway) -> dict[str, int]:
    """The model servers that the gateway has started: pid by model file."""
    by_file = {}
    for pid in descendants(gateway.pid):
        words = command(pid).split()
        if "-np" in words:
            by_file[words[words.index("-m") + 1]] = pid
    return by_file


def chat(gateway: Gateway, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "messages": HELLO, "max_tokens": 4}
    return httpx.post(f"{gateway.url}/v1/chat/completions", json={**body, **more}, timeout=60.0)


def status(gateway: Gateway, model: str) -> str:
    listed = httpx.get(f"{gateway.url}/v1/models").json()["data"]
    return str(next(entry for entry in listed if entry["id"] == model)["status"]["value"])


@pytest.fixture
def started(serve: StartGateway, made_up_model: Path, tmp_path: Path) -> tuple[Gateway, int]:
    """A gateway with the model `m` loaded, and the pid of its server."""
    gateway = serve(table("m", made_up_model, tmp_path, stop_timeout=1), *LEGACY)
    assert status(gateway, "m") == "unloaded"
    assert chat(gateway, "m").status_code == 200
    (pid,) = pids(gateway).values()
    return gateway, pid


@pytest.mark.parametrize("server", ["llama-2023", "llama-2026", "powerinfer"])
def test_first_request_starts_the_server_and_the_ttl_ends_it(
    serve: StartGateway, made_up_model: Path, tmp_path: Path, server: str
) -> None:
    keys = {"aliases": ["other"], "ttl": 0.5}
    gateway = serve(table("m", made_up_model, tmp_path, server=server, **keys), *LEGACY)
    assert pids(gateway) == {}
    body = {"model": "other", "messages": HELLO, "max_tokens": 8}
    assert list(lines(gateway.url, "/v1/chat/completions", body))[-1] == b"data: [DONE]"

    def is_known() -> bool:  # while it is loaded, which is not long
        assert chat(gateway, "m").status_code == 200
        facts = httpx.get(f"{gateway.url}/v1/backends").json()["data"][0]["found"]
        return (facts["slots"], facts["provisional"]) == (2, False)

    wait_until(is_known)
    wait_until(lambda: pids(gateway) == {}, 60)
    assert status(gateway, "m") == "unloaded"
    assert chat(gateway, "m").status_code == 200  # and starts again
    assert chat(gateway, "m").status_code == 200


def test_answer_continues_when_its_server_is_killed(started: tuple[Gateway, int]) -> None:
    gateway, pid = started
    seen: list[bytes] = []
    body = {"model": "m", "messages": HELLO, "max_tokens": 1500}
    for line in lines(gateway.url, "/v1/chat/completions", body):
        seen.append(line)
        if len(seen) == 6:  # some tokens
            os.kill(pid, signal.SIGKILL)
    chunks = [json.loads(line[6:]) for line in seen if line.startswith(b"data: {")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length", chunks[-1]
    assert list(pids(gateway).values()) != [pid]


def test_no_server_outlives_a_killed_gateway(started: tuple[Gateway, int]) -> None:
    gateway, pid = started
    for child in (*children(gateway.pid), gateway.pid):  # the worker, then its master
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: gone(pid))


@pytest.mark.slow
def test_reload_changes_and_removes_models(
    serve: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "slotproxy.toml"
    gateway = serve("".join(table(name, made_up_model, tmp_path) for name in "ab"), *LEGACY)
    assert chat(gateway, "a").status_code == 200
    (pid,) = pids(gateway).values()
    file.write_text(table("b", made_up_model, tmp_path, slots=1))
    gateway.send(signal.SIGHUP)
    wait_until(lambda: gone(pid))
    listed = httpx.get(f"{gateway.url}/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == ["b"]
    assert chat(gateway, "b").status_code == 200
    assert httpx.get(f"{gateway.url}/v1/backends").json()["data"][0]["slots"] == 1


@pytest.mark.slow
def test_changed_file_is_applied_and_an_invalid_one_is_not(
    serve: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "slotproxy.toml"
    gateway = serve(table("a", made_up_model, tmp_path), "--watch-config", *LEGACY)

    def listed() -> list[str]:
        return [model["id"] for model in httpx.get(f"{gateway.url}/v1/models").json()["data"]]

    file.write_text("[[model]]")
    wait_until(lambda: "not reloaded" in gateway.log)
    assert listed() == ["a"]
    file.write_text("".join(table(name, made_up_model, tmp_path) for name in "ab"))
    wait_until(lambda: listed() == ["a", "b"])


def test_server_is_used_by_its_openai_api(
    serve: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    keys = {"kind": "openai", "concurrency": 1, "preload": True, "check": "/health"}
    gateway = serve(table("m", made_up_model, tmp_path, server="llama-2026", **keys), *LEGACY)
    wait_until(lambda: status(gateway, "m") == "loaded", 60)
    answer = chat(gateway, "m").json()
    assert answer["model"] == "m"
    body = {"model": "m", "messages": HELLO}
    counted = httpx.post(f"{gateway.url}/v1/chat/completions/input_tokens", json=body, timeout=60.0)
    assert counted.json()["input_tokens"] == answer["usage"]["prompt_tokens"]
    (backend,) = httpx.get(f"{gateway.url}/v1/backends").json()["data"]
    assert (backend["found"]["dialect"], backend["found"]["slots"]) == ("llama-server", 1)


def test_configuration_of_llama_swap_serves_as_it_is(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"""
        macros:
          server: env -C {tmp_path} {servers.find("llama-2023")} --port ${{PORT}} -t 1 -np 2 -cb
        models:
          first:
            name: The first one
            cmd: |
              # a comment
              ${{server}} -c 2048 -m {made_up_model}
            aliases: [one]
            filters: {{setParams: {{max_tokens: 3}}}}
          second:
            cmd: ${{server}} -c 1024 -m {made_up_model}
            unlisted: true
        hooks: {{on_startup: {{preload: [first]}}}}
        """
    )
    served = gateway("--config", str(file), *LEGACY)
    wait_until(lambda: status(served, "first") == "loaded", 60)
    (listed,) = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert (listed["id"], listed["name"], listed["aliases"]) == ("first", "The first one", ["one"])
    answer = chat(served, "one", max_tokens=100).json()
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("one", 3)
    assert chat(served, "second").json()["model"] == "second"
    (running,) = httpx.get(f"{served.url}/running").json()["running"]  # the other one gave way
    assert running["model"] == "second"


def test_presets_of_llama_servers_router_serve_as_they_are(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    binary = servers.find("llama-2026")
    if binary is None or thorough.FEW:
        pytest.skip("llama-2026 is not built, or make test-all runs it")
    file = tmp_path / "models.ini"
    file.write_text(
        f"""
        version = 1
        [*]
        threads = 1
        LLAMA_ARG_N_PARALLEL = 2
        jinja = true
        [tiny]
        model = {made_up_model}
        c = 1024
        no-warmup = on
        flash-attn = off
        """
    )
    running = gateway("--config", str(file), "--llama-server", str(binary))
    assert chat(running, "tiny").status_code == 200
    (backend,) = httpx.get(f"{running.url}/v1/backends").json()["data"]
    assert (backend["slots"], backend["n_ctx"]) == (2, 512)


@pytest.mark.slow
def test_model_of_a_folder_sees_by_its_projector(
    gateway: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    binary = servers.find("llama-2026")
    if binary is None:
        pytest.skip("llama-2026 is not built")
    inner = tmp_path / "models" / "eyes"
    inner.mkdir(parents=True)
    (inner / "text.gguf").symlink_to(made_up_model)
    (inner / "mmproj-F16.gguf").symlink_to(made_up_mmproj.cached(made_up_model))
    flags = ("--models-dir", str(inner.parent), "--llama-server", f"{binary} -c 2048 -t 1 -np 1")
    running = gateway(*flags)
    image = {"url": "data:image/png;base64," + base64.b64encode(png(255, 0, 0)).decode()}
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": image}]
    answer = chat(running, "eyes", messages=[{"role": "user", "content": parts}])
    assert answer.status_code == 200, answer.text
    (listed,) = httpx.get(f"{running.url}/models").json()["data"]
    assert listed["architecture"]["input_modalities"] == ["text", "image"]


def test_server_answers_nobody_but_the_gateway(
    serve: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    """A page of any origin could ask a llama-server without a key."""
    gateway = serve(table("m", made_up_model, tmp_path, server="llama-2026"), *LEGACY)
    assert chat(gateway, "m").status_code == 200
    (pid,) = pids(gateway).values()
    words = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
    url = f"http://127.0.0.1:{int(words[words.index(b'--port') + 1])}"
    assert httpx.post(f"{url}/completion", json={"prompt": "x"}).status_code == 401
    assert httpx.get(f"{url}/slots").status_code == 401
    assert b"api-key" not in b" ".join(words)
    props = httpx.get(f"{gateway.url}/upstream/m/props")
    assert props.json()["total_slots"] == 2  # with the key


THIEF = """
import json, os, re, socket, sys, threading, time
from pathlib import Path

os.setgroups([]); os.setgid(65534); os.setuid(65534)  # nobody
seen = set()

def serve(server):
    while True:
        client, _ = server.accept()
        data = client.recv(65536)
        if data:
            print(json.dumps(data.decode()), flush=True)
        client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")

print("looks", flush=True)
while True:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().split(b"\\0")
        except OSError:
            continue
        port = int(words[words.index(b"--port") + 1]) if b"stolen.gguf" in words else 0
        if port and port not in seen:
            seen.add(port)
            try:
                server = socket.create_server(("127.0.0.1", port))
            except OSError:  # somebody else's by now: the model's server can't have it either
                server = None
            if server is not None:
                threading.Thread(target=serve, args=(server,), daemon=True).start()
            print("left" if server is None else "taken", port, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_other_user_who_takes_the_port_gets_no_prompt(
    serve: StartGateway, made_up_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "stolen.gguf").symlink_to(made_up_model)
    binary = servers.find("llama-2023")
    if binary is None:
        pytest.skip("llama-2023 is not built")
    heard = tmp_path / "heard.txt"
    script = 'until grep -q " $2$" heard.txt; do sleep 0.05; done; exec "$0" "$@"'  # $2: the port
    slow = ["sh", "-c", script, str(binary), "--port", "${PORT}", "--host", "127.0.0.1"]
    slow += ["-m", "stolen.gguf", "-np", "1", "-c", "512", "-t", "1"]
    keys = {"name": "m", "command": slow, "folder": str(tmp_path)}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    started = serve("\n".join(["[[model]]", *lines, ""]), *LEGACY)
    with (
        heard.open("wb") as out,
        subprocess.Popen([sys.executable, "-c", THIEF], stdout=out) as thief,
    ):
        try:
            wait_until(lambda: "looks" in heard.read_text())
            answer = chat(started, "m")
            wait_until(lambda: "taken" in heard.read_text())  # it may be slower than the gateway
        finally:
            thief.kill()
    words = {line.split()[0] for line in heard.read_text().splitlines()}
    assert words <= {"looks", "taken", "left"}, "nothing was sent to it"
    assert "a program of the user 65534 listens at its port" in started.log
    assert answer.status_code == 502
    assert "a program of the user 65534 listens" in answer.json()["error"]["message"]

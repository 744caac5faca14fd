"""A real llama-server in router mode: several models at one address, loaded on request."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import thorough
from tests.fakes import wait_until
from tools import made_up_model, servers
from tools.processes import Child, Gateway, ask, held_port

from .asking import fetch, in_flight, opened
from .conftest import StartGateway, StartServer

LEGACY = ("--chat-template", "legacy")
SLOW_LOADS = {"LLAMA_SERVER_DEBUG_FAKE_TIMING": "1"}  # a load takes two seconds, and a request too
PRESET = """
version = 1
[alpha]
c = 32768
np = 2
chat-template = chatml
[beta]
c = 1536
np = 3
chat-template-file = {template}
[broken]
c = 512
"""
TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


class Router(Child):
    """llama-server with the models of a folder, on a port that it keeps over restarts."""

    def __init__(self, folder: Path, log: Path, extra: Sequence[str] = (), **more: Any) -> None:
        binary = servers.find("llama-2026")
        assert binary is not None
        self.port = held_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        preset = folder.parent / f"{folder.name}.ini"
        words = ["--host", "127.0.0.1", "--port", str(self.port), "-t", "1", "--offline"]
        words += ["--models-dir", str(folder), "--models-preset", str(preset), *extra]
        env = {"LLAMA_CACHE": str(folder.parent / "none"), **more.pop("env", {})}
        super().__init__([binary, *words], log, env, cwd=folder.parent, **more)

    def start(self, seconds: float = 60.0) -> None:
        self.launch()
        end = time.monotonic() + seconds
        while ask(f"{self.url}/health")[0] != 200:
            if not self.alive or time.monotonic() > end:
                raise self.fail("did not start")
            time.sleep(0.05)

    def status(self, model: str) -> str:
        (entry,) = (row for row in self.models() if row["id"] == model)
        return str(entry["status"]["value"])

    def models(self) -> list[dict[str, Any]]:
        status, data = ask(f"{self.url}/v1/models")
        assert status == 200
        rows: list[dict[str, Any]] = json.loads(data)["data"]
        return rows

    def tell(self, path: str, body: Any) -> tuple[int, Any]:
        status, data = ask(f"{self.url}{path}", body, seconds=60.0)
        return status, json.loads(data or b"null")

    @property
    def loads(self) -> int:
        """How many processes of models it has started."""
        return self.log.count("spawning server instance with name=")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models with made-up weights, and a file that is not a model."""
    if thorough.FEW:
        pytest.skip("make test-all runs it")
    return _folder(tmp_path_factory.mktemp("router"))


def _folder(where: Path) -> Path:
    models = where / "models"
    models.mkdir()
    for seed, name in enumerate(("alpha", "beta")):
        made_up_model.write(models / f"{name}.gguf", seed=seed, n_ctx=16384)
    whole = (models / "alpha.gguf").read_bytes()
    (models / "broken.gguf").write_bytes(whole[: len(whole) // 2])
    template = where / "turns.jinja"
    template.write_text(TEMPLATE)
    (where / "models.ini").write_text(PRESET.format(template=template))
    return models


StartRouter = Callable[..., Router]


@pytest.fixture(scope="module")
def start_router(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartRouter]:
    if servers.find("llama-2026") is None:
        reason = "llama-2026 is not built: python -m tools.servers build llama-2026"
        if thorough.ALL:
            pytest.fail(reason)
        pytest.skip(reason)
    started: list[Router] = []

    def start(*extra: str, models: Path = folder, **more: Any) -> Router:
        log = tmp_path_factory.mktemp("log") / "router.log"
        process = Router(models, log, extra, **more)
        started.append(process)
        process.start()
        return process

    try:
        yield start
    finally:
        for process in started:
            process.stop()


@pytest.fixture(scope="module")
def _one_at_a_time(start_router: StartRouter) -> Router:
    return start_router("--models-max", "1", "--slots", "--metrics")


@pytest.fixture
def router(_one_at_a_time: Router) -> Router:
    """A router with room for one model; none is loaded."""
    process = _one_at_a_time
    if not process.alive:
        process.start()
    for model in ("alpha", "beta"):
        if process.status(model) != "unloaded":
            process.tell("/models/unload", {"model": model})
            wait_until(lambda model=model: process.status(model) == "unloaded")  # type: ignore[misc]
    return process


def chat(
    gateway: Gateway, model: str, text: str = "Hello", tokens: int = 4, **more: Any
) -> tuple[int, Any]:
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "max_tokens": tokens, "temperature": 0, **more}
    status, _, answer = fetch(gateway.url, "/v1/chat/completions", body)
    return status, answer


def listed(gateway: Gateway) -> dict[str, str]:
    """The status of each model in /v1/models of the gateway."""
    entries = fetch(gateway.url, "/v1/models")[2]["data"]
    return {
        entry["id"]: "failed" if entry["status"].get("failed") else entry["status"]["value"]
        for entry in entries
    }


def backends(gateway: Gateway) -> dict[str, dict[str, Any]]:
    rows = fetch(gateway.url, "/v1/backends")[2]["data"]
    return {row["model"]: row for row in rows}


def warm(gateway: Gateway, backend: str) -> list[int]:
    """The tokens cached in slots of a backend, by the gateway's records."""
    rows = fetch(gateway.url, "/v1/slots")[2]["backends"]
    return [
        slot["tokens"]
        for row in rows
        if row["backend"] == backend
        for slot in row["slots"]
        if slot["conversation"] is not None
    ]


def test_router_model_becomes_a_gateway_model(router: Router, gateway: StartGateway) -> None:
    running = gateway("--llama-api", router.url)
    assert listed(running) == {"alpha": "unloaded", "beta": "unloaded", "broken": "unloaded"}
    assert fetch(running.url, "/api/ps")[2]["models"] == []

    status, answer = chat(running, "alpha")
    assert status == 200, answer
    assert (answer["model"], answer["usage"]["completion_tokens"]) == ("alpha", 4)
    assert router.status("alpha") == "loaded"
    backend = backends(running)["alpha"]
    name = f"127.0.0.1:{router.port}/alpha"
    assert (backend["id"], backend["status"], backend["slots"], backend["n_ctx"]) == (
        name,
        "loaded",
        2,
        16384,
    )
    assert not backend["found"]["provisional"]

    status, answer = chat(running, "beta")
    assert status == 200, answer
    wait_until(lambda: listed(running)["alpha"] == "unloaded")
    assert listed(running)["beta"] == "loaded"
    backend = backends(running)["beta"]
    assert (backend["slots"], backend["n_ctx"]) == (3, 512)
    assert [m["name"] for m in fetch(running.url, "/api/ps")[2]["models"]] == ["beta:latest"]
    tags = {m["name"]: m["status"] for m in fetch(running.url, "/api/tags")[2]["models"]}
    statuses = {"alpha:latest": "unloaded", "beta:latest": "loaded", "broken:latest": "unloaded"}
    assert tags == statuses


def test_status_requests_load_no_model(router: Router, gateway: StartGateway) -> None:
    running = gateway("--llama-api", router.url, "--health-interval", "0.05", "--metrics")

    def look(seconds: float) -> None:
        before, looks, end = router.loads, 0, time.monotonic() + seconds
        while time.monotonic() < end or looks < 3:
            for path in (
                *("/health", "/v1/models", "/v1/backends", "/v1/slots", "/slots", "/metrics"),
                *("/props?model=alpha", "/props", "/api/tags", "/api/ps", "/status"),
            ):
                assert ask(f"{running.url}{path}")[0] == 200, path
            assert ask(f"{running.url}/api/show", {"model": "beta"})[0] == 200
            looks += 1
        assert router.loads == before
        assert {m["status"]["value"] for m in router.models()} == {"unloaded"}

    look(3.0)  # at models that nobody has seen loaded
    assert chat(running, "alpha")[0] == 200
    assert backends(running)["alpha"]["found"]["metrics"]
    assert router.tell("/models/unload", {"model": "alpha"})[0] == 200
    wait_until(lambda: listed(running)["alpha"] == "unloaded")
    look(3.0)  # at one that is known


def test_status_requests_do_not_keep_a_model_loaded(
    start_router: StartRouter, gateway: StartGateway
) -> None:
    sleepy = start_router("--sleep-idle-seconds", "2")
    running = gateway("--llama-api", sleepy.url, "--health-interval", "0.1")
    assert chat(running, "alpha")[0] == 200
    wait_until(lambda: listed(running)["alpha"] == "sleeping")
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        assert fetch(running.url, "/props?model=alpha")[0] == 200
        assert ask(f"{running.url}/health")[0] == 200
        assert sleepy.status("alpha") == "sleeping"
    wait_until(lambda: warm(running, f"127.0.0.1:{sleepy.port}/alpha") == [])
    status, answer = chat(running, "alpha")  # which wakes it
    assert status == 200, answer
    wait_until(lambda: listed(running)["alpha"] == "loaded")


def test_external_eviction_is_noticed(router: Router, gateway: StartGateway) -> None:
    running = gateway("--llama-api", router.url, "--health-interval", "60")
    name = f"127.0.0.1:{router.port}/alpha"
    text = "Tell me about the rivers of the land. " * 8
    assert chat(running, "alpha", text)[0] == 200
    status, answer = chat(running, "alpha", text)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 20
    assert warm(running, name)

    assert router.tell("/completion", {"model": "beta", "prompt": "a", "n_predict": 1})[0] == 200
    wait_until(lambda: listed(running)["alpha"] == "unloaded")
    wait_until(lambda: not warm(running, name))

    status, answer = chat(running, "alpha", text)  # it is loaded again
    assert status == 200, answer
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    status, answer = chat(running, "alpha", text)
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 20


def test_concurrent_requests_for_two_models_are_all_answered(
    router: Router, gateway: StartGateway
) -> None:
    running = gateway("--llama-api", router.url)
    before = router.loads

    def statuses(model: str) -> list[int]:
        return [chat(running, model, tokens=16)[0] for _ in range(6)]

    with ThreadPoolExecutor(6) as clients:
        assert list(clients.map(statuses, ("alpha", "beta") * 3)) == [[200] * 6] * 6
    # A turn answers every client that waits for the model, so each model has about six. (If the
    # router alone decides, it evicts a model between two requests of a client: 15 to 21 loads.)
    assert router.loads - before < 15


def test_steady_traffic_for_one_model_does_not_starve_another(
    router: Router, gateway: StartGateway
) -> None:
    running = gateway("--llama-api", router.url)
    over = threading.Event()
    statuses: list[int] = []

    def steady(tokens: int) -> None:
        while not over.is_set():
            statuses.append(chat(running, "alpha", tokens=tokens)[0])

    with ThreadPoolExecutor(4) as clients:
        try:
            for tokens in (300, 430, 570, 700):  # so that one is always under way
                clients.submit(steady, tokens)
            wait_until(lambda: len(statuses) >= 2, 60)
            began = time.monotonic()
            status, answer = chat(running, "beta")
            seconds = time.monotonic() - began
        finally:
            over.set()
    assert status == 200, answer
    assert seconds < 60
    assert set(statuses) == {200}


def test_failed_load_is_an_error_with_its_reason(router: Router, gateway: StartGateway) -> None:
    running = gateway("--llama-api", router.url)
    bodies: tuple[dict[str, Any], ...] = ({}, {"stream": True})
    for more in bodies:
        status, answer = chat(running, "broken", **more)
        assert (status, answer["error"]["code"]) == (502, "model_load_failed")
        assert "failed to load" in answer["error"]["message"]
    wait_until(lambda: listed(running)["broken"] == "failed")
    wait_until(lambda: "exited with code" in (backends(running)["broken"]["error"] or ""))
    assert chat(running, "alpha")[0] == 200  # no other model is the worse for it
    assert ask(f"{running.url}/health")[0] == 200


def test_closed_stream_frees_the_slot_of_the_model(router: Router, gateway: StartGateway) -> None:
    running = gateway("--llama-api", router.url)

    def busy() -> int:
        status, data = fetch(router.url, "/slots?model=alpha&autoload=false")[::2]
        assert status == 200
        return sum(slot["is_processing"] for slot in data)

    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": "alpha", "messages": messages, "max_tokens": 16000, "stream": True}
    with opened(running.url, "/v1/chat/completions", body) as answer:
        assert answer.status == 200
        while b"content" not in answer.readline():
            pass
        wait_until(lambda: busy() == 1)
    wait_until(lambda: busy() == 0, 60)
    # The gateway counts it out after it has closed the connection that the server sees closed.
    wait_until(lambda: in_flight(running.url) == 0)


def test_router_killed_during_a_load_recovers(
    start_router: StartRouter, gateway: StartGateway
) -> None:
    slow = start_router("--models-max", "1", env=SLOW_LOADS)
    running = gateway("--llama-api", slow.url, "--health-interval", "0.2")
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(chat, running, "alpha")
        wait_until(lambda: slow.log.count("waiting until model name=alpha") > 0)
        slow.kill()
    status, answer = waiting.result()
    assert status in (502, 503), answer
    wait_until(lambda: ask(f"{running.url}/health")[0] == 503)
    assert all(b["state"] == "down" for b in backends(running).values())
    slow.start()
    wait_until(lambda: ask(f"{running.url}/health")[0] == 200)
    status, answer = chat(running, "alpha")
    assert status == 200, answer


def test_models_follow_the_routers_list(
    start_router: StartRouter, gateway: StartGateway, tmp_path: Path
) -> None:
    models = _folder(tmp_path)
    changing = start_router(models=models)
    running = gateway("--llama-api", changing.url, "--health-interval", "0.2")
    assert chat(running, "beta")[0] == 200
    aside = tmp_path / "beta.gguf"
    shutil.move(models / "beta.gguf", aside)
    preset = tmp_path / "models.ini"
    preset.write_text("version = 1\n[alpha]\nc = 1024\nnp = 2\n")
    assert fetch(changing.url, "/v1/models?reload=1")[0] == 200
    wait_until(lambda: "beta" not in listed(running))
    status, answer = chat(running, "beta")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")
    shutil.move(aside, models / "beta.gguf")
    assert fetch(changing.url, "/v1/models?reload=1")[0] == 200
    wait_until(lambda: "beta" in listed(running))
    assert chat(running, "beta")[0] == 200


def test_model_of_two_routers_and_a_plain_server_is_one_pool(
    router: Router, start_router: StartRouter, start_server: StartServer, gateway: StartGateway
) -> None:
    other = start_router("--models-max", "1")
    plain = start_server("llama-2023")
    served = gateway(
        *("--llama-api", router.url, "--llama-api", other.url, "--llama-api", plain.url, *LEGACY),
        *("--health-interval", "0.2"),
    )
    wait_until(lambda: len(fetch(served.url, "/v1/models")[2]["data"]) == 4)
    models = fetch(served.url, "/v1/models")[2]["data"]
    assert [m["id"] for m in models][:3] == ["alpha", "beta", "broken"]
    assert "status" not in models[3]
    assert chat(served, models[3]["id"])[0] == 200
    assert chat(served, "alpha")[0] == 200
    assert [router.status("alpha"), other.status("alpha")].count("loaded") == 1
    first, second = (router, other) if router.status("alpha") == "loaded" else (other, router)
    for _ in range(3):  # no second copy is loaded while one is idle
        assert chat(served, "alpha")[0] == 200
    assert second.status("alpha") == "unloaded"
    first.kill()
    wait_until(
        lambda: sum(b["state"] == "down" for b in fetch(served.url, "/v1/backends")[2]["data"]) == 3
    )
    status, answer = chat(served, "alpha")
    assert status == 200, answer
    assert second.status("alpha") == "loaded"


def test_key_is_sent_to_the_router_and_reload_removes_its_models(
    start_router: StartRouter,
    start_server: StartServer,
    gateway: StartGateway,
    tmp_path: Path,
) -> None:
    locked = start_router("--api-key", "sesame")
    plain = start_server("llama-2023")
    config = tmp_path / "slotproxy.toml"
    first = f'[[backend]]\nurl = "{plain.url}"\nname = "plain"\n'
    second = f'[[backend]]\nurl = "{locked.url}"\nname = "box"\napi_key = "sesame"\n'
    config.write_text(first + second)
    running = gateway("--config", str(config), "--health-interval", "0.2", *LEGACY)
    wait_until(
        lambda: {"box/alpha", "box/beta", "plain"} <= {b["id"] for b in backends(running).values()}
    )
    assert chat(running, "alpha")[0] == 200
    config.write_text(first)
    running.send(signal.SIGHUP)
    wait_until(lambda: [b["id"] for b in backends(running).values()] == ["plain"])
    config.write_text(first + second)
    running.send(signal.SIGHUP)
    wait_until(lambda: "box/beta" in {b["id"] for b in backends(running).values()})
    assert chat(running, "beta")[0] == 200


def test_single_router_model_can_be_configured(router: Router, serve: StartGateway) -> None:
    gateway = serve(f'[[backend]]\nurl = "{router.url}"\nmodel = "beta"\nslots = 1\n')
    assert listed(gateway) == {"beta": "unloaded"}
    assert chat(gateway, "")[0] == 200
    assert backends(gateway)["beta"]["slots"] == 1


def test_router_without_autoload_is_reported(
    start_router: StartRouter, gateway: StartGateway
) -> None:
    manual = start_router("--no-models-autoload")
    running = gateway("--llama-api", manual.url, "--health-interval", "0.2")
    status, answer = chat(running, "alpha")
    assert (status, answer["error"]["code"]) == (502, "model_not_loaded")
    assert manual.tell("/models/load", {"model": "alpha"})[0] == 200
    wait_until(lambda: listed(running)["alpha"] == "loaded")
    status, answer = chat(running, "alpha")
    assert status == 200, answer

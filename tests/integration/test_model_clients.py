"""Clients that load, unload and watch hosted models: Ollama's own, and Open WebUI's requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients import ollama
from tests.fakes import wait_until
from tools import made_up_model as made_up
from tools.processes import Gateway

from .conftest import StartGateway
from .test_hosted_models import LEGACY, table

HELLO: Any = [{"role": "user", "content": "Hello"}]
SHORT: Any = {"num_predict": 4}


@pytest.fixture(params=["llama-2023", "llama-2026", "powerinfer"])
def two(request: pytest.FixtureRequest, serve: StartGateway, tmp_path: Path) -> Gateway:
    """A gateway with the models `a` and `b`, of which none is loaded."""
    tables = []
    for seed, name in enumerate("ab"):
        file = made_up.write(tmp_path / f"{name}.gguf", seed=seed)
        tables.append(table(name, file, tmp_path, server=request.param))
    return serve("\n".join(tables), *LEGACY)


@pytest.fixture
def client(two: Gateway) -> Iterator[ollama.Client]:
    yield ollama.Client(host=two.url)


def loaded(client: ollama.Client) -> dict[str, float]:
    """The loaded models, and in how many seconds each is unloaded."""
    now = datetime.now(UTC)
    return {
        str(model.model): (model.expires_at - now).total_seconds()
        for model in client.ps().models
        if model.expires_at is not None
    }


def test_ollama_loads_keeps_and_unloads_models(client: ollama.Client, tmp_path: Path) -> None:
    sizes = {model.model: model.size for model in client.list().models}
    assert sizes == {f"{name}:latest": (tmp_path / f"{name}.gguf").stat().st_size for name in "ab"}
    assert loaded(client) == {}

    assert client.generate(model="a", keep_alive="10m").done_reason == "load"
    left = loaded(client)
    assert list(left) == ["a:latest"]
    assert 590 < left["a:latest"] < 601  # it is idle a moment after its answer
    assert client.chat(model="a", messages=HELLO, options=SHORT).done_reason == "length"
    assert client.generate(model="b:latest", prompt="x", options=SHORT, keep_alive=-1).done
    assert loaded(client)["b:latest"] > 86400 * 365  # never

    assert client.chat(model="a", messages=[], keep_alive=0).done_reason == "unload"
    wait_until(lambda: list(loaded(client)) == ["b:latest"])
    parts = client.generate(model="b", prompt="x", options=SHORT, keep_alive=0, stream=True)
    assert [part.done for part in parts][-1]
    wait_until(lambda: loaded(client) == {})


def test_open_webui_lists_and_unloads_over_its_ollama_connection(two: Gateway) -> None:
    """The requests of its routers/ollama.py: a model without a tag is looked for as `:latest`."""
    http = httpx.Client(base_url=two.url, headers={"Content-Type": "application/json"}, timeout=60)
    with http:
        version = http.get("/api/version").json()["version"]
        assert [int(part) for part in version.split(".")] > [0, 1, 30]
        models = {model["model"]: model for model in http.get("/api/tags").json()["models"]}
        name = "a:latest"
        assert name in models
        chat = {"model": name, "messages": HELLO, "stream": True, "options": SHORT}
        assert '"done":true' in http.post("/api/chat", json=chat).text
        expires = {row["name"]: row["expires_at"] for row in http.get("/api/ps").json()["models"]}
        assert int(datetime.fromisoformat(expires[name]).timestamp()) > time.time()
        unload = {"model": name, "keep_alive": 0, "prompt": ""}
        assert http.post("/api/generate", json=unload).json()["done"]
        wait_until(lambda: http.get("/api/ps").json()["models"] == [])


def test_open_webui_shows_and_unloads_over_its_openai_connection(two: Gateway) -> None:
    """As with llama-server: `status` in the list, and the routes of its router mode."""

    def states() -> dict[str, str]:
        listed = httpx.get(f"{two.url}/v1/models").json()["data"]
        return {entry["id"]: entry["status"]["value"] for entry in listed}

    assert states() == {"a": "unloaded", "b": "unloaded"}
    done = httpx.post(f"{two.url}/models/load", json={"model": "b"})
    assert done.json() == {"success": True}
    wait_until(lambda: states() == {"a": "unloaded", "b": "loaded"}, 60)
    listed = httpx.get(f"{two.url}/models").json()["data"]
    assert {entry["id"]: entry["status"]["value"] for entry in listed} == states()
    httpx.post(f"{two.url}/models/unload", json={"model": "b"}).raise_for_status()
    wait_until(lambda: states() == {"a": "unloaded", "b": "unloaded"}, 60)

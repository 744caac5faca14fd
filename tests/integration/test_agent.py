"""An agent on a real server of 2023, with the bundled model: it calls by the grammar that the
gateway binds, since that server knows no tools."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from proxy.app.compose import compose
from proxy.config import SettingsError, load
from proxy.core.request import Message
from proxy.dialogue.events import DialogueRequest
from proxy.errors import Forbidden
from proxy.web.services import Services
from tests.fakes import gone, wait_until
from tools.processes import Gateway, ModelServer

from .conftest import StartGateway

TEMPLATE = Path(__file__).parents[2] / "models" / "tinychat.jinja"
ASKED = "What is the weather in Oslo?"
SOURCE = '''
import os, time

def get_weather(city: str) -> str:
    """Get the current weather of a city"""
    mark = os.path.join(os.path.dirname(__file__), "slow")
    if os.path.exists(mark):
        with open(mark + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(mark + ".new", mark + ".pid")
        time.sleep(60)
    return '{"temperature": 4}'

def get_time(city: str) -> str:
    """Get the time of a city"""
    return '{"time": "12:30"}'
'''


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ModelServer], tiny_model: Path) -> Iterator[ModelServer]:
    model_server = start_server("llama-2023", model=tiny_model)
    yield model_server
    model_server.kill()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that provides a tool, as if it were installed."""
    (tmp_path / "made_up_weather.py").write_text(SOURCE)
    meta = tmp_path / "made_up_weather-1.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up-weather\nVersion: 1\n")
    points = "".join(f"{name} = made_up_weather:{name}\n" for name in ("get_weather", "get_time"))
    (meta / "entry_points.txt").write_text("[slotproxy.tools]\n" + points)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def services(server: ModelServer, data: Path, *tools: str) -> Services:
    flags = [f"--tools={tool}" for tool in tools]
    url = ["--llama-api", server.url, "--chat-template", str(TEMPLATE), "--data", str(data)]
    composed = compose(load([*url, *flags], {}))
    wait_until(lambda: composed.gateway.registry.ready)
    return composed


def request() -> DialogueRequest:
    return DialogueRequest(
        kind="agent",
        messages=(Message(role="user", content=ASKED),),
        sampling={"temperature": 0.0},
        max_tokens=200,
    )


def test_tools_are_off_by_default(server: ModelServer, package: Path) -> None:
    composed = services(server, package)
    with pytest.raises(Forbidden, match="--tools"):
        list(composed.dialogues.run(request()))
    composed.gateway.registry.close()
    with pytest.raises(
        SettingsError, match="--tools: unknown tool 'rm'; available: calculator, get_time"
    ):
        services(server, package, "rm")


# -- served: by gunicorn's gevent worker, over Chatchat's route ------------------------------------


@pytest.fixture
def served(server: ModelServer, package: Path, gateway: StartGateway) -> Gateway:
    flags = ("--chat-template", str(TEMPLATE), "--data", str(package), "--chatchat")
    env = {"PYTHONPATH": str(package)}
    return gateway("--llama-api", server.url, *flags, "--tools", "get_weather", env=env)


def body() -> dict[str, object]:
    return {"query": ASKED, "stream": True, "temperature": 0.0, "max_tokens": 200}


def test_agent_steps_are_streamed(served: Gateway) -> None:
    url = f"{served.url}/chat/agent_chat"
    with (
        httpx.Client(trust_env=False, timeout=60) as client,
        client.stream("POST", url, json=body()) as response,
    ):
        chunks = [json.loads(chunk) for chunk in response.iter_text() if chunk]
    (lines,) = [chunk["tools"] for chunk in chunks if "tools" in chunk]
    assert lines[0] == "Tool: get_weather"
    assert lines[2] == 'Output: {"temperature": 4}'
    assert "".join(chunk.get("final_answer", "") for chunk in chunks)


def test_client_disconnect_ends_the_tool(served: Gateway, package: Path) -> None:
    (package / "slow").touch()
    mark = package / "slow.pid"
    host, port = served.url.removeprefix("http://").split(":")
    data = json.dumps(body()).encode()
    with socket.create_connection((host, int(port))) as sock:
        head = (
            f"POST /chat/agent_chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
        )
        sock.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        wait_until(mark.is_file, 60)
        pid = int(mark.read_text())
        # Other requests are served while the tool runs.
        with httpx.Client(trust_env=False, timeout=60) as client:
            assert client.get(f"{served.url}/readyz").status_code == 200
        assert not gone(pid)
    wait_until(lambda: gone(pid), 60)

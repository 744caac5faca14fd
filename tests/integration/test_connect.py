"""The settings of the page "Connect", pasted as a reader does.

The texts come from the page of a running gateway, with a key and a model of it. Those for curl and
Python run as they are. In those that start a program, a stand-in of that name shows what the
program would get, and the address that it got is called as the program would. `make test-connect`
installs some of the programs, which then run themselves; Codex and Claude Code are in
test_coding_agents.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from proxy.web.pages import connect
from tests.fakes import key_file
from tools import servers
from tools.processes import Gateway, ModelServer

TEMPLATE = Path(__file__).parents[2] / "models" / "tinychat.jinja"
BUILD = servers.ROOT / "build"
KEY = "sk-pasted-0123456789"
PROGRAMS = {program.id: program for program in connect.programs()}
HELLO = [{"role": "user", "content": "Hello!"}]
STAND_IN = """#!/bin/sh
if [ "$1 $2" = "logs path" ]; then echo "$HOME/logs.db"; exit; fi
env > "$HOME/environment"
for word in "$@"; do echo "$word"; done >> "$HOME/words"
"""


@pytest.fixture(scope="module")
def server(start_server: Callable[..., ModelServer], tiny_model: Path) -> ModelServer:
    return start_server("llama-2023", model=tiny_model, slots=4, ctx=8192)


@pytest.fixture(scope="module")
def locked(
    server: ModelServer,
    module_gateway: Callable[..., Gateway],
    tmp_path_factory: pytest.TempPathFactory,
) -> Gateway:
    keys = key_file(tmp_path_factory.mktemp("keys"), f"ann {KEY}\n")
    return module_gateway(
        "--llama-api", server.url, "--chat-template", str(TEMPLATE), "--api-key-file", keys
    )


def values_of(gateway: Gateway, key: str = KEY) -> dict[str, object]:
    """The values that the page fills in, for its first model."""
    models = httpx.get(f"{gateway.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    model = models.json()["data"][0]["id"]
    return {"address": gateway.url, "key": key, "model": model, **connect.sizes(8192)}


def texts_of(program: str, gateway: Gateway, key: str = KEY) -> list[str]:
    """The texts of a program that a reader pastes, without those that install it."""
    keyless = key == connect.NO_KEY
    return [
        connect.filled(part.text, values_of(gateway, key))
        for part in PROGRAMS[program].part
        if not part.install and (keyless or not part.keyless)
    ]


class Pasted(NamedTuple):
    """A program's environment variables, arguments, and home."""

    environment: Mapping[str, str]
    words: list[str]
    home: Path


def run(
    command: list[str], text: str, home: Path, *folders: Path | str
) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([*map(str, folders), "/usr/local/bin", "/usr/bin", "/bin"])
    return subprocess.run(
        command,
        input=text,
        cwd=home,
        env={"HOME": str(home), "PATH": path, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def answer(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip(), done.stderr
    return done.stdout.strip()


def started(name: str, text: str, home: Path) -> Pasted:
    """Paste a text into a shell, where a stand-in has the name of the program."""
    folder = home / "bin"
    folder.mkdir()
    (folder / name).write_text(STAND_IN)
    (folder / name).chmod(0o755)
    done = run(["bash", "-euo", "pipefail"], text, home, folder)
    assert done.returncode == 0, done.stderr
    lines = (home / "environment").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines)
    return Pasted(environment, (home / "words").read_text().splitlines(), home)


def called(url: str, key: str, **body: Any) -> Any:
    """Call an address as a program would, and return the answer."""
    answered = httpx.post(url, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert answered.status_code == 200, answered.text
    return answered.json()


def chat(base: str, key: str, model: str) -> None:
    url = base if base.endswith("/chat/completions") else f"{base}/chat/completions"
    body = called(url, key, model=model, messages=HELLO, max_tokens=8)
    assert body["choices"][0]["message"]["content"]


def program_of(folder: str, name: str) -> Path:
    path = BUILD / folder / "bin" / name
    if not path.is_file():
        pytest.skip("make test-connect runs it")
    return path


def test_curl_answers(locked: Gateway, tmp_path: Path) -> None:
    (text,) = texts_of("curl", locked)
    body = json.loads(answer(run(["bash", "-e"], text, tmp_path)))
    assert body["choices"][0]["message"]["content"]


@pytest.mark.parametrize("program", ["openai", "anthropic", "ollama"])
def test_python_script_answers(program: str, locked: Gateway, tmp_path: Path) -> None:
    (text,) = texts_of(program, locked)
    assert answer(run([sys.executable, "-"], text, tmp_path))


def test_langchain_script_answers(locked: Gateway, tmp_path: Path) -> None:
    (text,) = texts_of("langchain", locked)
    python = program_of("connect-venv", "python")
    assert answer(run([str(python), "-"], text, tmp_path))


def test_ollama_asks_a_gateway_without_keys(
    server: ModelServer, gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    keyless = gateway("--llama-api", server.url, "--chat-template", str(TEMPLATE))
    shell, script = texts_of("ollama", keyless, connect.NO_KEY)
    got = started("ollama", shell, tmp_path)
    assert got.words[0] == "run"
    url = f"{got.environment['OLLAMA_HOST']}/api/chat"
    options = {"num_predict": 8}
    body = called(
        url, "anything", model=got.words[1], messages=HELLO, stream=False, options=options
    )
    assert body["message"]["content"]
    assert answer(run([sys.executable, "-"], script, tmp_path))


def test_claude_code_reaches_the_gateway_with_every_model(locked: Gateway, tmp_path: Path) -> None:
    (text,) = texts_of("claude-code", locked)
    got = started("claude", text, tmp_path).environment
    models = {value for name, value in got.items() if name.endswith("_MODEL")}
    assert len([name for name in got if name.endswith("_MODEL")]) == 4
    url, key = f"{got['ANTHROPIC_BASE_URL']}/v1/messages", got["ANTHROPIC_AUTH_TOKEN"]
    for model in models:
        assert called(url, key, model=model, messages=HELLO, max_tokens=8)["content"]


def test_codex_reaches_the_gateway(locked: Gateway, tmp_path: Path) -> None:
    file, text = texts_of("codex", locked)
    config = tomllib.loads(file)
    provider = config["model_providers"][config["model_provider"]]
    key = started("codex", text, tmp_path).environment[provider["env_key"]]
    assert provider["wire_api"] == "responses"
    body = called(
        f"{provider['base_url']}/responses",
        key,
        model=config["model"],
        input="Hello!",
        max_output_tokens=8,
    )
    assert body["output"]


def test_open_webui_reaches_the_gateway(locked: Gateway, tmp_path: Path) -> None:
    text, settings = texts_of("open-webui", locked)
    got = started("uvx", text, tmp_path)
    assert got.words[-1] == "serve" and got.environment["DATA_DIR"] == f"{tmp_path}/.open-webui"
    fields = dict(line.split(": ") for line in settings.splitlines())
    pairs = (
        (got.environment["OPENAI_API_BASE_URL"], got.environment["OPENAI_API_KEY"]),
        (fields["URL"], fields["API Key"]),
    )
    for base, key in pairs:
        models = httpx.get(f"{base}/models", headers={"Authorization": f"Bearer {key}"})
        chat(base, key, models.json()["data"][0]["id"])


def test_continue_reaches_the_gateway(locked: Gateway) -> None:
    (text,) = texts_of("continue", locked)
    config = yaml.safe_load(text)
    assert set(config) == {"name", "version", "schema", "models"} and config["schema"] == "v1"
    (model,) = config["models"]
    assert model["provider"] == "openai"
    chat(model["apiBase"], model["apiKey"], model["model"])


def test_copilot_reaches_the_gateway(locked: Gateway) -> None:
    (text,) = texts_of("copilot", locked)
    (provider,) = json.loads(text)
    assert (provider["vendor"], provider["apiType"]) == ("customendpoint", "chat-completions")
    (model,) = provider["models"]
    chat(model["url"], provider["apiKey"], model["id"])


def test_aider_reaches_the_gateway(locked: Gateway, tmp_path: Path) -> None:
    (text,) = texts_of("aider", locked)
    got = started("aider", text, tmp_path)
    prefix, _, model = got.words[1].partition("/")
    assert (got.words[0], prefix) == ("--model", "openai")
    chat(got.environment["OPENAI_API_BASE"], got.environment["OPENAI_API_KEY"], model)


def test_aider_answers(locked: Gateway, tmp_path: Path) -> None:
    folder = program_of("aider-venv", "aider").parent
    (text,) = texts_of("aider", locked)
    # It would ask the reader and other hosts questions.
    quiet = "--message Hello! --yes-always --no-git --no-check-update --analytics-disable"
    done = run(
        ["bash", "-e"], f"{text.rstrip()} {quiet} --no-stream --map-tokens 0\n", tmp_path, folder
    )
    assert "Tokens:" in answer(done), done.stdout + done.stderr


def test_llm_reaches_the_gateway(locked: Gateway, tmp_path: Path) -> None:
    (text,) = texts_of("llm", locked)
    got = started("llm", text, tmp_path)
    assert got.words[:5] == ["keys", "set", "slotproxy", "--value", KEY]
    (entry,) = yaml.safe_load((tmp_path / "extra-openai-models.yaml").read_text())
    assert got.words[5:7] == ["-m", entry["model_id"]]
    chat(entry["api_base"], got.words[4], entry["model_name"])


def test_llm_answers(locked: Gateway, tmp_path: Path) -> None:
    folder = program_of("connect-venv", "llm").parent
    (text,) = texts_of("llm", locked)
    assert answer(run(["bash", "-e"], text, tmp_path, folder))


def test_every_program_is_pasted_here() -> None:
    source = Path(__file__).read_text("utf-8")
    assert [name for name in PROGRAMS if f'"{name}"' not in source] == []

"""Servers that speak OpenAI's API as backends: llama-server through its /v1, llama-cpp-python's
server, another slotproxy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.integration.asking import chat
from tests.integration.test_smollm2 import LIGHTHOUSE, WEATHER, said
from tools.processes import Gateway, LlamaCppPythonServer, ModelServer

CHAIN = "slotproxy in front of a server of 2023"
LLAMA = "llama-server"
PYTHON = "llama-cpp-python"
QUESTION = f"{LIGHTHOUSE}\n\nWho built the lighthouse?"
ANSWER = "Flora MacPhail"


pytestmark = pytest.mark.slow


def table(url: str, model: str = "", **more: Any) -> str:
    """A configuration file with one backend."""
    fields = {"kind": "openai", "url": f"{url}/v1", "slots": 2, **more}
    if model:
        fields["model"] = model
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["[[backend]]", *lines, ""])


@pytest.fixture(scope="module", params=[CHAIN, LLAMA, PYTHON])
def ours(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    start_llama_cpp_python: Callable[[Path], LlamaCppPythonServer],
    module_gateway: Callable[..., Gateway],
    tmp_path_factory: pytest.TempPathFactory,
    smollm2_model: Path,
) -> Iterator[str]:
    """The address of a slotproxy whose only backend speaks OpenAI's API."""
    slots = 2
    if request.param == LLAMA:
        url = start_server("llama-2026", model=smollm2_model, extra=["--jinja"]).url
    elif request.param == PYTHON:
        url, slots = start_llama_cpp_python(smollm2_model).url, 1
    else:
        server = start_server("llama-2023", model=smollm2_model)
        url = module_gateway(
            "--llama-api", server.url, "--slots", "2", "--chat-template", "chatml"
        ).url
    file = tmp_path_factory.mktemp("config") / "slotproxy.toml"
    file.write_text(table(url, slots=slots))
    # Health checks come while answers are written, which some servers do not like.
    yield module_gateway("--config", str(file), "--health-interval", "0.5").url


def ask(ours: str, text: str, **fields: Any) -> Any:
    return chat(ours, text, repeat_penalty=1.0, **fields)[0]


def test_the_backend_is_shown_with_its_type_and_model(ours: str) -> None:
    (backend,) = requests.get(f"{ours}/v1/backends", timeout=60).json()["data"]
    assert backend["state"] == "up"
    assert backend["found"]["dialect"] in ("llama-server", "slotproxy", "llama-cpp-python")
    (model,) = requests.get(f"{ours}/v1/models", timeout=60).json()["data"]
    assert model["id"] == backend["model"]


def test_a_required_call_is_made_or_the_answer_is_an_error(ours: str) -> None:
    """llama-server lets free text come before the call that it enforces, without an end here."""
    body = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [WEATHER],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 100,
    }
    answer = requests.post(f"{ours}/v1/chat/completions", json=body, timeout=120)
    if answer.status_code != 200:
        assert answer.json()["error"]["code"] == "invalid_output"
        return
    choice = answer.json()["choices"][0]
    if choice["finish_reason"] == "length":
        return
    assert choice["finish_reason"] == "tool_calls"
    (call, *_) = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)


def test_a_prompt_that_does_not_fit_is_a_400_that_says_so(ours: str) -> None:
    body = {"messages": [{"role": "user", "content": "word " * 9000}], "max_tokens": 5}
    answer = requests.post(f"{ours}/v1/chat/completions", json=body, timeout=120)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


def test_many_requests_share_the_slots(ours: str) -> None:
    """Twelve at once over two slots: all are answered, none is refused."""
    with ThreadPoolExecutor(12) as pool:
        answers = list(
            pool.map(lambda n: ask(ours, f"Say the number {n}.", max_tokens=8), range(12))
        )
    assert all(answer["choices"][0]["message"]["content"] for answer in answers)


def test_a_pool_of_both_kinds_survives_the_loss_of_either(
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    serve: Callable[..., Gateway],
    smollm2_model: Path,
) -> None:
    near = start_server("llama-2023", model=smollm2_model)
    behind = start_server("llama-2023", model=smollm2_model)
    flags = ("--slots", "2", "--chat-template", "chatml", "--alias", "smol")
    far = module_gateway("--llama-api", behind.url, *flags)
    tables = table(far.url, model="smol") + table_of_2023(near.url)
    gateway = serve(tables, "--chat-template", "chatml")

    assert ANSWER in said(ask(gateway.url, QUESTION, max_tokens=64))
    near.kill()
    assert ANSWER in said(ask(gateway.url, QUESTION, max_tokens=64))
    near.start()
    requests.get(f"{gateway.url}/readyz", timeout=60)
    behind.kill()
    assert ANSWER in said(ask(gateway.url, QUESTION, max_tokens=64))


def table_of_2023(url: str) -> str:
    return f'[[backend]]\nurl = "{url}"\nmodel = "smol"\nslots = 2\n'


def test_every_model_of_an_address_is_served(
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    serve: Callable[..., Gateway],
    tmp_path: Path,
    smollm2_model: Path,
    made_up_model: Path,
) -> None:
    """The far slotproxy has two models; the near one lists them without being told their names."""
    tables = ""
    for name, file in (("smol", smollm2_model), ("made-up", made_up_model)):
        server = start_server("llama-2023", model=file)
        tables += table_of_2023(server.url).replace("smol", name)
    inner = tmp_path / "inner.toml"
    inner.write_text(tables)
    far = module_gateway("--config", str(inner), "--chat-template", "chatml")
    near = serve(table(far.url))
    listed = requests.get(f"{near.url}/v1/models", timeout=60).json()["data"]
    assert {model["id"] for model in listed} == {"smol", "made-up"}
    assert ANSWER in said(ask(near.url, QUESTION, model="smol", max_tokens=64))
    assert said(ask(near.url, QUESTION, model="made-up", max_tokens=8))

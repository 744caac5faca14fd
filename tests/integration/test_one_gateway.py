"""One gateway before every kind of server: the clients' whole scripts, for each of its models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.fakes import wait_until
from tests.integration.asking import chat
from tests.integration.generations import (
    BY_OPENAI,
    BY_PYTHON,
    BY_SLOTPROXY,
    BY_V1,
    SERVER_FIXTURES,
)

# The scripts themselves, which get the fixtures of this module.
from tests.integration.test_dialects_clients import (  # noqa: F401
    binds,
    claude,
    counts,
    llama,
    openai_,
    test_allowed_tools_limit_the_choice,
    test_anthropic_counts_and_errors,
    test_anthropic_lists_models,
    test_anthropic_tool_is_called,
    test_anthropic_unusual_but_legal,
    test_anthropic_whole_and_streamed,
    test_ollama_chat,
    test_ollama_generate,
    test_ollama_model_routes,
    test_ollama_schema_and_tools,
    test_responses_continue_one_another,
    test_responses_refer_to_stored_items,
    test_responses_whole_streamed_and_kept,
)
from tools import made_up_chatglm, servers
from tools.processes import Gateway, LlamaCppPythonServer, ModelServer

pytestmark = pytest.mark.slow

CHATGLM = "chatglm_cpp"
SERVERS = [name for name in SERVER_FIXTURES if name not in servers.GIVEN or servers.find(name)]
MODELS = (*SERVERS, CHATGLM, *BY_V1)


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    start_llama_cpp_python: Callable[..., LlamaCppPythonServer],
    module_gateway: Callable[..., Gateway],
    made_up_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway whose models are named after the servers that they run on."""
    pytest.importorskip("chatglm_cpp", reason="not installed: python -m tools.chatglm install")
    python = start_llama_cpp_python(made_up_model, 2048)
    behind = start_server("llama-2026")
    second = module_gateway("--llama-api", behind.url, "--chat-template", "chatml")
    babbler = made_up_chatglm.write(tmp_path_factory.mktemp("chatglm") / "babbler.bin")
    tables = {
        **{
            name: f'url = "{request.getfixturevalue(SERVER_FIXTURES[name]).url}"\nslots = 2'
            for name in SERVERS
        },
        CHATGLM: f'file = "{babbler}"',
        BY_OPENAI: f'kind = "openai"\nurl = "{behind.url}/v1"\nslots = 2\nctx_size = 2048\n'
        'by_prompt = ["required"]',
        BY_SLOTPROXY: f'kind = "openai"\nurl = "{second.url}/v1"\nslots = 2\nctx_size = 2048',
        BY_PYTHON: f'kind = "openai"\nurl = "{python.url}/v1"\nctx_size = 2048',
    }
    lines = []
    for name, fields in tables.items():
        lines += ["[[backend]]", f'name = "{name}-1"', fields, ""]
        lines += ["[[route]]", f'model = "{name}"']
        lines += [f'tiers = [{{ name = "{name}", backends = ["{name}-1"] }}]', ""]
    folder = tmp_path_factory.mktemp("one")
    file = folder / "slotproxy.toml"
    file.write_text("\n".join(lines))
    gateway = module_gateway("--config", str(file), "--data", str(folder / "data"))
    wait_until(lambda: len(up(gateway)) == len(MODELS), 60)
    yield gateway


def up(gateway: Gateway) -> set[str]:
    data = requests.get(f"{gateway.url}/v1/backends", timeout=60).json()["data"]
    return {backend["model"] for backend in data if backend["state"] == "up"}


@pytest.fixture(scope="module", params=MODELS)
def address(request: pytest.FixtureRequest, served: Gateway) -> str:
    """The gateway, for each of its models."""
    return served.url


@pytest.fixture
def model(request: pytest.FixtureRequest, address: str) -> str:
    """The name of the model that the scripts ask for."""
    return str(request.node.callspec.params["address"])


def test_its_models_answer_from_their_own_servers(address: str, model: str) -> None:
    answer, headers = chat(address, "Hello", model=model, max_tokens=4)
    assert answer["model"] == model
    assert headers["x-slotproxy-backend"] == f"{model}-1"
    listed = requests.get(f"{address}/v1/models", timeout=60).json()["data"]
    assert {entry["id"] for entry in listed} == set(MODELS)

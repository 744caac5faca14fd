"""What servers tell of a model in documents of their own.

They are written after the sources: Ollama's `api/types.go` and `server/routes.go`, SGLang 0.5.23's
`http_server.py`, TabbyAPI's `endpoints/core/types/model.py`, koboldcpp's `koboldcpp.py`, and LM
Studio's documentation.
"""

from __future__ import annotations

from typing import Any

import pytest

from proxy.backends.openai.driver import OpenAIServer
from proxy.backends.openai.server_types import Details, details, loaded_context
from proxy.backends.refusals import pause_of
from proxy.core.request import AUTO, TOOLS
from tests.openai_server import OpenAIServerFake

SHOWN = {
    "license": "…",
    "parameters": 'stop                   "<|im_start|>"\nnum_ctx                8192',
    "template": "{{ .Prompt }}",
    "details": {"format": "gguf", "family": "llama", "parameter_size": "134.52M"},
    "model_info": {"general.architecture": "llama", "llama.context_length": 131072},
    "capabilities": ["completion", "tools"],
}
LOADED = {"models": [{"name": "m:latest", "model": "m:latest", "context_length": 4096}]}
INSTANCE = {"id": "m", "config": {"context_length": 16384, "parallel": 6, "flash_attention": True}}
LM_STUDIO = {
    "models": [
        {"type": "embedding", "key": "e", "loaded_instances": []},
        {
            "type": "llm",
            "key": "m",
            "loaded_instances": [INSTANCE],
            "max_context_length": 131072,
            "capabilities": {"vision": False, "trained_for_tool_use": True},
        },
    ]
}


def told(server: str, pages: dict[str, Any], model: str = "m") -> Details:
    """What these pages of a server say. It has no others."""
    return details(server, model, lambda path, body: pages.get(path, {}))


def test_ollama_tells_the_contexts_of_a_model() -> None:
    found = told("ollama", {"/api/show": SHOWN})
    assert found == Details(n_ctx=131072, set_n_ctx=8192, vision=False)
    assert told("ollama", {"/api/show": {**SHOWN, "parameters": ""}}).set_n_ctx == 0


@pytest.mark.parametrize(("model", "n_ctx"), [("m:latest", 4096), ("n:latest", 0)])
def test_ollama_tells_the_context_of_a_loaded_model(model: str, n_ctx: int) -> None:
    pages: dict[str, Any] = {"/api/ps": LOADED}
    assert loaded_context(model, lambda path, body: pages.get(path, {})) == n_ctx


def test_a_model_of_ollama_without_tools_gets_them_by_prompt() -> None:
    seeing = {**SHOWN, "capabilities": ["completion", "vision"]}
    found = told("ollama", {"/api/show": seeing})
    assert (found.by_prompt, found.vision) == (TOOLS, True)
    older = {name: value for name, value in SHOWN.items() if name != "capabilities"}
    assert told("ollama", {"/api/show": older}).vision is None


def test_lm_studio_tells_context_and_parallel_requests() -> None:
    found = told("lm studio", {"/api/v1/models": LM_STUDIO})
    assert found == Details(n_ctx=16384, slots=6, vision=False)


def test_sglang_tells_its_bound_and_whether_it_reads_calls() -> None:
    info = {"max_running_requests": 128, "tool_call_parser": None, "version": "0.5.23"}
    assert told("sglang", {"/server_info": info}) == Details(slots=128, by_prompt=AUTO)
    older = {"/get_server_info": {**info, "tool_call_parser": "qwen25"}}
    assert told("sglang", older) == Details(slots=128)


def test_tabby_and_koboldcpp_tell_their_context() -> None:
    card = {"id": "m", "parameters": {"max_seq_len": 32768, "max_batch_size": 12}}
    assert told("tabbyapi", {"/v1/model": card}) == Details(n_ctx=32768, slots=12)
    length = {"/api/extra/true_max_context_length": {"value": 8192}}
    assert told("koboldcpp", length).n_ctx == 8192


@pytest.mark.parametrize("server", ["ollama", "lm studio", "sglang", "tabbyapi", "koboldcpp", "x"])
@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"models": 7, "data": None, "parameters": [], "model_info": "x", "capabilities": {}},
        {"models": [None, {"loaded_instances": 3}], "value": -1, "max_running_requests": "many"},
        {"data": [7], "parameters": "num_ctx x", "model_info": {"general.architecture": []}},
    ],
)
def test_odd_documents_tell_nothing(server: str, odd: dict[str, Any]) -> None:
    found = details(server, "m", lambda path, body: odd)
    assert (found.n_ctx, found.slots) == (0, 0)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-1"}, None),
        ({}, None),
    ],
)
def test_a_pause_is_read_in_seconds(headers: dict[str, str], seconds: float | None) -> None:
    assert pause_of(headers) == seconds


def test_a_probe_asks_for_details() -> None:
    info = {"max_running_requests": 128, "tool_call_parser": "qwen25"}
    with OpenAIServerFake("x", owner="sglang", pages={"GET /server_info": info}) as server:
        driver = OpenAIServer(server.url)
        try:
            caps = driver.probe(5)
            assert (caps.slots, caps.most_slots) == (128, 0)
        finally:
            driver.close()

"""/infill as llama.vim and llama.vscode use it, on a llama-server with an infill model.

The bodies are what those plugins send: an editor's lines before and after the cursor, pieces of
other files as extra context, and a request without a token to warm the cache of that context.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.contract.ears import sse
from tests.integration.asking import openai_client
from tools import made_up_model
from tools.processes import Gateway, ModelServer

EXTRA = [
    {"text": "def hello():\n    pass\n", "time": [1700000000, 5], "filename": "hello.py"},
    {"text": "one two\nthree\n", "time": [1700000001, 5], "filename": ""},
]
FIELDS = [
    "content",
    "timings/prompt_n",
    "timings/prompt_ms",
    "timings/prompt_per_token_ms",
    "timings/prompt_per_second",
    "timings/predicted_n",
    "timings/predicted_ms",
    "timings/predicted_per_token_ms",
    "timings/predicted_per_second",
    "truncated",
    "tokens_cached",
]
VIM: dict[str, Any] = {
    "input_prefix": "import os\n\n",
    "input_suffix": "\n    return a\n",
    "input_extra": EXTRA,
    "prompt": "def call(a",
    "n_predict": 12,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 20000,
    "response_fields": FIELDS,
}
VIM_WARMS: dict[str, Any] = {
    "input_prefix": "",
    "input_suffix": "",
    "input_extra": EXTRA,
    "prompt": "",
    "n_predict": 0,
    "temperature": 0.0,
    "stream": False,
    "samplers": [],
    "cache_prompt": True,
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}
VSCODE: dict[str, Any] = {
    "input_prefix": VIM["input_prefix"],
    "input_suffix": VIM["input_suffix"],
    "input_extra": [{"text": "x = 1\n", "time": 1700000000, "filename": "a.ts"}],
    "prompt": "def call(a",
    "n_predict": 12,
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "n_indent": 4,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 20000,
}
GREEDY = {"samplers": ["top_k"], "top_k": 1, "n_indent": 0}


@pytest.fixture(scope="module")
def filler(start_server: Callable[..., ModelServer]) -> ModelServer:
    # The server fills a batch with what is around the cursor and the rest of the context with the
    # other files: with a batch as large as the context there is no rest.
    model = made_up_model.cached(fim=True)
    return start_server("llama-2026", model=model, extra=("--batch-size", "512"))


@pytest.fixture(scope="module")
def address(filler: ModelServer, module_gateway: Callable[..., Gateway]) -> str:
    return module_gateway("--llama-api", filler.url).url


def post(base: str, body: dict[str, Any], path: str = "/infill") -> requests.Response:
    return requests.post(base + path, json=body, timeout=60)


def test_vim_gets_its_requested_fields(address: str) -> None:
    answer = post(address, VIM)
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == FIELDS
    assert isinstance(body["content"], str) and body["truncated"] is False


def test_vscode_gets_the_whole_object(address: str) -> None:
    body = post(address, VSCODE).json()
    assert body["content"] and body["stop"] is True
    assert body["timings"]["predicted_ms"] > 0 and body["timings"]["prompt_n"] >= 1


def test_infill_equals_the_servers_own(address: str, filler: ModelServer) -> None:
    # A few tokens: later ones may differ by rounding when more of the prompt is cached.
    body = {**VIM, **GREEDY, "n_predict": 4}
    assert post(address, body).json()["content"] == post(filler.url, body).json()["content"]
    text = post(address, {**body, "stream": True}).content
    chunks = [chunk for _, chunk in sse(text)]
    whole = post(address, body).json()["content"]
    assert "".join(c.get("content", "") for c in chunks[:-1]) == whole


def test_every_part_of_the_context_counts(address: str) -> None:
    body = {**VIM, **GREEDY}
    changes: list[dict[str, Any]] = [
        {},
        {"input_prefix": "stream stream\n"},
        {"input_suffix": "\nslot slot\n"},
        {"prompt": "was at the"},
        {"input_extra": []},
    ]
    texts = {post(address, {**body, **change}).json()["content"] for change in changes}
    assert len(texts) == 5


def test_warm_up_fills_the_cache(address: str) -> None:
    extra = [{"text": "water and oil " * 60, "time": [1, 2], "filename": "warm.txt"}]
    warmed = post(address, {**VIM_WARMS, "input_extra": extra})
    assert (warmed.status_code, warmed.json()) == (200, {})
    body = post(address, {**VIM, "input_extra": extra, "response_fields": ["timings"]}).json()
    assert body["timings"]["cache_n"] > 100


def test_context_beyond_the_limit_is_truncated_not_refused(address: str) -> None:
    """An editor sends hundreds of lines: the server takes those that fit around the cursor."""
    lines = "".join(f"line {i} of the file\n" for i in range(900))
    answer = post(address, {**VIM, "input_prefix": lines, "input_suffix": lines})
    assert answer.status_code == 200, answer.text
    assert answer.json()["timings/predicted_n"] >= 1


def test_openai_suffix_is_an_infill(address: str) -> None:
    with openai_client(address) as client:
        answer = client.completions.create(
            model="any", prompt="def call(a", suffix="\n    return a\n", max_tokens=8
        )
    assert answer.choices[0].text and answer.usage and answer.usage.completion_tokens == 8


def test_ollama_suffix_is_an_infill(address: str) -> None:
    body = {"prompt": "def call(a", "suffix": "return a", "options": {"num_predict": 8}}
    reply = post(address, {**body, "stream": False}, "/api/generate").json()
    assert reply["response"] and reply["eval_count"] == 8
    name = requests.get(address + "/api/tags", timeout=60).json()["models"][0]["name"]
    assert "insert" in post(address, {"model": name}, "/api/show").json()["capabilities"]


@pytest.mark.parametrize("name", ["_old_server", "_powerinfer_server", "_new_server"])
def test_infill_on_unsupported_model_is_refused(
    name: str, request: pytest.FixtureRequest, module_gateway: Callable[..., Gateway]
) -> None:
    """A 2023 server has the route, and takes tokens for it that only CodeLlama has; today's asks
    whether the model has them."""
    other = module_gateway("--llama-api", request.getfixturevalue(name).url).url
    answer = post(other, VIM)
    assert answer.status_code == 400
    assert "infilling is not supported" in answer.json()["error"]["message"]
    model = requests.get(other + "/api/tags", timeout=60).json()["models"][0]["name"]
    assert "insert" not in post(other, {"model": model}, "/api/show").json()["capabilities"]

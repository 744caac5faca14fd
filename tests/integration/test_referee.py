"""Loops and thoughts of real models end, on each server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.referee import STEP, WORDS, find
from tests.integration.asking import chat
from tests.integration.conftest import GENERATIONS
from tests.unit.referee.record import forgetful
from tools.processes import Gateway, ModelServer

# The prompt ends within reasoning, as that of DeepSeek R1 and QwQ.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
ASKED = "Write a song about the sea"


def ask(url: str, text: str, **fields: Any) -> tuple[dict[str, Any], str]:
    answer, headers = chat(url, text, repeat_penalty=1, **fields)
    return answer, headers["x-slotproxy-warning"]


@pytest.fixture(scope="module", params=GENERATIONS)
def server(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    tmp_path_factory: pytest.TempPathFactory,
) -> ModelServer:
    """With a model that repeats itself after some words, on every processor."""
    model = forgetful(tmp_path_factory.mktemp("model") / "model.gguf", 40, attention=0)
    return start_server(request.param, slots=1, model=model)


def test_a_loop_ends(server: ModelServer, gateway: Callable[..., Gateway]) -> None:
    url = gateway("--llama-api", server.url, "--chat-template", "chatml").url
    answer, warning = ask(url, ASKED, max_tokens=1500)
    choice, usage = answer["choices"][0], answer["usage"]
    assert choice["finish_reason"] == "stop"
    assert "repeated itself in its text" in warning
    assert find(choice["message"]["content"].encode()) is None
    assert usage["completion_tokens"] < 1000


def test_a_mended_loop_goes_on_from_the_warm_slot(
    server: ModelServer, serve: Callable[..., Gateway]
) -> None:
    flags = ("--llama-api", server.url, "--chat-template", "chatml")
    url = serve('[referee]\nloops = "mend"\n', *flags).url
    answer, warning = ask(url, ASKED, max_tokens=800)
    assert "continued with a penalty" in warning
    text = answer["choices"][0]["message"]["content"]
    assert text.strip()
    loop = find(text.encode())  # one that began just before the limit may stay
    assert loop is None or len(text.encode()) - loop.start <= WORDS + STEP
    assert answer["usage"]["completion_tokens"] <= 800


@pytest.mark.parametrize("fields", [{"max_reasoning_tokens": 120}, {"max_tokens": 160}])
def test_thoughts_end_within_their_budget_and_no_answer_is_empty(
    any_server: ModelServer,
    gateway: Callable[..., Gateway],
    tmp_path: Path,
    fields: dict[str, Any],
) -> None:
    template = tmp_path / "thinking.jinja"
    template.write_text(THINKING)
    url = gateway("--llama-api", any_server.url, "--chat-template", str(template)).url
    answer, warning = ask(url, "Hello", **{"max_tokens": 400, **fields})
    message, usage = answer["choices"][0]["message"], answer["usage"]
    assert message["content"].strip()
    assert message["reasoning_content"].strip()
    assert abs(usage["completion_tokens_details"]["reasoning_tokens"] - 120) <= 6
    assert usage["completion_tokens"] <= fields.get("max_tokens", 400) + 2
    assert "the reasoning was ended after" in warning

"""A template that two engines render differently: the server's own prompt counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes import wait_until
from tests.integration.asking import chat
from tests.integration.conftest import StartGateway, StartServer
from tools.processes import ModelServer

# In Python and Jinja2, -7 % 3 is 2; in llama.cpp's engine it is -1.
TEMPLATE = """
{%- for message in messages -%}
  {{- '<|im_start|>' + message['role'] -}}
  {%- if message['role'] == 'system' %} {{ -7 % 3 }}{{ -7 % 3 }}{% endif -%}
  {{- '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{{- '<|im_start|>assistant\\n' -}}
"""
USER = {"role": "user", "content": "Who are you?"}
SYSTEM = {"role": "system", "content": "Be brief."}
LATE = [USER, {"role": "assistant", "content": "A star."}, SYSTEM, USER]


def server_prompts(url: str) -> Any:
    (backend,) = requests.get(f"{url}/v1/backends", timeout=60).json()["data"]
    return backend["server_prompts"]


def prompt_tokens(url: str, *messages: dict[str, str], **fields: Any) -> int:
    answer, _ = chat(url, messages=messages, max_tokens=1, **fields)
    count: int = answer["usage"]["prompt_tokens"]
    return count


@pytest.fixture(scope="module")
def server(
    start_server: StartServer, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> ModelServer:
    file = tmp_path_factory.mktemp("template") / "odd.jinja"
    file.write_text(TEMPLATE)
    extra = ("--jinja", "--chat-template-file", str(file))
    return start_server("llama-2026", model=tiny_model, extra=extra)


def test_kind_whose_prompts_differ_takes_the_servers_own_route(
    server: ModelServer, gateway: StartGateway
) -> None:
    running = gateway("--llama-api", server.url, "--metrics")
    wait_until(lambda: server_prompts(running.url) == ["system", "late system"])
    for messages in ([USER], [SYSTEM, USER], LATE):
        theirs = prompt_tokens(server.url, *messages)
        assert prompt_tokens(running.url, *messages) == theirs
        assert prompt_tokens(running.url, *messages, stream=False) == theirs
    metrics = requests.get(f"{running.url}/metrics", timeout=60).text
    assert 'kind="system"} 2.0' in metrics
    assert 'kind="late system"} 2.0' in metrics
    assert 'kind="plain"' not in metrics
    assert "its own prompts differ from slotproxy's (system, late system)" in running.log


@pytest.mark.parametrize("mode", ["auto", "native"])
def test_such_a_prompt_is_counted_and_shown_as_the_server_renders_it(
    server: ModelServer, gateway: StartGateway, mode: str
) -> None:
    running = gateway("--llama-api", server.url, "--chat-mode", mode)
    if mode == "auto":
        wait_until(lambda: server_prompts(running.url))

    def ask(path: str, name: str, **body: Any) -> Any:
        answer = requests.post(f"{running.url}{path}", json={"model": "m", **body}, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()[name]

    for messages in ([USER], [SYSTEM, USER], LATE):
        count = prompt_tokens(server.url, *messages)
        chat = "/v1/chat/completions/input_tokens"
        assert ask(chat, "input_tokens", messages=messages) == count
        assert ask("/v1/responses/input_tokens", "input_tokens", input=messages) == count
        body = {"messages": messages}
        theirs = requests.post(f"{server.url}/apply-template", json=body, timeout=60).json()
        for path in ("/apply-template", "/v1/explain"):
            assert ask(path, "prompt", **body) == theirs["prompt"]
        assert ask("/v1/explain", "prompt_tokens", **body) == count
    assert ask("/v1/explain", "rendered_by", messages=LATE) == "backend"
    count = prompt_tokens(server.url, SYSTEM, USER)
    path = "/v1/messages/count_tokens"
    assert ask(path, "input_tokens", system=SYSTEM["content"], messages=[USER]) == count


def test_operator_may_keep_our_prompts(server: ModelServer, gateway: StartGateway) -> None:
    """Proves the difference: ours has another number of tokens."""
    running = gateway("--llama-api", server.url, "--chat-mode", "completion")
    assert prompt_tokens(running.url, SYSTEM, USER) != prompt_tokens(server.url, SYSTEM, USER)
    assert prompt_tokens(running.url, USER) == prompt_tokens(server.url, USER)
    assert server_prompts(running.url) == []

"""An answer that the client has begun is continued, in every API that supports it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from tools.processes import Gateway, ModelServer

TEMPLATE = Path(__file__).parents[2] / "models" / "tinychat.jinja"
SERVERS = {
    "llama-2023": ("--chat-template", str(TEMPLATE)),
    "powerinfer": ("--chat-template", str(TEMPLATE)),
    "llama-2026": ("--chat-mode", "completion"),
    "llama-2026 by itself": ("--chat-mode", "native"),
    "chatglm_cpp": (),
}
CHATGLM = Path(__file__).parents[2] / "models" / "tinychat-chatglm3.bin"
BEGUN: Any = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hello! How can"},
]
REST = " I help you?"


@pytest.fixture(scope="module", params=SERVERS)
def address(
    request: pytest.FixtureRequest,
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    tiny_model: Path,
) -> str:
    if request.param == "chatglm_cpp":
        pytest.importorskip("chatglm_cpp", reason="not installed: python -m tools.chatglm install")
        return module_gateway("--chatglm-model", str(CHATGLM)).url
    server = start_server(request.param.split()[0], model=tiny_model)
    return module_gateway("--llama-api", server.url, *SERVERS[request.param]).url


def post(url: str, body: dict[str, Any]) -> Any:
    answer = requests.post(url, json={**body, "temperature": 0}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_begun_answer_is_continued_in_every_api(address: str) -> None:
    chat = post(address + "/v1/chat/completions", {"messages": BEGUN, "max_tokens": 20})
    assert chat["choices"][0]["message"]["content"] == REST
    claude = post(address + "/v1/messages", {"messages": BEGUN, "max_tokens": 20})
    assert claude["content"] == [{"type": "text", "text": REST}]
    options = {"num_predict": 20, "temperature": 0}
    body = {"messages": BEGUN, "stream": False, "options": options}
    assert post(address + "/api/chat", body)["message"]["content"] == REST
    items = post(address + "/v1/responses", {"input": BEGUN, "max_output_tokens": 20})
    assert items["output"][0]["content"][0]["text"] == REST

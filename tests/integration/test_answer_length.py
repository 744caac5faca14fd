"""A llama-server started with `-n` ends answers there, unless a client asks for another length."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import requests

from tools.processes import Gateway, ModelServer

LIMIT = 8  # tokens
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Count to a hundred."}]}
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": {"prompt": "One, two,"},
}


def test_answers_have_the_length_of_the_server_unless_asked(
    start_server: Callable[..., ModelServer], gateway: Callable[..., Gateway]
) -> None:
    server = start_server("llama-2026", slots=1, extra=["-n", str(LIMIT)])
    url = gateway("--llama-api", server.url).url
    lengths = {}
    for path, body in PATHS.items():
        for count in (None, 3, 20):
            limit = {} if count is None else {"max_tokens": count}
            sent = {"temperature": 0, "ignore_eos": True, **body, **limit}
            answer = requests.post(url + path, json=sent, timeout=60).json()
            assert answer["choices"][0]["finish_reason"] == "length"
            lengths[path, count] = answer["usage"]["completion_tokens"]
    assert lengths == {(path, count): count or LIMIT for path, count in lengths}

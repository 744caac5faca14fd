"""The server helpers of the other tests: starting, answering, killing, restarting."""

from __future__ import annotations

import json

from tools.processes import ModelServer, ask

QUESTION = {"prompt": "Hello 你好 🐼", "n_predict": 8}


def test_server_helper_returns_whole_text(any_server: ModelServer) -> None:
    status, body = ask(f"{any_server.url}/completion", QUESTION)
    answer = json.loads(body)
    assert status == 200
    assert answer["tokens_predicted"] == 8
    assert answer["content"]
    assert "\ufffd" not in answer["content"]


def test_restarted_server_keeps_its_port(old_server: ModelServer) -> None:
    pid = old_server.pid
    old_server.kill()
    assert ask(f"{old_server.url}/completion", QUESTION) == (0, b"")
    old_server.start()
    assert old_server.pid != pid
    assert ask(f"{old_server.url}/completion", QUESTION)[0] == 200

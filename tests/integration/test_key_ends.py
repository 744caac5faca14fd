"""Running streams that the gateway ends because their key is refused or their data was deleted, on
real gateways."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import key_file, wait_until
from tests.redis_servers import RedisServer
from tools.processes import Gateway

from .conftest import StartGateway

ADMIN = {"Authorization": "Bearer sk-ops"}
SOON = 10.0  # a second, on an idle machine; the streams would go on for ever
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


@pytest.fixture
def start(gateway: StartGateway, slow_model: str, tmp_path: Path) -> Callable[..., Gateway]:
    def begin(*flags: str) -> Gateway:
        keys = key_file(tmp_path, "ops sk-ops\n")
        stored = ("--api-key-file", keys, "--admins", "ops", "--data", str(tmp_path / "data"))
        legacy = ("--chat-template", "legacy")
        return gateway("--llama-api", slow_model, *stored, *legacy, *flags)

    return begin


class Stream:
    """A stream that is read in a thread."""

    def __init__(
        self,
        gateway: Gateway,
        key: str,
        path: str = "/v1/chat/completions",
        body: dict[str, Any] = CHAT,
    ) -> None:
        self.text = ""
        self.ended = 0.0
        self._url, self._key, self._body = gateway.url + path, key, body
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        wait_until(lambda: "word" in self.text, 60)

    def _read(self) -> None:
        headers = {"Authorization": f"Bearer {self._key}"}
        with (
            contextlib.suppress(httpx.HTTPError),  # the test is over
            httpx.stream("POST", self._url, json=self._body, headers=headers, timeout=60) as answer,
        ):
            for piece in answer.iter_text():
                self.text += piece
        self.ended = time.monotonic()

    def last(self, since: float) -> dict[str, Any]:
        """Its last event, which comes soon."""
        self._thread.join(30)
        assert self.ended, "it goes on"
        assert self.ended - since < SOON
        last = [line for line in self.text.splitlines() if line.startswith("data: {")][-1]
        return dict(json.loads(last.removeprefix("data: ")))

    def error(self, since: float) -> dict[str, Any]:
        return dict(self.last(since)["error"])


def manage(gateway: Gateway, path: str, **body: Any) -> Any:
    answer = httpx.post(gateway.url + path, json=body, headers=ADMIN, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def make(gateway: Gateway, **body: Any) -> str:
    return str(manage(gateway, "/key/generate", **body)["key"])


WAYS: dict[str, tuple[str, Callable[[str], dict[str, Any]], str]] = {
    "block": ("/key/block", lambda key: {"key": key}, "this API key is blocked"),
    "update": ("/key/update", lambda key: {"key": key, "blocked": True}, "is blocked"),
    "delete": ("/key/delete", lambda key: {"keys": [key]}, "this API key was deleted"),
    "team": ("/team/block", lambda key: {"team_id": "t"}, "the team is blocked"),
    "gone team": ("/team/delete", lambda key: {"team_ids": ["t"]}, "this API key was deleted"),
    "user": ("/user/update", lambda key: {"user_id": "u", "blocked": True}, "the user is blocked"),
}


def test_stream_ends_soon_with_an_error_that_says_why(start: Callable[..., Gateway]) -> None:
    gateway = start()
    other = Stream(gateway, make(gateway))
    for path, body, why in WAYS.values():
        manage(gateway, "/team/new", team_id="t")
        key = make(gateway, user_id="u", team_id="t")
        stream = Stream(gateway, key)
        began = time.monotonic()
        manage(gateway, path, **body(key))
        error = stream.error(began)
        assert why in error["message"]
        assert error["code"] == "invalid_api_key"
        if path != "/team/delete":
            manage(gateway, "/team/delete", team_ids=["t"])
    assert not other.ended

    def ended() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in gateway.log.splitlines() if line.startswith('{"id"')]
        return [line for line in lines if line["outcome"] == "invalid_api_key"]

    wait_until(lambda: len(ended()) == len(WAYS))  # a line is written after its answer
    assert all(line["completion_tokens"] > 0 for line in ended())


def test_stream_ends_when_its_key_expires(start: Callable[..., Gateway]) -> None:
    gateway = start()
    began = time.monotonic()
    stream = Stream(gateway, make(gateway, duration="10s"))  # it has to begin before
    assert "expired" in stream.error(began + 10)["message"]
    assert stream.ended > began + 9.5


def test_other_workers_end_streams_too(
    start: Callable[..., Gateway], redis_server: RedisServer
) -> None:
    gateway = start("--workers", "2", "--state", redis_server.url)
    ending, other = make(gateway), make(gateway)
    ends = [Stream(gateway, ending) for _ in range(6)]  # on both workers
    goes_on = [Stream(gateway, other) for _ in range(6)]
    began = time.monotonic()
    manage(gateway, "/key/block", key=ending)
    for stream in ends:
        assert "blocked" in stream.error(began)["message"]
    time.sleep(1)
    assert not any(stream.ended for stream in goes_on)


def test_stream_whose_data_is_deleted_ends_with_an_error(start: Callable[..., Gateway]) -> None:
    gateway = start()
    key = make(gateway)
    stored = Stream(gateway, key, "/v1/responses", {"input": "Hi", "stream": True})
    unstored = Stream(gateway, key)
    began = time.monotonic()
    headers = {"Authorization": f"Bearer {key}"}
    assert httpx.delete(f"{gateway.url}/v1/data", headers=headers).status_code == 200
    last = stored.last(began)
    assert last["type"] == "response.failed"
    assert "deleted" in last["response"]["error"]["message"]
    assert not unstored.ended

"""Busy slots, slots saved through the API, models, aliases and weights on real servers."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tools.processes import Gateway, ModelServer

from .conftest import StartGateway, StartServer

LEGACY = ("--chat-template", "legacy")
SYSTEM = "You know all about the rivers, the hills and the towns of a land far away. " * 6


def _ask(url: str, path: str, body: Any = None, key: str = "") -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        headers = {"Content-Type": "application/json"}
        headers |= {"Authorization": f"Bearer {key}"} if key else {}
        data = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, headers)
        answer = connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, told, json.loads(answer.read())
    finally:
        connection.close()


def _wait_for(what: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def _chat(url: str, text: str, model: str = "", **more: Any) -> tuple[int, dict[str, str], Any]:
    messages = [{"role": "user", "content": text}]
    return _ask(
        url,
        "/v1/chat/completions",
        {"model": model, "messages": messages, "max_tokens": 4, "temperature": 0, **more},
    )


def test_slot_is_busy_while_its_server_works_with_it(
    any_server: ModelServer, gateway: StartGateway
) -> None:
    running = gateway("--llama-api", any_server.url, "--slots", "2", *LEGACY)

    def busy() -> list[int]:
        found = _ask(running.url, "/slots")[2]
        return [slot["backend_slot"] for slot in found if slot["is_processing"]]

    assert [slot["backend_slot"] for slot in _ask(running.url, "/slots")[2]] == [0, 1]
    assert busy() == []
    # The second slot: what the first holds goes on there, so something new goes elsewhere.
    for number in range(2):
        asked = {"prompt": f"{number} " * 40, "n_predict": 1800, "ignore_eos": True}
        told: dict[str, Any] = {}
        thread = threading.Thread(
            target=lambda a=asked, t=told: t.update(_ask(running.url, "/completion", a)[2])
        )
        thread.start()
        seen: Counter[int] = Counter()
        while thread.is_alive():
            seen.update(busy())
            time.sleep(0.02)
        thread.join()
        assert seen
        if any_server.name != "llama-2026":  # which tells its slot at the end
            assert [slot for slot, _ in seen.most_common(1)] == [told["slot_id"]]
        _wait_for(lambda: busy() == [])


def test_slot_is_saved_and_restored_through_the_api(
    start_server: StartServer, gateway: StartGateway, tmp_path: Path
) -> None:
    place = tmp_path / "slots"
    place.mkdir()
    extra = ["--slot-save-path", str(place), "--cache-ram", "0"]
    server = start_server("llama-2026", slots=1, ctx=2048, extra=extra)
    keys = tmp_path / "keys"
    keys.write_text("boss secret-boss\nguest secret-guest\n")
    running = gateway(
        "--llama-api", server.url, "--api-key-file", str(keys), "--admins", "boss",
        "--slot-disk", "0", *LEGACY,
    )  # fmt: skip

    def act(action: str, key: str = "secret-boss", **body: str) -> tuple[int, Any]:
        status, _, told = _ask(running.url, f"/slots/0?action={action}", body, key)
        return status, told

    def cached(text: str) -> int:
        asked = {"prompt": text, "n_predict": 4, "temperature": 0}
        status, _, told = _ask(running.url, "/completion", asked, "secret-boss")
        assert status == 200
        return int(told["timings"]["cache_n"])

    assert cached(SYSTEM + "one") < 5
    status, told = act("save", filename="mine.bin")
    assert status == 200
    assert told["n"] > 50
    assert (place / "mine.bin").stat().st_size == told["bytes"]
    assert act("save", "secret-guest", filename="mine.bin")[0] == 403
    assert act("save", filename="../mine.bin")[0] == 400
    assert act("erase")[0] == 200
    assert cached("2 " * 60) < 5  # nothing is left of it
    status, restored = act("restore", filename="mine.bin")
    assert status == 200
    assert restored["n"] == told["n"]
    assert cached(SYSTEM + "one more") > 50
    assert act("restore", filename="nothing.bin")[0] >= 400


def _toml(path: Path, text: str, *backends: tuple[str, str, float]) -> str:
    tables = "".join(
        f'[[backend]]\nurl = "{url}"\nmodel = "{model}"\nslots = 1\nweight = {weight}\n'
        for url, model, weight in backends
    )
    path.write_text(f"{text}\n{tables}")
    return str(path)


@pytest.fixture
def of_two_models(
    old_server: ModelServer, new_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> Callable[[str], tuple[Gateway, dict[str, str]]]:
    """Model a on the old server, as two backends; model b on the new one."""

    def start(text: str) -> tuple[Gateway, dict[str, str]]:
        second = old_server.url.replace("127.0.0.1", "localhost")
        file = _toml(
            tmp_path / "s.toml",
            text,
            (old_server.url, "a", 3.0),
            (new_server.url, "b", 1.0),
            (second, "a", 1.0),
        )
        running = gateway("--config", file, *LEGACY)
        _wait_for(lambda: _ask(running.url, "/health")[2]["backends"]["up"] == 3)
        names = [urlsplit(url).netloc for url in (old_server.url, new_server.url, second)]
        return running, dict(zip(names, ("a", "b", "a"), strict=True))

    return start


def _asked(running: Gateway) -> Counter[str]:
    """The number of requests to each model's backends."""
    found: Counter[str] = Counter()
    for one in _ask(running.url, "/v1/slots")[2]["backends"]:
        found[one["model"]] += one["requests"]
    return found


def test_request_goes_to_a_backend_of_its_model(
    of_two_models: Callable[[str], tuple[Gateway, dict[str, str]]],
) -> None:
    running, _ = of_two_models('default_model = "b"')
    listed = [one["id"] for one in _ask(running.url, "/v1/models")[2]["data"]]
    assert listed == ["a", "b"]
    for model, pool in (("a", "a"), ("b", "b"), ("gpt-4o", "b"), ("a", "a"), ("", "a")):
        before = _asked(running)
        status, _, answer = _chat(running.url, "hello", model)
        assert status == 200
        assert answer["model"] == pool
        assert _asked(running) - before == Counter({pool: 1})


def test_both_backends_of_a_model_are_used(
    of_two_models: Callable[[str], tuple[Gateway, dict[str, str]]],
) -> None:
    running, _ = of_two_models("")
    threads = [
        threading.Thread(target=_chat, args=(running.url, f"{n} is a number", "a"))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {one["backend"]: one for one in _ask(running.url, "/v1/slots")[2]["backends"]}
    asked = [one["requests"] for one in told.values() if one["model"] == "a"]
    assert sum(asked) >= 8
    assert min(asked) >= 1
    assert [one["requests"] for one in told.values() if one["model"] == "b"] == [0]


def test_unknown_model_is_refused_with_strict_models(
    of_two_models: Callable[[str], tuple[Gateway, dict[str, str]]],
) -> None:
    running, _ = of_two_models("strict_models = true")
    status, _, answer = _chat(running.url, "hello", "gpt-4o")
    assert status == 404
    assert answer["error"]["code"] == "model_not_found"
    assert answer["error"]["param"] == "model"
    assert _chat(running.url, "hello", "b")[0] == 200


def test_alias_refers_to_all_backends_of_the_only_model(
    old_server: ModelServer, gateway: StartGateway, tmp_path: Path
) -> None:
    second = old_server.url.replace("127.0.0.1", "localhost")
    text = 'alias = ["gpt-4o", "house"]\nstrict_models = true'
    file = _toml(tmp_path / "s.toml", text, (old_server.url, "a", 1.0), (second, "a", 1.0))
    running = gateway("--config", file, *LEGACY)
    _wait_for(lambda: _ask(running.url, "/health")[2]["backends"]["up"] == 2)
    listed = [one["id"] for one in _ask(running.url, "/v1/models")[2]["data"]]
    assert listed == ["gpt-4o", "house"]
    for name in ("gpt-4o", "house", "a"):
        status, _, answer = _chat(running.url, f"hello {name}", name)
        assert status == 200
        assert answer["model"] == name
    assert _asked(running) == Counter({"a": 3})
    assert _chat(running.url, "hello", "other")[0] == 404

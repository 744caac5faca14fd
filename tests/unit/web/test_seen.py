"""What a key sees of backends and slots: its own prompts, no addresses, no guessable digests."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import pytest
from flask.testing import FlaskClient

from proxy.backends.pools import Backend
from proxy.config import Settings
from proxy.config.keys import ApiKey, Secret
from proxy.core.usage import Usage
from proxy.web.services import Aliases
from tests.apps import app_on
from tests.fakes import ScriptedDriver, client, say, services_of, wait_until

ANN, BOB, BOSS = (ApiKey(name, Secret(f"sk-{name}")) for name in ("ann", "bob", "boss"))
ROUTES = ("/v1/backends", "/v1/slots", "/slots", "/metrics", "/pages/api/status")


def served(keys: Sequence[ApiKey], *places: tuple[str, str]) -> FlaskClient:
    """A gateway with backends of these names and addresses; the first has answered once."""
    backends = [Backend(name, address, ScriptedDriver()) for name, address in places]
    settings = Settings(file_keys=tuple(keys), admins=("boss",), metrics=True, wait_for_backend=0.0)
    app = app_on(backends, settings)
    wait_until(lambda: services_of(app).gateway.registry.settled)
    return app.test_client()


def bearer(key: ApiKey | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {key.secret}"} if key else {}


def text_of(to: FlaskClient, path: str, key: ApiKey | None) -> str:
    answer = to.get(path, headers=bearer(key))
    assert answer.status_code == 200, answer.text
    return answer.text


def ask(to: FlaskClient, key: ApiKey | None, text: str = "Hi") -> None:
    body = {"messages": [{"role": "user", "content": text}]}
    assert to.post("/v1/chat/completions", json=body, headers=bearer(key)).status_code == 200


PLACES = (("10.0.0.5:8080", "http://10.0.0.5:8080"), ("big", "http://10.0.0.6:8080"))


@pytest.mark.parametrize("path", ROUTES)
def test_backend_addresses_are_visible_to_admins_only(path: str) -> None:
    to = served((ANN, BOSS), *PLACES)
    ask(to, ANN)
    ask(to, ANN)
    seen = text_of(to, path, ANN)
    assert "10.0.0." not in seen
    assert re.search(r"\w:8080", seen) is None  # a number beside it may hold these digits
    assert "backend-1" in seen and "big" in seen
    assert "10.0.0.5:8080" in text_of(to, path, BOSS)


@pytest.mark.parametrize("path", ROUTES)
def test_backend_addresses_are_visible_without_keys(path: str) -> None:
    assert "10.0.0.5:8080" in text_of(served((), *PLACES), path, None)


def test_backend_keeps_its_number() -> None:
    seen = Aliases()
    assert seen.name("a:1", "http://a:1") == "backend-1"
    assert seen.name("gone:1", "") == "backend-2"
    assert seen.name("named", "http://b:1") == "named"
    assert seen.name("c:1", "http://c:1") == "backend-3"
    assert seen.name("glm", "/models/glm.bin") == "glm"
    later = [seen.name(name, "") for name in ("a:1", "named", "c:1")]
    assert later == ["backend-1", "named", "backend-3"]
    assert seen.name("a:1/model", "http://a:1") == "backend-4"  # any name with an address in it


def conversations(to: FlaskClient, key: ApiKey | None) -> set[str]:
    backends = json.loads(text_of(to, "/v1/slots", key))["backends"]
    slots = [slot for backend in backends for slot in backend["slots"]]
    return {slot["conversation"] for slot in slots if slot.get("conversation")}


def test_keys_without_group_share_no_cached_prompts() -> None:
    to = served((ANN, BOB), *PLACES[:1])
    ask(to, ANN)
    assert conversations(to, ANN) and not conversations(to, BOB)


def test_keys_of_one_group_share_cached_prompts() -> None:
    keys = [ApiKey(name, Secret(f"sk-{name}"), "shared") for name in ("ann", "bob")]
    to = served(keys, *PLACES[:1])
    ask(to, keys[0])
    assert conversations(to, keys[0]) == conversations(to, keys[1]) != set()


def test_key_named_like_a_group_is_not_in_it() -> None:
    groups = {key.cache_group for key in (ANN, BOB, ApiKey("x", Secret("x"), "ann"))}
    assert len(groups) == 3
    assert not any(ApiKey("x", Secret("x"), "keyann").cache_group == group for group in groups)


def test_conversation_digests_are_salted() -> None:
    """The same text of the same key has another digest in another process."""
    first, other = (served((ANN, BOB), *PLACES[:1]) for _ in range(2))
    for to in (first, other):
        ask(to, ANN)
    assert len(conversations(first, ANN)) == 1
    assert conversations(first, ANN) == conversations(first, ANN)
    assert not conversations(first, ANN) & conversations(other, ANN)


def test_workers_sharing_a_table_show_the_same_digests() -> None:
    first, second, other = (Aliases(["state", key]) for key in ("sk-1", "sk-1", "sk-2"))
    assert first.digest("ab") == second.digest("ab") != other.digest("ab")


def test_guessed_prompt_of_another_key_is_evaluated_anew() -> None:
    """In a slot with another key's prompt, the server must not reuse it."""
    driver = ScriptedDriver(say("x", usage=Usage(50, 1, 0)))
    to = client(driver, file_keys=(ANN, BOB), slots=1)
    for key in (ANN, ANN, BOB, ANN):
        ask(to, key, "a long secret question")
    assert [task.sampling.get("cache_prompt") for task in driver.tasks][1:] == [None, False, False]

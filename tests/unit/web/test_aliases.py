"""Names of models that no model has: those of clouds, and those of the table [aliases]."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.backends.pools import Backend, BackendPools
from proxy.config import ApiKey, Secret, Settings
from tests.apps import app_on
from tests.fakes import CAPS, ScriptedDriver, services_of, wait_until

HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}


def client(*models: str, **settings: Any) -> FlaskClient:
    backends = []
    for name in models or ("qwen3", "tiny"):
        driver = ScriptedDriver(caps=msgspec.structs.replace(CAPS, models=(name,)))
        backends.append(Backend(name, f"test://{name}", driver))
    known = {"data": "", "local_embeddings": False, "wait_for_backend": 0.0, **settings}
    to = app_on(backends, Settings(**known)).test_client()
    wait_until(lambda: to.get("/readyz").status_code == 200)
    return to


def served(to: FlaskClient, model: str, path: str = "/v1/chat/completions") -> Any:
    answer = to.post(path, json={**HI, "model": model})
    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    return answer.json["model"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
@pytest.mark.parametrize("name", ["claude-opus-4-8[1m]", "claude-x", "gpt-5-codex"])
def test_names_of_clouds_mean_the_first_model(name: str, path: str) -> None:
    assert served(client(), name, path) == "qwen3"


def test_names_of_clouds_mean_the_default_model() -> None:
    assert served(client(default_model="tiny"), "claude-x") == "tiny"


def test_a_model_of_that_name_comes_first() -> None:
    to = client("qwen3", "gpt-oss-20b", aliases={"gpt-*": "qwen3"})
    assert served(to, "gpt-oss-20b") == "gpt-oss-20b"
    assert served(to, "gpt-5") == "qwen3"


def test_the_first_pattern_that_matches_counts() -> None:
    aliases = {"claude-haiku-*": "tiny", "claude-*": "qwen3", "smart": "qwen3"}
    to = client(aliases=aliases, strict_models=True)
    names = ("claude-haiku-4", "claude-opus-4", "smart")
    assert [served(to, name) for name in names] == ["tiny", "qwen3", "qwen3"]


def test_an_alias_of_a_model_that_is_not_there_says_so() -> None:
    answer = client(aliases={"claude-*": "gone"}).post(
        "/v1/chat/completions", json={**HI, "model": "claude-x"}
    )
    assert answer.status_code == 404
    assert answer.json is not None
    assert answer.json["error"]["message"] == (
        "the model 'claude-x' does not exist, nor does 'gone', its alias: use qwen3 or tiny"
    )


@pytest.mark.parametrize(
    ("settings", "name"), [({}, "mistral"), ({"strict_models": True}, "claude-x")]
)
def test_an_unknown_model_is_a_404_with_those_that_exist(
    settings: dict[str, Any], name: str
) -> None:
    answer = client(**settings).post("/v1/chat/completions", json={**HI, "model": name})
    assert answer.status_code == 404
    assert answer.json is not None
    assert answer.json["error"]["message"] == (
        f"the model {name!r} does not exist: use qwen3 or tiny"
    )


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("QWEN3-8B-instruct", "Qwen3-8B-Instruct"),  # other letters
        ("qwen3-8b", "Qwen3-8B-Instruct"),  # a part
        ("qwen3-8b-instrukt", "Qwen3-8B-Instruct"),
        ("Tinny", "tiny"),
    ],
)
def test_an_unknown_model_is_answered_with_the_one_that_was_meant(name: str, meant: str) -> None:
    to = client("Qwen3-8B-Instruct", "tiny", "other")
    for answer in (
        to.post("/v1/chat/completions", json={**HI, "model": name}),
        to.get(f"/v1/models/{name}"),
    ):
        assert answer.status_code == 404
        assert answer.json is not None
        message = answer.json["error"]["message"]
        assert message == f"the model {name!r} does not exist: did you mean {meant}?"


def test_models_that_failed_are_not_offered() -> None:
    to = client("qwen3", "qwen3-broken", "tiny")
    broken = services_of(to.application).gateway.registry.backends["qwen3-broken"]

    class Broken(ScriptedDriver):
        status = "failed"

    broken.driver = Broken(caps=CAPS)
    for name, end in (("qwen3-Broken", "did you mean qwen3?"), ("x", "use qwen3 or tiny")):
        answer = to.post("/v1/chat/completions", json={**HI, "model": name})
        assert answer.json is not None
        assert answer.json["error"]["message"].endswith(end)


def test_rights_are_those_for_the_model_that_is_served() -> None:
    keys = tuple(
        ApiKey(name, Secret(f"sk-{name}"), options={"models": models}, place="keys")
        for name, models in (("ann", "claude-*"), ("bob", "qwen*"))
    )
    to = client(file_keys=keys, aliases={"claude-*": "qwen3"})
    answers = {
        key.name: to.post(
            "/v1/chat/completions",
            json={**HI, "model": "claude-x"},
            headers={"Authorization": f"Bearer {key.secret}"},
        )
        for key in keys
    }
    assert answers["bob"].status_code == 200
    assert answers["ann"].status_code == 403
    assert "'qwen3' (asked for as 'claude-x')" in answers["ann"].text
    unknown = to.post(
        "/v1/chat/completions",
        json={**HI, "model": "mistral"},
        headers={"Authorization": "Bearer sk-bob"},
    )
    assert unknown.json is not None
    assert unknown.json["error"]["message"].endswith("does not exist: use qwen3")


def keyed(models: str) -> tuple[ApiKey, ...]:
    return (ApiKey("bob", Secret("sk-bob"), options={"models": models}, place="keys"),)


@pytest.mark.parametrize("settings", [{}, {"default_model": "qwen3"}])
@pytest.mark.parametrize("name", ["claude-x", "gpt-4o", ""])
@pytest.mark.parametrize(
    "path",
    ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/apply-template"],
)
def test_names_of_clouds_mean_a_model_that_the_key_may_use(
    settings: dict[str, Any], name: str, path: str
) -> None:
    to = client(file_keys=keyed("tiny"), **settings)
    headers = {"Authorization": "Bearer sk-bob"}
    answer = to.post(path, json={**HI, "model": name}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    assert answer.json.get("model", "tiny") == "tiny"
    other = to.post(path, json={**HI, "model": "qwen3"}, headers=headers)
    assert other.status_code == 403


def test_names_of_clouds_mean_a_model_that_can_be_loaded() -> None:
    class Hosted(ScriptedDriver):
        status = "failed"

    models = ("down", "failed", "unloaded")
    backends = [Backend(name, "test://b", Hosted(), set_model=name) for name in models]
    for backend in backends:
        backend.up = backend.name != "down"
    backends[2].driver.status = "unloaded"  # type: ignore[misc]
    pools = BackendPools(backends)
    pools.rebuild()
    assert pools.resolve("claude-x") == ("unloaded", "unloaded")
    assert pools.resolve("claude-x", lambda model: model == "down") == ("down", "down")


def test_lists_have_the_aliases_of_a_model_that_wants_it() -> None:
    driver = ScriptedDriver(caps=msgspec.structs.replace(CAPS, models=("qwen3",)))
    backend = Backend("b", "test://b", driver, aliases=("smart",), lists_aliases=True)
    settings = Settings(data="", local_embeddings=False)
    to = app_on([backend], settings).test_client()
    wait_until(lambda: to.get("/readyz").status_code == 200)
    listed = to.get("/v1/models").json
    assert listed is not None
    assert [model["id"] for model in listed["data"]] == ["qwen3", "smart"]
    assert to.get("/v1/models/smart").status_code == 200

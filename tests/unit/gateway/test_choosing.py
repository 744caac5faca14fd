"""Routes with rules: which model a request gets, and what a client reads of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest
from flask import Flask

from proxy.app import create_app
from proxy.backends.driver import Capabilities
from proxy.backends.pools import Backend
from proxy.config import ApiKey, Secret, Settings, routes
from proxy.config.routes import RouteConfig, Rule, TierConfig
from proxy.gateway import choosing
from tests.fakes import CAPS, ScriptedDriver, make_app, say, services_of, wait_until
from tests.unit.gateway.test_media import PNG, part

EYES = msgspec.structs.replace(CAPS, dialect="llama-server", chat=True, vision=True)
RULES = (
    Rule(models=("eyes",), images=True),
    Rule(models=("long",), over=1000),
    Rule(models=("coder",), tools=True),
    Rule(models=("small",), under=50, loaded=True),
    Rule(models=("main",)),
)
KINDS: Mapping[str, Capabilities] = {
    "eyes": EYES,
    "long": msgspec.structs.replace(CAPS, n_ctx=65536),
    "coder": CAPS,
    "small": msgspec.structs.replace(CAPS, n_ctx=1024),
    "main": CAPS,
}
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
LONG = "word " * 1000


def gateway(
    rules: Sequence[Rule] = RULES, down: Sequence[str] = (), **settings: Any
) -> tuple[Flask, dict[str, ScriptedDriver]]:
    """A gateway with the route `auto`, and the drivers of its models."""
    drivers = {
        name: ScriptedDriver(
            say(name), msgspec.structs.replace(caps, models=(name,)), name not in down
        )
        for name, caps in KINDS.items()
    }
    route = RouteConfig(model="auto", rules=tuple(rules))
    return make_app(*drivers.values(), route=(route,), **settings), drivers


def says(*contents: Any) -> list[dict[str, Any]]:
    """A conversation that begins with the user."""
    return [
        {"role": "assistant" if number % 2 else "user", "content": content}
        for number, content in enumerate(contents)
    ]


LOOK = [{"type": "text", "text": "look"}, part(PNG)]


def ask(app: Flask, messages: Any, headers: dict[str, str] | None = None, **body: Any) -> Any:
    body = {"model": "auto", "messages": messages, **body}
    return app.test_client().post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"messages": says("Hi")}, "small"),
        ({"messages": says("word " * 60)}, "main"),
        ({"messages": says(LONG)}, "long"),
        ({"messages": says(LOOK)}, "eyes"),
        ({"messages": says("Hi"), "tools": TOOLS}, "coder"),
        ({"messages": says(LONG), "tools": TOOLS}, "long"),
    ],
)
def test_first_rule_that_applies_chooses_the_model(body: dict[str, Any], model: str) -> None:
    app, drivers = gateway()
    answer = ask(app, **body)
    assert answer.status_code == 200, answer.get_json()
    assert answer.get_json()["model"] == answer.headers["x-slotproxy-model"] == model
    assert [name for name, driver in drivers.items() if driver.tasks] == [model]


BODIES: Mapping[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": LONG},
    "/v1/messages": {"messages": says(LONG), "max_tokens": 9},
    "/v1/responses": {"input": LONG},
    "/api/chat": {"messages": says(LONG), "stream": False},
    "/api/generate": {"prompt": LONG, "stream": False},
}


def test_response_in_the_background_chooses() -> None:
    app, drivers = gateway()
    body = {"model": "auto", "input": LONG, "background": True}
    answer = app.test_client().post("/v1/responses", json=body)
    assert answer.get_json()["model"] == answer.headers["x-slotproxy-model"] == "long"
    wait_until(lambda: drivers["long"].tasks, 30)


@pytest.mark.parametrize("path", BODIES)
def test_every_api_chooses(path: str) -> None:
    app, drivers = gateway()
    answer = app.test_client().post(path, json={"model": "auto", **BODIES[path]})
    assert answer.status_code == 200, answer.get_json()
    assert answer.headers["x-slotproxy-model"] == "long"
    assert drivers["long"].tasks


def test_conversation_keeps_its_model_as_long_as_that_can_take_it() -> None:
    app, _ = gateway()
    talk = says("Hi", "small", "word " * 60)
    assert ask(app, talk[:1]).headers["x-slotproxy-model"] == "small"
    assert ask(app, talk).headers["x-slotproxy-model"] == "small"  # alone, it is for main
    assert ask(app, says("Ho", "small", "word " * 60)).headers["x-slotproxy-model"] == "main"
    talk += says("", "small", LONG)[1:]
    assert ask(app, talk).headers["x-slotproxy-model"] == "long"  # small has no room for it
    talk += says("", "long", "Hi")[1:]
    assert ask(app, talk).headers["x-slotproxy-model"] == "long"


def test_remembered_conversations_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "REMEMBERED", 8)
    app, _ = gateway()
    talk = says("Hi", "small", "word " * 60)
    ask(app, talk[:1])
    for number in range(8):
        ask(app, says(f"Hi {number}"))
    assert ask(app, talk).headers["x-slotproxy-model"] == "main"


def test_session_keeps_its_model_when_its_prompt_changes() -> None:
    app, _ = gateway()
    session = {"X-Session-ID": "one"}
    assert ask(app, says("Hi"), session).headers["x-slotproxy-model"] == "small"
    assert ask(app, says("word " * 60), session).headers["x-slotproxy-model"] == "small"
    # A request with tools is another conversation of the session.
    assert ask(app, says("Hi"), session, tools=TOOLS).headers["x-slotproxy-model"] == "coder"
    assert ask(app, says("words " * 60)).headers["x-slotproxy-model"] == "main"


def test_models_that_cannot_take_the_request_are_passed_over() -> None:
    app, _ = gateway(down=("small",))
    assert ask(app, says("Hi")).headers["x-slotproxy-model"] == "main"
    rules = (Rule(models=("coder", "eyes", "long")),)
    app, _ = gateway(rules)
    assert ask(app, says(LOOK)).headers["x-slotproxy-model"] == "eyes"
    assert ask(app, says("word " * 3000)).headers["x-slotproxy-model"] == "long"


@pytest.mark.parametrize(
    ("rules", "down", "status", "words"),
    [
        (RULES[3:], (), 400, ("images and about 1 tokens", "small does not see images")),
        (RULES[:1], ("eyes",), 503, ("eyes is down",)),
        (RULES[1:2], (), 400, ("none of its rules is for it",)),
        ((Rule(models=("gone",)),), (), 400, ("gone does not exist",)),
    ],
)
def test_error_names_what_is_missing(
    rules: Sequence[Rule], down: Sequence[str], status: int, words: Sequence[str]
) -> None:
    app, _ = gateway(rules, down)
    answer = ask(app, says(LOOK))
    message = answer.get_json()["error"]["message"]
    assert answer.status_code == status
    assert message.startswith("no model of 'auto' can take this request of ")
    assert all(word in message for word in words), message


def test_prompt_that_is_too_long_for_all_models_is_refused_by_the_largest_or_summed_up() -> None:
    rules = (Rule(models=("small", "main", "coder")),)
    app, drivers = gateway(rules)
    talk = says(*["word " * 60] * 29)
    answer = ask(app, talk)
    assert answer.get_json()["error"]["code"] == "context_length_exceeded"
    assert answer.headers["x-slotproxy-model"] == "main"
    app, drivers = gateway(rules, on_overflow="compact")
    answer = ask(app, talk, max_tokens=10)
    assert (answer.status_code, answer.headers["x-slotproxy-model"]) == (200, "main")
    assert int(answer.headers["x-slotproxy-compacted"]) > 0
    assert {name for name, driver in drivers.items() if driver.tasks} == {"main"}


def test_prompt_for_a_model_that_is_down_is_not_refused_as_too_long() -> None:
    app, _ = gateway((Rule(models=("long", "small")),), down=("long",))
    answer = ask(app, says(LONG))
    assert answer.status_code == 503
    message = answer.get_json()["error"]["message"]
    assert message.endswith("long is down; small has a context of 1024 tokens")
    assert int(answer.headers["Retry-After"]) > 0


def test_route_is_listed_only_if_it_is_configured_and_has_a_model() -> None:
    def listed(app: Flask) -> list[str]:
        models = app.test_client().get("/v1/models").get_json()["data"]
        tags = app.test_client().get("/api/tags").get_json()["models"]
        assert [f"{model['id']}:latest" for model in models] == [tag["name"] for tag in tags]
        return [model["id"] for model in models]

    assert listed(gateway()[0]) == [*KINDS, "auto"]
    assert listed(gateway((Rule(models=("gone",)),))[0]) == [*KINDS]
    assert gateway()[0].test_client().get("/v1/models/auto").status_code == 200


def test_patterns_of_names_and_the_default_may_mean_a_route() -> None:
    app, _ = gateway(aliases={"claude-*": "auto"})
    assert ask(app, says(LONG), model="claude-sonnet").headers["x-slotproxy-model"] == "long"
    app, _ = gateway(default_model="auto")
    assert ask(app, says(LONG), model="whatever").headers["x-slotproxy-model"] == "long"
    assert "x-slotproxy-model" not in ask(app, says(LONG), model="long").headers


def test_explanation_tells_the_rule_and_the_models_before() -> None:
    app, drivers = gateway(down=("eyes",), vision="long")
    body = {"model": "auto", "messages": says("word " * 1000)}
    told = app.test_client().post("/v1/explain", json=body).get_json()
    assert told["model"] == "long"
    assert told["chosen"] == {
        "route": "auto",
        "model": "long",
        "rule": 2,
        "when": {"over": 1000},
        "passed": [],
    }
    body["messages"] = says(LOOK)
    told = app.test_client().post("/v1/explain", json=body).get_json()
    assert told["chosen"]["passed"] == [["eyes", "is down"]]
    body["messages"] = says("Hi")
    for _ in range(2):  # an explanation binds the conversation to no model
        told = app.test_client().post("/v1/explain", json=body).get_json()
        assert (told["chosen"]["model"], told["chosen"]["rule"]) == ("small", 4)
    assert not any(driver.tasks for driver in drivers.values())


def test_tiers_of_the_route_are_its_last_rule() -> None:
    tiers = (TierConfig(name="own", backends=("gpu",)),)
    route = RouteConfig(model="auto", tiers=tiers, rules=(Rule(models=("long",), over=1000),))
    driver = ScriptedDriver(say("Hi"), msgspec.structs.replace(CAPS, models=("own",)))
    gpu = Backend("gpu", "http://gpu", driver, place=routes.places((route,))["gpu"])
    app = create_app(Settings(route=(route,), local_embeddings=False, ledger_days=0), [gpu])
    registry = services_of(app).gateway.registry
    wait_until(lambda: registry.settled)
    answer = ask(app, says("Hi"))
    assert answer.get_json()["model"] == answer.headers["x-slotproxy-model"] == "auto"
    assert registry.names() == ("auto",)


def test_key_gets_only_models_that_it_may_use() -> None:
    keys = (
        ApiKey("{main}", Secret("sk-main-0123456789"), options={"models": "main,auto"}),
        ApiKey("none", Secret("sk-none-0123456789"), options={"models": "auto"}),
    )
    rules = (Rule(models=("secret",)), *RULES)
    app, drivers = gateway(rules, file_keys=keys)

    def with_key(secret: str, path: str = "/v1/chat/completions") -> Any:
        headers = {"Authorization": f"Bearer {secret}"}
        body = {"model": "auto", "messages": says("Hi")}
        return app.test_client().post(path, json=body, headers=headers)

    assert with_key("sk-main-0123456789").headers["x-slotproxy-model"] == "main"
    told = with_key("sk-main-0123456789", "/v1/explain").get_json()
    assert told["chosen"]["passed"] == []  # it does not learn of the others
    answer = with_key("sk-none-0123456789")
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (403, "model_forbidden")
    assert "secret" not in answer.text
    assert [name for name, driver in drivers.items() if driver.tasks] == ["main"]

"""POST /v1/explain: what would be done with a body of each API, and that nothing is done."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from flask import Flask

from proxy.apis.requests.routes import UNLISTED
from proxy.backends.driver import Capabilities
from proxy.config import ApiKey, Secret
from proxy.runtime.cancel import Cancel
from proxy.scheduling.lease import Lease
from proxy.scheduling.state import SlotRequest
from proxy.web.fastpath import Application
from tests.fakes import CAPS, ScriptedDriver, make_app, say, services_of
from tests.unit.observe.test_requests import app_with, ask, get
from tests.unit.web.ledger.test_usage_routes import ANN, KEYS

EXPLAIN = "/v1/explain"
TEXT = "How many sails are red?"
MESSAGES = [{"role": "user", "content": TEXT}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": TEXT},
    "/completions": {"prompt": TEXT},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 9},
    "/v1/responses": {"input": TEXT, "background": True},
    "/responses": {"input": TEXT, "store": True},
    "/v1/responses/compact": {"input": TEXT, "model": "scripted"},
    "/responses/compact": {"input": TEXT, "model": "scripted"},
    "/chat/completions": {"messages": MESSAGES, "stream": True},
    "/api/chat": {"messages": MESSAGES, "keep_alive": 0},
    "/api/generate": {"prompt": TEXT},
    "/completion": {"prompt": TEXT},
    "/infill": {"input_prefix": TEXT, "input_suffix": "!"},
    "/chat": {"prompt": TEXT},
    "/chat-stream": {"prompt": TEXT},
    "/": {"prompt": TEXT, "history": []},
}


def explained(app: Flask, route: str = "", headers: dict[str, str] = ANN, **body: Any) -> Any:
    query = {"route": route} if route else {}
    return app.test_client().post(EXPLAIN, json=body, query_string=query, headers=headers)


def test_body_of_every_api_is_explained_and_nothing_is_done() -> None:
    driver = ScriptedDriver(say("Hi"))
    app = app_with(driver)
    assert isinstance(app, Application)
    assert BODIES.keys() == app.direct.keys()
    for route, body in BODIES.items():
        answer = explained(app, route, **body)
        if route == "/infill":  # as the route itself says of this backend
            assert answer.status_code == 400, route
            continue
        assert answer.status_code == 200, (route, answer.get_json())
        told = answer.get_json()
        assert TEXT in told["prompt"], route
        assert told["prompt_tokens"] == len(told["prompt"]) + 1  # a token is a character
        assert told["decision"]["reason"]["cause"] == "new"
    assert not driver.tasks
    assert get(app).get_json()["data"] == get(app).get_json()["running"] == []
    assert services_of(app).gateway.scheduler.outstanding == 0


def test_explanation_is_that_of_the_request() -> None:
    # A server that frees its slots at once, or the two would differ by what is free in between.
    driver = ScriptedDriver(say("Hi"), msgspec.structs.replace(CAPS, queues=True))
    app = app_with(driver)
    ask(app)
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hello!"}, *MESSAGES, *MESSAGES],
        "seed": 1,
    }
    told = explained(app, **body).get_json()
    name = ask(app, **body)
    task, request = driver.tasks[-1], get(app, f"/v1/requests/{name}").get_json()
    assert (told["prompt"], told["max_tokens"]) == (task.prompt, task.max_tokens)
    assert told["model"] == request["model"] and told["context"] == CAPS.n_ctx
    for field in ("backend", "slot", "expected_tokens", "turns_before"):
        assert told["decision"][field] == request["decision"][field]
    assert told["queue"] == {"place": 0, "wait_seconds": 0.0}
    chosen, *others = told["places"]
    assert (chosen["backend"], chosen["slot"]) == ("backend-1", told["decision"]["slot"])
    assert len(others) == CAPS.slots - 1
    assert "seed is ignored by this backend" in told["warnings"]
    assert told["template"] and told["grammar"] is None and told["rendered_by"] == "slotproxy"


@pytest.mark.parametrize(
    ("body", "begins"),
    [
        ({"response_format": {"type": "json_object"}}, "start"),
        ({"tool_choice": "required"}, "start"),
        ({}, "call"),
    ],
)
def test_grammar(body: dict[str, Any], begins: str) -> None:
    tool = {"type": "function", "function": {"name": "sails", "parameters": {"type": "object"}}}
    tools: dict[str, Any] = {} if "response_format" in body else {"tools": [tool]}
    told = explained(app_with(ScriptedDriver()), messages=MESSAGES, **body, **tools).get_json()
    assert told["grammar"]["begins"] == begins
    assert "root ::= " in told["grammar"]["text"]


def test_errors_are_those_of_the_route() -> None:
    app = app_with(ScriptedDriver())
    for route, body, status, param in (
        ("", {"messages": []}, 400, "messages"),
        ("", {"messages": MESSAGES, "temperature": "hot"}, 400, "temperature"),
        ("/v1/messages", {"messages": MESSAGES}, 400, "max_tokens"),
        ("/v1/embeddings", {"input": "x"}, 400, "route"),
        ("", {"messages": [{"role": "user", "content": "x" * 9000}]}, 400, ""),
    ):
        answer = explained(app, route, **body)
        assert answer.status_code == status, answer.get_json()
        assert not param or answer.get_json()["error"]["param"] == param
    assert explained(app, headers={}, messages=MESSAGES).status_code == 401


def test_request_that_would_wait_has_its_place() -> None:
    app = app_with(ScriptedDriver())
    gateway = services_of(app).gateway
    (model,) = gateway.registry.models()
    taken = [gateway.scheduler.enter(SlotRequest(model=model)) for _ in range(CAPS.slots)]
    told = explained(app, messages=MESSAGES).get_json()
    assert told["decision"] is None and told["queue"]["place"] == 1
    assert told["queue"]["wait_seconds"] > 0 and told["prompt"]
    for lease in taken:
        assert isinstance(lease, Lease)
        lease.release()
    assert explained(app, messages=MESSAGES).get_json()["queue"]["place"] == 0


def test_rights_are_those_of_the_route() -> None:
    keys = tuple(
        ApiKey(name, Secret(f"sk-{name}-0123456789"), options=options)
        for name, options in (
            ("ann", {"allowed_routes": "messages"}),
            ("bob", {"models": "other*"}),
        )
    )
    app = make_app(ScriptedDriver(), file_keys=keys)
    body = BODIES["/v1/messages"]
    assert explained(app, "/v1/messages", **body).status_code == 200
    refused = explained(app, **body)
    assert refused.status_code == 403 and "allowed_routes" in refused.text
    unloaded = Unloaded(say("Hi"), msgspec.structs.replace(CAPS, provisional=True))
    for other in (app, make_app(unloaded, file_keys=keys)):
        bob = {"Authorization": "Bearer sk-bob-0123456789"}
        assert explained(other, headers=bob, messages=MESSAGES).status_code == 403


class Unloaded(ScriptedDriver):
    """A model that is loaded by a request; the test's may not do it."""

    status = "unloaded"

    def refresh(self) -> tuple[Capabilities, bool]:
        return self.caps, False

    def load(self, cancel: Cancel) -> Iterator[None]:
        raise AssertionError("it is loaded")

    def tokenize(self, text: str, special: bool = False, cancel: Cancel | None = None) -> list[int]:
        raise AssertionError("it is loaded to count tokens")


def test_model_is_not_loaded_for_it() -> None:
    app = app_with(Unloaded(say("Hi"), msgspec.structs.replace(CAPS, provisional=True)))
    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": MESSAGES},
        "/v1/responses": {"input": TEXT, "truncation": "auto"},
        "/v1/messages": {**BODIES["/v1/messages"], "context_management": {"edits": []}},
    }
    for route, body in bodies.items():
        told = explained(app, route, **body).get_json()
        assert told["must_load"] is True and told["model"] == "scripted"
        assert told["prompt"] is None and told["decision"] is None and told["places"] == []


def test_conversation_that_would_be_summarized_first() -> None:
    app = app_with(ScriptedDriver(say("Hi")), on_overflow="compact")
    talk = [{"role": role, "content": "x" * 400} for role in ("user", "assistant") * 4]
    told = explained(app, messages=[*talk, *MESSAGES]).get_json()
    assert told["summarizes_first"] is True and told["prompt_tokens"] > CAPS.n_ctx
    assert told["decision"] is None and told["places"] == []


def test_limits_are_not_charged_and_count() -> None:
    key = ApiKey("ann", Secret("sk-ann-0123456789"), options={"rpm_limit": "1"})
    app = make_app(ScriptedDriver(say("Hi")), file_keys=(key,))
    for _ in range(3):
        assert explained(app, messages=MESSAGES).status_code == 200
    ask(app)
    refused = explained(app, messages=MESSAGES)
    assert refused.status_code == 429 and "1 request a minute" in refused.text


def test_tools_of_servers_are_not_asked_for() -> None:
    app = app_with(ScriptedDriver(say("Hi")))
    server = {"type": "mcp", "server_label": "far", "server_url": "http://127.0.0.1:9/mcp"}
    told = explained(app, "/v1/responses", input=TEXT, tools=[server]).get_json()
    assert UNLISTED in told["warnings"] and TEXT in told["prompt"]


def test_backend_that_can_take_it_is_chosen() -> None:
    able = ScriptedDriver(say("Hi"), msgspec.structs.replace(CAPS, infill=True))
    app = make_app(ScriptedDriver(say("Hi")), able, file_keys=KEYS)
    told = explained(app, "/infill", **BODIES["/infill"]).get_json()
    assert told["decision"]["backend"] == told["places"][0]["backend"] == "backend-2"
    assert {place["backend"] for place in told["places"]} == {"backend-2"}

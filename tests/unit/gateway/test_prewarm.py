"""POST /v1/prewarm on scripted backends: what a backend is sent, and what the client reads; and the
beginnings of prompts that are learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask import Flask

from proxy.backends.driver import Capabilities
from proxy.backends.pools import Backend
from proxy.config import ApiKey, Secret
from proxy.core.events import Finished, Started
from proxy.core.request import CompletionRequest, Message
from proxy.core.task import Task
from proxy.core.usage import Timings, Usage
from proxy.gateway import Caller, prewarm
from proxy.gateway.leased_slot import PIECE
from proxy.gateway.prewarm import LEAST, MOST, MOST_GROUPS, Heads
from proxy.runtime.cancel import Cancel
from proxy.scheduling.prefix import chain_of
from tests.fakes import CAPS, ScriptedDriver, ScriptsInTurn, make_app, say, services_of, wait_until
from tests.unit.observe.test_explain import BODIES, TEXT
from tests.unit.observe.test_requests import app_with, get
from tests.unit.web.account_client import keyed
from tests.unit.web.ledger.test_usage_routes import ANN

OLD = msgspec.structs.replace(CAPS, doubles=True, n_ctx=1 << 16)
CHAT = "/v1/chat/completions"
LONG = {"messages": [{"role": "user", "content": "long word " * (PIECE // 5)}], "max_tokens": 1}
LONG_RESPONSE = {"input": "long word " * (PIECE // 5)}


def warm(app: Flask, body: dict[str, Any], route: str = CHAT, **headers: str) -> Any:
    return app.test_client().post(
        "/v1/prewarm", json=body, query_string={"route": route}, headers=ANN | headers
    )


def whole(prompt: int, cached: int, slot: int = 0) -> list[Any]:
    """The script of an evaluated prompt."""
    usage, times = Usage(prompt, 1, cached), Timings(prompt_ms=prompt - cached)
    return [[Started(slot), Finished(reason="length", usage=usage, timings=times, slot=slot)]]


def test_prompt_of_every_api_is_evaluated_without_an_answer() -> None:
    driver = ScriptedDriver(say("Hi"), msgspec.structs.replace(CAPS, slots=16))
    app = app_with(driver)
    for route, body in BODIES.items():
        answer = warm(app, body, route)
        if route == "/infill":  # as the route itself says of this backend
            assert answer.status_code == 400
            continue
        assert answer.status_code == 200, (route, answer.get_json())
        assert answer.get_json()["complete"], route
        head = driver.tasks[-1]
        assert head.max_tokens == 0
        sent = body | ({"background": False} if "background" in body else {})
        assert app.test_client().post(route, json=sent, headers=ANN).status_code in (200, 201)
        whole_prompt = driver.tasks[-1].prompt
        assert isinstance(head.prompt, str) and isinstance(whole_prompt, str)
        assert whole_prompt.startswith(head.prompt) and whole_prompt != head.prompt
    told = get(app).get_json()["data"][-1]
    assert (told["api"], told["key"], told["outcome"]) == ("prewarm", "ann", "ok")
    assert (told["prompt_tokens"], told["cached_tokens"], told["completion_tokens"]) == (7, 2, 0)


def test_errors_are_those_of_the_route() -> None:
    app = app_with(ScriptedDriver())
    for route, body, param in (
        (CHAT, {"messages": []}, "messages"),
        ("/v1/messages", {"messages": [{"role": "user", "content": TEXT}]}, "max_tokens"),
        ("/v1/embeddings", {"input": "x"}, "route"),
    ):
        answer = warm(app, body, route)
        assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)
    assert services_of(app).gateway.scheduler.outstanding == 0


def test_rights_are_those_of_the_route() -> None:
    options = {"allowed_routes": "messages"}
    key = ApiKey("ann", Secret("sk-ann-0123456789"), options=options)
    driver = ScriptedDriver()
    app = make_app(driver, file_keys=(key,))
    assert warm(app, BODIES["/v1/messages"], "/v1/messages").status_code == 200
    refused = warm(app, BODIES[CHAT])
    assert refused.status_code == 403 and "allowed_routes" in refused.text
    assert warm(app, BODIES[CHAT], Authorization="Bearer sk-nobody").status_code == 401
    assert len(driver.tasks) == 1


def test_server_that_cannot_be_interrupted_gets_pieces() -> None:
    scripts = [whole(515, 3), whole(1030, 515), whole(1300, 1030)]
    driver = ScriptsInTurn(*scripts, caps=OLD)
    app = app_with(driver)
    told = warm(app, LONG).get_json()
    *pieces, text = (task.prompt for task in driver.tasks)
    # The token before the first of a text is its beginning.
    assert isinstance(text, str)
    assert pieces == [("", *map(ord, [*text[:end]])) for end in (PIECE, 2 * PIECE)]
    assert {task.max_tokens for task in driver.tasks} == {0}
    # Nobody knows what the slot holds before the first.
    assert [task.sampling["cache_prompt"] for task in driver.tasks] == [False, True, True]
    assert (told["complete"], told["prompt_tokens"], told["cached_tokens"]) == (True, 1300, 3)
    assert get(app).get_json()["data"][0]["evaluated_tokens"] == 1297


def test_short_prompt_stays_whole() -> None:
    driver = ScriptsInTurn(whole(2, 0), caps=OLD)
    body = {"prompt": "\u4f60" * (2 * PIECE - 1), "max_tokens": 1}
    assert warm(make_app(driver), body, "/v1/completions").get_json()["complete"]
    assert [task.sampling.get("cache_prompt") for task in driver.tasks] == [None]


def test_prompt_that_was_moved_is_evaluated_whole() -> None:
    def move() -> None:
        driver.runs[-1].slot = 1

    driver = ScriptsInTurn([move, *whole(100, 0)], whole(250, 0), caps=OLD)
    assert warm(app_with(driver), LONG).get_json()["complete"]
    assert len(driver.tasks) == 2


def test_prompt_that_is_warm_is_not_sent_again() -> None:
    driver = ScriptsInTurn(whole(515, 0), whole(1030, 515), whole(1300, 1030), caps=OLD)
    app = app_with(driver)
    for cached in (0, 1300):
        told = warm(app, LONG).get_json()
        assert told["complete"]
        assert (told["prompt_tokens"], told["cached_tokens"]) == (1300, cached)
    assert len(driver.tasks) == 3


def test_another_request_ends_it_between_two_pieces() -> None:
    app: Flask

    def interrupt() -> None:
        question = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
        assert app.test_client().post(CHAT, json=question, headers=ANN).status_code == 200

    driver = ScriptsInTurn([interrupt, *whole(100, 0)], say("Hello"), caps=OLD)
    app = app_with(driver)
    answer = warm(app, LONG)
    assert (answer.status_code, answer.get_json()["complete"]) == (200, False)
    assert len(driver.tasks) == 2, "one piece, and the question"
    rows = {row["api"]: row["outcome"] for row in get(app).get_json()["data"]}
    assert rows == {"prewarm": "cancelled", "openai": "ok"}


@pytest.mark.parametrize("stream", [True, False])
def test_response_without_generation_ends_well_where_it_makes_way(stream: bool) -> None:
    app: Flask

    def post(**more: Any) -> Any:
        return app.test_client().post("/v1/responses", json=LONG_RESPONSE | more, headers=ANN)

    def interrupt() -> None:
        assert post(input="Hi").status_code == 200

    driver = ScriptsInTurn([interrupt, *whole(100, 0)], say("Hello"), caps=OLD)
    app = app_with(driver)
    warm = post(generate=False, stream=stream)
    assert warm.status_code == 200
    assert '"status":"completed"' in warm.text and "Hello" not in warm.text
    assert len(driver.tasks) == 2, "one piece, and the question"
    warm.close()
    assert [row["outcome"] for row in get(app).get_json()["data"]] == ["cancelled", "ok"]
    assert services_of(app).gateway.scheduler.outstanding == 0


def test_response_without_generation_offers_the_tools_that_the_gateway_runs() -> None:
    driver = ScriptedDriver(say("Hi"))
    app = app_with(driver, search_engine=("searxng",), searxng_url="http://127.0.0.1:9")
    body = {"input": "Hello there, what is the tide?", "tools": [{"type": "web_search"}]}
    for generate in (False, True):
        sent = body | {"generate": generate}
        assert app.test_client().post("/v1/responses", json=sent, headers=ANN).status_code == 200
    head, question = (str(task.prompt) for task in driver.tasks)
    assert question.startswith(head) and "web_search" in head
    assert driver.tasks[0].max_tokens == 0


def test_limits_of_a_key_count_it_and_allow_no_answer(tmp_path: Path) -> None:
    driver = ScriptedDriver(say("Hi"))
    http = keyed(driver, tmp_path)
    key = http.make(rpm_limit=2, tpm_limit=5000)["key"]
    body = {"messages": [{"role": "user", "content": TEXT}], "model": "scripted"}
    first = http.post("/v1/prewarm", key, **body)
    assert first.status_code == 200
    assert driver.tasks[0].max_tokens == 0
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert http.post("/v1/prewarm", key, **body).status_code == 200
    refused = http.post("/v1/prewarm", key, **body)
    assert (refused.status_code, refused.json["error"]["code"]) == (429, "rate_limit_exceeded")


TOOLS = "a tool of the agent " * (LEAST // 10)


def first(question: str, head: str = TOOLS, *before: Message) -> Task:
    messages = (*before, Message(role="user", content=question))
    request = CompletionRequest(messages=messages)
    return Task(prompt=f"{head}{question}", boundaries=(len(head),), request=request)


def learn(heads: Heads, model: str, caller: Caller, task: Task) -> None:
    chain = chain_of(task.prompt, task.boundaries, f"{model}\0{caller.group}")
    heads.learn(model, caller, task, chain)


def learned(*tasks: Task, caller: Caller = Caller(group="a")) -> list[str]:  # noqa: B008  # frozen
    heads = Heads()
    for task in tasks:
        learn(heads, "m", caller, task)
    return [head.text for head in heads.of("m")]


def test_what_two_conversations_share_is_learned() -> None:
    assert learned(first("Fix it.")) == []
    assert learned(first("Fix it."), first("Explain it.")) == [TOOLS]
    other = "another agent " * LEAST
    mixed = [first("a"), first("b", other), first("c"), first("d", other), first("e", other)]
    assert learned(*mixed) == [other, TOOLS]


@pytest.mark.parametrize(
    "task",
    [
        first("short", ""),
        first("later", TOOLS, Message(role="assistant", content="Hello")),
        msgspec.structs.replace(first("marks"), breaks=(5,)),
        Task(prompt=TOOLS),
    ],
    ids=["short", "later turn", "control tokens", "no chat"],
)
def test_other_prompts_are_not_kept(task: Task) -> None:
    assert learned(task, task) == []


def test_groups_and_side_jobs_are_kept_apart() -> None:
    assert learned(first("a"), first("b"), caller=Caller(group="a", background=True)) == []
    heads = Heads()
    for group in ("a", "b"):
        learn(heads, "m", Caller(group=group), first("Hi"))
    assert heads.of("m") == []
    # Of one conversation, no text is kept.
    assert not any(head.text for learnt in heads.by_group.values() for head in learnt)


def test_memory_is_bounded() -> None:
    heads = Heads()
    for number in range(3 * MOST_GROUPS):
        for _ in range(2):
            learn(heads, "m", Caller(group=f"{number}"), first("Hi"))
    assert len(heads.of("m")) == MOST_GROUPS
    for number in range(3 * MOST):
        learn(heads, "m", Caller(group="a"), first("Hi", f"{number} {TOOLS}"))
    assert sum(map(len, heads.by_group.values())) <= MOST_GROUPS + MOST


def body(question: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": TOOLS}, {"role": "user", "content": question}]
    return {"messages": messages, "max_tokens": 4}


def test_model_that_was_unloaded_is_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver(ScriptedDriver):
        status = "loaded"

    heads, prewarmed = Heads(), list[str]()
    monkeypatch.setattr(prewarm, "_prewarm_heads", lambda *words: prewarmed.append(words[2]))
    gateway = services_of(make_app(ScriptedDriver())).gateway
    for status in ("unloaded", "sleeping", "loaded"):
        for question in ("Fix it.", "Explain it."):
            learn(heads, status, Caller(), first(question))
        driver = Driver(caps=msgspec.structs.replace(CAPS, models=(status,)))
        driver.status = status
        backend = Backend("b", "test://b", driver)
        backend.caps = driver.caps
        prewarm.after_load(gateway, heads, Cancel(), backend)
    wait_until(lambda: prewarmed)
    assert prewarmed == ["loaded"]


def test_backend_that_comes_back_is_prewarmed() -> None:
    caps = Capabilities(dialect="2026", slots=4, n_ctx=1 << 17, queues=True, models=("scripted",))
    driver = ScriptedDriver(say("Hi", usage=Usage(4000, 1, 0)), caps)
    app = make_app(driver)
    http, gateway = app.test_client(), services_of(app).gateway
    for question in ("Fix it.", "Explain it."):
        assert http.post("/v1/chat/completions", json=body(question)).status_code == 200
    driver.up = False
    (backend,) = gateway.registry.backends.values()
    gateway.registry.check(backend)
    asked = len(driver.tasks)
    driver.up = True
    gateway.registry.check(backend)
    wait_until(lambda: len(driver.tasks) > asked)
    head = driver.tasks[-1]
    assert head.max_tokens == 0
    assert TOOLS in head.text and "Fix" not in head.text and "Explain" not in head.text
    wait_until(lambda: not gateway.scheduler.outstanding)
    told = http.post("/v1/explain", json=body("Test it.")).get_json()
    chosen = told["places"][0]
    assert chosen["cached_tokens"] >= 4000 and chosen["cost_seconds"] < 1

"""The routes of the other APIs on a scripted backend: statuses, headers and stored data."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from proxy.config.keys import Secret, unnamed
from proxy.core.events import Finished, ReasoningDelta, Started, TextDelta
from proxy.core.usage import Usage
from proxy.errors import GatewayError, UpstreamFault, UpstreamTimeout
from proxy.gateway.adapt import MOST_ALTERNATIVES
from tests.fakes import CAPS, Script, ScriptedDriver, client, make_app

USER = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": USER},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/messages": {"max_tokens": 9, "messages": USER},
    "/api/chat": {"messages": USER, "stream": False},
    "/api/generate": {"prompt": "Hi", "stream": False},
    "/chat": {"prompt": "Hi"},
    "/": {"prompt": "Hi"},
    "/completion": {"prompt": "Hi"},
    "/v1/responses": {"input": "Hi"},
    "/responses": {"input": "Hi"},
}


@pytest.fixture(scope="module")
def api() -> Any:
    return client()


@pytest.fixture(scope="module")
def locked() -> Any:
    keys = (Secret("one"), Secret("two"))
    return client(api_key=keys, admins=(unnamed(keys[0]).name,), wrong_keys=0)


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


@pytest.mark.parametrize("path", BODIES)
def test_every_route_works_with_a_key_and_refuses_without(locked: Any, path: str) -> None:
    assert locked.post(path, json=BODIES[path]).status_code == 401
    answer = locked.post(path, json=BODIES[path], headers=key("one"))
    assert answer.status_code == 200
    assert "Hello" in answer.get_data(as_text=True)
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("fault", "status"), [(UpstreamTimeout("too slow"), 504), (UpstreamFault("it broke"), 502)]
)
def test_error_has_status_and_shape_of_the_dialect(
    path: str, fault: GatewayError, status: int
) -> None:
    for body in (BODIES[path], {**BODIES[path], "stream": True}):
        failing = client(ScriptedDriver([fault]))
        answer = failing.post(path, json=body)
        assert answer.status_code == status
        assert answer.mimetype == "application/json"
        error = json.loads(answer.get_data())
        assert {"error", "detail"} & set(error)


# Anthropic


def test_queue_full_is_529_for_anthropic() -> None:
    down = client(ScriptedDriver(up=False))
    answer = down.post("/v1/messages", json=BODIES["/v1/messages"])
    assert answer.status_code == 529
    assert answer.json["type"] == "error"
    assert answer.json["error"]["type"] == "overloaded_error"
    assert answer.headers["request-id"] == answer.headers["x-request-id"]
    assert answer.headers["Retry-After"]


def test_anthropic_key_and_version_headers_are_accepted(locked: Any) -> None:
    headers = {"x-api-key": "two", "anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    answer = locked.post("/v1/messages?beta=true", json=BODIES["/v1/messages"], headers=headers)
    assert answer.status_code == 200
    assert answer.json["content"] == [{"type": "text", "text": "Hello"}]
    wrong = locked.post("/v1/messages", json=BODIES["/v1/messages"], headers={"x-api-key": "x"})
    assert wrong.json["error"]["type"] == "authentication_error"


def test_ignored_tools_are_reported_in_a_header(api: Any) -> None:
    body = {**BODIES["/v1/messages"], "tools": [{"type": "web_fetch_20250910", "name": "w"}]}
    answer = api.post("/v1/messages", json=body)
    assert answer.status_code == 200
    assert "web_fetch_20250910" in answer.headers["x-slotproxy-warning"]


# Ollama


def test_empty_ollama_request_loads_or_unloads_the_model(api: Any) -> None:
    for extra, reason in (({}, "load"), ({"keep_alive": 0}, "unload")):
        answer = api.post("/api/generate", json={"model": "scripted", **extra}).json
        assert (answer["done_reason"], answer["response"], answer["done"]) == (reason, "", True)
    assert api.post("/api/chat", json={"messages": []}).json


@pytest.mark.parametrize("path", ["push", "create", "copy", "blobs/sha256:00"])
def test_ollama_model_management_is_refused(api: Any, path: str) -> None:
    answer = api.post(f"/api/{path}", json={"model": "x"})
    assert answer.status_code == 400
    assert "when the backends start" in answer.json["error"]


# Responses


def test_response_is_stored_for_its_key_only(locked: Any) -> None:
    made = locked.post("/v1/responses", json={"input": "Hi"}, headers=key("one")).json
    assert made["status"] == "completed"
    path = f"/v1/responses/{made['id']}"
    assert locked.get(path, headers=key("one")).json == made
    for method in (locked.get, locked.delete):
        assert method(path, headers=key("two")).status_code == 404
    assert locked.get(path + "/input_items", headers=key("two")).status_code == 404
    assert locked.post(path + "/cancel", headers=key("one")).status_code == 400
    gone = locked.delete(path, headers=key("one")).json
    assert gone == {"id": made["id"], "object": "response", "deleted": True}
    assert locked.get(path, headers=key("one")).status_code == 404


def test_response_with_store_false_is_not_stored(api: Any) -> None:
    made = api.post("/v1/responses", json={"input": "Hi", "store": False}).json
    assert api.get(f"/v1/responses/{made['id']}").status_code == 404


def test_response_continues_previous_one_with_its_reasoning() -> None:
    script: Script = [
        [Started()],
        [ReasoningDelta("hm"), TextDelta("Hello")],
        [Finished(reason="stop", usage=Usage(7, 3))],
    ]
    driver = ScriptedDriver(script)
    api = client(driver)
    first = api.post("/v1/responses", json={"input": "Hi", "instructions": "A"}).json
    body = {"input": "So?", "instructions": "B", "previous_response_id": first["id"]}
    assert api.post("/v1/responses", json=body).status_code == 200
    said = [(m.role, m.content, m.reasoning) for m in driver.tasks[-1].request.messages]
    assert said == [
        ("system", "B", ""),
        ("user", "Hi", ""),
        ("assistant", "Hello", "hm"),
        ("user", "So?", ""),
    ]


def test_input_items_are_paginated(api: Any) -> None:
    body = {"input": [{"role": "user", "content": f"{i}"} for i in range(5)]}
    made = api.post("/v1/responses", json=body).json
    path = f"/v1/responses/{made['id']}/input_items"
    first = api.get(path + "?order=asc&limit=2").json
    assert first["has_more"]
    assert [item["content"][0]["text"] for item in first["data"]] == ["0", "1"]


# llama.cpp's own


def test_slot_actions_require_admin(locked: Any) -> None:
    path = "/slots/0?action=erase"
    assert locked.post(path).status_code == 401
    assert locked.post(path, headers=key("two")).status_code == 403
    refused = locked.post(path, headers=key("one"))
    assert refused.status_code == 400  # the scripted backend has none
    assert "--slot-save-path" in refused.json["error"]["message"]
    for name in ("../x", "", ".hidden", "a/b", "a\x00b", "x" * 99):
        answer = locked.post("/slots/0?action=save", json={"filename": name}, headers=key("one"))
        assert answer.status_code == 400
        assert "filename" in answer.json["error"]["message"]
    assert locked.post("/slots/99?action=erase", headers=key("one")).status_code == 404


def test_glm_tokenize_returns_ids_with_pieces(api: Any) -> None:
    tokens = api.post("/tokenize", json={"prompt": "a 你", "max_length": 2}).json
    assert tokens == {"tokenIds": [97, 32], "tokens": ["a", "▁"]}
    assert api.post("/tokenize", json={"content": "a"}).json == {"tokens": [97]}


def test_embeddings_on_backend_without_them_are_refused(api: Any) -> None:
    for path, body in (
        ("/v1/embeddings", {"input": "x"}),
        ("/api/embed", {"input": "x"}),
        ("/embedding", {"prompt": ["x"]}),
        ("/v1/rerank", {"query": "q", "documents": ["d"]}),
    ):
        answer = api.post(path, json=body)
        assert answer.status_code == 400
        assert "does not support embeddings" in answer.get_data(as_text=True)


@pytest.mark.parametrize("accept", [None, "*/*", "application/json"])
def test_clients_of_ollama_find_it_running(api: Any, accept: str | None) -> None:
    headers = {} if accept is None else {"Accept": accept}
    answer = api.get("/", headers=headers)
    assert (answer.status_code, answer.text) == (200, "Ollama is running")
    assert api.head("/", headers=headers).status_code == 200
    page = api.get("/", headers={"Accept": "text/html,*/*;q=0.8"})
    assert page.mimetype == "text/html"


def test_ollama_is_running_without_a_key(locked: Any) -> None:
    assert locked.get("/").text == "Ollama is running"
    assert locked.get("/", headers={"Accept": "text/html"}).status_code == 302


def test_max_length_of_glm_limits_prompt_and_answer_together() -> None:
    driver = ScriptedDriver()
    api = make_app(driver).test_client()
    history = [["q", "a" * 50]]
    for path in ("/chat", "/chat-stream", "/"):
        assert api.post(path, json={"prompt": "Hi", "history": history, "max_length": 300}).data
        (task,) = driver.tasks
        assert task.max_tokens == 300 - len(task.prompt) - 1, "a token of the vocabulary begins it"
        driver.tasks.clear()
    refused = api.post("/chat", json={"prompt": "Hi", "history": history, "max_length": 60})
    assert refused.status_code == 400
    assert "max_length is 60 tokens for prompt and answer together" in refused.json["detail"]


def test_message_start_counts_the_prompt_of_an_old_server() -> None:
    driver = ScriptedDriver()  # reports the size of the prompt at the end only
    body = {**BODIES["/v1/messages"], "stream": True}
    lines = make_app(driver).test_client().post("/v1/messages", json=body).text.splitlines()
    usage = json.loads(lines[1].removeprefix("data: "))["message"]["usage"]
    assert usage["input_tokens"] == len(driver.tasks[0].prompt) + 1


ALTERNATIVES: list[tuple[str, dict[str, Any], int]] = [
    ("/completion", {"prompt": "Hi", "n_probs": 1000, "n_predict": 30}, 200),
    ("/completion", {"prompt": "Hi", "n_probs": 1000, "n_predict": 31}, 400),
    ("/completion", {"prompt": "Hi", "n_probs": 1000, "n_predict": 31, "stream": True}, 200),
    ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 20, "max_tokens": 750}, 200),
    ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 20, "max_tokens": 751}, 400),
    (
        "/v1/chat/completions",
        {"messages": USER, "logprobs": True, "top_logprobs": 20, "max_tokens": 1_501},
        400,
    ),
]


@pytest.mark.parametrize(("path", "body", "status"), ALTERNATIVES)
def test_alternatives_of_a_whole_answer_are_bounded(
    path: str, body: dict[str, Any], status: int
) -> None:
    driver = ScriptedDriver(caps=msgspec.structs.replace(CAPS, n_ctx=100_000))
    answer = client(driver).post(path, json=body)
    assert answer.status_code == status, answer.text
    if status == 400:
        assert not driver.tasks, "the backend was not asked"
        assert "alternatives" in answer.text and "stream" in answer.text


def test_answer_of_any_length_ends_where_its_alternatives_do() -> None:
    driver = ScriptedDriver(caps=msgspec.structs.replace(CAPS, n_ctx=100_000))
    answer = client(driver).post("/completion", json={"prompt": "Hi", "n_probs": 1000})
    assert answer.status_code == 200
    assert driver.tasks[0].max_tokens == MOST_ALTERNATIVES // 1000

"""Conversations of the Responses API, and responses that continue them."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient
from openai.types.conversations import Conversation, ConversationDeletedResource
from openai.types.conversations.conversation_item_list import ConversationItemList

from proxy.apis.conversations import routes as conversations
from proxy.config import fixed
from tests.fakes import ScriptedDriver, make_app, say, wait_until

ROUTE = "/v1/conversations"
HELLO = {"role": "user", "content": "We launch on Tuesday."}


@pytest.fixture
def driver() -> ScriptedDriver:
    return ScriptedDriver(say("On ", "Tuesday."))


@pytest.fixture
def api(driver: ScriptedDriver) -> FlaskClient:
    return make_app(driver).test_client()


def made(api: FlaskClient, **fields: Any) -> str:
    return str(api.post(ROUTE, json=fields).get_json()["id"])


def items_of(api: FlaskClient, key: str) -> list[dict[str, Any]]:
    """All items, the oldest first."""
    page = api.get(f"{ROUTE}/{key}/items?order=asc&limit=100").get_json()
    ConversationItemList.model_validate(page)
    return list(page["data"])


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [part["text"] for item in items for part in item.get("content") or ()]


def test_conversation_is_made_read_changed_and_deleted(api: FlaskClient) -> None:
    key = made(api, metadata={"topic": "launch"}, items=[HELLO])
    talk = api.get(f"{ROUTE}/{key}").get_json()
    assert Conversation.model_validate(talk).metadata == {"topic": "launch"}
    changed = api.post(f"{ROUTE}/{key}", json={"metadata": {"a": "b"}}).get_json()
    assert changed == api.get(f"{ROUTE}/{key}").get_json() == {**talk, "metadata": {"a": "b"}}
    gone = api.delete(f"{ROUTE}/{key}").get_json()
    assert ConversationDeletedResource.model_validate(gone).deleted
    assert (
        api.get(f"{ROUTE}/{key}").status_code == api.get(f"{ROUTE}/{key}/items").status_code == 404
    )


def test_items_are_added_listed_read_and_deleted(api: FlaskClient) -> None:
    key = made(api, items=[HELLO])
    more = [{"role": "assistant", "content": "Good."}, {"role": "user", "content": "And then?"}]
    added = api.post(f"{ROUTE}/{key}/items", json={"items": more}).get_json()
    ConversationItemList.model_validate(added)
    items = items_of(api, key)
    assert texts(items) == ["We launch on Tuesday.", "Good.", "And then?"]
    assert items[1:] == added["data"] and len({item["id"] for item in items}) == 3
    last = items[2]["id"]
    page = api.get(f"{ROUTE}/{key}/items?limit=1").get_json()
    assert [item["id"] for item in page["data"]] == [last] and page["has_more"]
    assert api.get(f"{ROUTE}/{key}/items/{last}").get_json() == items[2]
    assert api.delete(f"{ROUTE}/{key}/items/{last}").get_json()["id"] == key
    assert items_of(api, key) == items[:2]
    assert api.get(f"{ROUTE}/{key}/items/{last}").status_code == 404
    assert api.delete(f"{ROUTE}/{key}/items/{last}").status_code == 404


@pytest.mark.parametrize("stream", [False, True])
def test_response_continues_its_conversation_and_adds_to_it(
    api: FlaskClient, driver: ScriptedDriver, stream: bool
) -> None:
    key = made(api, items=[HELLO])
    for number, question in enumerate(("When?", "Sure?")):
        body = {"conversation": key, "input": question, "stream": stream, "store": False}
        answer = api.post("/v1/responses", json=body)
        assert answer.status_code == 200 and f'"conversation":{{"id":"{key}"}}' in answer.text
        prompt = str(driver.tasks[number].prompt)
        assert "We launch on Tuesday." in prompt and question in prompt
    assert "On Tuesday." in str(driver.tasks[1].prompt), "the first answer"
    assert texts(items_of(api, key)) == [
        "We launch on Tuesday.", "When?", "On Tuesday.", "Sure?", "On Tuesday.",
    ]  # fmt: skip


def test_background_response_adds_to_its_conversation(api: FlaskClient) -> None:
    key = made(api)
    body = {"conversation": {"id": key}, "input": "When?", "background": True}
    response = api.post("/v1/responses", json=body).get_json()["id"]
    wait_until(lambda: api.get(f"/v1/responses/{response}").get_json()["status"] == "completed")
    assert texts(items_of(api, key)) == ["When?", "On Tuesday."]


def test_failed_response_leaves_its_conversation_as_it_is(
    api: FlaskClient, driver: ScriptedDriver
) -> None:
    key = made(api, items=[HELLO])
    driver.script = [[]]
    assert api.post("/v1/responses", json={"conversation": key, "input": "x"}).status_code >= 500
    assert texts(items_of(api, key)) == ["We launch on Tuesday."]


def test_item_of_the_conversation_can_be_referenced(api: FlaskClient) -> None:
    key = made(api, items=[HELLO])
    (item,) = items_of(api, key)
    items = [{"type": "item_reference", "id": item["id"]}, {"role": "user", "content": "When?"}]
    assert api.post("/v1/responses", json={"conversation": key, "input": items}).status_code == 200


def test_conversation_and_previous_response_exclude_each_other(api: FlaskClient) -> None:
    body = {"conversation": made(api), "previous_response_id": "resp_1", "input": "Hi"}
    answer = api.post("/v1/responses", json=body)
    assert answer.status_code == 400 and answer.get_json()["error"]["param"] == "conversation"


@pytest.mark.parametrize("conversation", ["conv_0", "resp_0", {"id": "conv_0"}])
def test_unknown_conversation_is_a_404(api: FlaskClient, conversation: Any) -> None:
    reply = api.post("/v1/responses", json={"conversation": conversation, "input": "Hi"})
    assert reply.status_code == 404
    assert "no such conversation" in reply.get_json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("", {"items": [{"role": "nobody", "content": "x"}]}, "items[0].role"),
        ("", {"items": [HELLO] * 21}, "items"),
        ("", {"items": "x"}, "items"),
        ("", {"metadata": {"a": 1}}, "metadata.a"),
        ("/KEY", {}, "metadata"),
        ("/KEY/items", {}, "items"),
        ("/KEY/items", {"items": [{"role": "user"}]}, "items[0].content"),
    ],
)
def test_wrong_body_is_a_400_by_name(
    api: FlaskClient, path: str, body: dict[str, Any], param: str
) -> None:
    answer = api.post(ROUTE + path.replace("KEY", made(api)), json=body)
    assert answer.status_code == 400 and answer.get_json()["error"]["param"] == param


def test_conversation_is_bounded_by_the_size_of_a_body(driver: ScriptedDriver) -> None:
    api = make_app(driver, max_body=5000).test_client()
    key = made(api, items=[HELLO])
    long = {"items": [{"role": "user", "content": "x" * 3000}]}
    assert api.post(f"{ROUTE}/{key}/items", json=long).status_code == 200
    reply = api.post(f"{ROUTE}/{key}/items", json=long)
    assert reply.status_code == 400 and reply.get_json()["error"]["code"] == "conversation_too_long"
    assert len(items_of(api, key)) == 2


def test_conversation_is_bounded_by_the_time_to_decode_it(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = made(api, items=[HELLO])
    monkeypatch.setattr(conversations, "is_dear", lambda data: len(data) > 400)
    assert api.post(f"{ROUTE}/{key}/items", json={"items": [HELLO] * 4}).status_code == 400
    assert len(items_of(api, key)) == 1


def test_conversation_is_only_its_own_keys(driver: ScriptedDriver) -> None:
    api = make_app(driver, api_key=("a", "b")).test_client()
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("a", "b"))
    key = api.post(ROUTE, json={"items": [HELLO]}, headers=ann).get_json()["id"]
    assert api.get(f"{ROUTE}/{key}", headers=ann).status_code == 200
    assert api.get(f"{ROUTE}/{key}/items", headers=bob).status_code == 404
    body = {"conversation": key, "input": "Hi"}
    assert api.post("/v1/responses", json=body, headers=bob).status_code == 404


def test_used_conversation_outlives_newer_ones(
    driver: ScriptedDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed, "STORED_RESPONSES", 2)
    api = make_app(driver).test_client()
    old, newer = made(api), made(api)
    api.post(f"{ROUTE}/{old}/items", json={"items": [HELLO]})
    made(api)
    assert api.get(f"{ROUTE}/{old}").status_code == 200
    assert api.get(f"{ROUTE}/{newer}").status_code == 404


def test_export_and_deletion_of_all_data_include_conversations(api: FlaskClient) -> None:
    key = made(api, items=[HELLO])
    (exported,) = api.get("/v1/data").get_json()["response_conversations"]
    assert exported["id"] == key and texts(exported["items"]) == ["We launch on Tuesday."]
    assert api.delete("/v1/data").get_json()["deleted"]["response_conversations"] == 1
    assert api.get(f"{ROUTE}/{key}").status_code == 404

"""Chat completions with `store`, and the routes that read, change and delete them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai.types.chat import ChatCompletion, ChatCompletionDeleted
from openai.types.chat.chat_completion_store_message import ChatCompletionStoreMessage

from proxy.core.events import Failed, Started, TextDelta
from proxy.errors import UpstreamFault
from tests.fakes import Script, ScriptedDriver, make_app, say

CHATS = "/v1/chat/completions"
QUESTION = {"role": "user", "content": "When do we launch?"}


@pytest.fixture
def api() -> FlaskClient:
    return make_app(ScriptedDriver(say("On ", "Tuesday."))).test_client()


def stored(api: FlaskClient, **fields: Any) -> str:
    """The id of a new stored chat."""
    body = {"messages": [QUESTION], "store": True, **fields}
    return str(api.post(CHATS, json=body).get_json()["id"])


def test_stored_chat_is_read_with_its_metadata(api: FlaskClient) -> None:
    key = stored(api, metadata={"topic": "launch"})
    found = api.get(f"{CHATS}/{key}").get_json()
    assert ChatCompletion.model_validate(found).choices[0].message.content == "On Tuesday."
    assert found["metadata"] == {"topic": "launch"} and found["usage"]["completion_tokens"]


def test_streamed_chat_is_stored_as_a_whole_one(api: FlaskClient) -> None:
    told = api.post(CHATS, json={"messages": [QUESTION], "store": True, "stream": True})
    chunk = json.loads(told.text.partition("\n")[0].removeprefix("data: "))
    found = api.get(f"{CHATS}/{chunk['id']}").get_json()
    assert found["object"] == "chat.completion"
    assert found["choices"][0]["message"]["content"] == "On Tuesday."
    assert found["choices"][0]["finish_reason"] == "stop"


def test_broken_stream_is_not_stored() -> None:
    script: Script = [[Started(slot=0)], [TextDelta("On")], [Failed(UpstreamFault("it broke"))]]
    api = make_app(ScriptedDriver(script)).test_client()
    told = api.post(CHATS, json={"messages": [QUESTION], "store": True, "stream": True})
    assert '"content":"On"' in told.text and '"error"' in told.text
    assert api.get(CHATS).get_json()["data"] == []


@pytest.mark.parametrize("store", [{}, {"store": False}, {"store": None}])
def test_chat_is_not_stored_unless_the_request_says_so(
    api: FlaskClient, store: dict[str, Any]
) -> None:
    key = api.post(CHATS, json={"messages": [QUESTION], **store}).get_json()["id"]
    assert api.get(f"{CHATS}/{key}").status_code == 404
    assert api.get(CHATS).get_json()["data"] == []


def test_list_has_pages_in_both_orders_and_filters(api: FlaskClient) -> None:
    keys = [stored(api, metadata={"n": str(n), "even": str(n % 2 == 0)}) for n in range(5)]

    def ids(query: str) -> list[str]:
        page = api.get(f"{CHATS}?{query}").get_json()
        found = [one["id"] for one in page["data"]]
        assert (page["first_id"], page["last_id"]) == (found[0], found[-1])
        return [*found, "more"] if page["has_more"] else found

    assert ids("limit=2") == [keys[0], keys[1], "more"]
    assert ids(f"limit=3&after={keys[1]}") == keys[2:]
    assert ids("order=desc&limit=2") == [keys[4], keys[3], "more"]
    assert ids("metadata[even]=True&limit=2") == [keys[0], keys[2], "more"]
    assert ids("metadata[even]=True&metadata[n]=4") == [keys[4]]
    assert api.get(f"{CHATS}?model=other").get_json()["data"] == []
    assert api.get(f"{CHATS}?after=nothing").status_code == 400


def test_messages_have_ids_and_keep_their_parts(api: FlaskClient) -> None:
    parts = [{"type": "text", "text": "And then?"}]
    asked = [
        QUESTION,
        {"role": "assistant", "content": "Soon."},
        {"role": "user", "content": parts},
    ]
    key = stored(api, messages=asked)
    found = api.get(f"{CHATS}/{key}/messages").get_json()["data"]
    assert [one["id"] for one in found] == [f"{key}-{n}" for n in range(3)]
    assert (found[0]["content"], found[0]["content_parts"]) == ("When do we launch?", None)
    assert (found[2]["content"], found[2]["content_parts"]) == (None, parts)
    ChatCompletionStoreMessage.model_validate(found[1])
    page = api.get(f"{CHATS}/{key}/messages?limit=1&after={key}-0").get_json()
    assert [one["id"] for one in page["data"]] == [f"{key}-1"] and page["has_more"]


def test_metadata_is_replaced(api: FlaskClient) -> None:
    key = stored(api, metadata={"old": "1"})
    assert api.post(f"{CHATS}/{key}", json={"metadata": {"new": "2"}}).status_code == 200
    assert api.get(f"{CHATS}/{key}").get_json()["metadata"] == {"new": "2"}
    assert len(api.get(CHATS).get_json()["data"]) == 1


@pytest.mark.parametrize("body", [{}, {"metadata": {"a": 1}}, {"metadata": {"k" * 65: "v"}}])
def test_wrong_metadata_is_a_400_by_name(api: FlaskClient, body: dict[str, Any]) -> None:
    told = api.post(f"{CHATS}/{stored(api)}", json=body)
    assert told.status_code == 400 and told.get_json()["error"]["param"].startswith("metadata")


def test_wrong_metadata_of_a_new_chat_is_a_400(api: FlaskClient) -> None:
    body = {"messages": [QUESTION], "store": True, "metadata": {"a": ["b"]}}
    told = api.post(CHATS, json=body)
    assert told.status_code == 400 and told.get_json()["error"]["param"] == "metadata.a"


def test_deleted_chat_is_gone(api: FlaskClient) -> None:
    key = stored(api)
    gone = api.delete(f"{CHATS}/{key}").get_json()
    assert ChatCompletionDeleted.model_validate(gone).deleted
    assert api.get(f"{CHATS}/{key}").status_code == api.delete(f"{CHATS}/{key}").status_code == 404


def test_responses_and_chats_do_not_find_each_other(api: FlaskClient) -> None:
    chat = stored(api)
    response = api.post("/v1/responses", json={"input": "Hi"}).get_json()["id"]
    assert api.get(f"/v1/responses/{chat}").status_code == 404
    assert api.get(f"{CHATS}/{response}").status_code == 404
    assert api.delete(f"/v1/responses/{chat}").status_code == 404
    body = {"input": "Go on", "previous_response_id": chat}
    assert api.post("/v1/responses", json=body).status_code == 400
    assert [one["id"] for one in api.get(CHATS).get_json()["data"]] == [chat]


def test_chat_is_only_its_own_keys() -> None:
    app = make_app(ScriptedDriver(say("Hi")), api_key=("a", "b"))
    api = app.test_client()
    ann, bob = ({"Authorization": f"Bearer {key}"} for key in ("a", "b"))
    key = api.post(CHATS, json={"messages": [QUESTION], "store": True}, headers=ann).get_json()[
        "id"
    ]
    assert api.get(f"{CHATS}/{key}", headers=ann).status_code == 200
    assert api.get(f"{CHATS}/{key}", headers=bob).status_code == 404
    assert api.get(CHATS, headers=bob).get_json()["data"] == []


def test_export_and_deletion_of_all_data_include_chats(api: FlaskClient) -> None:
    key = stored(api)
    (chat,) = api.get("/v1/data").get_json()["chat_completions"]
    assert chat["id"] == key and chat["messages"] == [QUESTION]
    assert api.delete("/v1/data").get_json()["deleted"]["chat_completions"] == 1
    assert api.get(CHATS).get_json()["data"] == []

"""Langchain-Chatchat's routes around a scripted backend: all are there, behind keys, one JSON
document a chunk, and what goes wrong has the form its client looks for."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.config import Secret
from proxy.core.events import Failed, Started, TextDelta
from proxy.errors import QueueFull, UpstreamFault, UpstreamTimeout
from tests.fakes import Script, ScriptedDriver, client, make_app, say

Q = {"query": "Hi"}
GET = ("list_knowledge_bases", "list_files", "download_doc")
ROUTES = (
    "/chat/chat /chat/fastchat /chat/knowledge_base_chat /chat/search_engine_chat /chat/agent_chat "
    "/chat/file_chat /chat/feedback /knowledge_base/list_knowledge_bases "
    "/knowledge_base/create_knowledge_base /knowledge_base/delete_knowledge_base "
    "/knowledge_base/list_files /knowledge_base/search_docs /knowledge_base/upload_docs "
    "/knowledge_base/delete_docs /knowledge_base/update_info /knowledge_base/update_docs "
    "/knowledge_base/update_docs_by_id /knowledge_base/download_doc "
    "/knowledge_base/recreate_vector_store /knowledge_base/upload_temp_docs "
    "/llm_model/list_running_models /llm_model/list_config_models /llm_model/get_model_config "
    "/llm_model/stop /llm_model/change /server/configs /server/list_search_engines "
    "/server/get_prompt_template /other/completion /other/embed_texts"
).split()


@pytest.fixture(scope="module")
def api() -> FlaskClient:
    return client(chatchat=True)


@pytest.fixture(scope="module")
def locked() -> FlaskClient:
    return client(chatchat=True, api_key=(Secret("one"),))


@pytest.fixture(scope="module")
def without() -> FlaskClient:
    return client()


def chunks(answer: Any) -> list[Any]:
    """The chunks one by one, as the client reads them."""
    return [json.loads(chunk) for chunk in answer.response]


def call(api: FlaskClient, path: str, value: Any = None, **more: Any) -> Any:
    if path.endswith(GET):
        return api.get(path, **more)
    return api.post(path, json=value, **more)


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_exists_and_requires_a_key(locked: FlaskClient, path: str) -> None:
    refused = call(locked, path, Q)
    assert refused.status_code == 401
    assert refused.json["code"] == 401 and "key" in refused.json["msg"]


def test_list_of_tested_routes_is_complete() -> None:
    rules = make_app(ScriptedDriver(), chatchat=True).url_map.iter_rules()
    served = {rule.rule for rule in rules if rule.endpoint.startswith("chatchat.")}
    assert served == set(ROUTES)


@pytest.mark.parametrize("path", ROUTES)
def test_api_is_off_by_default(without: FlaskClient, path: str) -> None:
    assert call(without, path, Q).status_code in (404, 405)


def test_key_in_query_is_accepted(locked: FlaskClient) -> None:
    def status(authorization: str) -> int:
        headers = {"Authorization": authorization}
        code: int = call(locked, "/server/list_search_engines", headers=headers).status_code
        return code

    assert status("Basic " + base64.b64encode(b"any:one").decode()) == 200
    assert status("Bearer one") == 200
    for wrong in (b"one:", b"any:two", b"any", b"\xff:\xff"):
        assert status("Basic " + base64.b64encode(wrong).decode()) == 401
    assert status("Basic ???") == 401


@pytest.mark.parametrize("body", [Q, {"messages": [{"role": "user", "content": "Hi"}]}])
def test_both_chat_formats_stream_one_document_per_chunk(
    api: FlaskClient, body: dict[str, Any]
) -> None:
    streamed = api.post("/chat/chat", json={**body, "stream": True})
    documents = chunks(streamed)
    assert [document["text"] for document in documents] == ["Hel", "lo", ""]
    assert len({document["chat_history_id"] for document in documents}) == 1
    assert documents[0]["chat_history_id"]
    whole = api.post("/chat/chat", json=body)
    assert whole.json["text"] == "Hello"


def test_any_character_survives_the_document_format() -> None:
    nasty = 'a\n\nb\r\nc\u2028d\u2029e\x85f"\\\x00\x1f </script> data: x 你好 🚀'
    api = client(ScriptedDriver(say(*nasty)), chatchat=True)
    documents = chunks(api.post("/chat/chat", json={**Q, "stream": True}))
    assert "".join(document["text"] for document in documents) == nasty


def test_bare_text_is_sent_where_the_client_expects_it(api: FlaskClient) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    assert api.post("/chat/fastchat", json=body).get_data() == b"Hello"
    said = api.post("/other/completion", json={"query": "Once ", "echo": True, "stream": True})
    assert said.get_data() == b"Once Hello"


def test_completion_prompt_has_no_chat_format() -> None:
    driver = ScriptedDriver()
    client(driver, chatchat=True).post("/other/completion", json={"query": "Once "})
    assert driver.tasks[0].prompt == "Once "


def test_history_and_template_reach_the_model() -> None:
    driver = ScriptedDriver()
    history = [["human", "FIRST"], {"role": "assistant", "content": "SECOND"}]
    body = {**Q, "history": history, "prompt_name": "py"}
    client(driver, chatchat=True).post("/chat/chat", json=body)
    prompt = driver.tasks[0].prompt
    assert isinstance(prompt, str)
    places = [prompt.index(part) for part in ("programming", "FIRST", "SECOND", "Hi")]
    assert places == sorted(places)


@pytest.mark.parametrize("path", ["/chat/chat", "/chat/fastchat", "/other/completion"])
@pytest.mark.parametrize(
    ("fault", "status"),
    [(UpstreamTimeout("too slow"), 504), (UpstreamFault("it broke"), 502), (QueueFull("x"), 429)],
)
def test_failure_before_first_event_has_its_status(path: str, fault: Any, status: int) -> None:
    for body in (Q, {**Q, "stream": True}):
        answer = client(ScriptedDriver([fault]), chatchat=True).post(path, json=body)
        assert answer.status_code == status
        assert answer.json == {"code": status, "msg": fault.message, "data": None}


def test_failure_after_first_event_is_the_last_document() -> None:
    script: Script = [[Started(slot=0)], [TextDelta("Hel")], [Failed(UpstreamFault("it broke"))]]
    broken = client(ScriptedDriver(script), chatchat=True, continue_broken=False)
    documents = chunks(broken.post("/chat/chat", json={**Q, "stream": True}))
    assert documents[0]["text"] == "Hel"
    assert documents[-1] == {"code": 502, "msg": "it broke", "data": None}
    whole = broken.post("/chat/chat", json=Q)
    assert whole.status_code == 502 and whole.json["msg"] == "it broke"


@pytest.mark.parametrize("path", ["/chat/chat", "/chat/agent_chat"])
def test_unknown_template_error_lists_known_templates(path: str) -> None:
    api = client(chatchat=True, tools=("time",))
    answer = api.post(path, json={**Q, "prompt_name": "../../x", "stream": True})
    assert answer.status_code == 422
    assert "default" in answer.json["msg"]


def test_answer_is_rated_by_its_id(caplog: pytest.LogCaptureFixture) -> None:
    api = client(chatchat=True)
    answer = api.post("/chat/chat", json=Q).json["chat_history_id"]
    rated = {"chat_history_id": answer, "score": 80, "reason": "good"}
    with caplog.at_level("INFO", "slotproxy.chatchat"):
        assert api.post("/chat/feedback", json=rated).json["code"] == 200
    assert caplog.messages == [f"the answer {answer} got 80 of 100"]
    unknown = api.post("/chat/feedback", json={**rated, "chat_history_id": "x"})
    assert (unknown.status_code, unknown.json["code"]) == (200, 404)


def test_templates_are_listed(api: FlaskClient) -> None:
    shown = api.post("/server/get_prompt_template", json={"type": "llm_chat", "name": "default"})
    assert shown.json == "{{ input }}"
    assert api.post("/server/configs").json["PROMPT_TEMPLATES"]["llm_chat"]["default"] == shown.json


def test_served_models_are_listed(api: FlaskClient) -> None:
    running = api.post("/llm_model/list_running_models", json={"controller_address": "http://x"})
    assert list(running.json["data"]) == ["scripted"]
    configured = api.post("/llm_model/list_config_models", json={"types": ["local", "online"]})
    assert list(configured.json["data"]) == ["local"]
    unknown = api.post("/llm_model/get_model_config", json={"model_name": "x"})
    assert (unknown.status_code, unknown.json["code"]) == (200, 404)
    change = {"model_name": "other", "new_model_name": "scripted"}
    assert api.post("/llm_model/change", json=change).json["code"] == 200
    assert api.post("/llm_model/stop", json={"model_name": "scripted"}).json["code"] == 400

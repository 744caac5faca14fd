"""Knowledge bases as a right of keys: the same on every route that reaches them."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import ScriptedDriver, say, services_of
from tests.unit.web.account_client import Http, keyed

TEXT = b"The kettle stands in the kitchen, and the tea is in the cupboard beside it."
MAY = ["hand*"]


@pytest.fixture
def http(tmp_path: Path) -> Http:
    return keyed(ScriptedDriver(say("In the kitchen.")), tmp_path, chatchat=True)


class Bases:
    """A key that fills two knowledge bases, and may then only use the first."""

    def __init__(self, http: Http, **rights: Any) -> None:
        self.http = http
        made = http.make()
        self.key, self.token = made["key"], made["token"]
        self.ids = {name: self.filled(name) for name in ("handbook", "salaries")}
        self.restrict(**rights)

    def restrict(self, **rights: Any) -> None:
        rights = rights or {"allowed_knowledge_bases": MAY}
        assert self.http.admin("/key/update", key=self.token, **rights).status_code == 200

    def filled(self, name: str) -> str:
        store = self.post("/v1/vector_stores", name=name).json["id"]
        form = {"file": (BytesIO(TEXT), f"{name}.txt"), "purpose": "assistants"}
        headers = {"Authorization": f"Bearer {self.key}"}
        file = self.http.client.post("/v1/files", data=form, headers=headers).json["id"]
        assert self.post(f"/v1/vector_stores/{store}/files", file_id=file).status_code == 200
        deadline = time.monotonic() + 60
        while self.get(f"/v1/vector_stores/{store}").json["status"] != "completed":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return str(store)

    def post(self, path: str, **body: Any) -> Any:
        return self.http.post(path, self.key, **body)

    def get(self, path: str, **query: str) -> Any:
        return self.http.get(path, self.key, **query)

    def delete(self, path: str) -> Any:
        return self.http.client.delete(path, headers={"Authorization": f"Bearer {self.key}"})

    def tool(self, **arguments: Any) -> Any:
        params = {"name": "knowledge_search", "arguments": {"query": "kettle", **arguments}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        return self.post("/mcp", **body).json["result"]


def test_other_bases_are_not_listed(http: Http) -> None:
    bases = Bases(http)
    assert [base["name"] for base in bases.get("/v1/vector_stores").json["data"]] == ["handbook"]
    assert bases.get("/knowledge_base/list_knowledge_bases").json["data"] == ["handbook"]
    assert [base["name"] for base in bases.get("/v1/data").json["knowledge_bases"]] == ["handbook"]


def test_other_bases_are_neither_read_nor_changed(http: Http) -> None:
    bases = Bases(http)
    for name, status in (("handbook", 200), ("salaries", 403)):
        at = f"/v1/vector_stores/{bases.ids[name]}"
        replies = [bases.get(path) for path in (at, f"{at}/files")]
        replies += [bases.post(f"{at}/search", query="kettle"), bases.post(at, name=f"hand-{name}")]
        assert [reply.status_code for reply in replies] == [status] * 4, name
    at = f"/v1/vector_stores/{bases.ids['salaries']}"
    refused = bases.delete(at)
    assert refused.status_code == 403
    assert refused.json["error"]["code"] == "knowledge_forbidden"
    assert "allowed_knowledge_bases" in refused.json["error"]["message"]
    bases.restrict(allowed_knowledge_bases=[])
    assert bases.get(at).status_code == 200


def test_a_base_is_not_made_or_renamed_beyond_the_right(http: Http) -> None:
    bases = Bases(http)
    assert bases.post("/v1/vector_stores", name="salaries").status_code == 403
    at = f"/v1/vector_stores/{bases.ids['handbook']}"
    assert bases.post(at, name="salaries 2").status_code == 403
    assert bases.post("/v1/vector_stores", name="hand over").status_code == 200
    made = {"knowledge_base_name": "other", "vector_store_type": "faiss"}
    assert bases.post("/knowledge_base/create_knowledge_base", **made).json["code"] == 403


def test_files_in_other_bases_stay_where_they_are(http: Http) -> None:
    bases = Bases(http)
    files = {file["filename"]: file["id"] for file in bases.get("/v1/files").json["data"]}
    assert bases.delete(f"/v1/files/{files['salaries.txt']}").status_code == 403
    assert bases.delete(f"/v1/files/{files['handbook.txt']}").status_code == 200


def test_chatchat_routes_refuse_other_bases(http: Http) -> None:
    bases = Bases(http)
    for name, code in (("handbook", 200), ("salaries", 403)):
        body = {"knowledge_base_name": name}
        listed = bases.get("/knowledge_base/list_files", **body)
        assert listed.json["code"] == code
        hits = bases.post("/knowledge_base/search_docs", **body, query="kettle").json
        if code == 200:
            assert hits[0]["page_content"] == TEXT.decode()
        else:
            assert hits["code"] == code
        answer = bases.post("/chat/knowledge_base_chat", **body, query="kettle", stream=False)
        assert ("kitchen" in answer.text) == (code == 200), answer.text


def test_tools_of_mcp_search_the_permitted_bases(http: Http) -> None:
    bases = Bases(http)
    text = bases.tool()["content"][0]["text"]
    assert "handbook.txt" in text and "salaries.txt" not in text
    refused = bases.tool(bases=["salaries"])
    assert refused["isError"] and "salaries" in refused["content"][0]["text"]


def test_file_searches_of_responses_are_refused_before_the_model_is_asked(http: Http) -> None:
    bases = Bases(http)
    for name, status in (("handbook", 200), ("salaries", 403)):
        tool = {"type": "file_search", "vector_store_ids": [bases.ids[name]]}
        assert bases.post("/v1/responses", input="Hi", tools=[tool]).status_code == status


def test_pages_show_the_permitted_bases(http: Http) -> None:
    bases = Bases(http)
    at = "/pages/api/knowledge"
    assert [base["name"] for base in bases.get(at).json] == ["handbook"]
    assert bases.get(f"{at}/{bases.ids['salaries']}/documents").status_code == 403
    page = bases.http.client.get(
        "/", headers={"Authorization": f"Bearer {bases.key}", "Accept": "text/html"}
    ).text
    assert "handbook" in page and "salaries" not in page


def test_documents_chunks_and_jobs_belong_to_their_base(http: Http) -> None:
    bases = Bases(http, allowed_knowledge_bases=[])
    at = f"/pages/api/knowledge/{bases.ids['salaries']}"
    (document,) = bases.get(f"{at}/documents").json
    chunks = f"{at}/documents/{document['id']}/chunks"
    assert bases.get(chunks).status_code == 200
    services = services_of(http.app)
    owner = services.accounts.keys.read(bases.token).id
    job = services.knowledge.rebuild(owner, bases.ids["salaries"]).id
    at = f"/pages/api/knowledge/jobs/{job}"
    assert bases.get(at).status_code == 200
    bases.restrict()
    assert bases.get(at).status_code == 403
    permitted = f"/pages/api/knowledge/{bases.ids['handbook']}/documents/{document['id']}"
    assert bases.get(f"{permitted}/chunks").status_code == 403
    assert bases.get(f"{permitted}/original").status_code == 404


def test_names_and_ids_are_accepted(http: Http) -> None:
    bases = Bases(http, allowed_knowledge_bases=["handbook"])
    assert [base["name"] for base in bases.get("/v1/vector_stores").json["data"]] == ["handbook"]
    bases.restrict(allowed_knowledge_bases=[bases.ids["salaries"]])
    assert [base["name"] for base in bases.get("/v1/vector_stores").json["data"]] == ["salaries"]


def test_the_right_of_the_team_counts_too(http: Http) -> None:
    http.admin("/team/new", team_id="lab", allowed_knowledge_bases=["hand*", "sal*"])
    bases = Bases(http, team_id="lab", allowed_knowledge_bases=["*book", "x"])
    assert [base["name"] for base in bases.get("/v1/vector_stores").json["data"]] == ["handbook"]
    http.admin("/team/update", team_id="lab", allowed_knowledge_bases=["sal*"])
    assert bases.get("/v1/vector_stores").json["data"] == []

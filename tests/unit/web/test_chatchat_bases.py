"""Chatchat's knowledge bases: names, ids, wrappers, owners."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from proxy.config import Secret
from tests.fakes import ScriptedDriver, make_app

BROKEN = b"%PDF-1.4 no"
DAMAGED = {"broken.pdf": "the file is damaged"}
B = {"knowledge_base_name": "水泵"}
KB = "/knowledge_base"


Serve = Callable[..., FlaskClient]


@pytest.fixture
def served(tmp_path: Path) -> Serve:
    def make(**settings: Any) -> FlaskClient:
        app = make_app(ScriptedDriver(), chatchat=True, data=str(tmp_path), **settings)
        return app.test_client()

    return make


class Api:
    """Returns the data of successful answers, and the whole wrapper of errors."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client

    def post(self, path: str, value: Any) -> Any:
        answer = self.client.post(KB + path, json=value)
        assert answer.status_code == 200, answer.json
        return answer.json

    def get(self, path: str, **query: str) -> Any:
        return self.client.get(KB + path, query_string=query).json

    def upload(self, files: dict[str, bytes], path: str = "/upload_docs") -> Any:
        return self.form(path, {**B}, files)

    def form(self, path: str, fields: dict[str, str], files: dict[str, bytes]) -> Any:
        parts = [(BytesIO(data), name) for name, data in files.items()]
        answer = self.client.post(KB + path, data={**fields, "files": parts})
        assert answer.status_code == 200, answer.json
        return answer.json

    def names(self) -> list[str]:
        names: list[str] = self.get("/list_files", **B)["data"]
        return names

    def search(self, query: str, **more: Any) -> Any:
        return self.post("/search_docs", {**B, "query": query, **more})


@pytest.fixture
def api(served: Serve) -> Api:
    api = Api(served())
    assert api.post("/create_knowledge_base", B)["code"] == 200
    return api


def test_knowledge_base_is_created_listed_and_deleted(api: Api) -> None:
    again = api.post("/create_knowledge_base", B)
    assert again["code"] == 404 and "水泵" in again["msg"]
    assert api.get("/list_knowledge_bases") == {"code": 200, "msg": "success", "data": ["水泵"]}
    assert api.post("/update_info", {**B, "kb_info": "x"})["code"] == 200
    assert api.post("/delete_knowledge_base", "水泵")["code"] == 200
    assert api.get("/list_knowledge_bases")["data"] == []
    gone = api.post("/delete_knowledge_base", "水泵")
    assert gone["code"] == 404 and gone["data"] is None


def test_codes_are_those_of_chatchat(api: Api) -> None:
    """As kb_api.py and kb_doc_api.py of 0.2.7 answer them."""
    empty = api.client.post(KB + "/create_knowledge_base", json={"knowledge_base_name": " "})
    assert (empty.status_code, empty.json["code"]) == (200, 404)
    assert api.post("/search_docs", {"knowledge_base_name": "none", "query": "five"}) == []
    invalid = api.client.post(KB + "/search_docs", json={**B, "query": "q", "top_k": "many"})
    assert (invalid.status_code, invalid.json["code"]) == (422, 422)
    assert invalid.json["detail"][0]["loc"] == ["body", "top_k"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "C:\\x"])
def test_base_name_is_never_used_as_path(api: Api, name: str) -> None:
    answer = api.client.post(KB + "/create_knowledge_base", json={"knowledge_base_name": name})
    assert answer.json["code"] == (200 if name == ".." else 403)
    assert api.get("/download_doc", **B, file_name=name)["code"] == 404
    wanted = {**B, "file_names": [name], "delete_content": True}
    assert list(api.post("/delete_docs", wanted)["data"]["failed_files"]) == [name]


def test_files_are_uploaded_found_and_deleted(api: Api) -> None:
    done = api.upload({"a.txt": b"five years", "broken.pdf": BROKEN})
    assert done["code"] == 200
    assert done["data"] == {"failed_files": DAMAGED}
    assert api.names() == ["a.txt", "broken.pdf"]
    (hit,) = api.search("five")
    assert hit["page_content"] == "five years"
    assert hit["metadata"] == {"source": "a.txt", "id": hit["id"], "place": "line 1"}
    assert 0 <= hit["score"] <= 2
    gone = {**B, "file_names": ["a.txt", "none.txt"], "delete_content": True}
    assert list(api.post("/delete_docs", gone)["data"]["failed_files"]) == ["none.txt"]
    assert api.names() == ["broken.pdf"]


def test_existing_file_is_kept_unless_override_is_set(api: Api) -> None:
    api.upload({"a.txt": b"one"})
    assert list(api.upload({"a.txt": b"two"})["data"]["failed_files"]) == ["a.txt"]
    assert api.search("two") == []
    replaced = api.form("/upload_docs", {**B, "override": "true"}, {"a.txt": b"two"})
    assert replaced["data"]["failed_files"] == {}
    assert api.names() == ["a.txt"] and len(api.search("two")) == 1


def test_document_deleted_without_content_returns_on_rebuild(api: Api) -> None:
    api.upload({"a.txt": b"one"})
    assert api.post("/delete_docs", {**B, "file_names": ["a.txt"]})["data"]["failed_files"] == {}
    assert api.search("one") == [] and api.names() == ["a.txt"]
    assert api.post("/update_docs", {**B, "file_names": ["a.txt"]})["data"]["failed_files"] == {}
    assert len(api.search("one")) == 1
    api.form("/upload_docs", {**B, "to_vector_store": "false"}, {"b.txt": b"kept"})
    assert api.search("kept") == [] and api.names() == ["a.txt", "b.txt"]


def test_chunks_are_uploaded_listed_and_edited(api: Api) -> None:
    texts = ["first" + " of the texts" * 20, "other" + " of the texts" * 20]
    docs = json.dumps({"own.txt": [{"page_content": text} for text in texts]})
    api.form("/upload_docs", {**B, "docs": docs}, {"own.txt": b"ignored"})
    chunks = api.search("", file_name="own.txt")
    assert "first" in chunks[0]["page_content"] and chunks[0]["score"] == 3.0
    edit = {**B, "docs": {chunks[0]["id"]: {"page_content": "changed"}}}
    assert api.post("/update_docs_by_id", edit)["code"] == 200
    assert len(api.search("changed")) == 1
    assert api.post("/update_docs_by_id", {**B, "docs": {"none": None}})["code"] == 404
    pdf = json.dumps({"own.pdf": [{"page_content": "x"}]})
    refused = api.post("/update_docs", {**B, "file_names": [], "docs": pdf})
    assert list(refused["data"]["failed_files"]) == ["own.pdf"]


def test_short_chunks_are_indexed(api: Api) -> None:
    """A file whose chunks were all under 20 characters was refused: "the chunk size must be …"."""
    docs = json.dumps({"own.txt": [{"page_content": "zebra"}], "none.md": []})
    done = api.form("/upload_docs", {**B, "docs": docs}, {"own.txt": b"ignored"})
    assert "own.txt" not in done["data"]["failed_files"]
    (hit,) = api.search("zebra")
    assert hit["page_content"] == "zebra"


def test_rebuild_reports_each_file(api: Api) -> None:
    api.upload({"a.txt": b"one", "b.txt": b"two", "broken.pdf": BROKEN})
    answer = api.client.post(KB + "/recreate_vector_store", json=B)
    steps = [json.loads(chunk) for chunk in answer.response]
    assert [(step["finished"], step["doc"]) for step in steps[:3]] == [
        (0, "a.txt"),
        (1, "b.txt"),
        (2, "broken.pdf"),
    ]
    assert steps[0]["msg"] == "(1 / 3): a.txt" and steps[0]["total"] == 3
    assert steps[3] == {"code": 500, "msg": "broken.pdf: the file is damaged"}


def test_rebuild_creates_missing_base_where_allowed(served: Serve) -> None:
    api = Api(served())
    assert api.post("/recreate_vector_store", {**B, "allow_empty_kb": False})["code"] == 404
    api.client.post(KB + "/recreate_vector_store", json=B)
    assert api.get("/list_knowledge_bases")["data"] == ["水泵"]


def test_temporary_bases_have_ids_and_are_not_listed(api: Api) -> None:
    made = api.form("/upload_temp_docs", {}, {"a.txt": b"one"})["data"]
    assert made["failed_files"] == [] and made["id"]
    more = api.form("/upload_temp_docs", {"knowledge_id": made["id"]}, {"broken.pdf": BROKEN})
    assert more["data"] == {"id": made["id"], "failed_files": [DAMAGED]}
    assert api.get("/list_knowledge_bases")["data"] == ["水泵"]
    assert api.form("/upload_temp_docs", {"prev_id": "../x"}, {})["code"] == 404


def test_downloaded_document_cannot_run_scripts_on_our_pages(api: Api) -> None:
    api.upload({"a.html": b"<script>1</script>", "b.txt": b"two", "二.txt": b"three"})

    def get(name: str, **more: str) -> Any:
        return api.client.get(KB + "/download_doc", query_string={**B, "file_name": name, **more})

    page = get("a.html", preview="true")
    assert page.content_type == "application/octet-stream"
    assert page.headers["Content-Disposition"].startswith("attachment")
    text = get("b.txt", preview="true")
    assert text.headers["Content-Disposition"] == "inline; filename*=UTF-8''b.txt"
    assert text.content_type == "text/plain"
    for answer in (page, text, get("二.txt")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert get("二.txt").headers["Content-Disposition"].endswith("%E4%BA%8C.txt")


def test_bases_of_another_key_are_invisible(served: Serve) -> None:
    client = served(api_key=(Secret("one"), Secret("two")))

    def call(key: str, path: str, value: Any) -> Any:
        headers = {"Authorization": f"Bearer {key}"}
        return client.post(KB + path, json=value, headers=headers).json

    assert call("one", "/create_knowledge_base", B)["code"] == 200
    assert call("two", "/delete_knowledge_base", "水泵")["code"] == 404
    assert call("two", "/create_knowledge_base", B)["code"] == 200

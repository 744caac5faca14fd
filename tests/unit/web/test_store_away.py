"""What clients see of a store that is away, and what they keep of it: answers are not lost, and
all works again when it is back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from flask.testing import FlaskClient

from proxy.core.events import Batch, Finished, Started, TextDelta
from proxy.core.usage import Usage
from proxy.errors import NotFound, StoreUnavailable
from proxy.store import database, outage
from proxy.store.conversations import ConversationStore
from proxy.store.database_responses import DatabaseResponses
from proxy.store.outage import retry_while_unavailable
from proxy.store.responses import MemoryResponses
from proxy.web import background
from proxy.web.pages import answers
from tests.fakes import CAPS, ScriptedDriver, make_app, say, wait_until
from tests.thorough import share
from tests.unit.web.test_pages_session import sign_in

LONG = msgspec.structs.replace(CAPS, n_ctx=10_000_000)
KEY = {"Authorization": "Bearer any"}
impatient = partial(retry_while_unavailable, pause=0.01)
# One route per error format.
READ = (
    "/v1/files",
    "/v1/files/file-1/content",
    "/v1/vector_stores",
    "/v1/data",
    "/v1/responses/resp_1",
    "/v1/conversations/conv_1/items",
    "/knowledge_base/list_knowledge_bases",
    "/pages/api/chat/conversations",
    "/pages/api/knowledge",
)
WRITTEN: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/files", {"data": {"purpose": "assistants"}}),
    ("/v1/vector_stores", {"json": {"name": "a"}}),
    ("/v1/responses", {"json": {"input": "Hi", "background": True}}),
    ("/v1/responses", {"json": {"input": "Hi", "conversation": "conv_1"}}),
    ("/v1/conversations", {"json": {}}),
    ("/v1/responses", {"json": {"input": "Hi", "previous_response_id": "resp_1"}}),
    ("/knowledge_base/create_knowledge_base", {"json": {"knowledge_base_name": "a"}}),
    ("/pages/api/chat/conversations", {"json": {}}),
    ("/pages/api/knowledge", {"json": {"name": "a"}}),
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(database, "BUSY", 0.05)
    monkeypatch.setattr(outage, "_logged", {})
    return tmp_path / "disk"


@pytest.fixture
def api(folder: Path) -> FlaskClient:
    folder.mkdir()
    app = make_app(ScriptedDriver(say("Hel", "lo")), data=str(folder), chatchat=True)
    visitor = app.test_client()
    assert visitor.get("/v1/files").status_code == 200
    return visitor


def is_refused(answer: Any) -> bool:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["Retry-After"]) > 0
    reply = answer.json
    message = reply["msg"] if "msg" in reply else reply["error"]["message"]
    assert message == outage.MESSAGE
    return True


def test_every_route_type_is_refused_and_recovers(api: FlaskClient, folder: Path) -> None:
    away = folder.rename(folder.with_name("away"))
    for path in READ:
        assert is_refused(api.get(path, headers=KEY)), path
    for path, how in WRITTEN:
        if data := how.get("data"):
            how = {"data": {**data, "file": (BytesIO(b"text"), "a.txt")}}
        assert is_refused(api.post(path, headers=KEY, **how)), path
    away.rename(folder)
    for path in READ:
        assert api.get(path, headers=KEY).status_code in (200, 404), path
    for path, how in WRITTEN:
        if "data" not in how:
            assert api.post(path, headers=KEY, **how).status_code in (200, 201, 400, 404), path


def test_browser_gets_an_error_page(folder: Path) -> None:
    folder.mkdir()
    app = make_app(ScriptedDriver(), data=str(folder), api_key=("sesame",))
    api = app.test_client()
    assert sign_in(api).status_code == 303
    folder.rename(folder.with_name("away"))
    page = api.get("/knowledge", headers={"Accept": "text/html"})
    assert page.status_code == 503 and "temporarily unavailable" in page.text
    assert page.mimetype == "text/html"


def test_locked_database_refuses_writes(
    api: FlaskClient, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(sqlite3.connect(folder / "slotproxy.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        assert api.get("/v1/files").status_code == 200
        assert is_refused(api.post("/v1/vector_stores", json={"name": "a"}))
        assert is_refused(api.post("/v1/responses", json={"input": "Hi", "background": True}))
        assert api.post("/v1/responses", json={"input": "Hi"}).json["status"] == "completed"
        assert "could not be stored" in caplog.text
    assert api.post("/v1/vector_stores", json={"name": "a"}).status_code == 200


# answers


@pytest.mark.parametrize("stream", [False, True])
def test_answer_that_cannot_be_stored_reports_it(
    api: FlaskClient, folder: Path, stream: bool
) -> None:
    folder.rename(folder.with_name("away"))
    sent = api.post("/v1/responses", json={"input": "Hi", "stream": stream})
    made = sent.json
    if stream:
        made = json.loads(sent.text.rstrip().rpartition("data: ")[2])["response"]
    assert made["output"][0]["content"][0]["text"] == "Hello"
    assert (made["status"], made["store"]) == ("completed", False)
    folder.with_name("away").rename(folder)  # the app is closed at once


def test_background_response_waits_for_its_store(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "retry_while_unavailable", impatient)
    change = DatabaseResponses.change_open
    refused: list[bool] = []

    def away(self: DatabaseResponses, *args: Any, over: bool) -> bool:
        if len(refused) < 5:
            refused.append(over)
            raise StoreUnavailable("it is away")
        return change(self, *args, over=over)

    monkeypatch.setattr(DatabaseResponses, "change_open", away)
    made: Any = api.post("/v1/responses", json={"input": "Hi", "background": True}).json

    def now() -> Any:
        return api.get(f"/v1/responses/{made['id']}").json

    wait_until(lambda: now()["status"] == "completed")
    assert now()["output"][0]["content"][0]["text"] == "Hello"
    assert refused == [False, True, True, True, True]


def test_page_answer_continues_while_its_store_is_down(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "GATHER", 0.0)
    monkeypatch.setattr(answers, "PAUSE", 0.01)
    monkeypatch.setattr(answers, "retry_while_unavailable", impatient)
    words = [f"w{number} " for number in range(20)]
    said: list[Batch] = [[Started(slot=0)]]
    said += [[TextDelta(word)] for word in words]
    driver = ScriptedDriver([*said, [Finished(reason="stop", usage=Usage(1, 20, 0), slot=0)]])
    api = make_app(driver, data=str(folder)).test_client()
    append, finish = ConversationStore.append, ConversationStore.finish
    refused: list[str] = []

    def broken_append(self: ConversationStore, *args: Any) -> bool:
        if 2 <= len(refused) < 6:
            refused.append("append")
            raise StoreUnavailable("it is away")
        refused.append("")
        return append(self, *args)

    def broken_finish(self: ConversationStore, *args: Any) -> None:
        if "finish" not in refused:
            refused.append("finish")
            raise StoreUnavailable("it is away")
        finish(self, *args)

    monkeypatch.setattr(ConversationStore, "append", broken_append)
    monkeypatch.setattr(ConversationStore, "finish", broken_finish)
    at = "/pages/api/chat/conversations"
    made: Any = api.post(at, json={}, headers=KEY).json
    api.post(f"{at}/{made['id']}/ask", json={"text": "Hi"}, headers=KEY)

    def last() -> Any:
        messages: Any = api.get(f"{at}/{made['id']}/messages").json
        return messages[-1]

    wait_until(lambda: last()["status"] != "growing")
    assert (last()["status"], last()["content"]) == ("done", "".join(words))
    assert refused.count("append") and refused.count("finish") == 1


# continued responses


def chained(api: FlaskClient, text: str, previous: str | None = None) -> Any:
    return api.post("/v1/responses", json={"input": text, "previous_response_id": previous})


def test_length_of_response_chains_is_bounded(tmp_path: Path) -> None:
    api = make_app(ScriptedDriver(say("Hello"), LONG), max_body=20_000).test_client()
    last = chained(api, "x" * 8_000)
    last = chained(api, "x" * 8_000, last.json["id"])
    assert last.status_code == 200  # just within the bound: the stored response has 8 kB
    third = chained(api, "x" * 8_000, last.json["id"])
    assert third.status_code == 200
    refused = chained(api, "x", third.json["id"])
    assert refused.status_code == 400
    error = refused.json["error"]
    assert (error["code"], error["param"]) == ("conversation_too_long", "previous_response_id")
    assert chained(api, "x").status_code == 200


def test_referenced_items_are_read_once_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    api = make_app(ScriptedDriver(say("Hello"), LONG), max_body=20_000).test_client()
    made = chained(api, "x" * 8_000).json["id"]
    item: Any = api.get(f"/v1/responses/{made}/input_items").json["data"][0]
    reads: list[str] = []
    get = MemoryResponses.get

    def counted(self: MemoryResponses, owner: str, key: str) -> Any:
        reads.append(key)
        return get(self, owner, key)

    monkeypatch.setattr(MemoryResponses, "get", counted)
    named = {"type": "item_reference", "id": item["id"]}
    assert api.post("/v1/responses", json={"input": [named] * 100}).status_code == 200
    assert len(reads) == 1
    more = [chained(api, "x" * 8_000).json["id"] for _ in range(3)]
    others = [api.get(f"/v1/responses/{key}/input_items").json["data"][0] for key in more]
    several = [{"type": "item_reference", "id": each["id"]} for each in others]
    refused: Any = api.post("/v1/responses", json={"input": several})
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "conversation_too_long")


def test_response_chain_expensive_to_decode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    api = make_app(ScriptedDriver(say("Hello"), LONG)).test_client()
    many = [{"role": "user", "content": "x"}] * 16_000
    first: Any = api.post("/v1/responses", json={"input": many})
    assert first.status_code == 200
    dear = "proxy.apis.responses.routes.dialect.costs_much"
    monkeypatch.setattr(dear, lambda data: len(data) > 400_000)
    refused = chained(api, "x", first.json["id"])
    assert (refused.status_code, refused.json["error"]["code"]) == (400, "conversation_too_long")


# an export


def test_export_is_sent_whole_in_pieces(folder: Path) -> None:
    app = make_app(ScriptedDriver(say("Hello"), LONG), data=str(folder))
    api = app.test_client()
    store: ConversationStore = app.extensions["slotproxy"].conversations
    for number in range(3):
        talk = store.create("", f"t{number}")
        for _ in range(10):
            store.add("", talk.id, "user", "x" * 20_000)
    chained(api, "x" * 100_000)
    with api.get("/v1/data", buffered=False) as sent:
        pieces: list[bytes] = list(sent.iter_encoded())
    assert len(pieces) > 5 and max(map(len, pieces)) < 200_000
    whole = json.loads(b"".join(pieces))
    assert list(whole) == [
        "object", "responses", "response_conversations",
        "conversations", "knowledge_bases", "files", "batches",
    ]  # fmt: skip
    assert len(whole["responses"]) == 1
    assert sorted(len(row["messages"]) for row in whole["conversations"]) == [10, 10, 10]
    assert {row["title"] for row in whole["conversations"]} == {"t0", "t1", "t2"}
    assert whole["knowledge_bases"] == whole["files"] == []


@pytest.mark.parametrize("path", ["/v1/data", "/v1/files/{file}"])
def test_file_is_deleted_when_a_knowledge_base_of_it_is_gone_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    app = make_app(ScriptedDriver(say("Hello")), data=str(folder))
    here = app.extensions["slotproxy"]
    stores, base = here.vector_stores, here.knowledge.create("", "bridges")
    file = stores.upload("", "a.txt", "assistants", BytesIO(b"An arch."), None)
    stores.attach("", base.id, file.file_id, {}, 800, 400, auto=True)
    attached = stores._files.attached

    def then_deleted(owner: str, **values: str) -> Any:
        files = attached(owner, **values)
        with suppress(NotFound):
            here.knowledge.delete(owner, base.id)
        return files

    monkeypatch.setattr(stores._files, "attached", then_deleted)
    answer = app.test_client().delete(path.format(file=file.file_id))
    assert answer.status_code == 200, answer.text
    assert stores.files("") == []


def test_files_are_listed_when_an_expired_one_is_gone_meanwhile(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(ScriptedDriver(say("Hello")), data=str(folder))
    stores = app.extensions["slotproxy"].vector_stores
    file = stores.upload("", "a.txt", "assistants", BytesIO(b"An arch."), 3600)
    expired = [file]
    monkeypatch.setattr(stores._files, "expired", lambda owner, now: expired)
    stores._delete_file("", file.file_id)
    answer = app.test_client().get("/v1/files")
    assert answer.status_code == 200, answer.text
    assert answer.json["data"] == []


def test_export_stays_whole_when_a_knowledge_base_is_deleted_meanwhile(folder: Path) -> None:
    app = make_app(ScriptedDriver(say("Hello")), data=str(folder))
    here = app.extensions["slotproxy"]
    talk = here.conversations.create("", "long")
    for _ in range(10):
        here.conversations.add("", talk.id, "user", "x" * 20_000)
    remaining, deleted = (here.knowledge.create("", name) for name in ("kept", "deleted"))
    with app.test_client().get("/v1/data", buffered=False) as sent:
        pieces = sent.iter_encoded()
        first = next(iter(pieces))
        here.knowledge.delete("", deleted.id)
        whole = json.loads(first + b"".join(pieces))
    assert {base["id"]: base["documents"] for base in whole["knowledge_bases"]} == {
        remaining.id: [], deleted.id: [],
    }  # fmt: skip


# metrics


def test_clients_add_no_label_to_metrics(tmp_path: Path) -> None:
    api = make_app(ScriptedDriver(say("Hello")), data=str(tmp_path), metrics=True).test_client()

    def flood(number: int) -> None:
        name = f"stranger{number}"
        said = [{"role": "user", "content": "Hi"}]
        headers = {
            "Authorization": f"Bearer {name}", "X-Request-ID": name, "X-Session-ID": name,
            "User-Agent": name, "X-Slotproxy-Priority": name,
        }  # fmt: skip
        body = {"model": name, "messages": said, "user": name}
        api.post("/v1/chat/completions", json=body)
        api.post("/v1/chat/completions", json=body, headers=headers)
        api.post("/v1/chat/completions", json={"messages": said, name: name, "stop": name})
        api.open(f"/{name}", method=name.upper(), headers=headers)
        api.open("/v1/models", method=name.upper(), headers={"Host": name})
        api.get(f"/v1/models/{name}?{name}={name}")
        api.get(f"/v1/responses/{name}", headers=headers)
        api.post("/v1/responses", json={"input": "Hi", "previous_response_id": name})

    def series() -> set[str]:
        lines: Iterator[str] = iter(api.get("/metrics").text.splitlines())
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    for number in range(5):
        flood(number)
    series()  # reading the metrics is counted too
    known = series()
    for number in range(5, 5 + share(60)):
        flood(number)
    assert series() == known
    assert "stranger" not in "".join(known).lower()

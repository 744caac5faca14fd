"""OpenAI's files and vector stores with the official client, through a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients import openai
from tests.documents import pdf
from tests.fakes import key_file
from tests.integration.asking import openai_client
from tests.integration.conftest import StartGateway, StartServer

KEYS = [f"key-of-a-test-{i}" for i in range(30)]
_keys = iter(KEYS)

NOBODY = "http://127.0.0.1:9"  # finding needs no model, so no server either
ENGLISH = pdf(
    "A handbook of bridges.",
    "The Firth bridge was opened in 1890. Its span is 521 metres.",
    "Paint is renewed every twenty years.",
)
CHINESE = pdf("桥梁手册。", "赵州桥建于隋朝,由李春设计。桥长六十四米。", "油漆每二十年更换一次。")


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def address(
    request: pytest.FixtureRequest,
    module_gateway: StartGateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """A gateway on each database, for all tests here."""
    flags = ["--llama-api", NOBODY, "--data", str(tmp_path_factory.mktemp("data")), "--chatchat"]
    for key in KEYS:
        flags += ["--api-key", key]
    if request.param == "postgres":
        flags += ["--database", request.getfixturevalue("postgres")]
    return module_gateway(*flags, ready=0).url


@pytest.fixture
def api(address: str) -> Iterator[openai.OpenAI]:
    """A client with a key of its own: to it, nothing is there yet."""
    with openai_client(address, next(_keys)) as client:
        yield client


def test_two_files_are_uploaded_found_cited_and_deleted(api: openai.OpenAI) -> None:
    store = api.vector_stores.create(name="bridges", metadata={"for": "a test"})
    english = api.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("bridges.pdf", ENGLISH), poll_interval_ms=100
    )
    assert (english.status, english.last_error) == ("completed", None)
    batch = api.vector_stores.file_batches.upload_and_poll(
        store.id, files=[("桥梁.pdf", CHINESE)], poll_interval_ms=100
    )
    assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == (
        "completed",
        1,
        1,
    )
    assert api.vector_stores.retrieve(store.id).file_counts.completed == 2

    for query, name, text in [
        ("When was the Firth bridge opened?", "bridges.pdf", "1890"),
        ("赵州桥是谁设计的?", "桥梁.pdf", "李春"),
        ("隋", "桥梁.pdf", "隋朝"),
    ]:
        results = api.vector_stores.search(store.id, query=query, max_num_results=3)
        best = results.data[0]
        assert best.filename == name and text in best.content[0].text
        assert 0 < best.score <= 1
        assert "2" in best.place  # ours, beside the file's name

    listed = {file.filename: file for file in api.files.list()}
    assert set(listed) == {"bridges.pdf", "桥梁.pdf"}
    assert listed["bridges.pdf"].bytes == len(ENGLISH)
    assert api.files.content(english.id).read() == ENGLISH
    assert api.files.retrieve(english.id).purpose == "assistants"
    pages = api.vector_stores.files.content(english.id, vector_store_id=store.id)
    assert "521 metres" in "".join(part.text or "" for part in pages)

    api.vector_stores.files.delete(english.id, vector_store_id=store.id)
    assert not api.vector_stores.search(store.id, query="Firth").data
    assert api.files.retrieve(english.id).filename == "bridges.pdf"  # the file itself stays
    api.files.delete(listed["桥梁.pdf"].id)
    assert not api.vector_stores.search(store.id, query="赵州桥").data
    assert api.vector_stores.delete(store.id).deleted is True
    with pytest.raises(openai.NotFoundError):
        api.vector_stores.retrieve(store.id)


def test_attributes_filters_and_thresholds(api: openai.OpenAI) -> None:
    texts = {"a.txt": ("red", 2001), "b.txt": ("red", 2020), "c.txt": ("blue", 2020)}
    store = api.vector_stores.create(name="colours")
    ids = {}
    for name, (colour, year) in texts.items():
        file = api.files.create(
            file=(name, f"A house painted in {colour}, number {year}.".encode()),
            purpose="assistants",
        )
        ids[name] = file.id
        api.vector_stores.files.create_and_poll(
            file.id,
            vector_store_id=store.id,
            attributes={"colour": colour, "year": year},
            poll_interval_ms=100,
        )

    def names(**how: object) -> set[str]:
        return {
            row.filename for row in api.vector_stores.search(store.id, query="painted house", **how)
        }

    red = {"type": "eq", "key": "colour", "value": "red"}
    late = {"type": "gte", "key": "year", "value": 2010}
    assert names() == set(texts)
    assert names(filters=red) == {"a.txt", "b.txt"}
    assert names(filters={"type": "and", "filters": [red, late]}) == {"b.txt"}
    assert names(filters={"type": "eq", "key": "colour", "value": "green"}) == set()
    assert len(names(max_num_results=1)) == 1
    results = api.vector_stores.search(
        store.id, query="blue unicorn", ranking_options={"score_threshold": 0.9}
    )
    assert not results.data
    changed = api.vector_stores.files.update(
        ids["c.txt"], vector_store_id=store.id, attributes={"colour": "red"}
    )
    assert changed.attributes == {"colour": "red"}
    assert names(filters=red) == set(texts)
    hit = api.vector_stores.search(store.id, query="2001").data[0]
    assert hit.attributes == {"colour": "red", "year": 2001}
    several = api.vector_stores.search(store.id, query=["blue", "2001"])
    assert {hit.filename for hit in several} >= {"a.txt", "c.txt"}


def test_lists_updates_and_batches(api: openai.OpenAI) -> None:
    made = [api.vector_stores.create(name=f"store {i}") for i in range(3)]
    assert [row.id for row in api.vector_stores.list(limit=1)] == [row.id for row in reversed(made)]
    first = api.vector_stores.update(
        made[0].id,
        name="renamed",
        metadata={"a": "b"},
        expires_after={"anchor": "last_active_at", "days": 2},
    )
    assert (first.name, first.metadata) == ("renamed", {"a": "b"})
    assert first.expires_at is not None and first.last_active_at is not None
    assert first.expires_at - first.last_active_at == 2 * 86400

    files = [
        api.files.create(file=(f"{i}.txt", f"text number {i}".encode()), purpose="user_data")
        for i in range(3)
    ]
    assert {file.id for file in api.files.list(limit=2)} == {file.id for file in files}
    assert not list(api.files.list(purpose="batch"))
    batch = api.vector_stores.file_batches.create_and_poll(
        first.id,
        files=[{"file_id": file.id, "attributes": {"n": i}} for i, file in enumerate(files)],
        poll_interval_ms=100,
    )
    assert batch.file_counts.completed == 3
    entries = list(
        api.vector_stores.file_batches.list_files(
            batch.id, vector_store_id=first.id, limit=2, order="asc"
        )
    )
    assert [entry.attributes for entry in entries] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {entry.status for entry in entries} == {"completed"}
    done = api.vector_stores.files.list(first.id, filter="completed")
    assert {entry.id for entry in done} == {entry.id for entry in files}
    assert not list(api.vector_stores.files.list(first.id, filter="failed"))
    again = api.vector_stores.file_batches.cancel(batch.id, vector_store_id=first.id)
    assert again.status == "completed"  # nothing was left to cancel


def test_broken_file_is_one_failed_file(api: openai.OpenAI) -> None:
    store = api.vector_stores.create(name="one of two")
    batch = api.vector_stores.file_batches.upload_and_poll(
        store.id,
        files=[("good.txt", b"a sound file"), ("bad.pdf", b"%PDF-1.4 and then nothing")],
        poll_interval_ms=100,
    )
    assert (batch.file_counts.completed, batch.file_counts.failed) == (1, 1)
    (failed,) = api.vector_stores.files.list(store.id, filter="failed")
    assert failed.last_error is not None and failed.last_error.message
    assert api.vector_stores.search(store.id, query="sound").data[0].filename == "good.txt"


def test_missing_and_forbidden_objects_are_refused(api: openai.OpenAI) -> None:
    store = api.vector_stores.create(name="empty")
    for missing in (
        lambda: api.files.retrieve("file-nothing"),
        lambda: api.files.delete("file-nothing"),
        lambda: api.vector_stores.retrieve("vs_nothing"),
        lambda: api.vector_stores.search("vs_nothing", query="x"),
        lambda: api.vector_stores.files.create(store.id, file_id="file-nothing"),
        lambda: api.vector_stores.files.retrieve("file-nothing", vector_store_id=store.id),
        lambda: api.vector_stores.file_batches.retrieve("vsfb_no", vector_store_id=store.id),
        lambda: api.vector_stores.create(name="x", file_ids=["file-nothing"]),
    ):
        with pytest.raises(openai.NotFoundError):
            missing()
    with pytest.raises(openai.BadRequestError, match="purpose"):
        api.files.create(file=("a.txt", b"x"), purpose="nothing")
    with pytest.raises(openai.BadRequestError, match="filters"):
        api.vector_stores.search(store.id, query="x", filters={"type": "no"})
    assert [entry.name for entry in api.vector_stores.list()] == ["empty"]


def test_data_of_another_key_are_invisible(address: str) -> None:
    with openai_client(address, next(_keys)) as mine, openai_client(address, next(_keys)) as theirs:
        store = mine.vector_stores.create(name="mine")
        file = mine.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("secret.txt", b"a secret word"), poll_interval_ms=100
        )
        assert mine.vector_stores.search(store.id, query="secret").data
        for peek in (
            lambda: theirs.vector_stores.retrieve(store.id),
            lambda: theirs.vector_stores.search(store.id, query="secret"),
            lambda: theirs.vector_stores.delete(store.id),
            lambda: theirs.files.content(file.id),
            lambda: theirs.files.delete(file.id),
        ):
            with pytest.raises(openai.NotFoundError):
                peek()
        assert not list(theirs.files.list()) and not list(theirs.vector_stores.list())
    assert requests.get(f"{address}/v1/files", timeout=60).status_code == 401


def test_vector_search_and_reranking_use_real_servers(
    gateway: StartGateway, start_server: StartServer, tmp_path: Path
) -> None:
    """The made-up model knows no meaning: that its vectors are made, kept and searched is seen in
    a passage that has no word of the question."""
    embeds = start_server("llama-2026", extra=["--embeddings", "--pooling", "mean"])
    ranks = start_server("llama-2026", extra=["--reranking"])
    flags = ["--llama-api", NOBODY, "--data", str(tmp_path / "data")]
    flags += ["--embedding-api", embeds.url, "--rerank-api", ranks.url]
    with openai_client(gateway(*flags, ready=0).url) as api:
        store = api.vector_stores.create(name="meanings")
        batch = api.vector_stores.file_batches.upload_and_poll(
            store.id,
            files=[("one.txt", b"the first file"), ("two.txt", b"another one" * 500)],
            poll_interval_ms=100,
        )
        assert batch.file_counts.completed == 2
        results = api.vector_stores.search(store.id, query="zebra", max_num_results=50)
        assert {hit.filename for hit in results} == {"one.txt", "two.txt"}
        assert all(0 <= hit.score <= 1 for hit in results)
        embeds.kill()
        words = api.vector_stores.search(store.id, query="first", max_num_results=1)
        assert words.data[0].filename == "one.txt"


def test_batch_can_be_cancelled(api: openai.OpenAI) -> None:
    store = api.vector_stores.create(name="too much")
    words = " ".join(f"word{i}" for i in range(60_000)).encode()
    count = 6  # on a busy machine, some are read before the cancellation
    files = [api.files.create(file=(f"{i}.txt", words), purpose="assistants") for i in range(count)]
    batch = api.vector_stores.file_batches.create(store.id, file_ids=[file.id for file in files])
    assert (batch.status, batch.file_counts.in_progress) == ("in_progress", count)
    assert api.vector_stores.retrieve(store.id).status == "in_progress"
    cancelled = api.vector_stores.file_batches.cancel(batch.id, vector_store_id=store.id)
    assert cancelled.status == "cancelled"
    over = api.vector_stores.file_batches.poll(
        batch.id, vector_store_id=store.id, poll_interval_ms=100
    )
    assert (over.status, over.file_counts.in_progress) == ("cancelled", 0)
    assert over.file_counts.cancelled >= 2
    entries = api.vector_stores.file_batches.list_files(
        batch.id, vector_store_id=store.id, filter="cancelled"
    )
    assert len(list(entries)) == over.file_counts.cancelled
    # Cancelled files are not found, and later ones are read.
    api.vector_stores.files.upload_and_poll(
        vector_store_id=store.id, file=("small.txt", b"a needle"), poll_interval_ms=100
    )
    assert api.vector_stores.search(store.id, query="needle").data[0].filename == "small.txt"


def test_base_of_another_api_is_a_vector_store(address: str) -> None:
    key = next(_keys)
    who = {"Authorization": f"Bearer {key}"}
    bases = f"{address}/knowledge_base"
    fields = {"knowledge_base_name": "桥"}
    made = requests.post(f"{bases}/create_knowledge_base", json=fields, headers=who, timeout=60)
    assert made.json()["code"] == 200
    files = {"files": ("桥梁.pdf", CHINESE)}
    requests.post(f"{bases}/upload_docs", data=fields, files=files, headers=who, timeout=60)
    with openai_client(address, key) as api:
        (store,) = api.vector_stores.list()
        assert (store.name, store.file_counts.completed) == ("桥", 1)
        hit = api.vector_stores.search(store.id, query="李春").data[0]
        (file,) = api.vector_stores.files.list(store.id)
        assert (hit.filename, hit.file_id, file.status) == ("桥梁.pdf", file.id, "completed")
        assert not list(api.files.list())  # it was never uploaded as a file
        api.vector_stores.files.delete(file.id, vector_store_id=store.id)
    listed = requests.get(f"{bases}/list_files", params=fields, headers=who, timeout=60)
    assert listed.json()["data"] == []


def test_data_of_a_key_are_exported_and_deleted(gateway: StartGateway, tmp_path: Path) -> None:
    keys = key_file(tmp_path, "ann key-a\nbob key-b\n")
    flags = ["--llama-api", NOBODY, "--data", str(tmp_path / "data"), "--api-key-file", keys]
    url = gateway(*flags, ready=0).url
    for key in ("key-a", "key-b"):
        api = openai_client(url, key)
        store = api.vector_stores.create(name="bridges")
        done = api.vector_stores.files.upload_and_poll(
            vector_store_id=store.id, file=("bridges.pdf", ENGLISH), poll_interval_ms=50
        )
        assert done.status == "completed"

    def exported(key: str, method: str = "get") -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        answer = requests.request(method, f"{url}/v1/data", headers=headers, timeout=30)
        assert answer.status_code == 200
        body: dict[str, Any] = answer.json()
        return body

    mine = exported("key-a")
    (base,) = mine["knowledge_bases"]
    (document,) = base["documents"]
    assert any("521 metres" in piece["text"] for piece in document["pieces"])
    assert [file["filename"] for file in mine["files"]] == ["bridges.pdf"]
    assert exported("key-a", "delete")["deleted"]["knowledge_bases"] == 1
    gone = exported("key-a")
    assert gone["knowledge_bases"] == gone["files"] == gone["conversations"] == []
    assert len(exported("key-b")["knowledge_bases"]) == 1

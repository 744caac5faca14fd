"""Langchain-Chatchat's API with a client like its own, on a real server and gateway."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.documents import pdf
from tests.integration.chatchat import Chatchat
from tests.integration.conftest import StartGateway, StartServer
from tests.integration.searxng import SearXNG
from tools.processes import Gateway, ModelServer

FLAGS = ("--chatchat", "--slots", "2", "--chat-template", "chatml")
HISTORY = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


@pytest.fixture(scope="module")
def server(start_server: StartServer, tiny_model: Path) -> ModelServer:
    return start_server("llama-2023", model=tiny_model)


@pytest.fixture(scope="module")
def served(server: ModelServer, module_gateway: StartGateway) -> Gateway:
    return module_gateway(*FLAGS, "--llama-api", server.url)


@pytest.fixture
def api(served: Gateway) -> Iterator[Chatchat]:
    client = Chatchat(served.url)
    yield client
    client.close()


def test_chat_chunk_is_one_document(api: Chatchat) -> None:
    documents = list(api.chat_chat("你好", history=HISTORY, max_tokens=24))
    assert len(documents) > 1
    assert all(type(document["text"]) is str for document in documents)
    assert len({document["chat_history_id"] for document in documents}) == 1
    (whole,) = api.chat_chat("你好", history=HISTORY, max_tokens=24, stream=False)
    assert whole["text"] == "".join(document["text"] for document in documents) != ""


CHINESE = pdf(
    "水泵使用手册\n本手册说明水泵的安装与维护。",
    "保修条款\n水泵的保修期为五年，自购买之日起计算。保修包括所有运动部件。",
)
ENGLISH = pdf(
    "Handbook of the lighthouse\nThis handbook tells how the lamp is kept.",
    "The keeper\nThe lamp of the lighthouse is cleaned every Thursday by the keeper.",
)
FILES = {"水泵手册.pdf": CHINESE, "lighthouse.pdf": ENGLISH}
ASKED = {"水泵的保修期是多久？": "水泵手册.pdf", "When is the lamp cleaned?": "lighthouse.pdf"}


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def library(
    request: pytest.FixtureRequest,
    server: ModelServer,
    module_gateway: StartGateway,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Chatchat]:
    """A client of a gateway that has knowledge bases, on each database."""
    flags = [*FLAGS, "--data", str(tmp_path_factory.mktemp("data")), "--llama-api", server.url]
    if request.param == "postgres":
        flags += ["--database", request.getfixturevalue("postgres")]
    client = Chatchat(module_gateway(*flags).url)
    yield client
    client.close()


@pytest.fixture
def base(library: Chatchat) -> Iterator[str]:
    """A base with both files."""
    name = "手册"
    assert library.create(name)["code"] == 200
    uploaded = library.upload(name, FILES)
    assert uploaded["data"] == {"failed_files": {}}, uploaded
    yield name
    assert library.delete(name)["code"] == 200
    assert name not in library.bases()


def test_pdf_is_uploaded_found_cited_and_deleted(library: Chatchat, base: str) -> None:
    assert sorted(library.files(base)) == sorted(FILES)
    for question, name in ASKED.items():
        check_document(library, base, question, name)


def check_document(library: Chatchat, base: str, question: str, name: str) -> None:
    best = library.search(base, question)[0]
    assert best["metadata"]["source"] == name
    assert "2" in best["metadata"]["place"], "it stands on the second page"
    assert 0 <= best["score"] <= 2

    *pieces, last = library.knowledge_base_chat(question, base, max_tokens=32)
    assert all(set(piece) == {"answer"} for piece in pieces)
    first = last["docs"][0]
    assert first.startswith("Source [1]") and name in first
    link = re.search(r"\((http[^)]+)\)", first)
    assert link and httpx.get(link[1], trust_env=False).content == FILES[name]

    (whole,) = library.knowledge_base_chat(question, base, max_tokens=32, stream=False)
    assert whole["docs"] == last["docs"]
    assert whole["answer"] == "".join(piece["answer"] for piece in pieces)

    assert library.delete_files(base, [name])["data"] == {"failed_files": {}}
    assert name not in library.files(base)
    assert all(hit["metadata"]["source"] != name for hit in library.search(base, question))
    assert library.download(base, name).json()["code"] == 404


def test_file_attached_to_a_chat_is_searched(library: Chatchat) -> None:
    uploaded = library.upload_temporary({"lighthouse.pdf": ENGLISH})
    assert uploaded["data"]["failed_files"] == []
    *pieces, last = library.file_chat("When is the lamp cleaned?", uploaded["data"]["id"])
    assert "lighthouse.pdf" in last["docs"][0] and pieces
    assert not library.bases()
    (missing,) = library.file_chat("What?", "nothing")
    assert missing["code"] == 404


def test_search_answer_cites_its_results(server: ModelServer, gateway: StartGateway) -> None:
    engine = SearXNG({"tide": "The tide turns at noon.", "light": "The lamp is lit at dusk."})
    try:
        search = ("--search-engine", "searxng", "--searxng-url", engine.url)
        api = Chatchat(gateway(*FLAGS, *search, "--llama-api", server.url).url)
        assert api.post("/server/list_search_engines")["data"] == ["searxng"]
        *pieces, last = api.search_engine_chat("When does the tide turn?", "searxng", max_tokens=8)
        assert pieces and "https://tide.example/" in last["docs"][0]
        assert "The tide turns at noon." in last["docs"][0]
        (unknown,) = api.search_engine_chat("tide", "metaphor")
        assert unknown["code"] == 400 and "searxng" in unknown["msg"]
        api.close()
    finally:
        engine.end()

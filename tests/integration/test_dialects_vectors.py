"""Embeddings and rankings of real servers, in every API that has them."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import requests

from tests.clients import ollama, openai
from tests.fakes import at_once
from tools.processes import Gateway, ModelServer

TEXTS = ["Hello", "你好 world", "a b c", "something else entirely", "x", "The quick brown fox"]
FLAGS = {
    "llama-2023": ["--embedding"],
    "powerinfer": ["--embedding"],
    "llama-2026": ["--embeddings", "--pooling", "last"],
}
# Numbers of a vector may differ so much: other texts evaluated with it change its rounding.
NEAR = 5e-3
StartServer = Callable[..., ModelServer]


@pytest.fixture(scope="module", params=list(FLAGS))
def server(request: pytest.FixtureRequest, start_server: StartServer) -> ModelServer:
    return start_server(request.param, extra=FLAGS[request.param])


@pytest.fixture(scope="module")
def address(server: ModelServer, module_gateway: Callable[..., Gateway]) -> str:
    return module_gateway("--llama-api", server.url, "--slots", "2").url


def client(address: str, strict: bool = True) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=address + "/v1",
        api_key="x",
        max_retries=0,
        _strict_response_validation=strict,
    )


def test_openai_client_embeds_one_and_many_texts(address: str) -> None:
    with client(address) as strict, client(address, strict=False) as packed:
        single = strict.embeddings.create(model="any", input=TEXTS[0], encoding_format="float")
        many = packed.embeddings.create(model="any", input=TEXTS)  # asks for base64
        ids = strict.embeddings.create(model="any", input=[[5, 6], [7]], encoding_format="float")
    vectors = [entry.embedding for entry in many.data]
    assert [entry.index for entry in many.data] == list(range(len(TEXTS)))
    assert len({len(vector) for vector in vectors}) == 1
    assert all(math.isclose(math.hypot(*vector), 1, rel_tol=1e-5) for vector in vectors)
    assert all(
        math.isclose(a, b, abs_tol=NEAR)
        for a, b in zip(single.data[0].embedding, vectors[0], strict=True)
    )
    assert many.usage.prompt_tokens > single.usage.prompt_tokens > 0
    assert len(ids.data) == 2


def test_token_ids_are_refused_where_only_text_is_embedded(
    server: ModelServer, address: str
) -> None:
    """An old server takes an empty text for a chat, and answers without a vector."""
    with client(address, strict=False) as api:
        if server.name == "llama-2026":
            assert api.embeddings.create(model="any", input=[[5], [1]]).data[1].embedding
        else:
            with pytest.raises(openai.BadRequestError, match=r"input\[1\] contains no text"):
                api.embeddings.create(model="any", input=[[5], [1]])
    backend = requests.get(address + "/v1/backends", timeout=60).json()["data"][0]
    assert (backend["state"], backend["error"]) == ("up", None)


def test_embeddings_are_right_under_load(address: str) -> None:
    """A server of 2023 returns the vector of its last evaluation, of any request."""
    with client(address, strict=False) as api:
        wanted = [
            api.embeddings.create(model="any", input=text).data[0].embedding for text in TEXTS
        ]
        wrong: list[float] = []

        def embed() -> None:
            for _ in range(3):
                entries = api.embeddings.create(model="any", input=TEXTS).data
                for entry, vector in zip(entries, wanted, strict=True):
                    pairs = zip(entry.embedding, vector, strict=True)
                    wrong.append(max(abs(a - b) for a, b in pairs))

        def talk() -> None:
            for _ in range(4):
                assert api.completions.create(model="any", prompt="Hello", max_tokens=20).choices

        at_once(lambda number: (embed, talk)[number % 2](), 4)
    assert len(wrong) == 6 * len(TEXTS)
    assert max(wrong) < NEAR


def test_fewer_dimensions_shorten_vectors(address: str) -> None:
    with client(address) as api:
        whole = len(
            api.embeddings.create(model="any", input="x", encoding_format="float").data[0].embedding
        )
        answer = api.embeddings.with_raw_response.create(
            model="any", input="x", dimensions=8, encoding_format="float"
        )
        cut = answer.parse().data[0]
        assert len(cut.embedding) == 8
        assert math.isclose(math.hypot(*cut.embedding), 1, rel_tol=1e-5)
        assert f"dimensions: cut to 8 of {whole}" in answer.headers["x-slotproxy-warning"]
        with pytest.raises(openai.BadRequestError, match=f"{whole} dimensions"):
            api.embeddings.create(model="any", input="x", dimensions=whole + 1)


def test_ollama_and_glm_embeddings(address: str) -> None:
    api = ollama.Client(host=address)
    many = api.embed(model="any", input=TEXTS[:2])
    older = api.embeddings(model="any", prompt=TEXTS[0])
    api._client.close()
    glm = requests.post(address + "/embedding", json={"prompt": TEXTS[:2]}, timeout=60).json()
    assert glm["object"] == "embedding" and len(glm["data"]) == len(many.embeddings) == 2
    for vector in (older.embedding, glm["data"][0]):
        assert all(
            math.isclose(a, b, abs_tol=NEAR)
            for a, b in zip(vector, many.embeddings[0], strict=True)
        )


def test_text_beyond_the_context_is_not_embedded(address: str) -> None:
    with client(address) as api, pytest.raises(openai.BadRequestError):
        api.embeddings.create(model="any", input="word " * 4000)


def test_embeddings_without_a_server_are_refused_by_name(
    any_server: ModelServer, module_gateway: Callable[..., Gateway]
) -> None:
    """Today's llama-server reports that it was started without them: 501."""
    with (
        client(module_gateway("--llama-api", any_server.url, "--slots", "2").url) as api,
        pytest.raises(openai.APIStatusError, match="embedding") as refused,
    ):
        api.embeddings.create(model="any", input="x", encoding_format="float")
    assert refused.value.status_code == (501 if any_server.name == "llama-2026" else 400)


def test_embeddings_and_rankings_use_dedicated_servers(
    start_server: StartServer, old_server: ModelServer, gateway: Callable[..., Gateway]
) -> None:
    """Chats at one server, embeddings at another, rankings at a third."""
    embeds = start_server("llama-2026", extra=FLAGS["llama-2026"])
    ranks = start_server("llama-2026", extra=["--reranking"])
    flags = ["--llama-api", old_server.url, "--slots", "2"]
    flags += ["--embedding-api", embeds.url, "--rerank-api", ranks.url]
    address = gateway(*flags).url
    with client(address) as api:
        made = api.embeddings.create(model="any", input=TEXTS, encoding_format="float")
        assert len(made.data) == len(TEXTS)
        assert api.completions.create(model="any", prompt="Hello", max_tokens=4).choices
    body = {"query": "Hello", "documents": TEXTS, "top_n": 3, "return_documents": True}
    answer = requests.post(address + "/v1/rerank", json=body, timeout=60).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert len(scores) == 3 and scores == sorted(scores, reverse=True)
    for result in answer["results"]:
        assert result["document"]["text"] == TEXTS[result["index"]]
    assert answer["usage"]["total_tokens"] > 0


def test_old_server_cannot_rerank(
    old_server: ModelServer, module_gateway: Callable[..., Gateway]
) -> None:
    address = module_gateway("--llama-api", old_server.url, "--slots", "2").url
    body = {"query": "q", "documents": ["a"]}
    answer = requests.post(address + "/v1/rerank", json=body, timeout=60)
    assert answer.status_code == 400
    assert "reranking is not supported" in answer.json()["error"]["message"]

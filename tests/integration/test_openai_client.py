"""The official client, strictly validating, through a real gateway to real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.clients import openai
from tests.integration.generations import SERVER_FIXTURES
from tools.processes import Gateway, ModelServer

ASK = [{"role": "user", "content": "Hello there, 你好 🚀"}]
# A made-up model has no stable words: a grammar forces them.
WORDS = "one two three four 一 二 三 🚀 five six"
FORCED = {"grammar": f'root ::= "{WORDS}"'}


@pytest.fixture(scope="module", params=[*SERVER_FIXTURES, "both"])
def address(request: pytest.FixtureRequest, module_gateway: Callable[..., Gateway]) -> str:
    """A gateway for each server, and for those of 2023 and 2026 as backends of one model."""
    both = ["llama-2023", "llama-2026"]
    names = both if request.param == "both" else [request.param]
    wanted = [SERVER_FIXTURES[name] for name in names]
    servers: list[ModelServer] = [request.getfixturevalue(name) for name in wanted]
    flags = [word for server in servers for word in ("--llama-api", server.url)]
    return module_gateway(*flags, "--slots", "2").url + "/v1"


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=address, api_key="x", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 17])
def test_max_tokens_is_respected(client: openai.OpenAI, limit: int) -> None:
    """An old server sends one piece too many, and never fewer than four."""
    chunks = list(
        client.chat.completions.create(
            model="any",
            messages=ASK,
            max_tokens=limit,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [c.choices[0].delta.content for c in chunks if c.choices]
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.completion_tokens == limit
    assert usage.prompt_tokens > 0
    assert len([p for p in pieces if p]) <= limit


def test_stream_equals_the_whole_answer(client: openai.OpenAI) -> None:
    fields = {"model": "any", "messages": ASK, "max_tokens": 60, "extra_body": FORCED}
    whole = client.chat.completions.create(**fields)
    chunks = list(client.chat.completions.create(**fields, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == WORDS
    assert whole.choices[0].message.content == WORDS
    assert [c.choices[0].delta.role for c in chunks if c.choices[0].delta.role] == ["assistant"]
    assert len([c for c in chunks if c.choices[0].finish_reason]) == 1
    assert len({c.id for c in chunks}) == 1


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ("thr", "one two "),
        (["four", "never", "three f"], "one two "),
        ("三 🚀", "one two three four 一 二 "),
    ],
)
def test_stop_string_ends_the_answer_and_never_shows(
    client: openai.OpenAI, stop: str | list[str], expected: str
) -> None:
    fields = {"model": "any", "prompt": "Once", "max_tokens": 60, "extra_body": FORCED}
    cut = client.completions.create(**fields, stop=stop)
    assert cut.choices[0].text == expected
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None and cut.usage.prompt_tokens > 0
    # The client's types forbid the null finish_reason that OpenAI's own streams carry here.
    with openai.OpenAI(base_url=client.base_url, api_key="x", max_retries=0) as lenient:
        streamed = lenient.completions.create(**fields, stop=stop, stream=True)
        assert "".join(c.choices[0].text for c in streamed) == expected


def test_logprobs_have_openai_format(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="any", messages=ASK, max_tokens=5, logprobs=True, top_logprobs=3, temperature=0
    )
    assert answer.choices[0].logprobs is not None
    tokens = answer.choices[0].logprobs.content or []
    assert "".join(t.token for t in tokens) == answer.choices[0].message.content
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 3 for t in tokens)
    older = client.completions.create(model="any", prompt="Once", max_tokens=5, logprobs=2)
    assert older.choices[0].logprobs is not None
    assert len(older.choices[0].logprobs.tokens or []) == 5
    assert all(len(top) == 2 for top in older.choices[0].logprobs.top_logprobs or [])


def test_prompts_may_be_texts_token_ids_or_lists(client: openai.OpenAI, address: str) -> None:
    for prompt, count in (
        ("Hello", 1),
        (["Hello", "World"], 2),
        ([5, 6, 7], 1),
        ([[5], [6, 7]], 2),
    ):
        answer = client.completions.create(model="any", prompt=prompt, max_tokens=4)
        assert len(answer.choices) == count
        assert all(c.text for c in answer.choices)
    echoed = client.completions.create(model="any", prompt="Hello", max_tokens=4, echo=True)
    assert echoed.choices[0].text.startswith("Hello")


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert models
    assert client.models.retrieve(models[0].id).id == models[0].id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")

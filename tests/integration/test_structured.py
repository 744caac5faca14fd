"""Documents by schema, from real servers of both generations and through the native relay. The
model is of random weights: what is valid is so by the grammar alone, and nothing by luck."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from tests.clients import openai
from tests.integration.asking import openai_client
from tools.processes import Gateway, ModelServer

ASK: Any = [{"role": "user", "content": "Describe it."}]
WAYS = {
    "llama-2023": ("_old_server", ()),
    "powerinfer": ("_powerinfer_server", ()),
    "llama-2026": ("_new_server", ("--chat-mode", "completion")),
    "native": ("_new_server", ("--chat-mode", "native")),
}


@pytest.fixture(scope="module", params=WAYS)
def address(request: pytest.FixtureRequest, module_gateway: Callable[..., Gateway]) -> str:
    name, flags = WAYS[request.param]
    server: ModelServer = request.getfixturevalue(name)
    return module_gateway("--llama-api", server.url, *flags).url


@pytest.fixture
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai_client(address) as client:
        yield client


class Step(BaseModel):
    title: str = Field(max_length=12)
    minutes: int = Field(ge=0, le=90)


class Recipe(BaseModel):
    name: str = Field(max_length=12)
    course: Literal["starter", "main", "dessert"]
    steps: list[Step] = Field(max_length=3)
    note: str | None = Field(max_length=9)


def test_openai_parse_returns_pydantic_objects(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="any", messages=ASK, response_format=Recipe, max_tokens=800
    )
    recipe = answer.choices[0].message.parsed
    assert isinstance(recipe, Recipe)
    assert len(recipe.steps) <= 3
    with client.chat.completions.stream(
        model="any", messages=ASK, response_format=Recipe, max_tokens=800
    ) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(streamed, Recipe)


def test_json_object_format_gives_any_object(client: openai.OpenAI) -> None:
    """Nothing bounds it, so it may be cut, and then says so; it is never broken in silence."""
    answer = client.chat.completions.create(
        model="any", messages=ASK, response_format={"type": "json_object"}, max_tokens=400
    )
    choice = answer.choices[0]
    assert (choice.message.content or "").startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)
    else:
        assert choice.finish_reason == "length"


def test_llama_cpp_grammar_and_json_schema_fields(client: openai.OpenAI) -> None:
    grammar = 'root ::= ("yes" | "no") "!"'
    answer = client.chat.completions.create(
        model="any", messages=ASK, max_tokens=50, extra_body={"grammar": grammar}
    )
    assert answer.choices[0].message.content in ("yes!", "no!")
    schema = {"enum": ["left", "right"]}
    answer = client.chat.completions.create(
        model="any", messages=ASK, max_tokens=50, extra_body={"json_schema": schema}
    )
    assert json.loads(answer.choices[0].message.content or "") in ("left", "right")
    plain = client.completions.create(
        model="any", prompt="It is", max_tokens=50, extra_body={"json_schema": schema}
    )
    assert json.loads(plain.choices[0].text) in ("left", "right")


def test_unsupported_schema_keyword_is_named(client: openai.OpenAI) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    form["json_schema"]["strict"] = True
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        client.chat.completions.create(model="any", messages=ASK, response_format=form)

"""Answers have the fields of the official clients' types: each that is required, and no other but
the ones named here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pydantic import BaseModel, TypeAdapter

from tests.contract import ears
from tests.fakes import ScriptedDriver, make_app, say

CHAT = {"model": "any", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
RESPONSE = {"model": "any", "input": "Hi"}
# llama-server has these too.
LLAMA = {"timings", "truncated"}
# Open Responses requires these.
OPEN = {"frequency_penalty", "presence_penalty", "store"}
WHOLE: list[tuple[str, dict[str, Any], str, set[str]]] = [
    ("/v1/chat/completions", CHAT, "openai.types.chat:ChatCompletion", LLAMA),
    ("/v1/completions", {"prompt": "Hi"}, "openai.types:Completion", LLAMA),
    ("/v1/responses", RESPONSE, "openai.types.responses:Response", OPEN),
    ("/v1/responses/compact", RESPONSE, "openai.types.responses:CompactedResponse", set()),
    ("/v1/conversations", {}, "openai.types.conversations:Conversation", set()),
    ("/v1/vector_stores", {"name": "x"}, "openai.types:VectorStore", {"description"}),
    ("/v1/messages", CHAT, "anthropic.types:Message", set()),
    ("/v1/messages/count_tokens", CHAT, "anthropic.types:MessageTokensCount", set()),
]
STREAMS = [
    ("/v1/chat/completions", CHAT, "openai.types.chat:ChatCompletionChunk", LLAMA),
    ("/v1/responses", RESPONSE, "openai.types.responses:ResponseStreamEvent", OPEN),
    ("/v1/messages", CHAT, "anthropic.types:RawMessageStreamEvent", set()),
]


@pytest.fixture(scope="module")
def http(tmp_path_factory: pytest.TempPathFactory) -> FlaskClient:
    data: Path = tmp_path_factory.mktemp("data")
    return make_app(ScriptedDriver(say("Hello.")), data=str(data)).test_client()


def check(value: Any, kind: str, others: set[str]) -> None:
    module, _, name = kind.partition(":")
    # Strict: no number for a string, and no string for a number.
    read = TypeAdapter(getattr(import_module(module), name)).validate_python(value, strict=True)
    assert set(unknown(read)) <= others


def unknown(value: Any) -> Iterator[str]:
    """The names of fields that the types do not know."""
    if isinstance(value, BaseModel):
        yield from value.model_extra or ()
        for name in type(value).model_fields:
            yield from unknown(getattr(value, name, None))
    elif isinstance(value, list):
        for item in value:
            yield from unknown(item)


@pytest.mark.parametrize(("path", "body", "kind", "others"), WHOLE, ids=[case[0] for case in WHOLE])
def test_whole_answers_are_of_the_official_types(
    http: FlaskClient, path: str, body: dict[str, Any], kind: str, others: set[str]
) -> None:
    answer = http.post(path, json=body)
    assert answer.status_code == 200, answer.text
    check(answer.json, kind, others)


@pytest.mark.parametrize(
    ("path", "body", "kind", "others"), STREAMS, ids=[case[0] for case in STREAMS]
)
def test_events_are_of_the_official_types(
    http: FlaskClient, path: str, body: dict[str, Any], kind: str, others: set[str]
) -> None:
    answer = http.post(path, json={**body, "stream": True})
    events = [event for _, event in ears.sse(answer.data) if isinstance(event, dict)]
    assert events
    for event in events:
        check(event, kind, others)

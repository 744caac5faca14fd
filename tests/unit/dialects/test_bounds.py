"""Bounds on what a body may hold, each at its edge."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from proxy.core import sampling
from proxy.core.invalid import Invalid
from proxy.core.sampling import MAX_BIASES, check, logit_bias
from proxy.dialects import anthropic, openai_chat, responses
from proxy.dialects.fields import MAX_ITEMS
from proxy.dialects.ollama import chat as ollama
from proxy.errors import BadRequest
from proxy.web.large import LARGE, MAX_OBJECTS, MAX_STRINGS, check_objects

SAID = {"role": "user", "content": "x"}
Parse = Callable[[dict[str, Any]], Any]
DIALECTS: dict[str, tuple[Parse, str, dict[str, Any]]] = {
    "openai": (openai_chat.parse, "messages", {}),
    "anthropic": (anthropic.parse, "messages", {"max_tokens": 1}),
    "ollama": (ollama.parse, "messages", {}),
    "responses": (responses.parse, "input", {}),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_messages_are_bounded(name: str) -> None:
    parse, field, more = DIALECTS[name]
    parse({field: [SAID] * MAX_ITEMS, **more})
    with pytest.raises(Invalid, match=f"has {MAX_ITEMS + 1} entries, {MAX_ITEMS} may be"):
        parse({field: [SAID] * (MAX_ITEMS + 1), **more})


@pytest.mark.parametrize("name", ["openai", "anthropic", "responses"])
def test_parts_of_a_message_are_bounded(name: str) -> None:
    parse, field, more = DIALECTS[name]
    part = {"type": "input_text" if name == "responses" else "text", "text": "x"}

    def body(count: int) -> dict[str, Any]:
        return {field: [{"role": "user", "content": [part] * count}], **more}

    parse(body(MAX_ITEMS))
    with pytest.raises(Invalid, match=f"{MAX_ITEMS} may be"):
        parse(body(MAX_ITEMS + 1))


def test_biases_are_bounded() -> None:
    assert len(logit_bias({str(i): 1 for i in range(MAX_BIASES)})) == MAX_BIASES
    for asked in ({str(i): 1 for i in range(MAX_BIASES + 1)}, [[1, 1]] * (MAX_BIASES + 1)):
        with pytest.raises(Invalid, match=f"{MAX_BIASES} may be"):
            logit_bias(asked)


def test_lists_of_strings_are_bounded() -> None:
    most = sampling.MAX_STRINGS
    check("samplers", ["top_k"] * most)
    with pytest.raises(Invalid, match=f"{most} may be"):
        check("samplers", ["top_k"] * (most + 1))


def test_calls_without_a_result_are_bounded() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    said = [SAID, {"role": "assistant", "content": "", "tool_calls": [call] * 1025}]
    with pytest.raises(Invalid, match="1024 without a result"):
        ollama.parse({"messages": said})


@pytest.mark.parametrize("name", ["anthropic", "responses"])
def test_many_messages_of_one_role_are_joined_in_time(name: str) -> None:
    """They were copied once for each of them: 16 000 of 600 bytes took ten seconds."""
    parse, field, more = DIALECTS[name]
    said = [{"role": "assistant", "content": "x" * 600}] * 16_000
    began = time.process_time()
    request = parse({field: [SAID, *said], **more})
    assert time.process_time() - began < 2
    request = getattr(request, "request", request)
    assert len(request.messages) == 2
    assert len(request.messages[1].content) == 16_000 * 601 - 1


def test_images_between_texts_stand_where_they_were() -> None:
    text = {"type": "text", "text": "ab"}
    image = {"type": "image", "source": {"type": "url", "url": "http://x/y"}}
    said = [
        {"role": "user", "content": [image, text, image, text, image]},
        {"role": "user", "content": [text, image]},
    ]
    (message,) = anthropic.parse({"messages": said, "max_tokens": 1}).messages
    assert message.content == "ab\nab\nab"
    assert [one.at for one in message.media] == [0, 2, 5, 8]


def test_objects_of_a_body_are_bounded() -> None:
    for unit in (b'{"a":1}', b"{ }", b"[]", b'["x"]', b'{\n"a":[\n1]}'):
        many = b"[" + b",".join([unit] * (MAX_OBJECTS + 1)) + b"]"
        with pytest.raises(BadRequest, match=f"more than {MAX_OBJECTS} objects"):
            check_objects(many)
    check_objects(b"[" + b'{"a":1},' * (MAX_OBJECTS - 2) + b"1]")


def test_strings_of_a_body_are_bounded() -> None:
    check_objects(b"[" + b'"a",' * (MAX_STRINGS - 1) + b'"a"]')
    with pytest.raises(BadRequest, match=f"more than {MAX_STRINGS} names"):
        check_objects(b"[" + b'"a",' * MAX_STRINGS + b'"a"]')


def test_text_of_a_program_is_no_object() -> None:
    text = b'{"prompt":"' + b'function(){return {\\"a\\":[1,2]}}\\n' * 100_000 + b'"}'
    assert len(text) > LARGE
    check_objects(text)

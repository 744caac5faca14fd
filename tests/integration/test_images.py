"""Images, in every API that has them, on a llama-server with vision (a made-up projector).

Greedy answers of a model that babbles are a fingerprint of its prompt: the same text and image are
answered alike in every API, another image otherwise.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import documents
from tests.clients import anthropic, ollama
from tests.integration.asking import openai_client
from tools import made_up_mmproj
from tools.processes import Gateway, ModelServer

ASK = "What is to be seen?"
BUDGET = 12
GREEDY = {"temperature": 0}
OPTIONS = {"num_predict": BUDGET, "temperature": 0}


def picture(red: int, green: int, blue: int) -> str:
    return base64.b64encode(documents.png(red, green, blue)).decode()


RED, BLUE = picture(255, 0, 0), picture(0, 0, 255)


def url(image: str) -> str:
    return f"data:image/png;base64,{image}"


def openai_chat(base: str, image: str, first: bool = False) -> str:
    """The answer about an image after the question, or before it."""
    with openai_client(base) as client:
        parts: Any = [
            {"type": "text", "text": ASK},
            {"type": "image_url", "image_url": {"url": url(image), "detail": "low"}},
        ]
        if first:
            parts.reverse()
        answer = client.chat.completions.create(
            model="any",
            messages=[{"role": "user", "content": parts}],
            max_tokens=BUDGET,
            temperature=0,
        )
    return answer.choices[0].message.content or ""


def openai_responses(base: str, image: str) -> str:
    with openai_client(base) as client:
        parts: Any = [
            {"type": "input_text", "text": ASK},
            {"type": "input_image", "image_url": url(image), "detail": "auto"},
        ]
        answer = client.responses.create(
            model="any",
            input=[{"role": "user", "content": parts}],
            max_output_tokens=BUDGET,
            temperature=0,
        )
    return answer.output_text


def anthropic_messages(base: str, image: str) -> str:
    with anthropic.Anthropic(base_url=base, api_key="x", max_retries=0) as client:
        source: Any = {"type": "base64", "media_type": "image/png", "data": image}
        blocks: Any = [{"type": "text", "text": ASK}, {"type": "image", "source": source}]
        answer = client.messages.create(
            model="any",
            messages=[{"role": "user", "content": blocks}],
            max_tokens=BUDGET,
            extra_body=GREEDY,
        )
    return "".join(block.text for block in answer.content if block.type == "text")


@contextlib.contextmanager
def ollama_client(base: str) -> Iterator[ollama.Client]:
    client = ollama.Client(base)
    try:
        yield client
    finally:
        client._client.close()  # it has no API for it


def ollama_chat(base: str, image: str) -> str:
    said = {"role": "user", "content": ASK, "images": [image]}
    with ollama_client(base) as client:
        return client.chat("any", [said], options=OPTIONS).message.content or ""


def ollama_generate(base: str, image: str) -> str:
    with ollama_client(base) as client:
        return client.generate("any", ASK, images=[image], options=OPTIONS).response or ""


Look = Callable[[str, str], str]
LOOKS = [openai_chat, openai_responses, anthropic_messages, ollama_chat, ollama_generate]


@pytest.fixture(scope="module")
def seeing(start_server: Callable[..., ModelServer], made_up_model: Path) -> ModelServer:
    projector = made_up_mmproj.cached(made_up_model)
    return start_server("llama-2026", extra=("--mmproj", str(projector)))


@pytest.fixture(scope="module")
def address(seeing: ModelServer, module_gateway: Callable[..., Gateway]) -> str:
    return module_gateway("--llama-api", seeing.url).url


def begin_alike(text: str, other: str) -> bool:
    """Whether two answers are the same in their first words. Later, rounding may change one: a
    prompt that is cached is evaluated in other batches."""
    return text[:10] == other[:10] != ""


@pytest.mark.parametrize("look", LOOKS)
def test_image_reaches_the_model(look: Look, address: str, seeing: ModelServer) -> None:
    first = look in (ollama_chat, ollama_generate)  # where Ollama puts images
    assert begin_alike(look(address, RED), openai_chat(seeing.url, RED, first))
    assert begin_alike(look(address, BLUE), openai_chat(seeing.url, BLUE, first))
    assert look(address, RED) != look(address, BLUE)


def test_image_keeps_its_place_in_the_message(address: str, seeing: ModelServer) -> None:
    before = openai_chat(address, RED, first=True)
    assert begin_alike(before, openai_chat(seeing.url, RED, first=True))
    assert before != openai_chat(address, RED)


def test_vision_is_reported_in_model_lists(address: str) -> None:
    with ollama_client(address) as client:
        (model,) = client.list().models
        assert "vision" in (client.show(model.model or "").capabilities or ())


def test_tool_result_may_contain_an_image(address: str) -> None:
    """As Claude Code sends what its Read tool finds in a PNG."""

    def say(image: str) -> Any:
        source = {"type": "base64", "media_type": "image/png", "data": image}
        use: Any = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a.png"}}
        result: Any = {
            "type": "tool_result",
            "tool_use_id": "toolu_1",
            "content": [{"type": "image", "source": source}],
        }
        tools: Any = [{"name": "read", "input_schema": {"type": "object"}}]
        with anthropic.Anthropic(base_url=address, api_key="x", max_retries=0) as client:
            return client.messages.create(
                model="any",
                max_tokens=BUDGET,
                extra_body=GREEDY,
                tools=tools,
                tool_choice={"type": "none"},
                messages=[
                    {"role": "user", "content": ASK},
                    {"role": "assistant", "content": [use]},
                    {"role": "user", "content": [result]},
                ],
            ).content

    assert say(RED) and say(RED) != say(BLUE)

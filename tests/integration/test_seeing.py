"""Images for a model that does not see, on a real server of 2023: described by a llama-server with
a made-up projector, and by a server with OpenAI's API whose answers are given. And a route that
sends images to the model that sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import wait_until
from tests.integration.asking import chat, fetch
from tests.integration.test_images import BLUE, LOOKS, RED, Look, url
from tests.openai_server import OpenAIServerFake
from tools import made_up_mmproj
from tools.processes import Gateway, ModelServer

CONFIG = """
default_model = "{default}"
vision = "eyes"

[[backend]]
name = "blind"
url = "{blind}"
model = "blind"

[[backend]]
name = "eyes"
url = "{eyes}"
model = "{model}"
aliases = ["eyes"]

[[route]]
model = "auto"
rules = [{{ images = true, models = ["eyes"] }}, {{ models = ["blind"] }}]
"""
TEXT = "A red square on a white ground. " * 8
Start = Callable[..., str]


@pytest.fixture(scope="module")
def start(
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    tmp_path_factory: pytest.TempPathFactory,
) -> Start:
    """Factory: the address of a gateway with the model `blind`, a server that sees, and a
    default."""
    blind = start_server("llama-2023")
    folder = tmp_path_factory.mktemp("config")

    def started(default: str, eyes: str, model: str) -> str:
        file = folder / f"{default}-{model}.toml"
        words = {"default": default, "blind": blind.url, "eyes": eyes, "model": model}
        file.write_text(CONFIG.format(**words))
        return module_gateway("--config", str(file)).url

    return started


@pytest.fixture(scope="module")
def describer() -> Iterator[OpenAIServerFake]:
    with OpenAIServerFake(TEXT) as server:
        yield server


@pytest.fixture(scope="module")
def real(start_server: Callable[..., ModelServer], made_up_model: Path) -> str:
    projector = made_up_mmproj.cached(made_up_model)
    return start_server("llama-2026", extra=("--mmproj", str(projector))).url


def image(data: str) -> dict[str, Any]:
    """An image with a short description: a made-up model does not end by itself."""
    return {"type": "image_url", "image_url": {"url": url(data), "detail": "low"}}


def warm_conversation(base: str) -> None:
    """A conversation with an image, whose second turn evaluates only what is new."""
    fields = {"model": "blind", "max_tokens": 8}
    text = {"type": "text", "text": "Look at this square."}
    messages: list[Any] = [{"role": "user", "content": [text, image(RED)]}]
    first, headers = chat(base, messages=messages, **fields)
    assert headers["x-slotproxy-backend"] == "blind"
    assert "images: described by the model eyes" in headers["x-slotproxy-warning"]
    messages.append({"role": "assistant", "content": first["choices"][0]["message"]["content"]})
    messages.append({"role": "user", "content": "And?"})
    # So short a prompt is evaluated again sooner than its slot is ready.
    wait_until(lambda: "settling" not in str(fetch(base, "/v1/slots")[2]))
    second, headers = chat(base, messages=messages, **fields)
    assert headers["x-slotproxy-backend"] == "blind"
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    # All of the first prompt, up to the last tokens, which may join others now.
    assert cached >= first["usage"]["prompt_tokens"] - 8 > 40


def test_conversation_with_an_image_stays_warm(start: Start, describer: OpenAIServerFake) -> None:
    warm_conversation(start("blind", describer.url, "m"))
    (described,) = [body for body in describer.bodies if "Look at this" in str(body)]
    assert url(RED) in str(described)


def test_conversation_stays_warm_with_the_words_of_a_real_model(start: Start, real: str) -> None:
    warm_conversation(start("blind", real, "eyes-2026"))


@pytest.mark.parametrize("look", LOOKS)
def test_images_of_every_api_are_described(
    look: Look, start: Start, describer: OpenAIServerFake
) -> None:
    base, before = start("blind", describer.url, "m"), len(describer.bodies)
    assert look(base, BLUE)
    # Some APIs put the image and its text alike, and then have one description.
    assert all(url(BLUE) in str(body) for body in describer.bodies[before:])


@pytest.mark.parametrize("look", LOOKS)
def test_route_sends_images_of_every_api_to_the_model_that_sees(
    look: Look, start: Start, real: str
) -> None:
    base = start("auto", real, "eyes-2026")
    assert look(base, RED) != look(base, BLUE)  # the made-up model answers what it sees


def test_route_sends_texts_to_the_other_model(start: Start, describer: OpenAIServerFake) -> None:
    base = start("auto", describer.url, "m")
    answer, headers = chat(base, "Hi", model="auto", max_tokens=8)
    assert headers["x-slotproxy-model"] == headers["x-slotproxy-backend"] == "blind"
    assert answer["model"] == "blind"
    messages = [{"role": "user", "content": [image(RED)]}]
    _, headers = chat(base, messages=messages, model="auto", max_tokens=8)
    assert headers["x-slotproxy-model"] == headers["x-slotproxy-backend"] == "eyes"

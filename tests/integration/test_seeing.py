"""A route with rules, and images for a model that does not see, on real servers: one of 2023 that
does not see, and a llama-server with a made-up projector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.asking import fetch
from tests.integration.test_images import BLUE, LOOKS, RED, Look, url
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
model = "eyes"

[[route]]
model = "auto"
rules = [{{ images = true, models = ["eyes"] }}, {{ models = ["blind"] }}]
"""


Start = Callable[[str], str]


@pytest.fixture(scope="module")
def start(
    start_server: Callable[..., ModelServer],
    module_gateway: Callable[..., Gateway],
    made_up_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Start:
    """Factory: the address of a gateway with these models and this default."""
    projector = made_up_mmproj.cached(made_up_model)
    eyes = start_server("llama-2026", extra=("--mmproj", str(projector)))
    blind = start_server("llama-2023")
    folder = tmp_path_factory.mktemp("config")

    def started(default: str) -> str:
        file = folder / f"{default}.toml"
        file.write_text(CONFIG.format(default=default, blind=blind.url, eyes=eyes.url))
        return module_gateway("--config", str(file)).url

    return started


def image(data: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url(data)}}


def ask(base: str, model: str, messages: Any) -> tuple[dict[str, str], Any]:
    body = {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0}
    status, headers, answer = fetch(base, "/v1/chat/completions", body)
    assert status == 200, answer
    return headers, answer


@pytest.mark.parametrize("look", LOOKS)
def test_route_sends_images_of_every_api_to_the_model_that_sees(look: Look, start: Start) -> None:
    base = start("auto")
    assert look(base, RED) != look(base, BLUE)  # the made-up model answers what it sees


def test_route_sends_texts_to_the_other_model(start: Start) -> None:
    headers, answer = ask(start("auto"), "auto", [{"role": "user", "content": "Hi"}])
    assert headers["x-slotproxy-model"] == headers["x-slotproxy-backend"] == "blind"
    assert answer["model"] == "blind"


def test_conversation_with_an_image_stays_warm_on_the_model_that_does_not_see(start: Start) -> None:
    base = start("blind")
    text = {"type": "text", "text": "Look at this square."}
    messages: list[Any] = [{"role": "user", "content": [text, image(RED)]}]
    headers, first = ask(base, "blind", messages)
    assert headers["x-slotproxy-backend"] == "blind"
    assert "described by the model eyes" in headers["x-slotproxy-warning"]
    messages.append(first["choices"][0]["message"])
    messages.append({"role": "user", "content": "And?"})
    headers, second = ask(base, "blind", messages)
    assert headers["x-slotproxy-backend"] == "blind"
    cached = second["usage"]["prompt_tokens_details"]["cached_tokens"]
    # All of the first prompt, up to the last tokens, which may join others now.
    assert cached >= first["usage"]["prompt_tokens"] - 4 > 60


@pytest.mark.parametrize("look", LOOKS)
def test_images_of_every_api_are_described(look: Look, start: Start) -> None:
    assert look(start("blind"), RED)

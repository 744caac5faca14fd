"""Two models answer the same question side by side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import OpenAIServerFake
from tools.processes import Gateway

from .conftest import DESKTOP, OPENED, PHONE, Open, running
from .fed import FLAGS
from .test_chat import ask, until


def model(name: str, reply: str) -> OpenAIServerFake:
    listed = {"object": "list", "data": [{"id": name, "object": "model"}]}
    return OpenAIServerFake(reply, pages={"GET /v1/models": listed})


@pytest.fixture
def two_models(tmp_path: Path) -> Iterator[Gateway]:
    replies = {"small": "Ships float.", "large": "They displace **water**."}
    with model("small", replies["small"]) as small, model("large", replies["large"]) as other:
        config = tmp_path / "slotproxy.toml"
        tables = [
            f'[[backend]]\nkind = "openai"\nurl = "{server.url}"\nslots = 4\n'
            for server in (small, other)
        ]
        config.write_text("\n".join(tables))
        words = ["--config", str(config), "--data", str(tmp_path / "data"), *FLAGS]
        gateway = Gateway(words, tmp_path / "gateway.log")
        with running(gateway):
            yield gateway


@pytest.mark.parametrize(("size", "language"), [(PHONE, "zh"), (DESKTOP, "en")])
def test_two_models_answer_and_one_answer_is_kept(
    two_models: Gateway, visit: Open, accessible: Any, size: tuple[int, int], language: str
) -> None:
    page = visit(f"{two_models.url}/", size=size, language=language)
    page.locator(OPENED).wait_for()
    page.locator("select[name=model]").select_option("small")
    assert page.locator(".kinds").evaluate("node => node.scrollWidth - node.clientWidth") == 0
    page.locator('[data-part="compare"]').click()
    offered = page.locator("select[name=second] option")
    until(page, lambda: offered.all_inner_texts() == ["large"])
    ask(page, "Why do ships float?")
    columns = page.locator(".pair > section")
    said = columns.locator(".said")
    until(page, lambda: said.all_inner_texts() == ["Ships float.", "They displace water."])
    done = page.locator('.pair [data-status="done"]')
    until(page, lambda: done.count() == 2)
    assert columns.locator("header strong").all_inner_texts() == ["small", "large"]
    first, second = (columns.nth(n).bounding_box() for n in range(2))
    assert (first["x"] == second["x"]) == (size == PHONE)
    accessible(page)
    page.reload()  # they are still side by side, and the model is the first one
    until(page, lambda: said.count() == 2)
    model = page.locator("select[name=model]")
    until(page, lambda: model.input_value() == "small")
    ask(page, "And submarines?")
    keep = {"en": "Keep this one", "zh": "保留这个"}[language]
    page.locator('[data-part="told"]:not(:empty)').wait_for()
    columns.nth(1).get_by_role("button", name=keep).click()
    until(page, lambda: columns.count() == 0)
    answers = page.locator(".message.assistant .said")
    until(page, lambda: answers.all_inner_texts() == ["They displace water."])
    until(page, lambda: model.input_value() == "large")
    page.get_by_text({"en": "2 of 2", "zh": "2 / 2"}[language]).wait_for()
    page.locator("#text").press("Enter")
    until(page, lambda: page.locator(".message.user").count() == 2)
    until(page, lambda: page.locator('.message.assistant[data-status="done"]').count() == 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_model_that_fails_is_offered_last(two_models: Gateway, visit: Open) -> None:
    states = {"third": "ready", "small": "stopped", "large": "failed"}
    rest: dict[str, Any] = {"place": 0, "left": None, "context": 0, "sees": False, "defaults": {}}
    models = [{"name": name, "title": name, "state": states[name], **rest} for name in states]
    page = visit(f"{two_models.url}/connect")
    listing = {"models": models, "unread": []}
    page.route("**/api/chat/models", lambda route: route.fulfill(json=listing))
    page.goto(f"{two_models.url}/")
    page.locator(OPENED).wait_for()
    model = page.locator("select[name=model]")
    until(page, lambda: model.input_value() == "third")  # which is listed first
    page.locator('[data-part="compare"]').click()
    texts = page.locator("select[name=second] option").all_inner_texts
    until(page, lambda: [text.partition(" ")[0] for text in texts()] == ["small", "large"])

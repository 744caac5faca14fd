"""The model of a conversation: kept, gone, named by its answers, and what an answer waits for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import Feed, OpenAIServerFake
from tools.processes import Gateway, held_port

from .conftest import DESKTOP, OPENED, PHONE, Open, running
from .fed import FLAGS
from .test_chat import DONE, answered, ask, until

NAMES = ("alpha", "beta-with-a-long-name-of-40-letters-q4_k_m")


class TwoModels:
    """A gateway in front of two models."""

    def __init__(self, folder: Path, models: list[OpenAIServerFake]) -> None:
        self.models = models
        self._folder = folder
        self.write(NAMES)
        flags = ["--config", str(folder / "slotproxy.toml"), "--data", str(folder / "data"), *FLAGS]
        self.gateway = Gateway(flags, folder / "gateway.log", port=held_port())

    def write(self, names: tuple[str, ...], more: str = "") -> None:
        backends = (
            f'[[backend]]\nkind = "openai"\nurl = "{model.url}"\nmodel = "{name}"\nslots = 1\n'
            for name, model in zip(names, self.models, strict=False)
        )
        (self._folder / "slotproxy.toml").write_text("".join((*backends, more)))


@pytest.fixture
def two(tmp_path: Path) -> Iterator[TwoModels]:
    listed = [
        {"GET /v1/models": {"object": "list", "data": [{"id": name, "object": "model"}]}}
        for name in NAMES
    ]
    with OpenAIServerFake("A.", pages=listed[0]) as a, OpenAIServerFake("B.", pages=listed[1]) as b:
        site = TwoModels(tmp_path, [a, b])
        with running(site.gateway):
            yield site


def opened(url: str, visit: Open, **how: Any) -> Any:
    page = visit(url, **how)
    page.locator(OPENED).wait_for()
    return page


def test_conversation_keeps_its_model_and_branch_in_another_browser(
    two: TwoModels, visit: Open, accessible: Any
) -> None:
    page = opened(f"{two.gateway.url}/", visit)
    model = page.get_by_role("combobox", name="Model")
    model.select_option(NAMES[1])
    assert model.evaluate("node => node.scrollWidth <= node.clientWidth")  # not cut
    ask(page, "Hello!")
    assert answered(page) == "B."
    assert NAMES[1] in page.locator(f"{DONE} .foot").inner_text()
    page.get_by_role("button", name="Regenerate").click()
    page.get_by_text("2 of 2").wait_for()
    answered(page)
    page.get_by_role("button", name="Previous version").click()
    page.get_by_text("1 of 2").wait_for()
    other = opened(page.url, visit, size=PHONE)
    other.get_by_text("1 of 2").wait_for()
    model = other.get_by_role("combobox", name="Model")
    until(other, lambda: model.input_value() == NAMES[1])
    accessible(other)
    two.gateway.kill()
    two.write(NAMES[:1])
    two.gateway.start()
    other.reload()
    other.get_by_text("is not available any more").wait_for()
    sent = len(two.models[0].bodies)
    ask(other, "Again?")
    other.get_by_role("alert").get_by_text(NAMES[1]).wait_for()
    assert other.locator("#text").input_value() == "Again?" and len(two.models[0].bodies) == sent
    other.get_by_role("combobox", name="Model").select_option(NAMES[0])
    other.locator("#text").press("Enter")
    until(other, lambda: other.locator(DONE).count() == 2)
    assert answered(other) == "A."


def test_model_of_a_server_that_is_off_is_not_called_gone(
    two: TwoModels, visit: Open, accessible: Any
) -> None:
    page = opened(f"{two.gateway.url}/", visit)
    page.get_by_role("combobox", name="Model").select_option(NAMES[1])
    ask(page, "Hello!")
    assert answered(page) == "B."
    server = f"127.0.0.1:{held_port()}"
    two.gateway.kill()
    two.write(NAMES[:1], f'[[backend]]\nurl = "http://{server}/v1"\n')
    two.gateway.start()
    page.reload()
    page.get_by_text(f"may be at {server}, which is not reachable").wait_for()
    page.locator("#model-state").get_by_text("Not reachable").wait_for()
    models = page.get_by_role("combobox", name="Model").locator("option")
    until(page, lambda: models.all_inner_texts() == [*NAMES])  # and no model of a made-up name
    other = visit(f"{two.gateway.url}/models", size=PHONE)
    card = other.locator(".model").filter(has_text=server)
    card.get_by_text("connection refused").wait_for()
    assert card.get_by_text("Not reachable").is_visible()
    accessible(other)


def test_answer_says_what_it_waits_for(two: TwoModels, visit: Open) -> None:
    page = opened(f"{two.gateway.url}/", visit)
    feed = Feed()
    two.models[0].replies.insert(0, feed)
    try:
        ask(page, "Hello!")
        wait = page.locator(".wait")
        wait.filter(has_text=re.compile(r"Waiting for alpha · \d+ s")).wait_for()
        feed.say(reasoning_content="Hm.")
        wait.filter(has_text=re.compile(r"Thinking · \d+ s")).wait_for()
        assert page.locator(".wait [role=status]").inner_text() == "Thinking"  # without the seconds
        page.wait_for_timeout(1000)
        feed.say(content="Yes.")
        wait.wait_for(state="detached")
    finally:
        feed.end()
    page.locator(DONE).wait_for()
    page.locator('[data-name="reasoning"] summary', has_text=" s").wait_for()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_menu_and_editor_are_used_with_the_keyboard(
    two: TwoModels, visit: Open, accessible: Any, size: tuple[int, int]
) -> None:
    page = opened(f"{two.gateway.url}/", visit, size=size)
    ask(page, "Hello!")
    answered(page)
    menu = page.get_by_role("button", name="More actions")
    menu.press("Enter")
    page.locator('[data-part="rename"]:focus').wait_for()
    page.keyboard.press("ArrowUp")
    page.locator('[data-part="delete"]:focus').wait_for()
    accessible(page)
    page.keyboard.press("Escape")
    until(page, lambda: menu.evaluate("node => node === document.activeElement"))
    page.get_by_role("menu").wait_for(state="hidden")

    page.get_by_role("button", name="Edit").click()
    edit = page.locator(".editing textarea")
    accessible(page)
    column = page.locator(".message.user").bounding_box()
    assert column and edit.bounding_box()["width"] > column["width"] - 40
    page.keyboard.press("Escape")
    assert page.locator(".message.user .said").inner_text() == "Hello!"
    page.get_by_role("button", name="Edit").click()
    edit.fill("Good morning!")
    edit.press("Enter")
    page.get_by_text("2 of 2").wait_for()
    assert answered(page) == "A."


def test_error_of_a_server_stands_in_a_frame(two: TwoModels, visit: Open, accessible: Any) -> None:
    page = opened(f"{two.gateway.url}/", visit)
    two.models[0].replies[:] = [(500, {"error": {"message": "CUDA out of memory"}})]
    ask(page, "Hello!")
    failed = page.locator('.message.assistant[data-status="failed"]')
    failed.locator(".fault strong").wait_for()
    assert failed.get_by_role("button", name="Good answer").count() == 0
    assert "failed" not in failed.locator(".foot").inner_text()
    accessible(page)
    two.models[0].replies[:] = ["A."]
    failed.get_by_role("button", name="Try again").click()
    page.get_by_text("2 of 2").wait_for()
    assert answered(page) == "A."

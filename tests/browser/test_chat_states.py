"""The chat page's words to a waiting user, and when something went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.openai_server import OpenAIServerFake
from tools.processes import Gateway, held_port

from .conftest import OPENED, PHONE, Open, running
from .fed import FLAGS, FedSite, fed_site
from .test_chat import DONE, ask, until

LANGUAGES = pytest.mark.parametrize("language", ["en", "zh"])


@pytest.fixture(scope="module")
def fed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FedSite]:
    """Its model has one slot."""
    with fed_site(tmp_path_factory.mktemp("fed"), 1) as site:
        yield site


def opened(url: str, visit: Open, **how: Any) -> Any:
    page = visit(f"{url}/", **how)
    page.locator(OPENED).wait_for()
    return page


def test_place_in_the_queue_moves(fed: FedSite, visit: Open) -> None:
    first, second, third = (opened(fed.url, visit) for _ in range(3))
    feeds = [fed.feed() for _ in range(3)]
    ask(first, "First?")
    feeds[0].say(content="One ")
    first.locator(".message.assistant .said", has_text="One").wait_for()
    ask(second, "Second?")
    second.get_by_text("In line, place 1").wait_for()
    ask(third, "Third?")
    third.get_by_text("In line, place 2").wait_for()
    first.locator("#model-state", has_text="Busy").wait_for()
    feeds[0].end()
    third.get_by_text("In line, place 1").wait_for()
    for number, page in ((1, second), (2, third)):
        feeds[number].say(content="Done.")
        page.locator(".message.assistant .said", has_text="Done.").wait_for()
        feeds[number].end()
        page.locator(DONE).wait_for()


@LANGUAGES
def test_wait_for_a_lost_server_says_so(visit: Open, tmp_path: Path, language: str) -> None:
    with ExitStack() as stack:
        lost = stack.enter_context(ExitStack())
        # Each connection ends with its first answer, so none outlasts the server.
        model = lost.enter_context(OpenAIServerFake("Yes.", protocol_version="HTTP/1.0"))
        words = ["--llama-api", model.url, "--data", str(tmp_path / "data")]
        words += ["--health-interval", "0.5", "--no-local-embeddings"]
        gateway = Gateway(words, tmp_path / "gateway.log")
        stack.enter_context(running(gateway))
        page = opened(gateway.url, visit, language=language)
        ask(page, "Hello!")
        page.locator(DONE).wait_for()
        lost.close()
        state = page.locator("#model-state")
        state.filter(has_text={"en": "Not reachable", "zh": "无法连接"}[language]).wait_for()
        ask(page, "Are you there?")
        text = {"en": "does not answer · ", "zh": "没有响应 · "}[language]
        page.locator(".message.assistant .wait", has_text=text).wait_for()


@LANGUAGES
def test_cut_answer_says_so_and_can_be_continued(
    fed: FedSite, visit: Open, accessible: Any, language: str
) -> None:
    page = opened(fed.url, visit, language=language, size=PHONE)
    feed = fed.feed()
    ask(page, "Tell me everything.")
    feed.say(content="It began")
    feed.end("length")
    notice = {"en": "Stopped at", "zh": "个词元处停止"}[language]
    page.get_by_text(notice).wait_for()
    accessible(page)
    page.get_by_role("button", name={"en": "Continue", "zh": "继续"}[language]).wait_for()


@LANGUAGES
def test_failed_answer_says_what_to_do(
    visit: Open, accessible: Any, tmp_path: Any, language: str
) -> None:
    server = f"http://127.0.0.1:{held_port()}"  # nothing listens there
    flags = ["--llama-api", server, "--data", str(tmp_path / "data"), *FLAGS]
    gateway = Gateway([*flags, "--queue-timeout", "1"], tmp_path / "gateway.log")
    try:
        gateway.start(ready=0)
        page = opened(gateway.url, visit, language=language)
        state = page.locator("#model-state")
        state.filter(has_text={"en": "Not reachable", "zh": "无法连接"}[language]).wait_for()
        ask(page, "Hello!")
        failed = page.locator('.message.assistant[data-status="failed"]')
        failed.wait_for()
        text = {"en": "See the status page", "zh": "请查看状态页"}[language]
        failed.locator(".advice" if language == "en" else "strong", has_text=text).wait_for()
        assert failed.locator('.fault [lang="en"]', has_text="backend").count() == 1
        accessible(page)
        until(page, lambda: failed.get_by_role("button").count() > 0)
    finally:
        gateway.kill()

"""Titles of conversations that a model writes in an idle slot."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.errors import NoIdleSlot
from proxy.gateway import admission
from proxy.runtime.cancel import Cancel
from proxy.web.pages import titles
from tests.fakes import CAPS, ScriptedRun, ScriptsInTurn, say, services_of, wait_until

from .test_pages_chat import API, KEYED, Page

FOUR = msgspec.structs.replace(CAPS, slots=4)


def title_of(page: Page) -> Any:
    return page.client.get(f"{API}/conversations/{page.talk}", headers=KEYED).json["title"]


def waiting() -> bool:
    return bool(titles._waiting)


def test_model_writes_the_title_in_an_idle_slot(tmp_path: Path) -> None:
    page = Page(
        ScriptsInTurn(say("Paris."), say('**Title:** "Capital of France."'), caps=FOUR), tmp_path
    )
    page.ask(text="What  is the\ncapital?", title=True)
    assert title_of(page) == "What is the capital?"
    wait_until(lambda: title_of(page) == "Capital of France")
    task = page.driver.tasks[1]
    assert "What  is the\ncapital?" in task.prompt and "Paris." in task.prompt
    assert task.max_tokens == 40
    page.ask(text="And of Spain?", title=True)
    page.over()
    assert len(page.driver.tasks) == 3  # the title stays


def test_text_that_does_not_end_is_no_title(tmp_path: Path) -> None:
    cut = say("Fruit\n", "Apple", reason="length")
    page = Page(ScriptsInTurn(say("Paris."), cut, caps=FOUR), tmp_path)
    page.ask(text="What?", title=True)
    wait_until(lambda: len(page.driver.tasks) == 2 and not waiting())
    assert title_of(page) == "What?"


def test_titles_that_are_waited_for_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(titles, "MOST", 0)
    page = Page(ScriptsInTurn(say("Paris."), say("Never"), caps=FOUR), tmp_path)
    page.ask(text="What?", title=True)
    page.over()
    wait_until(lambda: services_of(page.client.application).observer.running == 0)
    assert title_of(page) == "What?" and len(page.driver.tasks) == 1


def test_page_that_does_not_want_titles_gets_none(tmp_path: Path) -> None:
    page = Page(ScriptsInTurn(say("Paris."), caps=FOUR), tmp_path)
    page.ask(text="What?")
    page.over()
    assert title_of(page) == "What?" and len(page.driver.tasks) == 1


class Renaming(ScriptsInTurn):
    """While the model writes the title, the user gives another."""

    page: Page

    def stream(self, task: Task, slot: int, caps: Capabilities, cancel: Cancel) -> ScriptedRun:
        if self.tasks:
            path = f"{API}/conversations/{self.page.talk}"
            self.page.client.put(path, json={"title": "Mine"}, headers=KEYED)
        return super().stream(task, slot, caps, cancel)


def test_title_of_the_user_is_never_replaced(tmp_path: Path) -> None:
    page = Page(driver := Renaming(say("Paris."), say("Its title"), caps=FOUR), tmp_path)
    driver.page = page
    page.ask(text="What?", title=True)
    wait_until(lambda: len(driver.tasks) == 2 and not waiting())
    assert title_of(page) == "Mine"


@pytest.mark.parametrize("slots", [1, 2])
def test_warm_conversation_keeps_its_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
) -> None:
    """With one slot, there is no title; with two, one is left to others while the other is warm."""
    monkeypatch.setattr(titles, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(admission, "PATIENCE", 0.0)
    caps = msgspec.structs.replace(CAPS, slots=slots)
    long = say("Paris.", usage=Usage(700, 300, 0))
    page = Page(ScriptsInTurn(long, say("Never"), caps=caps), tmp_path)
    over = threading.Event()
    run = titles.TitleJob.run

    def watched(job: titles.TitleJob) -> None:
        run(job)
        over.set()

    monkeypatch.setattr(titles.TitleJob, "run", watched)
    page.ask(text="What?", title=True)
    assert over.wait(20)
    assert len(page.driver.tasks) == 1 and title_of(page) == "What?"


def test_title_is_asked_for_again_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(ScriptsInTurn(say("Paris."), say("Capital"), caps=FOUR), tmp_path)
    monkeypatch.setattr(titles, "PAUSES", (0.0, 0.0))
    give, tries = titles.TitleJob._give, []

    def busy_at_first(job: titles.TitleJob) -> None:
        tries.append(job)
        if len(tries) == 1:
            raise NoIdleSlot("busy")
        give(job)

    monkeypatch.setattr(titles.TitleJob, "_give", busy_at_first)
    page.ask(text="What?", title=True)
    wait_until(lambda: title_of(page) == "Capital")
    assert len(tries) == 2


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("\n## Tides and *moons*\nSecond line", "Tides and moons"),
        ("Here is a **rich** answer with a footnote[^1]", "Here is a rich answer with a footnote"),
        ("Call `f(x)` and ***see*** [the *docs*](https://a.example)", "Call f(x) and see the docs"),
        ("\u8fd9\u662f**\u7c97\u4f53**\u5b57", "\u8fd9\u662f\u7c97\u4f53\u5b57"),
        ("Is 2 * 3 * 4 a[0]?", "Is 2 * 3 * 4 a[0]?"),
        ("Use **kwargs and __init__", "Use **kwargs and __init__"),
        ("a" * 100_000, ""),
        ("“Der Mond.”", "Der Mond"),
        ("\u300a\u6f6e\u6c50\u300b\u3002", "\u6f6e\u6c50"),
        ("The conversation is about many things that nobody asked for", ""),
        ("x" * 61, ""),
        ("a\x1bb", ""),
        (" \n", ""),
    ],
)
def test_what_is_no_title_is_left_out(text: str, title: str) -> None:
    assert titles.cleaned(text) == title

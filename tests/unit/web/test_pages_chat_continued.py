"""Continuing an answer on the chat page that was stopped or cut off."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from proxy.core.events import Batch, Finished, Started, TextDelta
from proxy.core.usage import Usage
from proxy.web.observability import Record
from proxy.web.pages import chat
from tests.fakes import ScriptedDriver, ScriptsInTurn, say, services_of, wait_until

from .test_pages_chat import API, KEYED, Held, Page

CUT: list[Batch] = [
    [Started(slot=0)],
    [TextDelta("The lamp ")],
    [Finished(reason="length", usage=Usage(4, 2, 0), slot=0)],
]
REST: list[Batch] = [
    [Started(slot=0)],
    [TextDelta("turns.")],
    [Finished(reason="stop", usage=Usage(6, 3, 0), slot=0)],
]


def test_answer_that_was_cut_off_is_continued_in_its_message(tmp_path: Path) -> None:
    page = Page(ScriptsInTurn(CUT, REST), tmp_path)
    page.ask(text="What does it do?")
    first = page.over()
    made = page.post(f"/answers/{first['id']}/continue", {"options": {"max_tokens": 5}})
    assert made.status_code == 201 and made.json["answer"]["status"] == "growing"
    whole = page.over()
    assert (whole["id"], whole["content"]) == (first["id"], "The lamp turns.")
    assert len(page.messages()) == 2
    assert whole["extra"]["finish_reason"] == "stop"
    assert whole["extra"]["usage"]["completion"] == 5
    task = page.driver.tasks[-1]
    assert task.request.messages[-1].content == "The lamp " and task.max_tokens == 5
    assert str(task.prompt).endswith("The lamp ")


def test_answer_is_continued_before_its_first_writer_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = Page(Held(), tmp_path)
    services = services_of(page.client.application)
    finish, leave = services.observer.finish, threading.Event()

    def late(record: Record) -> None:
        finish(record)
        if record.stream and record.route.endswith("/ask"):  # the first writer's
            assert leave.wait(60)

    monkeypatch.setattr(services.observer, "finish", late)
    answer = page.ask().json["answer"]["id"]
    wait_until(lambda: page.messages()[-1]["content"] == "first")
    page.post(f"/answers/{answer}/stop")
    page.over()
    assert page.post(f"/answers/{answer}/continue").status_code == 201
    second = chat._answers.get("", answer)
    assert second is not None
    leave.set()
    wait_until(lambda: services.writers.taken == 1)
    assert chat._answers.get("", answer) is second
    page.driver.go_on.set()
    assert page.over()["content"] == "firstfirst second"


@pytest.mark.parametrize("kind", ["question", "growing", "replied", "empty", "sources", "unknown"])
def test_other_messages_cannot_be_continued(tmp_path: Path, kind: str) -> None:
    driver = Held() if kind == "growing" else ScriptedDriver(say("Hello"))
    page = Page(driver, tmp_path)
    made = page.ask().json
    message = made["question" if kind == "question" else "answer"]["id"]
    if isinstance(driver, Held):
        assert page.post(f"/answers/{message}/continue").status_code == 400
        driver.go_on.set()
        page.over()
        return
    page.over()
    store = page.store
    if kind == "replied":
        store.add("", page.talk, "user", "More?", parent_id=message)
    elif kind == "empty":
        message = store.add("", page.talk, "assistant", "", made["question"]["id"]).id
    elif kind == "sources":
        extra = {"kind": "knowledge"}
        message = store.add("", page.talk, "assistant", "A", made["question"]["id"], extra=extra).id
    elif kind == "unknown":
        message = "msg_0"
    before = page.messages()
    refused = page.client.post(f"{API}/answers/{message}/continue", json={}, headers=KEYED)
    assert refused.status_code == (404 if kind == "unknown" else 400)
    assert page.messages() == before

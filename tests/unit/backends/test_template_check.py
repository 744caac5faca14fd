"""Prompts of a server that renders chats, compared with ours."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import pytest

from proxy.backends import template_check
from proxy.backends.driver import Capabilities
from proxy.backends.pools import Backend
from proxy.backends.template_check import check, look
from proxy.core.request import CompletionRequest
from proxy.core.task import Task
from proxy.errors import GatewayError, Unsupported, UpstreamTimeout
from proxy.prompting.profile.verify import KINDS, UNKNOWN
from proxy.prompting.prompt import Prompter
from proxy.prompting.template import templates
from tests.fakes import ScriptedDriver

NOW = datetime(2026, 1, 2, 3)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
CAPS = Capabilities(dialect="llama-server", chat=True, queues=True, template=TEMPLATE, build="b1")


class Rendering(ScriptedDriver):
    """A server that renders like us, then `changes` the prompt of a request."""

    def __init__(
        self,
        changes: Callable[[CompletionRequest, str], str | None] = lambda request, text: text,
        error: GatewayError | None = None,
        after: int = 0,
    ) -> None:
        super().__init__()
        self.changes = changes
        self.error, self.after = error, after
        self.prompter = prompter()
        self.rendered = 0

    def server_prompt(self, task: Task) -> str | None:
        request = task.request
        if self.error is not None and self.rendered >= self.after:
            raise self.error
        self.rendered += 1
        return self.changes(request, self.prompter.render(request, NOW).text)


def prompter(template: str = TEMPLATE) -> Prompter:
    return Prompter(templates.compile(template, "m"))


def shouting(request: CompletionRequest, text: str) -> str:
    return f"{text}!" if request.messages[0].role == "system" else text


def backend(driver: Rendering, **changed: Any) -> Backend:
    one = Backend("b", "http://b", driver)
    one.caps = msgspec.structs.replace(CAPS, **changed)
    return one


def test_equal_prompts_leave_every_kind_here() -> None:
    verdict = check(Rendering(), prompter(), NOW)
    assert verdict.differing == ()
    # This template describes no tools: ours is another text on purpose.
    assert {*verdict.outcomes} < {kind.name for kind in KINDS}
    assert {*verdict.outcomes.values()} == {"same"}


def test_only_the_kind_that_differs_is_named() -> None:
    """Probes with a system message say no more about other kinds."""
    verdict = check(Rendering(shouting), prompter(), NOW)
    assert verdict.differing == ("system",)


def test_server_that_refuses_leaves_the_kind_here() -> None:
    verdict = check(Rendering(lambda request, text: None), prompter(), NOW)
    assert verdict.differing == ()
    assert {*verdict.outcomes.values()} == {"refused"}


@pytest.mark.parametrize(
    ("written", "expected"),
    [("<assistant><think></think>", "differs"), ("<end>assistant>", "refused")],
)
def test_begun_answer_must_continue_the_question(written: str, expected: str) -> None:
    """A llama-server writes </s>|assistant|> for Phi-3.5."""

    def changed(request: CompletionRequest, text: str) -> str:
        if request.messages[-1].role != "assistant":
            return text
        return text.replace("<assistant>Nashira", f"{written}Nashira")

    outcomes = check(Rendering(changed), prompter(), NOW).outcomes
    assert outcomes["begun answer"] == expected
    assert outcomes["history"] == "same"


def test_fault_ends_a_check_and_keeps_what_is_known() -> None:
    verdict = check(Rendering(shouting, UpstreamTimeout("late"), after=4), prompter(), NOW)
    assert verdict.differing == ("system",)


def test_time_of_a_check_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_check, "MOST_TIME", 0.0)
    driver = Rendering()
    assert check(driver, prompter(), NOW).outcomes == {}
    assert driver.rendered == 0


def looked(one: Backend, form: Prompter | Task | None = None) -> None:
    look(lambda model: form or prompter(), lambda: NOW, one)


def test_verdict_is_asked_once_for_each_template_and_build(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    driver = Rendering(shouting)
    first, second = backend(driver), backend(driver)
    for one in (first, first, second):
        looked(one)
        assert one.verdict.differing == ("system",)
    asked = driver.rendered
    assert len(caplog.messages) == 2  # a line for each backend
    driver.changes = lambda request, text: text
    for changed in ({"build": "b2"}, {"template": f"{TEMPLATE} "}, {"bos_token": "<s>"}):
        first.caps = msgspec.structs.replace(CAPS, **changed)
        looked(first)
        assert first.verdict.differing == ()
        assert driver.rendered > asked
        asked = driver.rendered


@pytest.mark.parametrize(
    "changed",
    [
        {"chat": False},
        {"native": True},
        {"provisional": True},
        {"template": ""},
        {"template_from": "file"},
        {"chat_mode": "native"},
        {"chat_mode": "completion"},
    ],
)
def test_backend_without_prompts_of_its_own_is_not_asked(changed: dict[str, Any]) -> None:
    mode = changed.pop("chat_mode", "auto")
    one = backend(Rendering(shouting), **changed)
    one.chat_mode = mode
    looked(one)
    assert one.verdict is UNKNOWN


def test_server_without_the_route_leaves_every_kind_here() -> None:
    one = backend(Rendering(error=Unsupported("no route")))
    looked(one)
    assert one.verdict.differing == ()

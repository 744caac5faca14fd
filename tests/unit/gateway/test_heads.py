"""Beginnings that conversations share: learned from first turns, prewarmed after a load."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.backends.driver import Capabilities
from proxy.backends.pools import Backend
from proxy.core.request import CompletionRequest, Message
from proxy.core.task import Task
from proxy.core.usage import Usage
from proxy.gateway import Caller, prewarm
from proxy.gateway.heads import LEAST, MOST, MOST_GROUPS, Heads
from proxy.runtime.cancel import Cancel
from proxy.scheduling.prefix import chain_of
from tests.fakes import CAPS, ScriptedDriver, make_app, say, services_of, wait_until

TOOLS = "a tool of the agent " * (LEAST // 10)


def first(question: str, head: str = TOOLS, *before: Message) -> Task:
    messages = (*before, Message(role="user", content=question))
    request = CompletionRequest(messages=messages)
    return Task(prompt=f"{head}{question}", boundaries=(len(head),), request=request)


def learn(heads: Heads, model: str, caller: Caller, task: Task) -> None:
    chain = chain_of(task.prompt, task.boundaries, f"{model}\0{caller.group}")
    heads.learn(model, caller, task, chain)


def learned(*tasks: Task, caller: Caller = Caller(group="a")) -> list[str]:  # noqa: B008  # frozen
    heads = Heads()
    for task in tasks:
        learn(heads, "m", caller, task)
    return [head.text for head in heads.of("m")]


def test_what_two_conversations_share_is_learned() -> None:
    assert learned(first("Fix it.")) == []
    assert learned(first("Fix it."), first("Explain it.")) == [TOOLS]
    other = "another agent " * LEAST
    mixed = [first("a"), first("b", other), first("c"), first("d", other), first("e", other)]
    assert learned(*mixed) == [other, TOOLS]


@pytest.mark.parametrize(
    "task",
    [
        first("short", ""),
        first("later", TOOLS, Message(role="assistant", content="Hello")),
        msgspec.structs.replace(first("marks"), breaks=(5,)),
        Task(prompt=TOOLS),
    ],
    ids=["short", "later turn", "control tokens", "no chat"],
)
def test_other_prompts_are_not_kept(task: Task) -> None:
    assert learned(task, task) == []


def test_groups_and_side_jobs_are_kept_apart() -> None:
    assert learned(first("a"), first("b"), caller=Caller(group="a", background=True)) == []
    heads = Heads()
    for group in ("a", "b"):
        learn(heads, "m", Caller(group=group), first("Hi"))
    assert heads.of("m") == []
    # Of one conversation, no text is kept.
    assert not any(head.text for learnt in heads.by_group.values() for head in learnt)


def test_memory_is_bounded() -> None:
    heads = Heads()
    for number in range(3 * MOST_GROUPS):
        for _ in range(2):
            learn(heads, "m", Caller(group=f"{number}"), first("Hi"))
    assert len(heads.of("m")) == MOST_GROUPS
    for number in range(3 * MOST):
        learn(heads, "m", Caller(group="a"), first("Hi", f"{number} {TOOLS}"))
    assert sum(map(len, heads.by_group.values())) <= MOST_GROUPS + MOST


def body(question: str) -> dict[str, Any]:
    messages = [{"role": "system", "content": TOOLS}, {"role": "user", "content": question}]
    return {"messages": messages, "max_tokens": 4}


def test_model_that_was_unloaded_is_not_loaded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Driver(ScriptedDriver):
        status = "loaded"

    heads, prewarmed = Heads(), list[str]()
    monkeypatch.setattr(prewarm, "_prewarm_heads", lambda *words: prewarmed.append(words[2]))
    gateway = services_of(make_app(ScriptedDriver())).gateway
    for status in ("unloaded", "sleeping", "loaded"):
        for question in ("Fix it.", "Explain it."):
            learn(heads, status, Caller(), first(question))
        driver = Driver(caps=msgspec.structs.replace(CAPS, models=(status,)))
        driver.status = status
        backend = Backend("b", "test://b", driver)
        backend.caps = driver.caps
        prewarm.after_load(gateway, heads, Cancel(), backend)
    wait_until(lambda: prewarmed)
    assert prewarmed == ["loaded"]


def test_backend_that_comes_back_is_prewarmed() -> None:
    caps = Capabilities(dialect="2026", slots=4, n_ctx=1 << 17, queues=True, models=("scripted",))
    driver = ScriptedDriver(say("Hi", usage=Usage(4000, 1, 0)), caps)
    app = make_app(driver)
    http, gateway = app.test_client(), services_of(app).gateway
    for question in ("Fix it.", "Explain it."):
        assert http.post("/v1/chat/completions", json=body(question)).status_code == 200
    driver.up = False
    (backend,) = gateway.registry.backends.values()
    gateway.registry.check(backend)
    asked = len(driver.tasks)
    driver.up = True
    gateway.registry.check(backend)
    wait_until(lambda: len(driver.tasks) > asked)
    head = driver.tasks[-1]
    assert head.max_tokens == 0
    assert TOOLS in head.text and "Fix" not in head.text and "Explain" not in head.text
    wait_until(lambda: not gateway.scheduler.outstanding)
    told = http.post("/v1/explain", json=body("Test it.")).get_json()
    chosen = told["places"][0]
    assert chosen["cached_tokens"] >= 4000 and chosen["cost_seconds"] < 1

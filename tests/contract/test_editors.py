"""Editors' chats on every kind of backend: unsupported fields are dropped or reported."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis.openai import chat as openai_chat
from proxy.backends.chatglm import prompt
from proxy.backends.driver import Capabilities
from proxy.backends.llamacpp import payload
from proxy.core.sampling import LATER, left_out
from proxy.core.task import Task
from tests.contract.editors import EDITS, WARM_UPS

OLD = Capabilities(dialect="2023", lacks=LATER)
NEW = Capabilities(dialect="llama-server", modern_sampling=True, queues=True)
BODIES = [
    pytest.param(body, id=f"{name}: {what}")
    for what, bodies in (("warm-up", WARM_UPS), ("edit", EDITS))
    for name, body in bodies.items()
]


def task(body: dict[str, Any]) -> Task:
    request = openai_chat.parse(body)
    return Task(prompt="p", sampling=request.sampling, max_tokens=9, request=request)


@pytest.mark.parametrize("body", BODIES)
def test_every_driver_accepts_the_sampling_fields(body: dict[str, Any]) -> None:
    one = task(body)
    assert not LATER & payload(one, 0, OLD).keys()
    assert payload(one, 0, NEW).items() >= one.sampling.items()
    assert prompt.sampling(one)["temperature"] == body.get("temperature", 0.95)


@pytest.mark.parametrize(
    ("name", "lacks", "told"),
    [
        ("llama.vim", LATER, ["samplers"]),
        ("llama.vim", prompt.LACKS, ["min_p", "samplers"]),
        ("llama.vscode of 2025", LATER, ["samplers"]),
        ("llama.vscode of 2025", prompt.LACKS, ["min_p", "samplers"]),
        ("llama.vscode of 2026", prompt.LACKS, []),
        ("llama.vscode of 2025", frozenset(), []),
    ],
)
def test_ignored_fields_are_reported(name: str, lacks: frozenset[str], told: list[str]) -> None:
    lines = left_out(task(EDITS[name]).sampling, lacks)
    assert [line.split()[0] for line in lines] == told


@pytest.mark.parametrize("name", EDITS)
def test_ignored_loras_are_reported(name: str) -> None:
    warnings = openai_chat.parse(EDITS[name]).warnings
    assert any(w.startswith("lora ") for w in warnings) is ("lora" in EDITS[name])

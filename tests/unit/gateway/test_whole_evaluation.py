"""Prompts that a server of 2023 evaluates whole, because it spoils a prompt that its slot holds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from proxy.gateway.leased_slot import SHORT
from tests.fakes import CAPS, ScriptedDriver, make_app

ONE = msgspec.structs.replace(CAPS, slots=1)  # so that both prompts go to one slot
OLD = msgspec.structs.replace(ONE, doubles=True)
WHOLE = False  # the value of cache_prompt


def sent(*bodies: tuple[str, dict[str, Any]], doubles: bool = True) -> list[Any]:
    """The `cache_prompt` of each request, None if it has none."""
    driver = ScriptedDriver(caps=OLD if doubles else ONE)
    http = make_app(driver).test_client()
    for path, body in bodies:
        assert http.post(path, json={"max_tokens": 4, **body}).status_code == 200
    return [task.sampling.get("cache_prompt") for task in driver.tasks]


def raw(prompt: str) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"prompt": prompt}


CHAT = "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}
LONG = "word " * SHORT


@pytest.mark.parametrize(
    ("bodies", "doubles", "values"),
    [
        ([raw("Hi")], True, [WHOLE]),  # the slot may hold anything
        ([raw(LONG)], True, [None]),  # a long prompt may find a cache that nobody knows of
        ([CHAT], True, [None]),
        ([raw(LONG), raw(LONG)], True, [None, WHOLE]),  # it repeats what the slot holds
        ([raw("Hi"), raw("Hi")], False, [None, None]),  # a later server
    ],
)
def test_prompt_that_a_server_may_spoil_is_evaluated_whole(
    bodies: list[tuple[str, dict[str, Any]]], doubles: bool, values: list[bool | None]
) -> None:
    assert sent(*bodies, doubles=doubles) == values

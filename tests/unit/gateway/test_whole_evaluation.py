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


def test_short_raw_prompt_is_evaluated_whole_in_a_slot_of_unknown_content() -> None:
    assert sent(raw("Hi")) == [WHOLE]


@pytest.mark.parametrize("request_", [raw(LONG), CHAT], ids=["long", "chat"])
def test_long_prompts_and_chats_may_find_a_cache_nobody_knows_of(request_: Any) -> None:
    assert sent(request_) == [None]


def test_repeated_prompt_is_evaluated_whole() -> None:
    assert sent(raw(LONG), raw(LONG)) == [None, WHOLE]


def test_later_servers_always_reuse_their_cache() -> None:
    assert sent(raw("Hi"), raw("Hi"), doubles=False) == [None, None]

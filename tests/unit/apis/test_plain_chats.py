"""The fast path for plain chats gives what the general one does."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.apis import fields
from proxy.apis.openai import chat
from proxy.errors import InvalidParameter

HI = {"role": "user", "content": "Hi"}
MOST = fields.MAX_ITEMS
BODIES: dict[str, dict[str, Any]] = {
    "least": {"messages": [HI]},
    "all": {"messages": [HI], "model": "m", "stream": True, "max_tokens": 16},
    "roles": {"messages": [{**HI, "role": role} for role in chat.ROLES if role != "tool"]},
    "developer": {"messages": [{**HI, "role": "developer"}, HI]},
    "tool": {"messages": [{**HI, "role": "tool"}]},
    "parts": {"messages": [HI, {"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
    "name": {"messages": [{**HI, "name": "n"}]},
    "nulls": {"messages": [HI], "model": None, "stream": None, "max_tokens": None},
    "none": {"messages": []},
    "no list": {"messages": HI},
    "absent": {"model": "m"},
    "most messages": {"messages": [HI] * MOST},
    "too many messages": {"messages": [HI] * (MOST + 1)},
    "long name": {"messages": [HI], "model": "m" * fields.MAX_MODEL},
    "too long a name": {"messages": [HI], "model": "m" * (fields.MAX_MODEL + 1)},
    "no text": {"messages": [HI], "model": 1},
    "no flag": {"messages": [HI], "stream": 1},
    "usage": {"messages": [HI], "stream_options": {"include_usage": True, "more": 1}},
    "no usage": {"messages": [HI], "stream_options": {}},
    "null usage": {"messages": [HI], "stream_options": {"include_usage": None}},
    "no options": {"messages": [HI], "stream_options": [], "temperature": None},
    **{
        f"temperature {n!r}": {"messages": [HI], "temperature": n}
        for n in (-0.1, 0, 0.7, 1, 100, 100.1, 101, True, "1", float("inf"), 1 << 70)
    },
    **{
        f"max_tokens {n!r}": {"messages": [HI], "max_tokens": n}
        for n in (-2, -1, 0, 1.0, 1.5, True, "1", 1 << 30, (1 << 30) + 1)
    },
}


def _parsed(body: dict[str, Any]) -> Any:
    try:
        return chat.parse(body)
    except InvalidParameter as error:
        return error.param, error.reason


@pytest.mark.parametrize("name", BODIES)
def test_same_request(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = _parsed(BODIES[name])
    monkeypatch.setattr(chat, "_PLAIN", frozenset())
    assert repr(fast) == repr(_parsed(BODIES[name]))  # 1 and 1.0 are equal, True is 1


def test_plain_chats_take_it() -> None:
    assert all(chat._plain_request(BODIES[name]) for name in ("least", "all", "developer", "usage"))

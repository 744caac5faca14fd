"""The session of a request, in the ways of different clients."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.web.model_tables import LONGEST, session_name
from proxy.web.people import LONGEST_ID

USER = json.dumps({"device_id": "d", "account_uuid": "", "session_id": "54c1"})


@pytest.mark.parametrize(
    ("environ", "body", "parsed", "name"),
    [
        ({}, {}, "", ""),
        ({"HTTP_X_SESSION_ID": "a", "HTTP_X_LITELLM_SESSION_ID": "b"}, {}, "", "a"),
        ({"HTTP_X_LITELLM_SESSION_ID": "b", "HTTP_X_CLAUDE_CODE_SESSION_ID": "c"}, {}, "", "b"),
        ({"HTTP_X_CONVERSATION_ID": "b"}, {}, "", "b"),
        ({"HTTP_X_CLAUDE_CODE_SESSION_ID": "c", "HTTP_SESSION_ID": "d"}, {}, "", "c"),
        ({"HTTP_X_OPENWEBUI_CHAT_ID": "o", "HTTP_X_SESSION_TOKEN": "t"}, {}, "", "o"),
        ({"HTTP_X_SESSION_TOKEN": "t"}, {}, "", "t"),
        ({"HTTP_SESSION_ID": "d", "HTTP_X_SESSION_AFFINITY": "e"}, {}, "key", "d"),
        ({"HTTP_X_SESSION_AFFINITY": "e"}, {"conversation": "f"}, "", "e"),
        ({"HTTP_X_SESSION_ID": ""}, {"conversation": "f"}, "key", "key"),
        ({}, {"conversation": "f", "metadata": {"user_id": USER}}, "", "f"),
        ({}, {"conversation": {"id": "g"}}, "", "g"),
        ({}, {"metadata": {"user_id": USER}}, "", "54c1"),
        ({}, {"metadata": {"user_id": "user_ab_account__session_57a1"}}, "", "57a1"),
    ],
)
def test_first_name_of_the_order_counts(
    environ: dict[str, str], body: dict[str, Any], parsed: str, name: str
) -> None:
    assert session_name(environ, body, parsed) == name


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"user_id": "alice"}},
        {"metadata": {"user_id": '{"session_id": 7}'}},
        {"metadata": {"user_id": '{"session_id": "x'}},
        {"metadata": {"user_id": "{" * LONGEST_ID}},
        {"metadata": {"user_id": "u" * LONGEST_ID + "_session_7"}},
        {"metadata": {"user_id": 7}},
        {"metadata": [USER]},
        {"conversation": {"id": ["a"]}},
        {"conversation": 7},
    ],
)
def test_other_values_name_no_session(body: dict[str, Any]) -> None:
    assert session_name({}, body) == ""


def test_names_have_a_bound() -> None:
    long = "x" * 100_000
    assert session_name({"HTTP_X_SESSION_ID": long}) == long[:LONGEST]
    assert session_name({}, {}, long) == long[:LONGEST]
    assert session_name({}, {"conversation": long}) == long[:LONGEST]

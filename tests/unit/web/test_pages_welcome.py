"""What an empty chat offers to try."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.web.pages.chat import offers

NOTHING: dict[str, Any] = {
    "files": False,
    "bases": False,
    "sees": False,
    "engines": False,
    "tools": (),
}


@pytest.mark.parametrize(
    ("setting", "value", "offer"),
    [
        ("files", True, "files"),
        ("bases", True, "base"),
        ("sees", True, "image"),
        ("engines", True, "search"),
        ("tools", ("get_time", "calculator"), "tools"),
    ],
)
def test_each_configured_feature_is_offered_first(setting: str, value: Any, offer: str) -> None:
    assert offers(**{**NOTHING, setting: value}) == (offer, "explain", "write", "code")


def test_one_plain_question_is_always_offered() -> None:
    everything = offers(files=True, bases=True, sees=True, engines=True, tools=("calculator",))
    assert everything == ("files", "base", "image", "explain")

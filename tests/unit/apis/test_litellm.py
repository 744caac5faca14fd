"""LiteLLM's management API: the values of its fields, and the rights of keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from proxy.accounts.records import StoredKey, User
from proxy.accounts.rights import Rights
from proxy.apis.litellm import objects, rights, values
from proxy.errors import InvalidParameter

KEY = StoredKey(id="key_1", digest="d1", shown="sk-...abcd", created=0.5, expires=86_400.0)


def _lasts(text: str) -> float | None:
    expires = objects.edit_key({"duration": text}, 100.0)(KEY).expires
    return None if expires is None else expires - 100.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("30d", 2_592_000),
        ("1w", 604_800),
        ("1mo", 2_592_000),
        ("-1", None),
    ],
)
def test_duration_is_read_as_litellm_does(text: str, seconds: float | None) -> None:
    assert _lasts(text) == seconds
    assert objects.edit_key({"duration": ""}, 0.0)(KEY) == KEY


@pytest.mark.parametrize("text", ["0s", "-2d", "1y", "d", "1.5h", "1 d", "5200w1", "x" * 100])
def test_wrong_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="duration must be a number and"):
        _lasts(text)


def _texts(count: int) -> list[str]:
    return [str(number) for number in range(count)]


BOUNDS: list[tuple[Callable[[int], Any], int]] = [
    (lambda most: values.name({"key_alias": "x" * most}, "key_alias"), values.MAX_NAME),
    (lambda most: values.names({"keys": _texts(most)}, "keys"), values.MAX_KEYS),
    (
        lambda most: values.metadata({"metadata": {"x": "y" * (most - 8)}}, "metadata"),
        values.MAX_METADATA,
    ),
    (lambda most: rights.parse({"models": _texts(most)}, Rights()), rights.MAX_RIGHTS),
    (lambda most: values.duration({"duration": f"{most}d"}), values.LONGEST // 86_400),
]


@pytest.mark.parametrize(("read", "most"), BOUNDS)
def test_values_are_bounded(read: Callable[[int], Any], most: int) -> None:
    assert read(most)
    with pytest.raises(InvalidParameter):
        read(most + 1)


def test_rights_are_read_and_shown() -> None:
    body = {
        "models": ["qwen*"],
        "allowed_routes": ["chat", "/v1/models"],
        "allowed_tools": ["web_*"],
        "allowed_knowledge_bases": ["hand*"],
        "allowed_ips": ["10.0.0.0/8", "::1"],
        "barred_tiers": ["cloud"],
        "read_only": True,
        "share": True,
        "pull": True,
        "priority": "low",
        "group": "research",
        "on_overflow": "compact",
    }
    read = rights.parse(body, Rights())
    shown = rights.shown(read)
    assert {
        name: list(shown[name]) if type(shown[name]) is tuple else shown[name] for name in body
    } == body
    assert rights.parse({}, read) == rights.parse(dict.fromkeys(body), read) == read
    assert rights.parse({name: type(value)() for name, value in body.items()}, read) == Rights()


@pytest.mark.parametrize("name", ["all-proxy-models", "all-team-models", "*"])
def test_litellms_names_of_all_models_are_no_limit(name: str) -> None:
    assert rights.parse({"models": [name, "a"]}, Rights()).models == ()


@pytest.mark.parametrize(
    ("role", "field", "read_only"),
    [
        ("internal_user", {}, False),
        ("internal_user_viewer", {"read_only": None}, True),
        ("internal_user", {"read_only": True}, True),
        ("internal_user_viewer", {"read_only": False}, False),
    ],
)
def test_read_only_counts_more_than_the_role_of_a_user(
    role: str, field: dict[str, Any], read_only: bool
) -> None:
    edit = objects.edit_user({"user_role": role, **field})
    assert edit(User(id="u")).rights.read_only is read_only


@pytest.mark.parametrize(
    "body",
    [
        {"models": "qwen"},
        {"models": [""]},
        {"allowed_routes": ["unknown"]},
        {"allowed_knowledge_bases": [""]},
        {"allowed_ips": ["10.0.0.0/99"]},
        {"allowed_ips": ["localhost"]},
        {"priority": "highest"},
        {"on_overflow": "cut"},
        {"group": "two words"},
        {"read_only": 1},
    ],
)
def test_wrong_rights_are_refused_by_name(body: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter) as caught:
        rights.parse_of_key(body, Rights())
    assert caught.value.param == next(iter(body))

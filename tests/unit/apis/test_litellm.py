"""LiteLLM's management API: bodies, queries and answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import replace

from proxy.accounts.records import StoredKey, User
from proxy.accounts.rights import Rights
from proxy.apis.litellm import groups, keys, rights, values
from proxy.errors import InvalidParameter

KEY = StoredKey(
    id="key_1", digest="d1", shown="sk-...abcd", alias="a", created=0.5, expires=86_400.0
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("30d", 2_592_000),
        ("1w", 604_800),
        ("1mo", 2_592_000),
        ("-1", math.inf),
        ("", None),
    ],
)
def test_duration_is_read_as_litellm_does(text: str, seconds: float | None) -> None:
    assert keys.parse_new({"duration": text}).lasts == seconds


@pytest.mark.parametrize("text", ["0s", "-2d", "1y", "d", "1.5h", "1 d", "5200w1", "x" * 100])
def test_wrong_durations_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="duration must be a number and"):
        keys.parse_new({"duration": text})


def test_durations_are_bounded() -> None:
    most = values.LONGEST // 86_400
    assert keys.parse_new({"duration": f"{most}d"}).lasts == values.LONGEST
    with pytest.raises(InvalidParameter):
        keys.parse_new({"duration": f"{most + 1}d"})


def test_length_of_names_is_bounded() -> None:
    assert keys.parse_new({"key_alias": "x" * values.MAX_NAME}).sets["alias"]
    with pytest.raises(InvalidParameter, match="255 characters"):
        keys.parse_new({"key_alias": "x" * (values.MAX_NAME + 1)})


def test_number_of_deleted_keys_is_bounded() -> None:
    names = [str(number) for number in range(values.MAX_KEYS + 1)]
    assert len(keys.parse_delete({"keys": names[1:]})[0]) == values.MAX_KEYS
    with pytest.raises(InvalidParameter, match="at most 1000"):
        keys.parse_delete({"keys": names})


def test_size_of_metadata_is_bounded() -> None:
    fits = {"x": "y" * (values.MAX_METADATA - len('{"x":""}'))}
    assert keys.parse_new({"metadata": fits}).sets["metadata"] == fits
    with pytest.raises(InvalidParameter, match="16384 bytes"):
        keys.parse_new({"metadata": {"x": fits["x"] + "y"}})


def test_number_of_rights_is_bounded() -> None:
    models = [str(number) for number in range(rights.MAX_RIGHTS + 1)]
    assert len(rights.parse({"models": models[1:]}, Rights()).models) == rights.MAX_RIGHTS
    with pytest.raises(InvalidParameter, match="at most 200"):
        rights.parse({"models": models}, Rights())


def test_number_of_members_is_bounded() -> None:
    members = [{"user_id": str(number)} for number in range(groups.MAX_MEMBERS + 1)]
    body = {"team_id": "t", "member": members[1:]}
    assert len(groups.parse_members(body)) == groups.MAX_MEMBERS
    with pytest.raises(InvalidParameter, match="at most 500"):
        groups.parse_members({"team_id": "t", "member": members})


def test_rights_are_read_and_shown() -> None:
    body = {
        "models": ["qwen*"],
        "allowed_routes": ["chat", "/v1/models"],
        "allowed_tools": ["web_*"],
        "allowed_knowledge_bases": ["hand*"],
        "allowed_ips": ["10.0.0.0/8", "::1"],
        "barred_tiers": ["cloud"],
        "read_only": True,
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
    empty = {
        "models": [],
        "allowed_tools": [],
        "allowed_knowledge_bases": [],
        "allowed_routes": [],
        "allowed_ips": [],
        "barred_tiers": [],
        "read_only": False,
    }
    assert (
        rights.parse({**empty, **dict.fromkeys(("priority", "group", "on_overflow"), "")}, read)
        == Rights()
    )


@pytest.mark.parametrize("name", ["all-proxy-models", "all-team-models", "*"])
def test_litellms_names_of_all_models_are_no_limit(name: str) -> None:
    assert rights.parse({"models": [name, "a"]}, Rights()).models == ()


def test_kind_of_key_sets_its_rights() -> None:
    assert rights.parse_of_key({"key_type": "default"}, Rights()) == Rights()
    assert rights.parse_of_key({"key_type": "read_only"}, Rights()).read_only
    assert rights.parse_of_key({"key_type": "llm_api"}, Rights()).apis == ("llm_api_routes",)
    assert rights.parse_of_key({"key_type": "management"}, Rights()).admin


@pytest.mark.parametrize("kind", rights.TYPES)
@pytest.mark.parametrize("former", rights.TYPES)
def test_type_of_key_replaces_the_former_one(kind: str, former: str) -> None:
    asked, new = {"key_type": kind}, rights.parse_of_key({"key_type": kind}, Rights())
    known = rights.parse_of_key({"key_type": former}, Rights(models=("qwen*",)))
    assert rights.parse_of_key(asked, known) == replace(new, models=("qwen*",))
    assert rights.parse_of_key({"key_type": None}, known) == known


@pytest.mark.parametrize("kind", rights.TYPES)
def test_empty_routes_leave_those_of_the_type(kind: str) -> None:
    asked = {"key_type": kind}
    assert rights.parse_of_key({**asked, "allowed_routes": []}, Rights()) == rights.parse_of_key(
        asked, Rights()
    )


def test_fields_of_a_body_count_more_than_its_type_of_key() -> None:
    body = {"key_type": "management", "allowed_routes": ["chat"], "admin": False}
    assert rights.parse_of_key(body, Rights()) == Rights(apis=("chat",))
    assert rights.parse_of_key({"key_type": "llm_api", "read_only": True}, Rights()).read_only


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
    asked = groups.parse_new_user({"user_role": role, **field})
    assert asked.user.edit(User(id="u")).rights.read_only is read_only


@pytest.mark.parametrize(
    "body",
    [
        {"models": "qwen"},
        {"models": [""]},
        {"allowed_routes": ["unknown"]},
        {"allowed_ips": ["10.0.0.0/99"]},
        {"allowed_ips": ["localhost"]},
        {"key_type": "root"},
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


@pytest.mark.parametrize("value", [None, {}, [], "", False])
def test_empty_unsupported_field_is_accepted(value: Any) -> None:
    keys.parse_new({"model_max_budget": value})


@pytest.mark.parametrize("value", [0, 0.0, 1, True, "x", [0], {"a": None}])
def test_unsupported_field_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidParameter, match="model_max_budget is not supported") as caught:
        keys.parse_new({"model_max_budget": value})
    assert caught.value.param == "model_max_budget"


@pytest.mark.parametrize(
    "query", [{"page": "0"}, {"page": "x"}, {"size": "101"}, {"size": "-1"}, {"key_alias": "\x00"}]
)
def test_wrong_list_queries_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(InvalidParameter):
        keys.parse_list(query)


def test_list_has_digests_or_objects() -> None:
    short = keys.listed(keys.parse_list({"size": "2", "page": "2"}), 3, [KEY])
    assert short == {"keys": ["d1"], "total_count": 3, "current_page": 2, "total_pages": 2}
    whole = keys.listed(keys.parse_list({"return_full_object": "true"}), 1, [KEY])
    assert whole["keys"] == [keys.key_object(KEY)]
    assert whole["keys"][0]["expires"] == "1970-01-02T00:00:00.000Z"
    assert whole["keys"][0]["created_at"] == "1970-01-01T00:00:00.500Z"


def test_secret_is_in_the_answer_to_its_making_alone() -> None:
    assert keys.made("sk-secret", KEY)["key"] == "sk-secret"
    assert "sk-secret" not in repr(keys.key_object(KEY))
